"""Where a runtime lives: on the running loop, or on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import threading
import weakref
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from ..exceptions import RuntimeClosedError

log = logging.getLogger("pydotcompute")


class LoopThread:
    """A daemon thread that runs an event loop of its own until it is stopped."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopping = self._ended = False
        self._requests: set[Future[Any]] = set()
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
        self._ended = True
        for future in list(self._requests):
            self._fail(future)
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # they are dropped on purpose
            coroutine = task.get_coro()
            if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # else Python warns that nobody awaited it
        self.loop.close()

    def answer_at_end(self, future: Future[Any]) -> None:
        """Whoever waits for this answer from the loop gets an error if the loop ends before. Any thread may call it."""
        self._requests.add(future)
        future.add_done_callback(self._requests.discard)
        if self._ended:
            self._fail(future)

    def _fail(self, future: Future[Any]) -> None:
        with suppress(InvalidStateError):  # it is done
            future.set_exception(unanswered())

    def stop(self) -> None:
        """End the loop at its next pass and wait for the thread. Tasks that still run are dropped as they are."""
        self._stopping = True
        if self._thread.is_alive():
            with suppress(RuntimeError):  # another thread stopped it first, and its loop is closed
                self.loop.call_soon_threadsafe(self.loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout=2)
        _running.discard(self)


def unanswered() -> RuntimeClosedError:
    """The error for who waits for a loop that has ended."""
    return RuntimeClosedError("the runtime was closed, or its event loop ended, before it answered")


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for thread in list(_running):
        thread.stop()
