"""One table of counters: a row of int64 for each kernel, written by the kernel, read by anybody.

Durations are counted in log2 histograms: bucket b counts those of `int.bit_length() == b` nanoseconds, that is from
2**(b-1) up to 2**b ns; the last one also counts all that took longer, 4.6 minutes and more. A bucket is a factor of
two wide, so a percentile read from it is right within that factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 40
STATES = ("CREATED", "LAUNCHED", "ACTIVE", "DEACTIVATED", "TERMINATING", "TERMINATED", "FAILED")

COUNTERS = np.dtype(
    [
        ("state", np.int64),  # index into STATES
        ("version", np.int64),  # 1, and one more for each time the body was replaced
        ("queue_size", np.int64),
        ("queue_depth", np.int64),
        ("queue_peak", np.int64),
        ("replies_unread", np.int64),
        ("received", np.int64),  # let into the mailbox
        ("processed", np.int64),  # handled to the end
        ("replied", np.int64),
        ("dropped", np.int64),  # by the back-pressure strategy
        ("dead_letters", np.int64),  # whatever the reason, those dropped included
        ("errors", np.int64),
        ("restarts", np.int64),
        ("retried", np.int64),  # messages that were handed out again after a failure
        ("busy_ns", np.int64),
        ("waited", np.int64, BUCKETS),  # time in the mailbox
        ("handled", np.int64, BUCKETS),  # time in the body
    ]
)
"""Layout of a row: int64 words only, so that a compiled kernel can bump them in place."""

WORDS = COUNTERS.itemsize // 8
BLOCK = 1024  # rows that are allocated together; the system provides the memory when a row is first written


class CounterTable:
    """The rows of all kernels of a runtime. Rows never move, so a kernel may keep the view that it was given."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.int64]] = []
        self._free: list[int] = []

    def allocate(self) -> tuple[int, memoryview]:
        """A zeroed row: its place, and a writable view of its int64 words, shape (WORDS,)."""
        if not self._free:
            start = BLOCK * len(self._blocks)
            self._free = list(range(start + BLOCK - 1, start - 1, -1))
            self._blocks.append(np.zeros((BLOCK, WORDS), np.int64))
        place = self._free.pop()
        row = self._blocks[place // BLOCK][place % BLOCK]
        row[:] = 0
        return place, memoryview(row)

    def release(self, place: int) -> None:
        """Give a row back."""
        self._free.append(place)

    def copy(self, places: list[int]) -> NDArray[np.void]:
        """A copy of these rows, shape (len(places),), dtype `COUNTERS`."""
        if not places:
            return np.zeros(0, COUNTERS)
        table = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        rows: NDArray[np.void] = table[np.array(places)].view(COUNTERS)[:, 0]
        return rows


def percentile(histograms: NDArray[np.int64], q: float) -> NDArray[np.float64]:
    """The q-th percentile of log2 histograms, in seconds; NaN where nothing was counted.

    `histograms` has shape (..., BUCKETS); the answer has shape (...). Inside a bucket it is interpolated linearly.
    """
    total = histograms.sum(-1)
    upto = histograms.cumsum(-1)
    rank = np.maximum(total * (q / 100), 1e-9)
    bucket = np.minimum((upto < rank[..., None]).sum(-1), BUCKETS - 1)
    here = np.take_along_axis(histograms, bucket[..., None], -1)[..., 0]
    before = np.take_along_axis(upto, bucket[..., None], -1)[..., 0] - here
    low = np.where(bucket > 0, np.exp2(bucket - 1.0), 0.0)
    inside = (rank - before) / np.maximum(here, 1)
    return np.where(total > 0, (low + inside * np.maximum(low, 1)) * 1e-9, np.nan)


@dataclass(frozen=True, slots=True)
class KernelStatistics:
    """The counters of one kernel at one moment. Times are in seconds; percentiles are NaN before the first message."""

    kernel_id: str
    state: str
    version: int
    waiting_for: str
    """What keeps it from going on, in words; empty when nothing does."""
    queue_size: int
    queue_depth: int
    queue_peak: int
    """The deepest that the queue has been (its high-water mark)."""
    replies_unread: int
    received: int
    processed: int
    replied: int
    dropped: int
    dead_letters: int
    errors: int
    restarts: int
    """How often the kernel was started again, by its policy, its group or by hand."""
    retried: int
    """How often a message was put back because its handling failed."""
    busy: float
    """Seconds spent in the body, from taking a message to asking for the next."""
    wait_p50: float
    wait_p99: float
    handle_p50: float
    handle_p99: float
    wait_histogram: tuple[int, ...] = field(repr=False)
    """Messages by time in the mailbox: bucket b counts those from 2**(b-1) to 2**b ns; `BUCKETS` long."""
    handle_histogram: tuple[int, ...] = field(repr=False)
    """The same for the time in the body."""

    @classmethod
    def from_row(cls, kernel_id: str, row: Any, waiting_for: str = "") -> KernelStatistics:
        """Read a row of dtype `COUNTERS`."""
        both = np.stack([row["waited"], row["handled"]])
        (wait_p50, handle_p50), (wait_p99, handle_p99) = percentile(both, 50), percentile(both, 99)
        counts = {
            name: int(row[name])
            for name in COUNTERS.names or ()
            if name not in ("state", "busy_ns", "waited", "handled")
        }
        # The loop of a compiled kernel counts what it has handled, also while a row is being written and read.
        counts["received"] = max(counts["received"], counts["processed"])
        return cls(
            kernel_id=kernel_id,
            state=STATES[int(row["state"])],
            waiting_for=waiting_for,
            busy=float(row["busy_ns"]) / 1e9,
            wait_p50=float(wait_p50),
            wait_p99=float(wait_p99),
            handle_p50=float(handle_p50),
            handle_p99=float(handle_p99),
            wait_histogram=tuple(row["waited"].tolist()),
            handle_histogram=tuple(row["handled"].tolist()),
            **counts,
        )


@dataclass(frozen=True, slots=True)
class RuntimeStatistics:
    """The counters of all kernels of a runtime at one moment, and those of the runtime itself."""

    kernels: Mapping[str, KernelStatistics]
    dead_letters: int
    loop_lag: float | None
    """Seconds that the runtime's event loop was last late; None while nobody samples."""
    notebook_lag: float | None
    """The same for the loop of the caller (in a notebook: the loop that runs the cells)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", MappingProxyType(dict(self.kernels)))

    def __getitem__(self, kernel_id: str) -> KernelStatistics:
        return self.kernels[kernel_id]
