"""Ids and names with characters that XML, JSON or UTF-8 have no place for, in every widget."""

import base64
import json
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pydotcompute import RingKernelRuntime, UnifiedBuffer, ring_kernel
from pydotcompute.runtime import kernel as kernel_module
from tests.jupyter.page import Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import dashboard, lifecycle, mailbox, memory, sequence, topology

pytestmark = pytest.mark.needs_notebook

STRANGE = "<a>&'\"\x00\x1b[31m\x85\ud800\uffff"
PRINTED = r"<a>&'\"\x00\x1b[31m\x85\ud800\uffff".replace('\\"', '"')


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingKernelRuntime]:
    monkeypatch.setattr(kernel_module, "_definitions", {})
    runtime = RingKernelRuntime(loop="thread")

    @ring_kernel
    async def taker(ctx: Any) -> None:
        async for message in ctx:
            if message == "crash":
                raise ValueError(STRANGE)

    runtime.sync.launch(taker, kernel_id=STRANGE)
    yield runtime
    runtime.sync.close(drain=False, timeout=1)


WIDGETS = {
    "full": dashboard,
    "compact": lambda runtime: dashboard(runtime, layout="compact"),
    "embed": lambda runtime: dashboard(runtime, embed=STRANGE),
    "topology": topology,
    "mailbox": lambda runtime: mailbox(runtime[STRANGE]),
    "lifecycle": lambda runtime: lifecycle(runtime[STRANGE]),
    "memory": lambda runtime: memory({STRANGE: UnifiedBuffer(1, np.int32)}),
}


def check(bundle: dict[str, Any]) -> str:
    """What a notebook gets can be saved, read as HTML, and its pictures as SVG; the HTML."""
    json.dumps(bundle, ensure_ascii=False).encode()
    html: str = bundle["text/html"]
    assert not re.search("[^\n\x20-\x7e\xa0-\ufffd\U00010000-\U0010ffff]", html)
    for image in re.findall("base64,([^'\"]+)", html):
        ElementTree.fromstring(base64.b64decode(image).decode())
    return html


@pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
def test_bundles_and_messages_can_be_read(page: Page, runtime: RingKernelRuntime, make: Callable[..., Any]):
    runtime.sync.send(STRANGE, STRANGE)
    widget = make(runtime)
    page.view(widget)
    page.frame()
    check(widget._repr_mimebundle_())
    runtime.sync.activate(STRANGE)
    runtime.sync.send(STRANGE, "crash")
    runtime.sync.wait_ended(STRANGE, timeout=10)
    page.frame(after=page.last)
    check(widget._repr_mimebundle_())
    widget.close()
    for _, _, data, _ in page._messages:
        json.dumps(data, ensure_ascii=False, default=repr).encode()


def test_a_sequence_can_be_read(page: Page, runtime: RingKernelRuntime):
    trace = runtime.trace()
    runtime.sync.activate(STRANGE)
    runtime.sync.send(STRANGE, STRANGE)
    runtime.sync.wait_idle()
    widget = sequence(trace)
    page.view(widget)
    page.frame()
    check(widget._repr_mimebundle_())
    widget.close()
    for _, _, data, _ in page._messages:
        json.dumps(data, ensure_ascii=False, default=repr).encode()


def test_tables_of_a_runtime_can_be_read(runtime: RingKernelRuntime):
    assert "&lt;a&gt;&amp;&#x27;&quot;\\x00" in check({"text/html": runtime._repr_html_()})


def test_buttons_act_on_the_kernel_that_is_meant(page: Page, runtime: RingKernelRuntime):
    board, life = dashboard(runtime, hz=20), lifecycle(runtime[STRANGE], hz=20)
    view = page.view(board)
    (called,) = page.frame(lambda content: content.get("ids"))["ids"]
    assert "\ud800" not in called
    assert page.result(view.command("activate", called))["ok"]
    assert view.send("set", name="kernels", value=[called])["refused"] is None
    assert board._selected == (STRANGE,)
    assert page.result(page.view(life).command("pause", called))["ok"]
    assert runtime[STRANGE].state == "DEACTIVATED"
    board.close()
    life.close()
