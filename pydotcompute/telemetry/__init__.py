"""Counters of ring kernels, and the sampler that turns them into frames. It knows rows, not actors."""

from .counters import BUCKETS, COUNTERS, STATES, WORDS, CounterTable, KernelStatistics, RuntimeStatistics, percentile
from .sampler import Frame, LoopLag, Sampler

__all__ = [
    "BUCKETS",
    "COUNTERS",
    "STATES",
    "WORDS",
    "CounterTable",
    "Frame",
    "KernelStatistics",
    "LoopLag",
    "RuntimeStatistics",
    "Sampler",
    "percentile",
]
