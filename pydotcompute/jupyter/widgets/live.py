"""What all live widgets have in common: who looks, how fast, what stays in the saved notebook."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4
from weakref import WeakSet

import anywidget
import ipywidgets
import numpy as np
import traitlets

from ...exceptions import PyDotComputeError
from ...origin import current_cell
from ...runtime import RingKernelRuntime
from ...runtime.dead_letters import error_text
from ...telemetry import COUNTERS, Frame
from ...telemetry.html import escape
from ...telemetry.sampler import Sampler
from .. import comm, schema
from ..acts import Make, follow
from ..display import Outputs

log = logging.getLogger("pydotcompute")

STATIC = Path(__file__).parent / "static"

UNSEEN_HZ = 1.0
"""Rate while views are open but out of sight: nothing is sent, series over time go on."""
SETTLE_HZ = 20.0
MAX_HZ = 20.0


@lru_cache
def source(name: str) -> str:
    """The module of a widget: what all have in common, and `static/<name>.js`."""
    return "\n".join((STATIC / f"{part}.js").read_text("utf-8") for part in ("common", name))


@lru_cache
def style(name: str) -> str:
    """The style sheet of a widget: what all have in common, and `static/<name>.css`."""
    return "\n".join((STATIC / f"{part}.css").read_text("utf-8") for part in ("common", name))


def parts_of(widget: Any) -> list[Any]:
    """All open widgets that its traits lead to: children, layouts, styles, scales. They do not close with it."""
    found = [widget]
    for one in found:
        for name in one.keys:
            parts = getattr(one, name)
            if isinstance(parts, dict):
                parts = parts.values()
            elif not isinstance(parts, tuple | list):
                parts = [parts]
            for part in parts:
                if isinstance(part, ipywidgets.Widget) and part.comm is not None and part not in found:
                    found.append(part)
    return found[1:]


def checked_hz(hz: Any) -> float:
    """A rate of pictures.

    Raises:
        ValueError: it is not above 0, or above `MAX_HZ`.
    """
    if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz <= MAX_HZ:
        raise ValueError(f"hz must be above 0 and at most {MAX_HZ:g}, not {hz!r}")
    return float(hz)


class Source(Protocol):
    """Where the ticks of a widget come from, and what its buttons act on."""

    @property
    def sampler(self) -> Sampler: ...

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to show."""

    def post(self, make: Make) -> Future[Any]:
        """Run a coroutine where it belongs.

        Raises:
            PyDotComputeError: it is too late for that.
        """


class RuntimeSource:
    """A runtime: its sampler, and its event loop."""

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime

    @property
    def sampler(self) -> Sampler:
        return self._runtime.sampler

    @property
    def closed(self) -> bool:
        return self._runtime.closed

    def post(self, make: Make) -> Future[Any]:
        return self._runtime._post(make)


class OwnSource:
    """For what has no runtime: a sampler of its own, whose frames have no kernels; it is there until it is closed."""

    def __init__(self) -> None:
        self.sampler = Sampler(self._frame, lambda: None)
        self._frames = count(1)

    @property
    def closed(self) -> bool:
        return False

    def post(self, make: Make) -> Future[Any]:
        raise PyDotComputeError("there is no runtime here that could do it")

    def _frame(self) -> Frame:
        nothing, nobody = np.empty(0, COUNTERS), np.empty(0, np.int64)
        return Frame(next(self._frames), time.perf_counter_ns(), (), nothing, None, None, 0, nobody)


