"""The view of buffers in JupyterLab: what is shown is what is so, and transfers show as they happen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.browser import BLOCK, Lab, Notebook

pytestmark = pytest.mark.needs_browser

# A GPU that is not there, so that something is copied.
GPU = """
from contextlib import ExitStack
from tests.device.fake_cupy import Fake, in_place_of_cupy
stack = ExitStack()
fake = stack.enter_context(in_place_of_cupy(Fake()))
"""
SHOW = """
import numpy as np
from pydotcompute import MemoryPool, UnifiedBuffer, memory
weights, results = UnifiedBuffer((1000, 3)), UnifiedBuffer(64, np.int64)
pool = MemoryPool(limit=1 << 20)
kept = [pool.empty(256) for _ in range(2)]
memory({"weights": weights, "results": results, "pool": pool}, hz=20)
"""


@pytest.fixture(scope="module")
def nb(lab: Lab) -> Iterator[Notebook]:
    with lab.notebook([GPU + SHOW, "del kept", BLOCK], calm=True) as nb:
        nb.run(0)
        nb.wait_done(0)
        yield nb


def test_each_side_says_how_it_is_and_copies_are_counted_as_they_happen(nb: Notebook) -> None:
    weights = nb.page.locator(".pdc-mem-buffer", has_text="weights")
    host, device = weights.locator(".pdc-mem-side").nth(0), weights.locator(".pdc-mem-side").nth(1)
    there, back = weights.locator(".pdc-mem-to-device"), weights.locator(".pdc-mem-to-host")
    nb.expect(weights.locator(".pdc-mem-what")).to_have_text("(1000, 3) float32 · 11.7 KiB")
    nb.expect(host).to_have_text("hostnewest")
    nb.expect(device).to_have_text("devicenot allocated")
    nb.expect(there).to_have_text("none yet")
    nb.execute("with weights.read_device(): pass")
    nb.expect(there.locator(".pdc-mem-copies")).to_have_text("1 × · 11.7 KiB")
    nb.expect(there.locator(".pdc-mem-rate")).to_contain_text("KiB/s")
    nb.expect(there.locator(".pdc-mem-line")).to_have_attribute("data-beat", "1")
    nb.expect(host).to_have_text("hostup to date")
    nb.expect(device).to_have_text("GPU 0up to date")
    nb.execute("weights.device.fill(1)")
    nb.expect(host).to_have_text("hostout of date")
    nb.expect(device).to_have_text("GPU 0newest")
    nb.execute("_ = weights.numpy()\ndel _")
    nb.expect(back.locator(".pdc-mem-copies")).to_have_text("1 × · 11.7 KiB")
    nb.expect(back.locator(".pdc-mem-line")).to_have_attribute("data-beat", "1")
    moves = "line => getComputedStyle(line, '::after').animationName"
    assert back.locator(".pdc-mem-line").evaluate(moves) == "none"  # the reader prefers it so


def test_a_pool_shows_what_is_used_and_what_is_free(nb: Notebook) -> None:
    facts = nb.page.locator(".pdc-mem-pool .pdc-mem-facts")
    nb.expect(facts).to_contain_text("2.0 KiB in 2 buffers")
    nb.run(1)
    nb.expect(facts).to_contain_text("0 B in 0 buffers")
    nb.expect(facts).to_contain_text("2.0 KiB in 2 blocks")
    nb.expect(facts).to_contain_text("1.0 MiB")
    nb.expect(nb.page.locator(".pdc-mem-meter")).to_have_attribute(
        "aria-label", "0 B in use, 2.0 KiB free, at most 2.0 KiB were in use"
    )
    nb.expect(nb.page.locator(".pdc-mem-buffer")).to_have_count(2)


def test_it_goes_on_while_a_cell_blocks_and_freezes(nb: Notebook) -> None:
    live, freeze = nb.page.locator(".pdc-live"), nb.page.get_by_role("button", name="Freeze")
    nb.run(2)
    nb.wait_busy(2)
    nb.expect(live).to_have_text("live")
    freeze.click()
    nb.expect(live).to_have_text("frozen")
    nb.go_on()
    nb.wait_done(2)
    nb.execute("with results.write_device(): pass")
    nb.expect(nb.page.locator(".pdc-mem-buffer", has_text="results")).to_contain_text("not allocated")
    nb.page.get_by_role("button", name="Go on").click()
    nb.expect(nb.page.locator(".pdc-mem-buffer", has_text="results")).to_contain_text("out of date")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nobody_is_kept_out(nb: Notebook, dark: bool) -> None:
    nb.set_dark(dark)
    assert nb.axe() == []


def test_what_is_gone_leaves_its_picture(nb: Notebook) -> None:
    nb.execute("del weights, results, pool")
    nb.expect(nb.page.locator(".pdc-live")).to_have_text("given up")
    nb.expect(nb.output(0).locator(".pdc")).to_have_count(0)  # a while later: the widget is closed
    nb.expect(nb.output(0)).to_contain_text("(1000, 3) float32")
    nb.expect(nb.output(0)).to_contain_text("given up")
