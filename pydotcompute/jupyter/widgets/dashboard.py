"""The dashboard: a table of all kernels, two charts, and the buttons that steer them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any
from uuid import uuid4

import anywidget
import ipywidgets
import traitlets

from ...runtime import KernelState, RingKernelDefinition, RingKernelRuntime
from ...runtime.step import StepDefinition
from ...telemetry import Frame
from .. import schema
from ..display import dashboard_html
from ..rates import POINTS, Rates
from .charts import Charts
from .live import Live, Make, RuntimeSource, source, style

NOTES = 20
"""Notes of each kind in a frame; more are only counted by the table."""

_WORKING = (KernelState.ACTIVE, KernelState.TERMINATING)  # what the others wait for, the table says by their state
_METHODS = {
    "pause": RingKernelRuntime.deactivate,
    "resume": RingKernelRuntime.reactivate,
    "stop": RingKernelRuntime.terminate,
}


def dashboard(runtime: RingKernelRuntime, *, hz: float = 5.0, window: float = 60.0, record: bool = False) -> Dashboard:
    """A live view of all kernels of a runtime, with buttons to pause, resume and stop them.

    Make it the last expression of a cell. It goes on while cells block or compute, and so do its buttons, if the
    runtime has a loop of its own (``loop="thread"``).

    Args:
        hz: pictures a second while it is in sight (0 < hz <= 20).
        window: seconds that the charts reach back (5 to 3600).
        record: sample also while it is shown nowhere, so that a notebook run without a browser has the whole course in
            its picture; else nothing is sampled unless somebody looks.

    Raises:
        TypeError: not a `RingKernelRuntime`.
        ValueError: a rate or window out of range.
    """
    return Dashboard(runtime, hz=hz, window=window, record=record)


class Table(anywidget.AnyWidget):
    """Header, table and buttons; drawn by `static/dashboard.js`."""

    _esm = source("dashboard")
    _css = style("dashboard")
    key = traitlets.Unicode().tag(sync=True)
    """What a view says hello with."""


class Dashboard(Live, ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """What `dashboard` makes."""

    def __init__(self, runtime: RingKernelRuntime, *, hz: float, window: float, record: bool) -> None:
        if not isinstance(runtime, RingKernelRuntime):
            raise TypeError(f"dashboard takes a RingKernelRuntime, not {runtime!r}")
        if not 5 <= window <= 3600:
            raise ValueError(f"window must be 5 to 3600 seconds, not {window!r}")
        self._prepare(RuntimeSource(runtime), hz, record)
        self._runtime = runtime
        self._window = window
        self._roster = 0
        self._known: tuple[Any, ...] | None = None  # ids and tags that the browser has been told
        self._drawn = -1  # moment of what the charts show
        self._rates = Rates(window)
        self._selected: tuple[str, ...] = ()
        self._charted: list[str | None] = [None] * schema.SERIES
        self._charted_as = ""
        self._chosen_at = 0.0
        self._table = Table(key=uuid4().hex)
        self._charts = Charts(window, POINTS)
        super().__init__([self._table, self._charts.widget])
        self._begin(self._table)

    def __repr__(self) -> str:
        return f"Dashboard(hz={self._hz:g}, window={self._window:g})"

    @property
    def runtime(self) -> RingKernelRuntime:
        """The runtime that it shows."""
        return self._runtime

    def close(self) -> None:
        """End it: the last picture stays in the notebook, nothing moves any more."""
        if not self._ended.is_set():
            super().close()
            self._charts.close()

    def _picture(self) -> dict[str, str]:
        names = [name for name in self._charted if name in self._rates.ids] or self._rates.busiest(schema.SERIES)
        depths, rates = self._rates.series(names)
        notes = [
            f"{note['kernel']} {note['text']}" + (f" — {note['origin']}" if note["origin"] else "")
            for note in self._notes(self._runtime.kernels)
        ]
        html = dashboard_html(self._runtime.statistics(), notes, names, depths, rates, self._window)
        return {"text/html": html}

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make:
        return partial(_METHODS[schema.chosen("verb", verb, [*_METHODS])], self._runtime, kernel)

    def _set(self, name: str, value: Any) -> None:
        if name != "kernels":
            super()._set(name, value)
        elif (
            not isinstance(value, list)
            or len(value) > schema.SERIES
            or not all(isinstance(kernel_id, str) for kernel_id in value)
        ):
            raise schema.RefusedError(f"kernels must be at most {schema.SERIES} ids, not {schema.shown(value)}")
        else:
            self._selected = tuple(value)
            self._chosen_at = 0.0

    # -- sampling and sending: with the lock ---------------------------------------------------------------------------

    def _look(self, frame: Frame) -> None:
        self._rates.add(frame)

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        rates, frame = self._rates, self._frame
        assert frame is not None
        kernels = self._runtime.kernels
        known = rates.ids, [_tag(kernels[kernel_id].definition) for kernel_id in rates.ids]
        changed = known != self._known
        if changed:
            self._known = known
            self._roster += 1
        rows = rates.rows
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
            "deadLetters": rows["dead_letters"],
        }
        total = float(rates.rate.sum()) if len(rates.ids) else 0.0
        content = schema.dashboard_content(
            moment=rates.moment,
            points=POINTS,
            step=rates.step,
            roster=self._roster,
            ids=known[0] if changed or full else None,
            tags=known[1] if changed or full else None,
            rate=total if total == total else None,  # NaN has no JSON
            lag=frame.loop_lag,
            notebook_lag=frame.notebook_lag,
            dead_letters=frame.dead_letters,
            notes=self._notes(kernels),
        )
        buffers = [schema.pack(columns, len(rates.ids))]
        if full:
            buffers.append(rates.history().tobytes())
        if rates.moment != self._drawn and total == total:  # bqplot cannot draw a line of which nothing is known
            self._drawn = rates.moment
            self._draw(time.monotonic())
        return content, buffers

    def _notes(self, kernels: Any) -> list[dict[str, Any]]:
        """What is wrong with single kernels, in words."""
        failed: list[dict[str, Any]] = []
        waits: list[dict[str, Any]] = []
        for kernel in list(kernels.values()):
            error = kernel.exception
            if error is not None:
                if len(failed) < NOTES:
                    text = f"failed: {type(error).__name__}: {_shortened(str(error))}"
                    failed.append(
                        {"kernel": kernel.id, "kind": "failed", "text": text, "origin": kernel.definition.origin}
                    )
            elif kernel.state in _WORKING and len(waits) < NOTES and (waiting_for := kernel.waiting_for):
                waits.append({"kernel": kernel.id, "kind": "waits", "text": f"waiting: {waiting_for}", "origin": ""})
        return failed + waits

    def _draw(self, now: float) -> None:
        """Show the selected kernels, or else the busiest, in the charts; each keeps its colour while it is shown."""
        ids = self._rates.ids
        if now - self._chosen_at > 5 or any(name not in ids for name in self._charted if name is not None):
            self._chosen_at = now
            selected = [name for name in self._selected if name in ids]
            chosen = selected or self._rates.busiest(schema.SERIES)
            kept: list[str | None] = [name if name in chosen else None for name in self._charted]
            fresh = iter([name for name in chosen if name not in kept])
            self._charted = [name if name is not None else next(fresh, None) for name in kept]
            few = len(ids) <= schema.SERIES
            self._charted_as = "selected:" if selected else "" if few else f"busiest {len(chosen)} of {len(ids):,}:"
        series = self._rates.series([name for name in self._charted if name is not None])
        self._charts.draw(self._charted, self._charted_as, *series)


def _tag(definition: RingKernelDefinition) -> str:
    """What runs it, and how many; empty for an async ring kernel."""
    if not isinstance(definition, StepDefinition):
        return ""
    return definition.backend_name + (f" ×{definition.instances:,}" if definition.instances > 1 else "")


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
