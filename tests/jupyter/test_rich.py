"""What is the last expression of a cell, in a real kernel: text, HTML, SVG, and live where something moves."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.jupyter.kernel import Cell, NotebookKernel

pytestmark = pytest.mark.needs_kernel

VIEW = "application/vnd.jupyter.widget-view+json"
ECHO = """%%ring_kernel
async def echo(ctx):
    async for message in ctx:
        await ctx.send(message)
"""
OPEN = "len([w for w in __import__('ipywidgets').Widget._active_widgets.values() if hasattr(w, 'key')])"
FAKE = """
from contextlib import ExitStack
from tests.device.fake_cupy import Fake, in_place_of_cupy
gpu = ExitStack()
gpu.enter_context(in_place_of_cupy(Fake()))
"""


def bundle(cell: Cell, how: str) -> dict[str, Any]:
    """The forms in which a cell shows its last expression."""
    (message,) = [m for m in cell.messages if m["msg_type"] in ("display_data", "execute_result")]
    assert message["msg_type"] == how
    data: dict[str, Any] = message["content"]["data"]
    return data


def live(cell: Cell) -> dict[str, Any]:
    return bundle(cell, "display_data")


def static(cell: Cell) -> dict[str, Any]:
    data = bundle(cell, "execute_result")
    assert VIEW not in data
    return data


def test_a_runtime_is_live_and_keeps_its_table_for_readers(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    data = live(nb.run("runtime"))
    assert data["text/plain"] == "<RingKernelRuntime loop='thread', kernels: 1 ACTIVE>"
    assert "echo" in data["text/html"]
    assert data[VIEW]["model_id"]
    assert "image/svg+xml" not in data  # nobody has sent anything
    nb.run("await runtime.send('echo', 1)")
    graph = live(nb.run("runtime"))["image/svg+xml"]
    assert graph.startswith("<svg")
    assert ">outside<" in graph
    assert ">echo<" in graph
    nb.run("former = runtime; await runtime.close(drain=False)")
    assert ">echo<" in static(nb.run("former"))["image/svg+xml"]


def test_a_kernel_is_live_until_another_takes_its_place(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("handle = runtime['echo']")
    data = live(nb.run("handle"))
    assert data["text/plain"] == "<ring kernel 'echo' ACTIVE, 0 queued>"
    assert "echo" in data["text/html"]
    assert "ACTIVE" in data["image/svg+xml"]
    nb.run("%ring restart echo")
    over = static(nb.run("handle"))
    assert "TERMINATED" in over["text/plain"]
    assert over["image/svg+xml"] != data["image/svg+xml"]
    assert live(nb.run("runtime['echo']"))[VIEW] != data[VIEW]


def test_a_kernel_on_another_node_is_live_as_well(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run(
        """
from pydotcompute.cluster.driver import Placement
from pydotcompute.cluster.remote import RemoteKernel