class Live:
    """A mixin for widgets that show something which changes by itself.

    The sampler's thread writes the widget, at the rate at which somebody looks; a lock, `_writing`, keeps whoever else
    must write apart from it. Everything that is sent is absolute, and the latest wins.

    A widget says `_prepare` before it is initialised as a widget and `_begin` after that, and gives the methods below.
    """

    # -- what a widget gives -------------------------------------------------------------------------------------------

    def _look(self, frame: Frame) -> None:
        """Read what is to be shown; on the sampler's thread, with `_writing`."""
        raise NotImplementedError

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        """What goes out of the last `_look`: JSON fields and buffers; `full` when somebody knows nothing yet."""
        raise NotImplementedError

    def _picture(self) -> dict[str, str]:
        """The last look by MIME type, at least ``text/html``, for those who read the notebook without a kernel."""
        raise NotImplementedError

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make | str:
        """What a button does. It may return a text, which is shown; one that is known at once is returned itself.

        Any thread may call this.

        Raises:
            schema.RefusedError: that is nothing that this widget can do.
        """
        raise schema.RefusedError(f"unknown command {verb!r}")

    def _set(self, name: str, value: Any) -> None:
        """A choice that all views of the widget share. Any thread may call this.

        Raises:
            schema.RefusedError: there is no such choice, or not this one.
        """
        raise schema.RefusedError(f"unknown setting {name!r}")

    # -- its life ------------------------------------------------------------------------------------------------------

    def _prepare(self, source: Source, hz: float, record: bool = False) -> None:
        self._source = source
        self._hz = checked_hz(hz)
        self._record = record
        self._writing = threading.RLock()
        # What a thread publishes needs the context of a cell: ipykernel 7.0 looks up there what it belongs to.
        self._context = contextvars.copy_context()
        self._status: schema.Status = "live"
        self._settled = threading.Event()  # the last picture of a frozen or closed widget is out
        self._refresh = False  # put it into the notebook, once it is
        self._views: list[comm.View] = []
        self._listening = 0.0  # the rate that the sampler was asked for; 0: not listening
        self._quiet_since = time.monotonic()  # while it is not listening
        self._cells: set[str] = set()  # ids of those that show it
        self._replaced = False  # those that had shown it show something else
        self._number = 0
        self._snapshot = True
        self._sent_at = 0.0
        self._frame: Frame | None = None
        self._results: deque[tuple[float, dict[str, Any]]] = deque(maxlen=20)
        self._outputs = Outputs()
        self._dress: Callable[[dict[str, Any]], dict[str, Any]] = lambda bundle: bundle
        """Makes what a notebook gets of its bundle of MIME types, where it stands for an object."""
        self._trouble = ""  # why it could not be drawn last
        self._ended = threading.Event()

    def _begin(self, surface: Any) -> None:
        """The widget is there; `surface` is the part of it that frames go to, and has the trait `key`."""
        self._surface = surface
        self.add_class("pydotcompute")  # type: ignore[attr-defined]  # of the widget that this is mixed into
        comm.serve(surface.key, self)
        # A page that lets nobody open comms sends the same messages with the widget: all its views count as one.
        page = comm.View()
        surface.on_msg(lambda _, content, buffers: comm.tell(self, page, content, surface.send))
        with self._writing:
            self._adapt()
        _watch(self)

    @property
    def status(self) -> schema.Status:
        """``"live"``, ``"frozen"``, or ``"closed"`` once what it shows is."""
        return self._status

    @property
    def hz(self) -> float:
        """Pictures a second while it is in sight; can be set.

        Raises:
            ValueError: not above 0, or above 20.
        """
        return self._hz

    @hz.setter
    def hz(self, hz: float) -> None:
        with self._writing:
            self._hz = checked_hz(hz)
            self._adapt()

    def freeze(self) -> None:
        """Keep the present picture, and put it into the notebook for those who read it without a kernel."""
        self._picture_of_now()  # on the loop of the kernels, which a first look of another thread would wait for
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
        if self._ended.is_set():
            return
        with self._writing:
            self._status = "closed"
            self._settled.set()
            self._ended.set()
            self._views.clear()
            self._adapt()
            self._outputs.refresh(self._dress({"text/plain": repr(self), **self._picture_of_now()}))
        parts = parts_of(self)
        super().close()  # type: ignore[misc]
        for part in parts:
            part.close()

    def __del__(self) -> None:
        """Widgets live until they are closed, or the process ends: then it is too late for a last picture."""

    # -- what it looks like in a notebook ------------------------------------------------------------------------------

    def _picture_of_now(self) -> dict[str, str]:
        with self._writing:
            try:
                if self._frame is None:
                    self._frame = self._source.sampler.frame()
                    self._look(self._frame)
                return self._picture()
            except Exception as error:  # noqa: BLE001 - of what is shown, which is the user's
                return {"text/html": f"<div>{escape(repr(self))} {escape(self._stumbled(error))}</div>"}

    def _stumbled(self, error: Exception) -> str:
        """It cannot be drawn: log why, once for each reason, and say it."""
        text = f"cannot be drawn: {error_text(error)}"
        if text != self._trouble:
            self._trouble = text
            log.error("%r %s", self, text, exc_info=error)
        return text

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # The last field lets the extension of JupyterLab show the picture where the model is gone.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id, "pydotcompute": True}  # type: ignore[attr-defined]
        return self._dress(
            {
                "text/plain": repr(self),
                **self._picture_of_now(),
                "application/vnd.jupyter.widget-view+json": view,
            }
        )

    def _ipython_display_(self, **kwargs: Any) -> None:
        self._outputs.show(self._repr_mimebundle_())
        _shown_here(self)

    # -- views: any thread ---------------------------------------------------------------------------------------------

    def view_opened(self, view: comm.View) -> None:
        if self._ended.is_set():
            raise schema.RefusedError(comm.CLOSED)
        with self._writing:
            self._views.append(view)  # what it shall see, it asks for when it is seen

    def view_closed(self, view: comm.View) -> None:
        with self._writing:
            if view in self._views:
                self._views.remove(view)
            self._adapt()
            self._doze()

    def view_told(self, view: comm.View, message: schema.Message) -> None:
        if self._ended.is_set():
            raise schema.RefusedError(comm.CLOSED)
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
            case schema.Set("hz", value):
                try:
                    self.hz = value
                except ValueError as error:
                    raise schema.RefusedError(str(error)) from None
            case schema.Set(name, value):
                self._set(name, value)
            case schema.Freeze(on):
                if on:
                    self._settle("frozen", refresh=True)
                else:
                    self.thaw()
            case schema.Command(verb, kernel, request, arguments):
                self._command(self._act(verb, kernel, arguments), request)
            case schema.Hello():  # from a page without comms: the hello that opens a comm does not come here
                pass

    def _command(self, make: Make | str, request: str) -> None:
        """Post it to where it belongs; what becomes of it goes out with the next frame."""

        def result(ok: bool, text: str) -> None:
            self._results.append((time.monotonic(), {"request": request, "ok": ok, "text": text}))
            if self._status != "live":  # no frame would come by itself
                with self._writing:
                    self._snapshot = True
                    self._adapt()

        if isinstance(make, str):
            result(True, make)
        else:
            follow(self._source.post, make, result)

    # -- sampling ------------------------------------------------------------------------------------------------------

    def _adapt(self) -> None:
        """Listen to the sampler as fast as somebody looks, and not at all when nobody does."""
        if self._status == "live":
            now = time.monotonic()
            self._views = [view for view in self._views if now - view.heard < comm.GONE]
            hz = self._hz if self._record or self._seen(now) else UNSEEN_HZ if self._views else 0.0
            hz = min(hz, self._hz)
        else:  # once more for the last picture, and for each view that comes later
            hz = SETTLE_HZ if not self._settled.is_set() or (self._snapshot and self._views) else 0.0
        if hz != self._listening:
            self._listening = hz
            self._quiet_since = time.monotonic()
            if hz:
                self._source.sampler.listen(self._take, hz)
            else:
                self._source.sampler.ignore(self._take)

    def _seen(self, now: float) -> list[comm.View]:
        """The views that somebody can see, also those whose messages wait for the end of a cell."""
        held_up = self._frame is not None and (self._frame.notebook_lag or 0) > 1
        return [view for view in self._views if view.visible and (held_up or now - view.heard < comm.SILENT)]

    def _take(self, frame: Frame) -> None:
        """On the sampler's thread: the next frame."""
        with self._writing:
            try:
                self._context.copy().run(self._show, frame)
            except Exception as error:  # noqa: BLE001 - of what is shown, which is the user's; the next look may do
                self._surface.send(schema.trouble(self._stumbled(error)))
                if self._status != "live":
                    self._settled.set()
                self._adapt()
            refresh, self._refresh = self._refresh and self._settled.is_set(), False
        if refresh:
            self._outputs.refresh(self._repr_mimebundle_())

    def _show(self, frame: Frame) -> None:
        if not self._settled.is_set():
            self._frame = frame
            self._look(frame)
        now = time.monotonic()
        seen = self._seen(now)
        if seen or self._status != "live":
            # Nobody draws what is sent: slower, so that it does not pile up on the way.
            late = seen and self._number - max(view.received for view in seen) > comm.LATE * self._hz
            if not late or now - self._sent_at >= 1:
                self._sent_at = now
                self._send_frame()
        if self._status != "live":
            self._settled.set()
        self._adapt()

    def _send_frame(self) -> None:
        self._number += 1
        fields, buffers = self._content(self._snapshot)
        self._snapshot = False
        latest = time.monotonic() - comm.SAID
        results = [result for said_at, result in list(self._results) if said_at > latest]
        head = schema.frame_head(number=self._number, status=self._status, results=results)
        assert not fields.keys() & head.keys()
        self._surface.send(schema.clean(fields | head), buffers)

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

    def _rest(self) -> None:
        """Nobody has a view of it: give up what only a view needs. The next look begins anew."""
        self._frame = None

    def _check(self) -> bool:
        """Notice that what it shows has closed, also while nothing is sampled; whether that has been seen to.

        A frozen picture stays as it is.
        """
        if self._ended.is_set():
            return True
        if self._source.closed and self._status != "frozen":
            self._settle("closed", refresh=True)
            over = self._settled.wait(0.5)  # else the runtime, still closing, took the listener off
        else:
            over = False
        self._doze()
        return over

    def _doze(self) -> None:
        """Rest, if nobody has had a view of it for long, or at once if its cells show something else now.

        A last picture stays: that of one which is frozen, or closed and may still stand in the notebook.
        """
        with self._writing:
            if self._status == "live":
                quiet = not self._listening
            else:
                quiet = self._status == "closed" and self._settled.is_set() and self._replaced and not self._views
            patience = 0.0 if self._replaced else comm.GONE
            if quiet and self._frame is not None and time.monotonic() - self._quiet_since > patience:
                self._rest()


