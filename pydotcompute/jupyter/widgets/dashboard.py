"""The dashboard: a table of all kernels, two charts, and the buttons that steer them."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import anywidget
import ipywidgets
import traitlets

from ...exceptions import PyDotComputeError
from ...runtime import KernelState, RingKernelDefinition, RingKernelRuntime
from ...runtime.step import StepDefinition
from ...telemetry import Frame
from .. import comm, schema
from ..display import Outputs, dashboard_html
from ..rates import POINTS, Rates
from .charts import Charts

STATIC = Path(__file__).parent / "static"

UNSEEN_HZ = 1.0
"""Rate while views are open but out of sight: nothing is sent, the series go on."""
SETTLE_HZ = 20.0
LATE = 3.0
"""Seconds that the browser may be behind with drawing until frames go out slowly."""
SILENT = 30.0
"""Seconds after which a silent view counts as out of sight."""
GONE = 600.0
"""Seconds after which a silent view counts as closed."""
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

    _esm = STATIC / "dashboard.js"
    _css = STATIC / "dashboard.css"
    key = traitlets.Unicode().tag(sync=True)
    """What a view says hello with."""


class Dashboard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """What `dashboard` makes.

    The sampler's thread writes the widgets; a lock keeps whoever else must write apart from it.
    """

    def __init__(self, runtime: RingKernelRuntime, *, hz: float, window: float, record: bool) -> None:
        if not isinstance(runtime, RingKernelRuntime):
            raise TypeError(f"dashboard takes a RingKernelRuntime, not {runtime!r}")
        if not 0 < hz <= 20:
            raise ValueError(f"hz must be above 0 and at most 20, not {hz!r}")
        if not 5 <= window <= 3600:
            raise ValueError(f"window must be 5 to 3600 seconds, not {window!r}")
        self._hz, self._window, self._record = hz, window, record
        self._runtime = runtime
        self._writing = threading.RLock()
        # What a thread publishes needs the context of a cell: ipykernel 7.0 looks up there what it belongs to.
        self._context = contextvars.copy_context()
        self._status: schema.Status = "live"
        self._settled = threading.Event()  # the last picture of a frozen or closed runtime is out
        self._refresh = False  # put it into the notebook, once it is
        self._views: list[comm.View] = []
        self._listening = 0.0  # the rate that the sampler was asked for; 0: not listening
        self._number = self._roster = 0
        self._known: tuple[Any, ...] | None = None  # ids and tags that the browser has been told
        self._snapshot = True
        self._sent_at = 0.0
        self._drawn = -1  # moment of what the charts show
        self._rates = Rates(window)
        self._frame: Frame | None = None
        self._selected: tuple[str, ...] = ()
        self._charted: list[str | None] = [None] * schema.SERIES
        self._charted_as = ""
        self._chosen_at = 0.0
        self._results: deque[dict[str, Any]] = deque(maxlen=20)
        self._outputs = Outputs()
        self._table = Table(key=uuid4().hex)
        self._charts = Charts(window, POINTS)
        super().__init__([self._table, self._charts.widget])
        self.add_class("pydotcompute")
        self._ended = threading.Event()
        comm.serve(self._table.key, self)
        # A page that lets nobody open comms sends the same messages with the widget: all its views count as one.
        page = comm.View()
        self._table.on_msg(lambda _, content, buffers: comm.tell(self, page, content, self._table.send))
        self._adapt()
        threading.Thread(target=self._watch, name="pydotcompute-dashboard", daemon=True).start()

    def __repr__(self) -> str:
        return f"Dashboard(hz={self._hz:g}, window={self._window:g})"

    # -- what users call -----------------------------------------------------------------------------------------------

    @property
    def runtime(self) -> RingKernelRuntime:
        """The runtime that it shows."""
        return self._runtime

    @property
    def status(self) -> schema.Status:
        """``"live"``, ``"frozen"``, or ``"closed"`` once the runtime is."""
        return self._status

    def freeze(self) -> None:
        """Keep the present picture, and put it into the notebook for those who read it without a kernel."""
        self._settle("frozen")
        if self._status == "frozen" and self._settled.wait(2):
            self._outputs.refresh(self._repr_mimebundle_())

    def thaw(self) -> None:
        """Go on after `freeze`."""
        with self._writing:
            if self._status == "frozen":
                self._status = "live"
                self._settled.clear()
                self._snapshot = True
                self._adapt()

    def close(self) -> None:
        """End it: the last picture stays in the notebook, nothing moves any more."""
        if self.comm is None:
            return
        with self._writing:
            self._status = "closed"
            self._settled.set()
            self._ended.set()
            self._views.clear()
            self._adapt()
            self._outputs.refresh({"text/plain": repr(self), "text/html": self._html()})
        super().close()
        self._table.close()
        self._charts.close()

    def __del__(self) -> None:
        """Widgets live until they are closed, or the process ends: then it is too late for a last picture."""

    # -- what it looks like in a notebook ------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": self._html(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.model_id,
            },
        }

    def _ipython_display_(self, **kwargs: Any) -> None:
        self._outputs.show(self._repr_mimebundle_())

    def _html(self) -> str:
        with self._writing:
            names = [name for name in self._charted if name in self._rates.ids] or self._rates.busiest(schema.SERIES)
            depths, rates = self._rates.series(names)
            notes = [
                f"{note['kernel']} {note['text']}" + (f" — {note['origin']}" if note["origin"] else "")
                for note in self._notes(self._runtime.kernels)
            ]
            return dashboard_html(self._runtime.statistics(), notes, names, depths, rates, self._window)

    # -- views: any thread ---------------------------------------------------------------------------------------------

    def view_opened(self, view: comm.View) -> None:
        if self._ended.is_set():
            raise schema.RefusedError(comm.GONE)
        with self._writing:
            self._views.append(view)  # what it shall see, it asks for when it is seen

    def view_closed(self, view: comm.View) -> None:
        with self._writing:
            if view in self._views:
                self._views.remove(view)
            self._adapt()

    def view_told(self, view: comm.View, message: schema.Message) -> None:
        if self._ended.is_set():
            raise schema.RefusedError(comm.GONE)
        match message:
            case schema.Received(number):
                view.received = max(view.received, number)
            case schema.Seen(visible):
                with self._writing:
                    if visible and not view.visible:
                        self._snapshot = True
                        view.received = self._number
                    view.visible = visible
                    if view not in self._views:  # it had been given up
                        self._views.append(view)
                    self._adapt()
            case schema.Snapshot():
                with self._writing:
                    self._snapshot = True
                    self._adapt()
            case schema.Select(kernels):
                self._selected = kernels
                self._chosen_at = 0.0
            case schema.Freeze(on):
                if on:
                    self._settle("frozen", refresh=True)
                else:
                    self.thaw()
            case schema.Command(verb, kernel, request):
                self._command(verb, kernel, request)
            case schema.Hello():  # from a page without comms: the hello that opens a comm does not come here
                pass

    def _command(self, verb: str, kernel: str, request: str) -> None:
        """Post it to the runtime; what becomes of it goes out with the next frame."""

        def done(future: Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            result(f"{type(error).__name__}: {error}" if error else "")

        def result(error: str) -> None:
            self._results.append({"request": request, "ok": not error, "text": error})

        try:
            self._runtime._post(_METHODS[verb], self._runtime, kernel).add_done_callback(done)
        except PyDotComputeError as error:  # closed meanwhile
            result(f"{type(error).__name__}: {error}")

    # -- sampling ------------------------------------------------------------------------------------------------------

    def _adapt(self) -> None:
        """Listen to the sampler as fast as somebody looks, and not at all when nobody does."""
        if self._status == "live":
            now = time.monotonic()
            self._views = [view for view in self._views if now - view.heard < GONE]
            hz = self._hz if self._record or self._seen(now) else UNSEEN_HZ if self._views else 0.0
            hz = min(hz, self._hz)
        else:  # once more for the last picture, and for each view that comes later
            hz = SETTLE_HZ if not self._settled.is_set() or (self._snapshot and self._views) else 0.0
        if hz != self._listening:
            self._listening = hz
            if hz:
                self._runtime.sampler.listen(self._take, hz)
            else:
                self._runtime.sampler.ignore(self._take)

    def _seen(self, now: float) -> list[comm.View]:
        """The views that somebody can see, also those whose messages wait for the end of a cell."""
        held_up = self._frame is not None and (self._frame.notebook_lag or 0) > 1
        return [view for view in self._views if view.visible and (held_up or now - view.heard < SILENT)]

    def _take(self, frame: Frame) -> None:
        """On the sampler's thread: the next frame."""
        with self._writing:
            self._context.copy().run(self._show, frame)
            refresh, self._refresh = self._refresh and self._settled.is_set(), False
        if refresh:
            self._outputs.refresh(self._repr_mimebundle_())

    def _show(self, frame: Frame) -> None:
        if not self._settled.is_set():
            self._frame = frame
            self._rates.add(frame)
        now = time.monotonic()
        seen = self._seen(now)
        if seen or self._status != "live":
            # Nobody draws what is sent: slower, so that it does not pile up on the way.
            late = seen and self._number - max(view.received for view in seen) > LATE * self._hz
            if not late or now - self._sent_at >= 1:
                self._sent_at = now
                self._send_frame(now)
        if self._status != "live":
            self._settled.set()
        self._adapt()

    def _watch(self) -> None:
        """Notice that the runtime closes, also while nothing is sampled. A frozen picture stays as it is."""
        while not self._ended.wait(0.5):
            if self._runtime.closed and self._status != "frozen":
                self._settle("closed", refresh=True)
                if self._settled.wait(0.5):  # else the runtime, still closing, took the listener off
                    return

    def _settle(self, status: schema.Status, refresh: bool = False) -> None:
        """Take one last picture; with `refresh` it is also put into the notebook then."""
        with self._writing:
            if self._status == "closed" != status or (self._status == status and self._settled.is_set()):
                return
            self._status = status
            self._settled.clear()
            self._refresh = refresh
            self._listening = 0.0  # a runtime that closes has forgotten its listeners
            self._adapt()

    # -- sending: with the lock ----------------------------------------------------------------------------------------

    def _send_frame(self, now: float) -> None:
        rates, frame = self._rates, self._frame
        assert frame is not None
        kernels = self._runtime.kernels
        known = rates.ids, [_tag(kernels[kernel_id].definition) for kernel_id in rates.ids]
        if known != self._known:
            self._known = known
            self._roster += 1
            full = True
        else:
            full = self._snapshot
        self._number += 1
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
        content = schema.frame_content(
            number=self._number,
            status=self._status,
            moment=rates.moment,
            points=POINTS,
            step=rates.step,
            roster=self._roster,
            ids=known[0] if full else None,
            tags=known[1] if full else None,
            rate=total if total == total else None,  # NaN has no JSON
            lag=frame.loop_lag,
            notebook_lag=frame.notebook_lag,
            dead_letters=frame.dead_letters,
            notes=self._notes(kernels),
            results=list(self._results),
        )
        buffers = [schema.pack(columns, len(rates.ids))]
        if self._snapshot:
            buffers.append(rates.history().tobytes())
            self._snapshot = False
        self._table.send(content, buffers)
        if rates.moment != self._drawn and total == total:  # bqplot cannot draw a line of which nothing is known
            self._drawn = rates.moment
            self._draw(now)

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
