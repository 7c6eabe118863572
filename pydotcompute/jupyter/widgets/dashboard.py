"""The dashboard: a table of all kernels, two charts, and the buttons that steer them; or one line; or one kernel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import anywidget
import ipywidgets
import numpy as np
import traitlets

from ...exceptions import KernelNotFoundError
from ...runtime import KernelState, RingKernel, RingKernelDefinition, RingKernelRuntime
from ...runtime.dead_letters import error_text
from ...telemetry import STATES, Frame, KernelStatistics, RuntimeStatistics
from .. import schema
from ..acts import METHODS, Make, fate, known, place, shortened, step, tag, traceback
from ..display import compact_html, dashboard_html, kernel_html
from ..meters import Meters
from ..rates import POINTS, Rates
from ..reports import short_errors
from .charts import Charts
from .live import Live, RuntimeSource, source, style

WINDOWS = (30.0, 60.0, 300.0, 900.0, 3600.0)
"""What the view offers, in seconds."""
NOTES = 20
"""Notes of each kind in a frame; more are only counted by the table."""
NOTED = 1.0
"""Seconds between two looks at what waits; what fails is seen at once."""
DRAWN = 0.5
"""Seconds between two pictures of the charts, at least: they cost the browser more than the table."""

_WORKING = (KernelState.ACTIVE, KernelState.TERMINATING)  # what the others wait for, the table says by their state


@short_errors
def dashboard(
    runtime: RingKernelRuntime,
    *,
    hz: float = 5.0,
    window: float = 60.0,
    record: bool = False,
    layout: Literal["full", "compact"] = "full",
    embed: str | RingKernel | None = None,
) -> Dashboard:
    """A live view of all kernels of a runtime, with buttons to pause, resume, step, restart and stop them.

    Make it the last expression of a cell. It goes on while cells block or compute, and so do its buttons, if the
    runtime has a loop of its own (``loop="thread"``).

    Args:
        hz: pictures a second while it is in sight (0 < hz <= 20); the view can change it.
        window: seconds that charts and sparklines reach back (5 to 3600); the view can change it.
        record: sample also while it is shown nowhere, so that a notebook run without a browser has the whole course in
            its picture; else nothing is sampled unless somebody looks.
        layout: ``"full"``, or ``"compact"`` for one line: how many kernels are in which state, and sums over all.
        embed: id or handle of one kernel: only that one is shown, with its charts and buttons.

    Raises:
        TypeError: `runtime` is no `RingKernelRuntime`, or `embed` neither an id nor a handle.
        ValueError: a rate or window out of range, another layout, a kernel of another runtime, or `embed` with
            ``layout="compact"``.
        KernelNotFoundError: no kernel of the id `embed` was launched.
    """
    return Dashboard(runtime, hz=hz, window=window, record=record, layout=layout, embed=embed)


class Table(anywidget.AnyWidget):
    """Header, table and buttons; drawn by `static/dashboard.js`."""

    _esm = source("dashboard")
    _css = style("dashboard")
    key = traitlets.Unicode().tag(sync=True)
    """What a view says hello with."""
    layout_name = traitlets.Unicode().tag(sync=True)
    """``"full"``, ``"compact"``, or ``"embed"``."""
    kernel = traitlets.Unicode().tag(sync=True)
    """The id of the one that is shown alone."""


class Dashboard(Live, ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """What `dashboard` makes."""

    def __init__(
        self,
        runtime: RingKernelRuntime,
        *,
        hz: float,
        window: float,
        record: bool,
        layout: str,
        embed: str | RingKernel | None,
    ) -> None:
        if not isinstance(runtime, RingKernelRuntime):
            raise TypeError(f"dashboard takes a RingKernelRuntime, not {runtime!r}")
        if layout not in ("full", "compact"):
            raise ValueError(f"layout must be 'full' or 'compact', not {layout!r}")
        self._embed = None if embed is None else _embedded(runtime, embed, layout)
        window = checked_window(window)
        self._prepare(RuntimeSource(runtime), hz, record)
        self._runtime = runtime
        self._layout_name = "embed" if self._embed is not None else layout
        self._meters = Meters(runtime)
        self._rates = Rates(window, others=WINDOWS)
        self._roster = 0
        self._known: tuple[str, ...] = ()  # ids that the browser has been told
        self._known_of: object = None  # and the ids of the frame that they come from
        self._tags: list[str] = []
        self._noted: tuple[Any, list[dict[str, Any]]] = (None, [])
        self._noted_at = 0.0
        self._selected: tuple[str, ...] = ()
        self._charted: list[str | None] = [None] * schema.SERIES
        self._charted_as = ""
        self._chosen_at = self._drawn_at = 0.0
        self._drawn = -1  # moment of what the charts show
        self._table = Table(key=uuid4().hex, layout_name=self._layout_name, kernel=schema.clean(self._embed or ""))
        self._charts = Charts(window, POINTS) if self._layout_name != "compact" else None
        self._has_charts = self._charts is not None and bool(runtime.kernels)  # else there is nothing to draw yet
        super().__init__([self._table, *([self._charts.widget] if self._charts and self._has_charts else [])])
        self._begin(self._table)

    def __repr__(self) -> str:
        shows = f", embed={self._embed!r}" if self._embed is not None else ""
        shows += ", layout='compact'" if self._layout_name == "compact" else ""
        return f"Dashboard(hz={self._hz:g}, window={self.window:g}{shows})"

    @property
    def runtime(self) -> RingKernelRuntime:
        """The runtime that it shows."""
        return self._runtime

    @property
    def window(self) -> float:
        """Seconds that charts and sparklines reach back; can be set.

        Raises:
            ValueError: not from 5 to 3600.
        """
        return self._rates.window

    @window.setter
    def window(self, window: float) -> None:
        window = checked_window(window)
        with self._writing:
            self._rates.window = window
            self._drawn, self._drawn_at, self._chosen_at = -1, 0.0, 0.0
            if self._charts is not None:
                self._charts.reach(window)
            self._snapshot = True

    def close(self) -> None:
        """End it: the last picture stays in the notebook, nothing moves any more."""
        if not self._ended.is_set():
            super().close()
            if self._charts is not None:
                self._charts.close()

    def _picture(self) -> dict[str, str]:
        frame, kernels = self._shown, self._runtime.kernels
        statistics = RuntimeStatistics(
            {
                kernel_id: KernelStatistics.from_row(kernel_id, row, kernels[kernel_id].waiting_for)
                for kernel_id, row in zip(frame.ids, frame.rows, strict=True)
            },
            frame.dead_letters,
            frame.loop_lag,
            frame.notebook_lag,
        )
        noted = self._notes()
        if self._layout_name == "compact":
            notes = [_in_a_line(note) for note in noted if note["kind"] == "failed"]
            html = compact_html(statistics, notes, known(self._rates.rate.sum()), self._rates.total(), self.window)
            return {"text/html": html}
        names = [name for name in self._charted if name in frame.ids] or self._rates.busiest(schema.SERIES)
        depths, rates = self._rates.series(names)
        tags = {kernel_id: tag(kernels[kernel_id].definition) for kernel_id in frame.ids}
        notes = [_in_a_line(note) for note in noted]
        picture = dashboard_html if self._embed is None else kernel_html
        return {"text/html": picture(statistics, tags, notes, names, depths, rates, self.window)}

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make | str:
        verb = schema.chosen("verb", verb, [*METHODS, "step", "traceback"])
        kernel = schema.meant(kernel, self._runtime.kernels)
        if verb == "step":
            return partial(step, self._runtime, kernel)
        if verb != "traceback":
            return partial(METHODS[verb], self._runtime, kernel)
        try:
            shown = self._runtime[kernel]
        except KernelNotFoundError as error:
            raise schema.RefusedError(str(error)) from None
        if shown.exception is None:
            return f"{kernel!r} is {shown.state}, and has no error"
        return traceback(shown.exception)

    def _set(self, name: str, value: Any) -> None:
        match name:
            case "window":
                try:
                    self.window = value
                except ValueError as error:
                    raise schema.RefusedError(str(error)) from None
            case "kernels":
                if (
                    not isinstance(value, list)
                    or len(value) > schema.SERIES
                    or not all(isinstance(kernel_id, str) for kernel_id in value)
                ):
                    raise schema.RefusedError(f"kernels must be at most {schema.SERIES} ids, not {schema.shown(value)}")
                self._selected = tuple(schema.meant(kernel_id, self._runtime.kernels) for kernel_id in value)
                self._chosen_at = 0.0
            case _:
                super()._set(name, value)

    # -- sampling and sending: with the lock ---------------------------------------------------------------------------

    def _look(self, frame: Frame) -> None:
        if self._embed is not None:
            at = frame.ids.index(self._embed)
            # A copy: what is kept of a frame shall not keep the rows of all.
            rows, launches = frame.rows[at : at + 1].copy(), frame.launches[at : at + 1]
            frame = replace(frame, ids=(self._embed,), rows=rows, launches=launches)
        self._shown = frame
        self._rates.add(frame)

    def _rest(self) -> None:
        super()._rest()
        del self._shown
        self._rates, self._known_of = Rates(self.window, others=WINDOWS), None
        self._drawn, self._drawn_at, self._chosen_at = -1, 0.0, 0.0

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        rates, frame = self._rates, self._shown
        self._meters.read()
        fields = schema.dashboard_content(
            hz=self._hz,
            window=self.window,
            moment=rates.moment,
            points=POINTS,
            counts=np.bincount(frame.rows["state"], minlength=len(STATES)).tolist(),
            queued=int(frame.rows["queue_depth"].sum()),
            rate=known(rates.rate.sum()),
            lag=frame.loop_lag,
            notebook_lag=frame.notebook_lag,
            cpu=self._meters.cpu,
            gpus=self._meters.gpus,
            dead_letters=frame.dead_letters,
            notes=self._notes(),
        )
        if self._layout_name == "compact":
            return fields, [rates.total().tobytes()]
        told = self._meet() or full
        fields |= {"roster": self._roster, "ids": None, "tags": None}
        if told:
            fields |= {"ids": list(self._known), "tags": self._tags}
        rows = frame.rows
        columns = {
            "state": rows["state"],
            "version": rows["version"],
            "depth": rows["queue_depth"],
            "bound": rows["queue_size"],
            "peak": rows["queue_peak"],
            "rate": rates.rate,
            "waitP50": rates.wait[0],
            "waitP99": rates.wait[1],
            "handleP50": rates.handle[0],
            "handleP99": rates.handle[1],
            "errors": rows["errors"],
            "restarts": rows["restarts"],
            "deadLetters": rows["dead_letters"],
        }
        buffers = [schema.pack(columns, len(rows))]
        if full:
            buffers.append(rates.history().tobytes())
        self._draw(time.monotonic())
        return fields, buffers

    def _meet(self) -> bool:
        """Notice other kernels; whether there are some."""
        frame, kernels = self._frame, self._runtime.kernels
        assert frame is not None
        if self._known_of is frame.ids:  # another tuple whenever one was launched
            return False
        self._known_of = frame.ids
        ids = self._shown.ids
        tags = [tag(kernels[kernel_id].definition) for kernel_id in ids]
        if (ids, tags) == (self._known, self._tags):
            return False
        self._known, self._tags = ids, tags
        self._roster += 1
        return True

    def _notes(self) -> list[dict[str, Any]]:
        """What is wrong with single kernels, in words."""
        rows, kernels, now = self._shown.rows, self._runtime.kernels, time.monotonic()
        seen = self._shown.ids, *(rows[name].tobytes() for name in ("state", "errors", "restarts"))
        if seen == self._noted[0] and now - self._noted_at < NOTED:
            return self._noted[1]
        failed: list[dict[str, Any]] = []
        waits: list[dict[str, Any]] = []
        for kernel_id in self._shown.ids:
            kernel = kernels[kernel_id]
            if (error := kernel.exception) is not None:
                if len(failed) < NOTES:
                    failed.append(
                        {
                            "kernel": kernel_id,
                            "kind": "failed",
                            "text": f"failed: {shortened(error_text(error))}",
                            "origin": place(kernel, error),
                            "fate": fate(kernel),
                        }
                    )
            elif kernel.state in _WORKING and len(waits) < NOTES and (what := kernel.waiting_for):
                waits.append(
                    {"kernel": kernel_id, "kind": "waits", "text": f"waiting: {what}", "origin": "", "fate": ""}
                )
        self._noted, self._noted_at = (seen, failed + waits), now
        return failed + waits

    def _draw(self, now: float) -> None:
        """Show the selected kernels, or else the busiest, in the charts; each keeps its colour while it is shown."""
        rates, ids = self._rates, self._rates.ids
        # bqplot cannot draw a line of which nothing is known.
        if rates.moment == self._drawn or now - self._drawn_at < DRAWN or not np.isfinite(rates.rate).any():
            return
        assert self._charts is not None
        self._drawn, self._drawn_at = rates.moment, now
        if not self._has_charts:
            self._has_charts = True
            self.children = (self._table, self._charts.widget)
        if now - self._chosen_at > 5 or any(name not in ids for name in self._charted if name is not None):
            self._chosen_at = now
            selected = [name for name in self._selected if name in ids]
            chosen = selected or rates.busiest(schema.SERIES)
            kept: list[str | None] = [name if name in chosen else None for name in self._charted]
            fresh = iter([name for name in chosen if name not in kept])
            self._charted = [name if name is not None else next(fresh, None) for name in kept]
            self._charted_as = "selected:" if selected else ""
            if len(chosen) < len(ids) and not selected:
                self._charted_as = f"busiest {len(chosen)} of {len(ids):,}:"
        series = rates.series([name for name in self._charted if name is not None])
        self._charts.draw(self._charted, self._charted_as, *series)


def checked_window(window: Any) -> float:
    """Seconds that charts reach back.

    Raises:
        ValueError: not from 5 to 3600.
    """
    if isinstance(window, bool) or not isinstance(window, int | float) or not 5 <= window <= 3600:
        raise ValueError(f"window must be 5 to 3600 seconds, not {window!r}")
    return float(window)


def _embedded(runtime: RingKernelRuntime, embed: Any, layout: str) -> str:
    """The id of the kernel that is to be shown alone."""
    if layout != "full":
        raise ValueError("embed= shows one kernel with its charts, layout='compact' sums over all: give one of them")
    if isinstance(embed, RingKernel):
        if embed.runtime is not runtime:
            raise ValueError(f"{embed.id!r} is a kernel of another runtime: dashboard(kernel.runtime, embed=kernel)")
        return embed.id
    if not isinstance(embed, str):
        hint = f": its id is {embed.kernel_id!r}" if isinstance(embed, RingKernelDefinition) else ""
        raise TypeError(f"embed takes the id of a kernel, or its handle from launch(), not {embed!r}{hint}")
    return runtime[embed].id


def _in_a_line(note: Mapping[str, Any]) -> str:
    return " — ".join(filter(None, (f"{note['kernel']} {note['text']}", note["origin"], note["fate"])))
