"""What frames say about the last seconds: rates, percentiles, and series over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..telemetry import COUNTERS, Frame, percentile

POINTS = 120
"""Points of a series, whatever its window."""


class Rates:
    """Reads frames as they come. Everything is in the order of `ids`, those of the latest frame.

    Args:
        window: seconds that the series reach back.
        span: seconds over which rates and percentiles are taken.
    """

    def __init__(self, window: float, span: float = 2.0) -> None:
        self.step = window / POINTS
        """Seconds from one point of a series to the next."""
        self.moment = -1
        """Number of the point that the latest frame belongs to: its time divided by `step`."""
        self.ids: tuple[str, ...] = ()
        self.rows: NDArray[np.void] = np.zeros(0, COUNTERS)
        self.rate: NDArray[np.float64] = np.zeros(0)
        """Messages handled per second, shape (len(ids),); NaN before the second frame."""
        self.wait: NDArray[np.float64] = np.zeros((2, 0))
        """p50 and p99 of the seconds in the mailbox, shape (2, len(ids)); NaN for those that took no message."""
        self.handle: NDArray[np.float64] = np.zeros((2, 0))
        """The same of the seconds in the body, for those that finished a message."""
        self._span = span
        self._former: deque[Frame] = deque()  # at intervals of span / 4
        self._depths: NDArray[np.float32] = np.zeros(
            (POINTS, 0), np.float32
        )  # point k of a series lies in row k % POINTS
        self._rates: NDArray[np.float32] = np.zeros((POINTS, 0), np.float32)

    def add(self, frame: Frame) -> None:
        """Take in the next frame."""
        base = self._base(frame)
        self.rows = frame.rows
        if base is None:
            self.rate = np.full(len(frame.ids), np.nan)
            self.wait = self.handle = np.full((2, len(frame.ids)), np.nan)
        else:
            before = _aligned(base.ids, base.rows, frame.ids, np.zeros((), COUNTERS))
            # A kernel that was launched again under its id counts from zero. (What a compiled one has received is only
            # about right while it runs, and may seem to have been more.)
            again = frame.rows["processed"] < before["processed"]
            if again.any():
                before = before.copy()
                before[again] = np.zeros((), COUNTERS)
            elapsed = (frame.time_ns - base.time_ns) * 1e-9
            self.rate = (frame.rows["processed"] - before["processed"]) / elapsed
            self.wait = _percentiles(frame.rows["waited"] - before["waited"])
            self.handle = _percentiles(frame.rows["handled"] - before["handled"])
        self._extend(frame)

    def series(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Queue depths and rates over time of some kernels, each of shape (len(ids), POINTS), oldest first.

        NaN: not known, because nobody looked or there was no such kernel.
        """
        place = {kernel_id: i for i, kernel_id in enumerate(self.ids)}
        columns = [place[kernel_id] for kernel_id in ids]
        order = np.arange(self.moment + 1, self.moment + 1 + POINTS) % POINTS
        return self._depths[order][:, columns].T, self._rates[order][:, columns].T

    def history(self) -> NDArray[np.float32]:
        """The rates over time of all kernels, shape (len(ids), POINTS), oldest first."""
        return np.ascontiguousarray(np.roll(self._rates, -(self.moment + 1) % POINTS, axis=0).T)

    def busiest(self, n: int) -> list[str]:
        """The kernels with the most traffic and the fullest mailboxes over the window, at most `n`."""
        score = np.zeros(len(self.ids))
        for history in (self._rates, self._depths):
            mean = np.nan_to_num(history).mean(0) if history.size else score
            score = score + mean / max(mean.max(initial=0), 1e-9)
        best = np.argsort(-score, kind="stable")[:n]
        return [self.ids[i] for i in best]

    def _base(self, frame: Frame) -> Frame | None:
        """The frame to compare with: about `span` old. None when there is none that recent."""
        former, span_ns = self._former, self._span * 1e9
        if former and frame.time_ns - former[-1].time_ns > 2 * span_ns:
            former.clear()  # nobody looked for a while
        while len(former) > 1 and frame.time_ns - former[1].time_ns >= span_ns:
            former.popleft()
        base = former[0] if former else None
        if not former or frame.time_ns - former[-1].time_ns >= span_ns / 4:
            former.append(frame)
        return base if base is not None and frame.time_ns > base.time_ns else None

    def _extend(self, frame: Frame) -> None:
        if frame.ids != self.ids:
            nothing = np.full(POINTS, np.nan, np.float32)
            self._depths = _aligned(self.ids, self._depths.T, frame.ids, nothing).T
            self._rates = _aligned(self.ids, self._rates.T, frame.ids, nothing).T
            self.ids = frame.ids
        moment = int(frame.time_ns * 1e-9 / self.step)
        first = max(self.moment, moment - POINTS) + 1 if moment > self.moment else moment
        # One frame a second is enough for a series; longer holes stay open.
        known = self.moment >= 0 and (moment - self.moment) * self.step <= self._span
        for k in range(first, moment + 1):
            self._depths[k % POINTS] = frame.rows["queue_depth"] if known or k == moment else np.nan
            self._rates[k % POINTS] = self.rate if known or k == moment else np.nan
        self.moment = moment


def _percentiles(histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    """p50 and p99, shape (2, kernels), of histograms of shape (kernels, BUCKETS)."""
    result = np.full((2, len(histograms)), np.nan)
    counted = histograms.any(-1)
    if counted.any():
        some = np.maximum(histograms[counted], 0)
        result[:, counted] = percentile(some, 50), percentile(some, 99)
    return result


def _aligned(ids: tuple[str, ...], rows: NDArray[Any], wanted: tuple[str, ...], missing: NDArray[Any]) -> NDArray[Any]:
    """`rows`, one for each of `ids`, in the order of `wanted`; `missing` where there is none."""
    if ids == wanted:
        return rows
    place = {kernel_id: i for i, kernel_id in enumerate(ids)}
    result = np.empty((len(wanted), *rows.shape[1:]), rows.dtype)
    for i, kernel_id in enumerate(wanted):
        j = place.get(kernel_id)
        result[i] = missing if j is None else rows[j]
    return result
