"""The kernel's side of the panel in JupyterLab: who looks, what they are sent, and what they ask for.

A view of the browser has two comms, which it opens in any order. On one it asks, and has every message acknowledged
from its handler; the kernel sends nothing else on it, for the reason that `comm` tells. On the other the kernel sends
frames, and the browser nothing. One thread sends those of all views, and is there only while somebody looks.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ..exceptions import PyDotComputeError
from ..runtime import RingKernelRuntime
from ..runtime.dead_letters import error_text
from . import acts, census, comm, wire
from .schema import RefusedError

log = logging.getLogger("pydotcompute")

SHARE = 0.2
"""Of all time, at most so much is spent on frames that nobody asked for: where one takes long, they are fewer."""


class View(comm.View):
    """One panel in a browser."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.wish: wire.Look | None = None
        self.asked = False
        """Whether it waits for a frame, even for one with nothing new."""
        self.control: Any = None
        """The comm that it asks on."""
        self.frames: Any = None
        """The comm that frames go to."""
        self.context = contextvars.copy_context()  # ipykernel 7.0 looks up there what is published on a thread
        self.number = 0
        self.due = self.rested = 0.0
        """When it gets its next frame, and when at the earliest if it asks for one."""
        self.sent_at = 0.0
        self.sent: dict[str, Any] | None = None
        """What went out last."""
        self.results: deque[tuple[float, dict[str, Any]]] = deque(maxlen=wire.RESULTS)
        self.stumbled = ""
        """Why there was no frame last."""

    def __repr__(self) -> str:
        return f"<panel {self.key!r}>"

    def results_at(self, now: float) -> list[dict[str, Any]]:
        """What is still to be told of commands."""
        return [result for said_at, result in list(self.results) if now - said_at < comm.SAID]


