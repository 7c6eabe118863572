"""The dashboard in a real kernel, while a cell blocks it, with messages as JupyterLab sends them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from pydotcompute.jupyter import schema
from pydotcompute.telemetry import STATES
from tests.jupyter.kernel import Cell, NotebookKernel

pytestmark = pytest.mark.needs_kernel

KERNELS = """
from pydotcompute import RingKernelRuntime, dashboard, ring_kernel

@ring_kernel
async def worker(ctx):
    async for message in ctx:
        pass

runtime = RingKernelRuntime({loop})
await runtime.launch("worker")
await runtime.activate("worker")
"""
BLOCK = """
import os, time
while not os.path.exists("go on"):
    time.sleep(0.02)
os.remove("go on")
"""
COMPUTE = """
import os
while not os.path.exists("go on"):
    sum(range(1000))
os.remove("go on")
"""


class View:
    """What JupyterLab makes of a dashboard: a comm of its own, on a subshell of its own."""

    _ids = count()

    def __init__(self, nb: NotebookKernel, cell: Cell, subshell: str | None) -> None:
        self._nb, self._cell, self._subshell = nb, cell, subshell
        opened = [m["content"] for m in cell.messages if m["msg_type"] == "comm_open"]
        table = next(content for content in opened if "key" in content["data"]["state"])
        self._widget, self._id = table["comm_id"], f"view-{next(self._ids)}"
        self._requests: list[Cell] = []
        hello = {"version": schema.VERSION, "kind": "hello", "widget": table["data"]["state"]["key"]}
        self._shell("comm_open", {"comm_id": self._id, "target_name": schema.TARGET, "data": hello})
        self.send("seen", visible=True)

    def _shell(self, kind: str, content: dict[str, Any]) -> None:
        message = self._nb.client.session.msg(kind, content)
        if self._subshell is not None:
            message["header"]["subshell_id"] = self._subshell
        request = Cell(message["header"]["msg_id"])
        self._nb._cells[request.msg_id] = request
        self._requests.append(request)
        self._nb.client.shell_channel.send(message)

    def send(self, kind: str, **fields: Any) -> None:
        data = {"version": schema.VERSION, "kind": kind, **fields}
        self._shell("comm_msg", {"comm_id": self._id, "data": data})

    def command(self, verb: str) -> None:
        self.send("command", verb=verb, kernel="worker", request=verb, arguments={})

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The acknowledgements so far."""
        messages = [message for request in self._requests for message in request.messages]
        return [m["content"]["data"] for m in messages if m["content"].get("comm_id") == self._id]

    @property
    def frames(self) -> list[tuple[dict[str, Any], list[str]]]:
        """Content and states of each frame so far."""
        frames = []
        for message in self._cell.messages:
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["comm_id"] == self._widget:
                frame = content["data"].get("content", {})
                if frame.get("kind") == "frame":
                    columns = schema.unpack(message["buffers"][0])
                    frames.append((frame, [STATES[code] for code in columns["state"]]))
        return frames

    def wait_for(self, state: str) -> None:
        """Wait for a frame in which the worker is in this state."""
        self._nb.until(lambda: self.frames and self.frames[-1][1] == [state])


@pytest.fixture
def shown(fresh: NotebookKernel, request: pytest.FixtureRequest) -> Iterator[tuple[NotebookKernel, Cell]]:
    """A kernel, and the cell in it that shows a dashboard; the parameter says on which loop the ring kernel runs."""
    fresh.run(KERNELS.format(loop=f"loop={request.param!r}"))
    cell = fresh.run("board = dashboard(runtime, hz=20)\nboard")
    yield fresh, cell
    assert fresh.log.read_text() == ""


def go_on(nb: NotebookKernel) -> None:
    (nb.log.parent / "go on").touch()


@pytest.mark.parametrize("code", [BLOCK, COMPUTE], ids=["sleeps", "computes"])
@pytest.mark.parametrize("shown", ["thread"], indirect=True)
def test_frames_and_clicks_get_through_while_a_cell_blocks(shown, code):
    nb, cell = shown
    subshell = nb.subshell()
    view = View(nb, cell, subshell)
    view.wait_for("ACTIVE")
    nb.until(lambda: len(view.answers) == 2)
    blocking = nb.start(code)
    nb.until(lambda: blocking.number)
    seen = len(view.frames)
    nb.until(lambda: len(view.frames) > seen + 5)
    for verb, state in (("pause", "DEACTIVATED"), ("resume", "ACTIVE")):
        view.command(verb)
        view.wait_for(state)
    nb.until(lambda: len(view.answers) == 4)
    late = len(view.frames)
    other = View(nb, cell, subshell)  # opened meanwhile: it gets everything
    nb.until(lambda: len(other.answers) == 2 and any(frame["ids"] for frame, _ in other.frames[late:]))
    assert not blocking.done
    go_on(nb)
    nb.until(lambda: blocking.done)
    assert blocking.reply["status"] == "ok"
    assert blocking.text == ""