far = runtime._at_home(lambda: RemoteKernel(runtime, runtime["echo"].definition, "far", None, Placement()))
runtime._kernels["far"] = far
"""
    )
    data = live(nb.run("far"))
    assert data["text/plain"] == "<ring kernel 'far' CREATED, 0 queued>"
    assert data["image/svg+xml"].startswith("<svg")
    nb.run("del runtime._kernels['far']")


def test_what_is_shown_again_has_the_same_widget(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    first = [live(nb.run(what))[VIEW] for what in ("runtime", "runtime['echo']")]
    before = nb.value(OPEN)
    for _ in range(3):
        assert [live(nb.run(what))[VIEW] for what in ("runtime", "runtime['echo']")] == first
    assert nb.value(OPEN) == before


def test_widgets_are_closed_with_what_they_show(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("handle = runtime['echo']")
    nb.run("handle")
    nb.run("runtime")
    before = nb.value(OPEN)
    nb.run("old = runtime\nruntime.sync.close()")
    nb.run("import time\nend = time.monotonic() + 10")
    nb.run("rich = __import__('sys').modules['pydotcompute.jupyter.rich']")
    nb.run(
        "while any(w.status != 'closed' for w in rich._widgets.values()) and time.monotonic() < end: time.sleep(0.01)"
    )
    assert "closed" in static(nb.run("old"))["text/plain"]
    static(nb.run("handle"))
    assert nb.value(OPEN) == before - 2
    assert nb.value("len(rich._widgets)") == 0


def test_buffers_are_live_where_something_is_copied(nb: NotebookKernel) -> None:
    nb.run("from pydotcompute import MemoryPool, UnifiedBuffer")
    data = static(nb.run("UnifiedBuffer((3, 4))"))
    assert data["text/plain"] == "UnifiedBuffer(shape=(3, 4), dtype=float32, 48 B, newest: host)"
    assert "host, which the device shares" in data["text/html"]
    nb.run(FAKE)
    nb.run("buf = UnifiedBuffer((3, 4))")
    data = live(nb.run("buf"))
    assert data["text/plain"] == "UnifiedBuffer(shape=(3, 4), dtype=float32, 48 B, newest: host)"
    assert "not allocated" in data["text/html"]
    nb.run("buf.close()")
    assert "closed" in static(nb.run("buf"))["text/plain"]
    nb.run("gpu.close()")


def test_a_pool_is_live(nb: NotebookKernel) -> None:
    nb.run("from pydotcompute import MemoryPool\npool = MemoryPool()\nheld = pool.empty((5, 7))")
    data = live(nb.run("pool"))
    assert data["text/plain"] == "MemoryPool(in use: 256 B, kept: 0 B)"
    assert "(5, 7) float32" in data["text/html"]


def test_a_trace_is_a_picture_too(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("with runtime.trace() as trace: runtime.sync.ask('echo', 1)")
    data = static(nb.run("trace"))
    assert data["image/svg+xml"].startswith("<svg")
    assert "<svg" in data["text/html"]
    assert data["text/plain"].startswith("<trace, not recording")


def test_a_trace_that_records_is_live(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("trace = runtime.trace().start()")
    data = live(nb.run("trace"))
    assert data["text/plain"].startswith("<trace, recording")
    nb.run("runtime.sync.ask('echo', 1)\ntrace.stop()")
    assert live(nb.run("trace"))[VIEW] == data[VIEW]  # where the reader has got to stays


def test_messages_and_records_are_tables(nb: NotebookKernel) -> None:
    nb.run(
        "from pydotcompute import message\nimport numpy as np\n\n"
        "@message\nclass Sample:\n    station: np.int64\n    celsius: np.float64"
    )
    data = static(nb.run("Sample(3, 20.5)"))
    assert data["text/plain"] == "Sample(station=3, celsius=20.5)"
    assert "<td" in data["text/html"]
    data = static(nb.run("np.array([(3, 20.5)], Sample.dtype)"))
    assert "1 record of 16 B" in data["text/html"]
    assert "text/html" not in static(nb.run("np.arange(3)"))


def test_dead_letters_are_a_table(nb: NotebookKernel) -> None:
    data = static(nb.run("runtime.dead_letters"))
    assert (data["text/plain"], "<b>0 dead letters</b>" in data["text/html"]) == ("0 dead letters", True)


@pytest.mark.parametrize(
    "how", ["%unload_ext pydotcompute", "import sys; sys.modules['pydotcompute.jupyter.widgets'] = None"]
)
def test_without_the_extension_or_the_libraries_text_and_html_are_left(fresh: NotebookKernel, how: str) -> None:
    fresh.run("%load_ext pydotcompute")
    fresh.run(how)
    data = static(fresh.run("runtime"))
    assert data["text/plain"] == "<RingKernelRuntime loop='thread', kernels: none>"
    assert "0 ring kernels" in data["text/html"]
    fresh.run("import numpy as np")
    array = static(fresh.run("np.zeros(1, [('a', 'i4')])"))
    assert ("text/html" in array) == ("unload" not in how)
    fresh.run("%unload_ext pydotcompute" if "unload" not in how else "%load_ext pydotcompute")
    if "unload" in how:
        live(fresh.run("runtime"))


def test_what_a_widget_does_not_take_is_told_up_to_the_cell(nb: NotebookKernel) -> None:
    nb.run("from pydotcompute import dashboard, lifecycle, mailbox, memory, sequence, topology")
    nb.run(ECHO)
    for call, says in (
        ("dashboard(runtime, layout='wide')", "ValueError: layout must be 'full' or 'compact', not 'wide'"),
        ("dashboard(runtime, embed='nobody')", "KernelNotFoundError: no ring kernel 'nobody'"),
        ("lifecycle('echo')", "TypeError: lifecycle takes the handle of a ring kernel"),
        ("mailbox(runtime['echo'], limit=0)", "ValueError: limit must be an integer from 1 to 1000"),
        ("memory(3)", "TypeError: "),
        ("sequence(3)", "TypeError: sequence() takes a trace"),
        ("topology(3)", "TypeError: topology takes a RingKernelRuntime, not 3"),
    ):
        reply = nb.fail(call).reply
        assert reply is not None
        told = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(reply["traceback"]))
        assert says in told
        assert f"----> 1 {call}" in told
        assert "pydotcompute/jupyter" not in told
        assert told.count("\n") < 12
