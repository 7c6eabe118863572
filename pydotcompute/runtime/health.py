"""Whether a runtime and its kernels do their work: what a probe asks from time to time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Lock, get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .checks import is_number
from .compiled import CompiledKernel
from .context import KernelContext
from .dead_letters import error_text
from .lifecycle import KernelState
from .mailbox import Mailbox
from .scheduler import _nap as nap
from .scheduler import clock

if TYPE_CHECKING:
    from .kernel import RingKernel
    from .runtime import RingKernelRuntime

LATE = 0.5
"""Seconds that the runtime's loop may be late; a probe waits for it no longer than that."""
ROWS = 100
"""How many kernels a table shows; those that are not ready come first."""


def awaited(kernel: RingKernel) -> str:
    """What the body of a ring kernel awaits of another one, in words; empty if it awaits nothing of the kind itself.

    It is read from the coroutines that wait, so that sending need not note it.
    """
    step: Any = None if kernel._task is None else kernel._task.get_coro()
    other, what = "", ""
    while step is not None:
        code, frame = getattr(step, "cr_code", None), getattr(step, "cr_frame", None)
        if frame is not None and (code is _ASK or code is _TELL):
            other, what = frame.f_locals["kernel_id"], "the reply of" if code is _ASK else "room in the mailbox of"
        elif other and code is _FULL:
            what = "room in the mailbox of"
        step = getattr(step, "cr_await", None)
    return f"{what} {other!r}" if other else ""


_ASK, _TELL, _FULL = KernelContext.ask.__code__, KernelContext.tell.__code__, Mailbox.accepted.__code__


@dataclass(frozen=True, slots=True)
class KernelHealth:
    """How one kernel is."""

    kernel_id: str
    state: str
    ready: bool
    """Whether it is ACTIVE, not stalled, and does not wait to be started again."""
    stalled: bool
    """Whether messages are queued and it has handled none for too long."""
    quiet: float | None
    """Seconds since it took a message: exactly while an async ring kernel has one in hand; else since a look at its
    health first found that it had taken so many; None where that is not known."""
    error: str
    """What its body raised last, also if it was started again since; empty: nothing."""
    restarts: int
    reason: str
    """What keeps it from being ready, or from going on, in words; empty when nothing does."""

    @property
    def should_run(self) -> bool:
        """Whether it has not ended, and nobody has asked for its end. What has failed should run."""
        return self.state not in ("TERMINATING", "TERMINATED")


@dataclass(frozen=True, slots=True, repr=False)
class Health:
    """How a runtime is. True as a bool when it is ready."""

    live: bool
    """Whether it is not closed and its event loop moves."""
    ready: bool
    """Whether it is live, and every kernel that should run is ready."""
    reason: str
    """What keeps it from being ready, in words; empty when it is."""
    loop_lag: float | None
    """Seconds that its event loop was late just now, or is so far; None: it has none."""
    kernels: Mapping[str, KernelHealth]

    def __bool__(self) -> bool:
        return self.ready

    def __getitem__(self, kernel_id: str) -> KernelHealth:
        return self.kernels[kernel_id]

    @property
    def _title(self) -> str:
        words = "ready" if self.ready else "live, not ready" if self.live else "not live"
        return f"{words}: {self.reason}" if self.reason else words

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for kernel in sorted(self.kernels.values(), key=lambda kernel: kernel.ready or not kernel.should_run)[:ROWS]:
            ready = "yes" if kernel.ready else "no" if kernel.should_run else "–"
            quiet = "–" if kernel.quiet is None else f"{kernel.quiet:.1f} s"
            said = kernel.reason + (f" (last error: {kernel.error})" if kernel.error not in kernel.reason else "")
            yield kernel.kernel_id, kernel.state, ready, quiet, str(kernel.restarts), said.strip()

    def __repr__(self) -> str:
        rows = [_COLUMNS, *self._rows()] if self.kernels else []
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]
        left_out = len(self.kernels) - ROWS
        return "\n".join([self._title, *lines, *[f"and {left_out:,} more"] * (left_out > 0)])

    def _repr_html_(self) -> str:
        from ..telemetry.html import table_html  # only where somebody looks

        left_out = len(self.kernels) - ROWS
        return table_html(self._title, _COLUMNS, self._rows(), f"{left_out:,} more" if left_out > 0 else "")


_COLUMNS = ("kernel", "state", "ready", "quiet", "restarts", "reason")