@pytest.mark.parametrize("shown", ["thread", "current"], indirect=True)
def test_without_a_subshell_clicks_wait_for_the_cell_and_frames_do_not(shown):
    nb, cell = shown
    view = View(nb, cell, None)
    view.wait_for("ACTIVE")
    blocking = nb.start(BLOCK)
    nb.until(lambda: blocking.number)
    seen = len(view.frames)
    view.command("pause")
    nb.until(lambda: len(view.frames) > seen + 5)
    assert view.frames[-1][1] == ["ACTIVE"]
    assert view.frames[-1][0]["notebookLag"] > 0.1
    go_on(nb)
    view.wait_for("DEACTIVATED")


@pytest.mark.parametrize("shown", ["thread"], indirect=True)
def test_nonsense_is_answered_and_says_nothing_on_a_console(shown):
    nb, cell = shown
    view = View(nb, cell, nb.subshell())
    view.send("explode")
    view.send("command", verb=1, kernel="worker", request="r", arguments={})
    nb.until(lambda: len(view.answers) == 4)
    assert [bool(answer["refused"]) for answer in view.answers] == [False, False, True, True]
    view.wait_for("ACTIVE")


def test_what_a_cell_showed_when_it_ran_before_gives_its_memory_back(fresh):
    fresh.run(KERNELS.format(loop="loop='thread'"))
    fresh.run("first = dashboard(runtime)\nfirst", cell_id="here")
    fresh.run("other = dashboard(runtime)\nother", cell_id="there")
    fresh.run("display(other)\nsecond = dashboard(runtime)\nsecond", cell_id="here")
    fresh.run("import time\nwhile first._frame is not None:\n    time.sleep(0.01)")
    kept = fresh.run("print([board._replaced for board in (first, other, second)])").stdout
    assert kept == "[True, False, False]\n"
    fresh.run("third = dashboard(runtime)\nthird", cell_id="here")
    shown = fresh.run("print([board._replaced for board in (first, other, second, third)])\nfirst", cell_id="elsewhere")
    assert shown.stdout == "[True, False, True, False]\n"
    fresh.run("assert not first._replaced and first.status == 'live'")
    fresh.run("assert first._frame is not None\nawait runtime.close()")
    fresh.run("while not all(board.status == 'closed' for board in (other, third)):\n    time.sleep(0.01)")
    fresh.run("assert third._frame is not None", cell_id="here")
    fresh.run("fourth = dashboard(runtime)\nfourth", cell_id="here")
    fresh.run("while third._frame is not None:\n    time.sleep(0.01)\nassert other._frame is not None")
    again = fresh.run("third", cell_id="elsewhere")
    (picture,) = [m["content"]["data"] for m in again.messages if m["msg_type"] == "display_data"]
    assert "1 ended" in picture["text/html"]


@pytest.mark.parametrize("shown", ["thread", "current"], indirect=True)
def test_the_notebook_keeps_the_last_picture(shown):
    nb, cell = shown

    def pictures() -> list[dict[str, Any]]:
        messages = [message for each in nb._cells.values() for message in each.messages]
        return [m["content"] for m in messages if m["msg_type"] in ("display_data", "update_display_data")]

    (first,) = pictures()
    assert set(first["data"]) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert first["data"]["text/plain"] == "Dashboard(hz=20, window=60)"
    view = View(nb, cell, nb.subshell())
    view.wait_for("ACTIVE")
    view.send("freeze", on=True)
    nb.until(lambda: len(pictures()) == 2)
    frozen = pictures()[1]
    assert frozen["transient"] == first["transient"]
    assert set(frozen["data"]) == set(first["data"])
    view.send("freeze", on=False)
    nb.until(lambda: view.frames[-1][0]["status"] == "live")
    nb.run("await runtime.close()")
    nb.until(lambda: len(pictures()) == 3)
    assert "ended" in pictures()[2]["data"]["text/html"]
    assert view.frames[-1][0]["status"] == "closed"
    nb.run("board.close()")
    nb.until(lambda: len(pictures()) == 4)
    assert set(pictures()[3]["data"]) == {"text/plain", "text/html"}