class Panel:
    """All views of the process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._views: dict[str, View] = {}
        self._thread: threading.Thread | None = None
        self._census = census.Census()
        self._held_up = False
        self._took = 0.0  # seconds that the last frames took
        self._opened: dict[str, tuple[View, Callable[[], None]]] = {}  # for whom, and how to close it, by model

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def opened(self, control: Any, opening: dict[str, Any]) -> None:
        """The browser opened a comm to ask on."""
        data = opening["content"].get("data")
        try:
            view = self._met(data)
        except RefusedError as error:
            control.send(wire.acknowledgement(str(error)))
            return
        view.control = control
        control.on_msg(lambda message: self._tell(view, message["content"].get("data"), control.send))
        control.on_close(lambda message: self._leave(view))
        control.send(wire.acknowledgement())

    def frames_opened(self, frames: Any, opening: dict[str, Any]) -> None:
        """The browser opened a comm to get frames on."""
        try:
            view = self._met(opening["content"].get("data"))
        except RefusedError as error:
            frames.send(wire.trouble(str(error)))
            return
        frames.on_close(lambda message: self._leave(view))
        with self._changed:
            view.frames, view.context = frames, contextvars.copy_context()
            self._go_on()

    def _met(self, data: Any) -> View:
        hello = wire.parse(data)
        if not isinstance(hello, wire.Hello):
            raise RefusedError("a view must say hello first")
        with self._changed:
            for key in hello.gone:
                if (view := self._views.get(key)) is not None and key != hello.panel:
                    self._give_up(view)
            return self._views.setdefault(hello.panel, View(hello.panel))

    def _leave(self, view: View) -> None:
        with self._changed:
            view.wish, view.control, view.frames = None, None, None
            self._forget(view)
            self._changed.notify()

    def _forget(self, view: View) -> None:
        """With the lock: it is gone, and with it what was opened for it."""
        if self._views.get(view.key) is view:
            del self._views[view.key]
        for model in [model for model, (whose, _) in self._opened.items() if whose is view]:
            _, close = self._opened.pop(model)
            context = view.context.copy()
            threading.Thread(target=context.run, args=(close,), name="pydotcompute-close", daemon=True).start()

    def _give_up(self, view: View) -> None:
        """With the lock: it was silent for too long. Should it only have slept, it notices, and begins anew."""
        self._forget(view)
        comms, view.control, view.frames = (view.control, view.frames), None, None
        for one in filter(None, comms):
            view.context.copy().run(one.close)

    def _tell(self, view: View, data: Any, reply: Callable[[dict[str, Any]], None]) -> None:
        reply(wire.acknowledgement(comm.refusal(view, self, data, partial(self._follow, view, data))))

    def _follow(self, view: View, data: Any) -> None:
        message = wire.parse(data)
        view.heard = time.monotonic()
        match message:
            case wire.Look():
                with self._changed:
                    if message.visible and (view.wish is None or not view.wish.visible):
                        view.received = view.number
                    view.wish, view.asked, view.due = message, True, min(view.due, view.rested)
            case wire.Received(number):
                view.received = max(view.received, number)
            case wire.Command(request, verb, _, kernel):
                runtime = _runtime(message.runtime)
                method: Any = acts.step if verb == "step" else acts.METHODS[verb]
                acts.follow(runtime._post, partial(method, runtime, kernel), partial(self._said, view, request))
            case wire.Open(request, name, _, of):
                runtime = _runtime(message.runtime)
                if name == "topology" and of is not None:
                    raise RefusedError("a topology shows all kernels of a runtime: open it without one")
                self._aside(view, request, partial(self._open, view, name, runtime, of))
            case wire.Close(request, model):
                opened = self._opened.pop(model, None)
                if opened is None:
                    raise RefusedError("that view is closed already")
                self._aside(view, request, opened[1])
            case wire.Hello():
                raise RefusedError("this view has said hello")
        with self._changed:
            if view.frames is not None:
                self._views.setdefault(view.key, view)  # it had been given up
            self._go_on()

    def _said(self, view: View, request: str, ok: bool, text: str, data: dict[str, Any] | None = None) -> None:
        """What became of something that was asked for; it goes out with the next frame."""
        result = {"request": request, "ok": ok, "text": wire.text(text), "data": data}
        with self._changed:
            view.results.append((time.monotonic(), result))
            view.due = min(view.due, view.rested)
            self._go_on()

    def _aside(self, view: View, request: str, do: Callable[[], str | None]) -> None:
        """Do what takes longer than a handler may, on a thread of its own; it may return a model."""

        def run() -> None:
            try:
                model = do()
            except PyDotComputeError as error:
                self._said(view, request, False, error_text(error))
            except Exception as error:
                log.error("%r: %s", view, error_text(error), exc_info=error)
                self._said(view, request, False, error_text(error))
            else:
                self._said(view, request, True, "", {"model": model} if model is not None else None)

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name="pydotcompute-open", daemon=True).start()

    def _open(self, view: View, name: str, runtime: RingKernelRuntime, kernel: str | None) -> str:
        from . import widgets  # takes a second when it is the first

        widget: Any
        match name:
            case "dashboard":
                widget = widgets.dashboard(runtime, embed=kernel)
                close = widget.close
            case "topology":
                widget = widgets.topology(runtime)
                close = widget.close
            case _:
                trace = runtime.trace(kernels=None if kernel is None else [kernel]).start()
                widget = widgets.sequence(trace)

                def close() -> None:
                    trace.stop()
                    widget.close()

        model: str = widget.model_id
        with self._changed:
            self._opened[model] = view, close
            self._go_on()
        return model

    # -- frames --------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """With the lock: let the thread look at what has changed."""
        now = time.monotonic()
        if self._thread is None and (self._opened or any(self._looks(view, now) for view in self._views.values())):
            self._thread = threading.Thread(target=self._run, name="pydotcompute-panel", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _looks(self, view: View, now: float) -> bool:
        """Whether there is anything to send to a view."""
        if view.frames is None:
            return False
        return bool(view.results_at(now)) or self._sees(view, now) is not None

    def _sees(self, view: View, now: float) -> wire.Look | None:
        """What it wants, if it is in sight and wants something; its messages may wait for the end of a cell."""
        wish = view.wish
        if wish is None or not wish.visible or not (self._held_up or now - view.heard < comm.SILENT):
            return None
        return wish if wish.summary or wish.cells or wish.list or wish.details else None

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                for view in [view for view in self._views.values() if now - view.heard >= comm.GONE]:
                    if not self._held_up:  # else its messages may wait for the end of a cell
                        self._give_up(view)
                looking = [view for view in self._views.values() if self._looks(view, now)]
                if not looking and not self._opened:
                    self._thread = None
                    return
                if not looking:  # until whom it was opened for is gone
                    self._changed.wait(comm.SILENT)
                    continue
                wait = min(view.due for view in looking) - now
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                due = []
                for view in looking:
                    if view.due <= now:
                        wish = self._sees(view, now)
                        interval = 1 / (wish.hz if wish is not None else 1)
                        view.due = (view.due if now - view.due < interval else now) + interval
                        due.append((view, wish, view.asked))
                        view.asked = False
            self._send(due)
            with self._changed:
                self._took = time.monotonic() - now
                for view, _, _ in due:
                    view.rested = now + max(2 * self._took, 0.5 / wire.MAX_HZ)
                    view.due = max(view.due, view.rested if view.asked else now + self._took / SHARE)

    def _send(self, due: list[tuple[View, wire.Look | None, bool]]) -> None:
        """Look, and send to each of these views what it wants to see."""
        wanted = {wish.details for _, wish, _ in due if wish is not None and wish.details is not None}
        try:
            survey = self._census.look(wanted)
            self._held_up = survey.notebook_lag > 1
        except Exception as error:  # noqa: BLE001 - of what is shown, which is the user's; the next look may do
            for view, _, _ in due:
                self._stumble(view, error)
            return
        for view, wish, asked in due:
            try:
                view.context.copy().run(self._send_to, view, wish, asked, survey)
            except Exception as error:  # noqa: BLE001 - as above
                self._stumble(view, error)

    def _send_to(self, view: View, wish: wire.Look | None, asked: bool, survey: census.Survey) -> None:
        now = time.monotonic()
        results = view.results_at(now)
        content = {
            "runtimes": survey.runtimes(),
            "summary": survey.summary if wish is not None and wish.summary else None,
            "cells": survey.cells if wish is not None and wish.cells else None,
            "list": survey.rows(wish.list) if wish is not None and wish.list is not None else None,
            "details": survey.details(wish.details) if wish is not None and wish.details is not None else None,
            "results": results,
        }
        is_news = asked or content != view.sent or (wish is not None and (wish.list or wish.details))
        # Nobody draws what is sent: slower, so that it does not pile up on the way.
        is_late = wish is not None and view.number - view.received > comm.LATE * wish.hz and now - view.sent_at < 1
        frames = view.frames
        if frames is None or not is_news or (is_late and not asked):
            return
        view.number += 1
        view.sent, view.sent_at, view.stumbled = content, now, ""
        hz = min(wish.hz if wish is not None else 1.0, SHARE / max(self._took, 1e-6))
        head = {"version": wire.VERSION, "kind": "frame", "number": view.number, "hz": max(round(hz, 2), 0.01)}
        frames.send(head | content)

    def _stumble(self, view: View, error: Exception) -> None:
        """It cannot be drawn: log why, once for each reason, and say it."""
        text = f"cannot be drawn: {error_text(error)}"
        if text != view.stumbled:
            view.stumbled = text
            log.error("%r %s", view, text, exc_info=error)
        if (frames := view.frames) is not None:
            view.context.copy().run(frames.send, wire.trouble(text))


def _runtime(serial: int) -> RingKernelRuntime:
    runtime = census.runtime(serial)
    if runtime is None:
        raise RefusedError("the runtime of this kernel is gone")
    return runtime


panel = Panel()
