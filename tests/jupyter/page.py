"""A page without a browser: it keeps what a widget sends, and opens control comms as a view does."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm, CommManager

from pydotcompute.jupyter import schema

PATIENCE = 10
"""Seconds after which a test stops waiting for something that should come at once."""


class Page:
    """Everything that was published, in order; any thread may publish."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._changed = threading.Condition()
        self._messages: list[tuple[str, str, dict[str, Any], list[Any]]] = []
        page = self

        class Comm(BaseComm):
            def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
                with page._changed:
                    page._messages.append((msg_type, self.comm_id, data or {}, buffers or []))
                    page._changed.notify_all()

        self.manager = CommManager()
        monkeypatch.setattr(comm, "create_comm", Comm)
        monkeypatch.setattr(comm, "get_comm_manager", lambda: self.manager)

    def frames(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """Content and buffers of every frame so far."""
        sent = [(data.get("content"), buffers) for kind, _, data, buffers in self._messages if kind == "comm_msg"]
        return [(content, buffers) for content, buffers in sent if content and content.get("kind") == "frame"]

    def on(self, comm_id: str) -> list[dict[str, Any]]:
        """Data of every message on one comm so far."""
        return [data for kind, where, data, _ in self._messages if kind == "comm_msg" and where == comm_id]

    def wait(self, what: Callable[[], Any]) -> Any:
        """Wait until `what()` is true, looking at each message that comes; its value."""
        with self._changed:
            assert self._changed.wait_for(what, PATIENCE), "it did not come"
            return what()

    def frame(self, like: Callable[[dict[str, Any]], Any] = lambda content: True, after: int = 0) -> dict[str, Any]:
        """Wait for a frame with a higher number than `after` of which `like(content)` is true; its content."""
        content, buffers = self.wait(
            lambda: next(((c, b) for c, b in self.frames() if c["number"] > after and like(c)), None)
        )
        if "roster" in content:  # of a dashboard
            content = {**content, "columns": schema.unpack(buffers[0])}
        return {**content, "buffers": buffers}

    def result(self, request: str) -> dict[str, Any]:
        """Wait for what became of a command."""
        content = self.frame(lambda content: any(result["request"] == request for result in content["results"]))
        return next(result for result in content["results"] if result["request"] == request)

    @property
    def last(self) -> int:
        """Number of the latest frame."""
        frames = self.frames()
        return frames[-1][0]["number"] if frames else 0

    def view(self, board: Any, visible: bool = True) -> "View":
        """Show a widget in one more place."""
        view = View(self, board)
        if visible:
            view.send("seen", visible=True)
        return view


class View:
    _ids = count()

    def __init__(self, page: Page, board: Any, **hello: Any) -> None:
        self._page = page
        self.id = f"view-{next(self._ids)}"
        data = {"version": schema.VERSION, "kind": "hello", "widget": board._surface.key} | hello
        content = {"comm_id": self.id, "target_name": schema.TARGET, "data": data}
        page.manager.comm_open(None, "", {"content": content})

    def send(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a message; the acknowledgement."""
        return self.send_raw({"version": schema.VERSION, "kind": kind, **fields})

    def command(self, verb: str, kernel: str, **arguments: Any) -> str:
        """Press a button; the request that its result comes under."""
        request = f"{verb} {kernel} {next(self._ids)}"
        told = self.send("command", verb=verb, kernel=kernel, request=request, arguments=arguments)
        assert told["refused"] is None, told
        return request

    def send_raw(self, data: Any) -> dict[str, Any]:
        before = len(self._page.on(self.id))
        self._page.manager.comm_msg(None, "", {"content": {"comm_id": self.id, "data": data}})
        (acknowledgement,) = self._page.on(self.id)[before:]
        return acknowledgement

    def close(self) -> None:
        self._page.manager.comm_close(None, "", {"content": {"comm_id": self.id, "data": {}}})