class Probe:
    """Looks at a runtime, and remembers what it saw of the kernels that say nothing of when they took a message."""

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime
        self._lock = Lock()
        # How many messages a kernel had taken, since when that is known, and since when it has some that wait:
        self._seen: WeakKeyDictionary[RingKernel, tuple[int, int | None, int | None]] = WeakKeyDictionary()

    def look(self, stalled_after: Any) -> Health:
        if not (is_number(stalled_after) and stalled_after >= 0):
            raise ValueError(f"stalled_after must be a number of seconds of at least 0, not {stalled_after!r}")
        runtime = self._runtime
        lag, stands_still = self._lag()
        kernels = {kernel.id: self._look_at(kernel, stalled_after) for kernel in list(runtime._kernels.values())}
        why = ""
        if runtime._closed:
            why = "the runtime is closed"
        elif lag is None:
            why = "the runtime has no event loop" + ("" if runtime._loop is None else " any more")
        elif stands_still:
            why = f"its event loop stands still for {lag:.1f} s{self._culprit()}"
        live = not why
        if live:
            bad = [f"{k.kernel_id!r} {k.reason}" for k in kernels.values() if k.should_run and not k.ready]
            why = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
        return Health(live, not why, why, lag, MappingProxyType(kernels))

    def _lag(self) -> tuple[float | None, bool]:
        """Seconds that the runtime's loop was late just now, or is so far; and whether it stands still."""
        runtime = self._runtime
        loop, lag = runtime._loop, runtime._lag
        if runtime._closed or loop is None or lag is None or loop.is_closed():
            return None, False
        if get_ident() == runtime._home:
            return 0.0, False
        lag.poke()
        pause = 2e-5
        # What was asked for before, by another look, is not waited for anew.
        while (late := lag.pending) is not None and late < LATE:
            nap(pause)
            pause = min(2 * pause, 0.005)
        return lag.seconds, late is not None

    def _culprit(self) -> str:
        loop = self._runtime._loop
        task = asyncio.current_task(loop) if loop is not None else None
        for kernel in list(self._runtime._kernels.values()):
            if kernel._task is not None and kernel._task is task:
                return f": the body of {kernel.id!r} computes or blocks without an `await`"
        return ""

    def _look_at(self, kernel: RingKernel, stalled_after: float) -> KernelHealth:
        state, now = kernel.state, clock()
        queued, start = len(kernel._box), kernel._ctx._start
        quiet, stuck = self._progress(kernel, queued, start, now)
        paused = state is KernelState.DEACTIVATED or kernel._box.paused
        runs = state is KernelState.TERMINATING or (state is KernelState.ACTIVE and kernel._restarting is None)
        stalled = runs and not paused and stuck is not None and stuck >= stalled_after
        error = error_text(kernel.exception or kernel.last_exception)
        wait = kernel.waiting_for
        if state is KernelState.FAILED:
            reason = f"failed for good, {kernel._gave_up}: {error}" if kernel._gave_up else f"failed: {error}"
        elif state is KernelState.TERMINATED:
            reason = "has ended"
        elif kernel._restarting is not None:
            reason = f"waits to be started again: {wait}"
        elif state is KernelState.LAUNCHED:
            reason = "is not activated"
        elif paused:
            reason = f"is paused: it waits for {wait}" if wait else "is paused"
        elif stalled:
            what = "has handled nothing" if start == 0 else "has one message in hand"
            wait = wait or awaited(kernel)
            reason = f"is stalled: it {what} for {stuck:.1f} s, {queued:,} queued" + (
                f", waiting for {wait}" if wait else ""
            )
        elif state is KernelState.TERMINATING:
            reason = "is about to end"
        else:
            reason = f"waits for {wait}" if wait else ""
        ready = state is KernelState.ACTIVE and runs and not (stalled or paused)
        return KernelHealth(kernel.id, state.value, ready, stalled, quiet, error, kernel.restarts, reason)

    def _progress(self, kernel: RingKernel, queued: int, start: int, now: int) -> tuple[float | None, float | None]:
        """Seconds since it took a message, and for how long it has had messages queued and has taken none."""
        taken = kernel._processed + kernel._unfinished + (start > 0)
        with self._lock:
            before, since, waiting = self._seen.get(kernel, (taken, None, None))
            if before != taken:
                since, waiting = now, None
            waiting = (waiting or now) if queued else None
            self._seen[kernel] = taken, since, waiting
        if isinstance(kernel, CompiledKernel):
            stuck = waiting
        else:
            stuck = None
            if start:
                since = start
                stuck = start if queued else None
            elif (oldest := _oldest(kernel)) is not None:
                stuck = max(oldest, kernel._begun)
            elif kernel.node is not None:
                stuck = waiting
        seconds = None if stuck is None else min((now - stuck) / 1e9, max(time.time() - kernel.history[-1][1], 0.0))
        return None if since is None else (now - since) / 1e9, seconds


def _oldest(kernel: RingKernel) -> int | None:
    """`clock()` when the message was put that waits longest in the mailbox of an async ring kernel."""
    box = kernel._box
    if not box.counts_plain:  # of a kernel on another node: nobody notes the times
        return None
    times = []
    for queue in (box.plain, *list((box._levels or {}).values())):
        try:
            times.append(queue[0][1])
        except IndexError:  # it is empty, or was just emptied
            continue
    return min(times, default=None)
