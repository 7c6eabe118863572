"""What takes long says how far it is: on one line, which is there after half a second and not before.

The line is at the terminal, or below the cell in a notebook. Where nobody looks (standard error is a file, or a log
of CI) there is none, nor where the environment has ``TQDM_DISABLE=1``: what notebooks show can then be compared.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import Any, TextIO
from uuid import uuid4

from ..origin import notebook_shell

PATIENCE = 0.5
"""Seconds before anything is shown."""
INTERVAL = 0.5
"""Seconds from one time to the next that a compilation says how long it has taken."""


class Below(io.TextIOBase):
    """One line below a cell, written like that of a terminal: a carriage return begins it anew."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._id = uuid4().hex
        self._line = ""
        self._shown = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        _, again, line = text.rpartition("\r")
        self._line = line if again else self._line + text
        return len(text)

    def flush(self) -> None:
        line = self._line.rstrip()
        if line and line != self._shown:
            display, first = {"display_id": self._id}, not self._shown
            self._shown = line
            self._shell.display_pub.publish({"text/plain": line}, transient=display, update=not first)


def place() -> TextIO | None:
    """Where a line that changes can be shown to somebody; None: nowhere."""
    if os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return None
    if (shell := notebook_shell()) is not None:
        return Below(shell)  # type: ignore[return-value] # it has what is used of one
    error: TextIO | None = sys.stderr
    try:
        return error if error is not None and error.isatty() else None
    except (AttributeError, ValueError):  # something in its place that is no file, or is closed
        return None


def bar(what: str, total: int | None) -> Any:
    """A bar of tqdm for so many messages (None: nobody knows how many); it has `update(n)` and `close()`.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("progress=True needs the package tqdm: pip install tqdm", name="tqdm") from error
    where = place()
    return tqdm(desc=what, total=total, unit=" messages", file=where, disable=where is None, delay=PATIENCE)


@contextmanager
def lasting(doing: str, done: str, failed: str) -> Iterator[None]:
    """Say, from another thread, what is being done, for how long so far, and in the end how long it took.

    The texts are followed by the seconds: ``compiling stats: 1.5 s``.
    """
    where = place()
    if where is None:
        yield
        return
    begun = time.perf_counter()
    writing = threading.Lock()
    over = threading.Event()
    shown = ""

    def say(words: str, end: str = "") -> None:
        nonlocal shown
        line = f"{words} {time.perf_counter() - begun:.1f} s"
        where.write(f"\r{line.ljust(len(shown))}{end}")
        where.flush()
        shown = line

    def tell() -> None:
        wait = PATIENCE
        while not over.wait(wait):
            with writing:
                if not over.is_set():
                    say(doing)
            wait = INTERVAL

    # With the context of the cell: what a thread shows belongs below it.
    threading.Thread(target=copy_context().run, args=(tell,), name="pydotcompute-progress", daemon=True).start()
    outcome = failed
    try:
        yield
        outcome = done
    finally:
        with writing:
            over.set()
            if shown:
                say(outcome, "\n")


def compiling(kernel_id: str) -> AbstractContextManager[None]:
    """`lasting`, of a step that is compiled."""
    failed = f"{kernel_id} could not be compiled, after"
    return lasting(f"compiling {kernel_id}:", f"compiled {kernel_id} in", failed)
