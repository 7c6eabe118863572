"""Lets the stop button reach a cell that awaits.

ipykernel answers an interrupt by scheduling the cancellation of the awaiting cell from inside a signal handler, which
does not wake an event loop that sleeps: nothing happens until the next message to the notebook, which may never come.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
import socket
import threading
from contextlib import suppress

_ends: tuple[asyncio.AbstractEventLoop, socket.socket, socket.socket] | None = None


def load() -> None:
    """Wake the running loop whenever a signal comes, unless somebody does that already."""
    global _ends
    if _ends is not None or threading.current_thread() is not threading.main_thread():
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # IPython in a terminal runs no loop between cells
        return
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    other = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if other == -1:
        with suppress(NotImplementedError):  # Windows has loops that cannot watch a socket
            loop.add_reader(reader, reader.recv, 4096)
            _ends = loop, reader, writer
            return
    signal.set_wakeup_fd(other)
    reader.close()
    writer.close()


@atexit.register
def unload() -> None:
    """Undo `load`."""
    global _ends
    if _ends is None or threading.current_thread() is not threading.main_thread():
        return
    loop, reader, writer = _ends
    _ends = None
    other = signal.set_wakeup_fd(-1)
    if other != writer.fileno():
        signal.set_wakeup_fd(other)
    if not loop.is_closed():
        loop.remove_reader(reader)
    reader.close()
    writer.close()
