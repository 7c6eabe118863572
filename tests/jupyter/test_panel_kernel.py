"""The panel of JupyterLab and a real kernel: it is found, shows and steers ring kernels while a cell blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, ClassVar

import pytest

from pydotcompute import jupyter
from tests.jupyter.kernel import Cell, NotebookKernel
from tests.jupyter.test_wire import validator

pytestmark = pytest.mark.needs_kernel

DEFINITION = """
%%ring_kernel worker
async def worker(ctx):
    async for message in ctx:
        pass
""".strip()
BLOCK = """
import os, time
while not os.path.exists("go on"):
    time.sleep(0.02)
os.remove("go on")
"""
ENDED = """
import threading, time
while any(thread.name == "pydotcompute-panel" for thread in threading.enumerate()):
    time.sleep(0.01)
"""
LIST = {"filter": "", "sort": "kernel", "descending": False, "first": 0, "count": 40}
NOTHING = {"hz": 10, "visible": True, "summary": False, "cells": False, "list": None, "details": None}


def found(nb: NotebookKernel) -> list[str]:
    """The comms by which the panel tells that the package is there, asked for on the control channel."""
    content = nb._request(nb.client.control_channel, "comm_info_request", {"target_name": jupyter.PANEL})
    return list(content["comms"])


class Panel:
    """What JupyterLab makes of it: two comms, each on a subshell of its target."""

    _ids = count()
    shown: ClassVar[list[Panel]] = []

    def __init__(self, nb: NotebookKernel, subshells: dict[str, str] | None = None) -> None:
        self._nb = nb
        self.subshells = subshells or {target: nb.subshell() for target in (jupyter.PANEL, jupyter.FRAMES)}
        self.key = f"panel-{next(self._ids)}"
        self._requests: dict[str, list[Cell]] = {}
        for target in (jupyter.PANEL, jupyter.FRAMES):
            data = {"version": 1, "kind": "hello", "panel": self.key, "gone": []}
            self._shell(target, "comm_open", {"target_name": target, "data": data})
        self.shown.append(self)

    def _shell(self, target: str, kind: str, content: dict[str, Any]) -> None:
        message = self._nb.client.session.msg(kind, {"comm_id": f"{self.key} {target}", **content})
        message["header"]["subshell_id"] = self.subshells[target]
        request = Cell(message["header"]["msg_id"])
        self._nb._cells[request.msg_id] = request
        self._requests.setdefault(target, []).append(request)
        self._nb.client.shell_channel.send(message)

    def send(self, kind: str, **fields: Any) -> None:
        self._shell(jupyter.PANEL, "comm_msg", {"data": {"version": 1, "kind": kind, **fields}})

    def look(self, **wish: Any) -> None:
        self.send("look", **NOTHING | wish)

    def close(self) -> None:
        self.shown.remove(self)
        for target in self.subshells:
            self._shell(target, "comm_close", {"data": {}})

    def _on(self, target: str) -> list[dict[str, Any]]:
        messages = [message["content"] for cell in list(self._nb._cells.values()) for message in cell.messages]
        return [c["data"] for c in messages if c.get("comm_id") == f"{self.key} {target}" and "data" in c]

    @property
    def answers(self) -> list[str | None]:
        """What became of each message so far."""
        return [data["refused"] for data in self._on(jupyter.PANEL)]

    @property
    def frames(self) -> list[dict[str, Any]]:
        return self._on(jupyter.FRAMES)

    def wait(self, like: Any) -> dict[str, Any]:
        """Wait for a frame that is like this."""
        seen: list[dict[str, Any]] = []
        self._nb.until(lambda: seen.extend(f for f in self.frames if f["kind"] == "frame" and like(f)) or seen)
        return seen[-1]

    def result(self, kind: str, **fields: Any) -> dict[str, Any]:
        request = f"{kind} {next(self._ids)}"
        self.send(kind, request=request, **fields)
        frame = self.wait(lambda frame: any(result["request"] == request for result in frame["results"]))
        return next(result for result in frame["results"] if result["request"] == request)


@pytest.fixture
def nb(nb: NotebookKernel) -> Iterator[NotebookKernel]:
    """A kernel with one ring kernel, `worker`; what it sends to panels is as the schema says."""
    nb.run(DEFINITION, cell_id="cell-of-worker")
    yield nb
    for panel in list(Panel.shown):
        panel.close()
    check = validator("toBrowser")
    for cell in nb._cells.values():
        for message in cell.messages:
            if str(message["content"].get("comm_id")).startswith("panel-") and message["msg_type"] == "comm_msg":
                check.validate(message["content"]["data"])
    assert nb.log.read_text() == ""


@pytest.fixture
def serial(nb: NotebookKernel) -> int:
    """Which runtime of its process the kernel has now."""
    return int(nb.value("runtime._serial"))


def go_on(nb: NotebookKernel) -> None:
    (nb.log.parent / "go on").touch()


def blocked(nb: NotebookKernel) -> Cell:
    """A cell that blocks until `go_on`."""
    blocking = nb.start(BLOCK)
    nb.until(lambda: blocking.number)
    return blocking


def test_the_package_announces_itself_and_loads_nothing_for_it(fresh):
    assert found(fresh) == []
    cell = fresh.run("import sys; before = set(sys.modules); import pydotcompute; after = set(sys.modules) - before")
    assert len(found(fresh)) == 1
    assert [m["msg_type"] for m in cell.messages if m["msg_type"].startswith("comm")] == []
    heavy = {"numpy", "msgpack", "ipywidgets", "bqplot", "pydotcompute.runtime", "pydotcompute.jupyter.panel"}
    assert fresh.value(f"sorted({heavy} & after)") == []
    fresh.run("import importlib; importlib.reload(pydotcompute)")
    assert len(found(fresh)) == 1
    assert fresh.log.read_text() == ""


def test_while_a_cell_blocks_the_package_is_found_and_ring_kernels_are_shown_and_steered(nb, serial):
    blocking = blocked(nb)
    assert len(found(nb)) == 1
    panel = Panel(nb)
    panel.look(list=LIST, summary=True, cells=True)
    frame = panel.wait(lambda frame: frame["list"]["rows"])
    assert frame["list"]["rows"][0][:4] == [serial, "worker", "async", 2]
    assert frame["runtimes"] == [{"id": serial, "name": "runtime", "status": "live", "kernels": 1}]
    for verb, state in (("pause", 3), ("resume", 2)):
        assert panel.result("command", verb=verb, runtime=serial, kernel="worker")["ok"]
        panel.wait(lambda frame, state=state: frame["list"]["rows"][0][3] == state)
    number = len(panel.frames)
    nb.until(lambda: len(panel.frames) > number + 3)
    panel.send("received", number=panel.frames[-1]["number"])
    nb.until(lambda: panel.answers == [None] * 5)
    other = Panel(nb, panel.subshells)  # after a reload: the subshells of the page before may be given again
    other.look(list=LIST)
    other.wait(lambda frame: frame["list"]["matching"] == 1)
    assert not blocking.done
    go_on(nb)
    nb.until(lambda: blocking.done)
    assert blocking.reply["status"] == "ok"
    assert blocking.text == ""


def test_a_cell_is_told_with_its_id_and_what_was_run(nb, serial):
    from zlib import crc32

    panel = Panel(nb)
    panel.look(cells=True, details={"runtime": serial, "kernel": "worker"})
    frame = panel.wait(lambda frame: frame["cells"])
    (cell,) = frame["cells"]
    assert (cell["cell"], cell["digest"], cell["kernels"]) == ("cell-of-worker", crc32(DEFINITION.encode()), 1)
    assert frame["details"]["cell"] == "cell-of-worker"
    assert frame["details"]["origin"] == f"cell In [{cell['number']}]"
    assert "async def worker(ctx):" in frame["details"]["source"]
    nb.run(DEFINITION.replace("pass", "..."), cell_id="cell-of-worker")
    again = panel.wait(lambda frame: frame["cells"][0]["version"] == 2)["cells"][0]
    assert again["digest"] == crc32(DEFINITION.replace("pass", "...").encode())


def test_a_crash_marks_the_cell_and_its_details_say_where(nb, serial):
    nb.run(DEFINITION.replace("pass", "1 / message"), cell_id="cell-of-worker")
    nb.run("runtime.sync.send('worker', 0)")
    panel = Panel(nb)
    panel.look(cells=True, details={"runtime": serial, "kernel": "worker"})
    frame = panel.wait(lambda frame: frame["cells"] and frame["cells"][0]["failed"])
    error = frame["details"]["error"]
    assert frame["cells"][0]["failed"] == error["text"] == "ZeroDivisionError: division by zero"
    assert error["place"] == f"cell In [{frame['cells'][0]['number']}], line 4"
    assert f"Cell In[{frame['cells'][0]['number']}], line 4" in error["traceback"]


@pytest.mark.parametrize("view", ["dashboard", "trace", "topology"])
def test_a_tab_is_opened_and_closed_while_a_cell_blocks(nb, serial, view):
    panel = Panel(nb)
    panel.look(summary=True)
    blocking = blocked(nb)
    result = panel.result("open", view=view, runtime=serial, kernel=None)
    assert result["ok"], result["text"]
    model = result["data"]["model"]
    opened = [m["content"] for c in nb._cells.values() for m in c.messages if m["msg_type"] == "comm_open"]
    assert model in [content["comm_id"] for content in opened]
    assert panel.result("close", model=model)["ok"]
    assert not blocking.done
    go_on(nb)
    nb.until(lambda: blocking.done)
    assert blocking.text == ""


def test_hostile_messages_are_answered_and_say_nothing_on_a_console(nb):
    from tests.jupyter.test_wire import FIXTURES

    panel = Panel(nb)
    panel.look(list=LIST)
    bad = [bad["message"] for bad in FIXTURES["toKernel"]["bad"]]
    for message in bad:
        panel._shell(jupyter.PANEL, "comm_msg", {"data": message})
    nb.until(lambda: len(panel.answers) == 2 + len(bad))
    assert [bool(refused) for refused in panel.answers] == [False, False] + [True] * len(bad)
    number = len(panel.frames)
    nb.until(lambda: len(panel.frames) > number)
    assert nb.run("pass").text == ""


def test_closed_it_sends_nothing_and_its_thread_ends(nb):
    panel = Panel(nb)
    panel.look(list=LIST)
    panel.wait(lambda frame: frame["list"]["rows"])
    panel.close()
    nb.run(ENDED)
    told = len(panel.frames)
    nb.run("pass")
    assert len(panel.frames) == told
    assert len(found(nb)) == 1
