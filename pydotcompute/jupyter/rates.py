"""What frames say about the last seconds: rates, percentiles, and series over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..telemetry import COUNTERS, Frame, percentile

POINTS = 120
"""Points of a series, whatever its window."""
CALM = 1.0
"""Seconds that percentiles stay as they are: they cost more than all the rest, and nobody reads faster."""


class Rates:
    """Reads frames as they come. Everything is in the order of `ids`, those of the latest frame.

    Args:
        window: seconds that the series reach back; can be set. None: there are no series.
        span: seconds over which rates and percentiles are taken.
        others: more windows, whose series are kept too, so that they are there when one of them is set. Of those that
            are set later only the present one is kept.
    """

    def __init__(self, window: float | None, span: float = 2.0, others: Iterable[float] = ()) -> None:
        self.ids: tuple[str, ...] = ()
        self.rows: NDArray[np.void] = np.zeros(0, COUNTERS)
        self.rate: NDArray[np.float64] = np.zeros(0)
        """Messages handled per second, shape (len(ids),); NaN before the second frame."""
        self._span = span
        self._former: deque[Frame] = deque()  # at intervals of span / 4
        self._before: NDArray[np.void] | None = None  # the rows to compare with
        self._now = 0
        self._percentiles: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._percentiles_of = 0
        self._all = {each: _Series(each) for each in (*others, window) if each is not None}
        self._kept = frozenset(self._all)
        self._series = self._all[window] if window is not None else _Series(np.inf)

    @property
    def window(self) -> float:
        return self._series.window

    @window.setter
    def window(self, window: float) -> None:
        if window != self.window and self.window not in self._kept:
            self._all.pop(self.window, None)
        if window not in self._all:
            self._all[window] = _Series(window)
            self._all[window].align(np.full(len(self.ids), -1))
            if self._now:
                self._all[window].extend(self._now, self.rows["queue_depth"], self.rate, 0.0)
        self._series = self._all[window]

    @property
    def step(self) -> float:
        """Seconds from one point of a series to the next."""
        return self._series.step

    @property
    def moment(self) -> int:
        """Number of the point that the latest frame belongs to: its time divided by `step`; -1 before the first."""
        return self._series.moment

    @property
    def wait(self) -> NDArray[np.float64]:
        """p50 and p99 of the seconds in the mailbox, shape (2, len(ids)); NaN for those that took no message.

        They may be `CALM` old.
        """
        return self._both()[0]

    @property
    def handle(self) -> NDArray[np.float64]:
        """The same of the seconds in the body, for those that finished a message."""
        return self._both()[1]

    def add(self, frame: Frame) -> None:
        """Take in the next frame."""
        base = self._base(frame)
        rows = self.rows = frame.rows
        if base is None:
            self._before = None
            self.rate = np.full(len(rows), np.nan)
        else:
            before = base.rows
            if base.launches is not frame.launches:
                places = _places(base.ids, frame.ids)
                before = _aligned(before, places, np.zeros((), rows.dtype))
                # A kernel that was launched again under its id counts from zero.
                again = frame.launches != _aligned(base.launches, places, np.array(-1))
                if again.any():
                    before = before.copy()
                    before[again] = np.zeros((), rows.dtype)
            self._before = before
            self.rate = (rows["processed"] - before["processed"]) / ((frame.time_ns - base.time_ns) * 1e-9)
        if (places := _places(self.ids, frame.ids)) is not None:
            self._percentiles = None
            for series in self._all.values():
                series.align(places)
        self.ids, self._now = frame.ids, frame.time_ns
        for series in self._all.values():
            series.extend(self._now, rows["queue_depth"], self.rate, self._span)

    def series(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Queue depths and rates over time of some kernels, each of shape (len(ids), POINTS), oldest first.

        NaN: not known, because nobody looked or there was no such kernel.
        """
        columns = [self.ids.index(kernel_id) for kernel_id in ids]
        order = self._series.order
        return self._series.depths[order][:, columns].T, self._series.rates[order][:, columns].T

    def history(self) -> NDArray[np.float32]:
        """The rates over time of all kernels, shape (len(ids), POINTS), oldest first."""
        return np.ascontiguousarray(self._series.rates[self._series.order].T)

    def total(self) -> NDArray[np.float32]:
        """The rates of all kernels together over time, shape (POINTS,), oldest first; NaN: not known."""
        rates = self._series.rates[self._series.order]
        known = np.isfinite(rates)
        result: NDArray[np.float32] = np.where(known, rates, 0).sum(1, dtype=np.float32)
        result[~known.any(1)] = np.nan
        return result

    def busiest(self, n: int) -> list[str]:
        """The kernels with the most traffic and the fullest mailboxes over the window, at most `n`."""
        score = np.zeros(len(self.ids))
        for history in (self._series.rates, self._series.depths):
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

    def _both(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._percentiles is None or not 0 <= self._now - self._percentiles_of < CALM * 1e9:
            n, before = len(self.rows), self._before
            self._percentiles_of = self._now
            result = np.full((2, 2 * n), np.nan)  # p50 and p99, of waiting and then of handling
            if before is not None:
                passed = np.concatenate([self.rows[name] - before[name] for name in ("waited", "handled")])
                some = passed.any(-1)
                if some.any():
                    counted = np.maximum(passed[some], 0)
                    result[:, some] = percentile(counted, 50), percentile(counted, 99)
            self._percentiles = result[:, :n], result[:, n:]
        return self._percentiles


class _Series:
    """Queue depths and rates over one window."""

    def __init__(self, window: float) -> None:
        self.window = window
        self.step = window / POINTS
        self.moment = -1
        # Point k lies in row k % POINTS; a column for each kernel.
        self.depths: NDArray[np.float32] = np.zeros((POINTS, 0), np.float32)
        self.rates: NDArray[np.float32] = np.zeros((POINTS, 0), np.float32)

    @property
    def order(self) -> NDArray[np.int64]:
        """The rows, oldest first."""
        return np.arange(self.moment + 1, self.moment + 1 + POINTS) % POINTS

    def align(self, places: NDArray[np.intp]) -> None:
        """There are other kernels now; those that there were come from these places."""
        nothing = np.full(POINTS, np.nan, np.float32)
        self.depths = _aligned(self.depths.T, places, nothing).T
        self.rates = _aligned(self.rates.T, places, nothing).T

    def extend(self, time_ns: int, depths: NDArray[np.int64], rates: NDArray[np.float64], span: float) -> None:
        moment = int(time_ns * 1e-9 / self.step)
        first = max(self.moment, moment - POINTS) + 1 if moment > self.moment else moment
        # One frame a second is enough for a series; longer holes stay open.
        known = self.moment >= 0 and (moment - self.moment) * self.step <= span
        for k in range(first, moment + 1):
            self.depths[k % POINTS] = depths if known or k == moment else np.nan
            self.rates[k % POINTS] = rates if known or k == moment else np.nan
        self.moment = moment


def _places(ids: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.intp] | None:
    """Where each of the wanted is among `ids`, -1 for those that are not; None: they are the same."""
    if ids is wanted or ids == wanted:
        return None
    place = {kernel_id: i for i, kernel_id in enumerate(ids)}
    return np.array([place.get(kernel_id, -1) for kernel_id in wanted], np.intp)


def _aligned(rows: NDArray[Any], places: NDArray[np.intp] | None, missing: NDArray[Any]) -> NDArray[Any]:
    """The rows from these places; `missing` where that is -1."""
    if places is None:
        return rows
    result = np.empty((len(places), *rows.shape[1:]), rows.dtype)
    known = places >= 0
    result[known] = rows[places[known]]
    result[~known] = missing
    return result
