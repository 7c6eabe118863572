"""Where a runtime lives: on the running loop, or on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import weakref
from contextlib import suppress

log = logging.getLogger("pydotcompute")


class LoopThread:
    """A daemon thread that runs an event loop of its own until it is stopped."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pydotcompute-runtime", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def ident(self) -> int:
        """`threading.get_ident()` of the thread."""
        ident = self._thread.ident
        assert ident is not None
        return ident

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # A task that ends with one of these lets it out of run_forever; its kernel has been told. The other
                # kernels of this thread go on.
                log.warning("%r left a task of the runtime's thread; the thread goes on", error)
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # they are dropped on purpose
        self.loop.close()

    def stop(self) -> None:
        """End the loop at its next pass and wait for the thread. Tasks that still run are dropped as they are."""
        self._stopping = True
        if self._thread.is_alive():
            with suppress(RuntimeError):  # another thread stopped it first, and its loop is closed
                self.loop.call_soon_threadsafe(self.loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout=2)
        _running.discard(self)


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for thread in list(_running):
        thread.stop()
