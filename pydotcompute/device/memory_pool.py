"""Memory that is used again."""

from __future__ import annotations

import math
import operator
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import SupportsIndex
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike

from ..exceptions import PoolLimitError, UnifiedBufferError
from .memory import Block, Memory
from .text import html_table, human_size
from .unified_buffer import UnifiedBuffer, checked_device, checked_dtype, checked_shape

SMALLEST = 256
"""Bytes of the smallest size."""
STEPS = 4
"""Sizes from one power of two to the next: what a size has to spare is less than a quarter of it."""


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool has, counted in its sizes, on one side: where there is a GPU, up to as much again on that."""

    in_use: int
    """Bytes of the buffers that are in use."""
    kept: int
    """Bytes that wait to be used again ..."""
    kept_blocks: int
    """... and in how many pieces."""
    peak: int
    """Bytes: the most that were ever in use at a time."""
    limit: int | None
    """Bytes that `in_use` and `kept` may come to, or None."""
    buffers: int
    """Number of buffers in use."""
    reused: int
    """How often a buffer got memory that had been used before ..."""
    allocated: int
    """... and how often the system was asked."""


class MemoryPool:
    """Buffers whose memory goes back to the pool when they are no longer used, for the next one of about that size.

    To allocate is slow where there is a GPU, for memory that is page-locked and for the GPU's own::

        pool = MemoryPool(limit=1 << 30)
        buf = pool.empty((1000, 3), np.float32)

    The memory goes back when the buffer, its views and all arrays made from them are gone; `buf.close()` is for
    a buffer that is still known somewhere. `limit` is in bytes, on each side; `device` is the index of the GPU that the
    buffers are for. Any thread may use a pool.

    Raises `TypeError` or `UnifiedBufferError` (a `ValueError`) for a limit or device that cannot be.
    """

    def __init__(self, limit: SupportsIndex | None = None, device: SupportsIndex = 0) -> None:
        self._limit = None if limit is None else _checked_limit(limit)
        self._device = checked_device(device)
        self._kept: dict[int, list[Block]] = {}
        self._in_use = self._kept_bytes = self._peak = self._buffers = self._reused = self._allocated = 0
        self._lock = threading.Lock()
        # Filled by the garbage collector, in the midst of anything: it must not take the lock.
        self._returned: deque[Block] = deque()
        self._made: WeakValueDictionary[int, UnifiedBuffer] = WeakValueDictionary()
        self._numbers = count()

    def empty(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: DTypeLike = np.float32) -> UnifiedBuffer:
        """A buffer of unspecified contents.

        Raises `PoolLimitError` (a `MemoryError`) where it would take the pool above its limit, and what
        `UnifiedBuffer` raises.
        """
        lengths, checked = checked_shape(shape), checked_dtype(dtype)
        nbytes = math.prod(lengths) * checked.itemsize
        block = self._block(size_class(nbytes), nbytes)
        memory = Memory(block, nbytes, self._device, give_back=self._returned.append)
        buffer = UnifiedBuffer._of(memory, lengths, checked)
        with self._lock:
            self._made[next(self._numbers)] = buffer
        return buffer

    @property
    def buffers(self) -> tuple[UnifiedBuffer, ...]:
        """Those that were made here, oldest first, and neither closed nor dropped.

        `statistics()` counts those too that are gone but for arrays that were taken from them.
        """
        with self._lock:
            return tuple(buffer for buffer in self._made.values() if not buffer.closed)

    def statistics(self) -> PoolStatistics:
        """A copy of the present figures."""
        with self._lock:
            self._take_back()
            return PoolStatistics(
                in_use=self._in_use,
                kept=self._kept_bytes,
                kept_blocks=sum(map(len, self._kept.values())),
                peak=self._peak,
                limit=self._limit,
                buffers=self._buffers,
                reused=self._reused,
                allocated=self._allocated,
            )

    def free_all(self) -> None:
        """Give the memory that is kept back to the system, or to CuPy, which keeps it in pools of its own."""
        with self._lock:
            self._take_back()
            self._free(self._kept_bytes)

    def __repr__(self) -> str:
        now = self.statistics()
        limit = "" if now.limit is None else f", limit: {human_size(now.limit)}"
        return f"MemoryPool(in use: {human_size(now.in_use)}, kept: {human_size(now.kept)}{limit})"

    def _repr_html_(self) -> str:
        now = self.statistics()
        rows = {
            "in use": f"{human_size(now.in_use)} in {now.buffers:,} {'buffer' if now.buffers == 1 else 'buffers'}",
            "kept for the next": human_size(now.kept),
            "most in use": human_size(now.peak),
            "limit": "none" if now.limit is None else human_size(now.limit),
            "reused": f"{now.reused:,} of {now.reused + now.allocated:,} times",
        }
        return html_table("MemoryPool", rows)

    def _block(self, size: int, nbytes: int) -> Block:
        with self._lock:
            self._take_back()
            if self._limit is not None and self._in_use + size > self._limit:
                raise PoolLimitError(
                    f"{human_size(nbytes)} were asked of a pool that may have {human_size(self._limit)}, of which "
                    f"{human_size(self._in_use)} are in use by {self._buffers:,} buffers: drop or close() some, with "
                    "the arrays taken from them, or make the pool with a higher limit (a buffer of "
                    f"{human_size(nbytes)} takes {human_size(size)})"
                )
            self._in_use += size
            self._buffers += 1
            if blocks := self._kept.get(size):
                self._kept_bytes -= size
                self._reused += 1
                self._peak = max(self._peak, self._in_use)
                return blocks.pop()
            if self._limit is not None:
                self._free(self._in_use + self._kept_bytes - self._limit)
        try:  # slow, and so without the lock
            block = Block(size, zeroed=False)
        except BaseException:
            with self._lock:
                self._in_use -= size
                self._buffers -= 1
            raise
        with self._lock:
            self._allocated += 1
            self._peak = max(self._peak, self._in_use)
        return block

    def _take_back(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._in_use -= block.nbytes
            self._buffers -= 1
            self._kept_bytes += block.nbytes
            self._kept.setdefault(block.nbytes, []).append(block)

    def _free(self, nbytes: int) -> None:
        """At least that many of the bytes that are kept, the largest blocks first."""
        for size in sorted(self._kept, reverse=True):
            while nbytes > 0 and self._kept[size]:
                self._kept[size].pop().retire()
                self._kept_bytes -= size
                nbytes -= size


def _checked_limit(limit: SupportsIndex) -> int:
    """As an int; `TypeError`, or `UnifiedBufferError` where it is less than a byte."""
    wanted = "limit= of a pool is a whole number of bytes, such as 1 << 30, or None for no limit"
    if isinstance(limit, bool) or not isinstance(limit, SupportsIndex):
        raise TypeError(f"{wanted}; not {limit!r}")
    if (nbytes := operator.index(limit)) < 1:
        raise UnifiedBufferError(f"{wanted}; not {limit!r}, which leaves room for nothing")
    return nbytes


def size_class(nbytes: int) -> int:
    """The smallest size that holds `nbytes`: powers of two, and three evenly spaced between each and the next."""
    if nbytes <= SMALLEST:
        return SMALLEST
    step = (1 << (nbytes - 1).bit_length() - 1) // STEPS
    return -(-nbytes // step) * step