_shown: dict[str, tuple[int, WeakSet[Live]]] = {}
"""By the id of each cell: its number when it ran last, and what it has shown then."""


def _shown_here(live: Live) -> None:
    """What the cell that runs has shown when it ran before stands there no more, and need not wait for views."""
    cell = current_cell()
    if cell is None or cell.id is None:
        return
    number, those = _shown.get(cell.id, (-1, WeakSet()))
    if number != cell.number:
        for one in those:
            one._cells.discard(cell.id)
            one._replaced = not one._cells
            one._doze()
        those = WeakSet()
    those.add(live)
    live._cells.add(cell.id)
    live._replaced = False
    _shown[cell.id] = cell.number, those


_watched: set[Live] = set()
_watching = threading.Lock()


def _watch(live: Live) -> None:
    """Look now and then whether what it shows has closed, on one thread for all widgets."""
    with _watching:
        _watched.add(live)
        if len(_watched) == 1:
            threading.Thread(target=_watch_all, name="pydotcompute-watch", daemon=True).start()


def _watch_all() -> None:
    while True:
        time.sleep(0.5)
        with _watching:
            watched = list(_watched)
        over = []
        for live in watched:
            try:
                if live._check():
                    over.append(live)
            except Exception:
                log.exception("%r is watched no longer", live)
                over.append(live)
        with _watching:
            _watched.difference_update(over)
            if not _watched:
                return


class LiveWidget(Live, anywidget.AnyWidget):
    """A live widget of one surface, drawn by its own module."""

    key = traitlets.Unicode().tag(sync=True)
    """What a view says hello with."""

    def __init__(self, source: Source, *, hz: float, **traits: Any) -> None:
        self._prepare(source, hz)
        super().__init__(key=uuid4().hex, **traits)
        self._begin(self)
