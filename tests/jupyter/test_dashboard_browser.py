"""The dashboard in JupyterLab: one way through it, in a real browser, while a cell blocks the kernel."""

from __future__ import annotations

import pytest

from tests.jupyter.browser import BLOCK, ROOT, Lab

pytestmark = pytest.mark.needs_browser

SHOW = """
from pydotcompute import RingKernelRuntime, dashboard, ring_kernel

@ring_kernel
async def worker(ctx):
    async for message in ctx:
        pass

runtime = RingKernelRuntime()
for kernel_id in ("worker", "idler"):
    await runtime.launch(worker, kernel_id=kernel_id)
    await runtime.activate(kernel_id)
dashboard(runtime)
"""


def test_numbers_are_legible_whatever_their_size(lab: Lab) -> None:
    script = (ROOT / "pydotcompute/jupyter/widgets/static/common.js").read_text()
    words = script.partition("// -- words")[2].partition("\n")[2].partition("// -- DOM")[0]
    calls = {
        "perSecond": {
            "[NaN]": "–", "[0]": "0", "[0.42]": "0.4", "[9.96]": "10", "[12345.4]": "12,345", "[99949]": "99,949",
            "[99951]": "100 k", "[818230]": "818 k", "[999700]": "1.00 M", "[12345678]": "12.3 M", "[99.97e6]": "100 M",
            "[354e6]": "354 M", "[2.5e9]": "2.50 G",
        },
        "percentiles": {
            "[NaN, NaN]": "–", "[2e-9, 37e-9]": "2 / 37 ns", "[412e-9, 1.25e-6]": "412 ns / 1.3 µs",
            "[0.9996e-6, 88e-6]": "1.0 / 88 µs", "[0.002, 0.0155]": "2.0 / 16 ms", "[0.5, 12]": "500 ms / 12 s",
        },
    }  # fmt: skip
    page = lab.browser.new_page()
    for name, cases in calls.items():
        listed = ", ".join(f"{name}(...{arguments})" for arguments in cases)
        assert page.evaluate(f"() => {{ {words}; return [{listed}]; }}") == list(cases.values())
    page.close()


def test_it_draws_and_its_buttons_work_while_a_cell_blocks(lab: Lab) -> None:
    with lab.notebook([SHOW, BLOCK]) as nb:
        page = nb.page
        nb.run_all()

        # The second cell is running from now until the end.
        row = page.locator(".pdc-body .pdc-row", has_text="worker")
        row.wait_for()
        nb.wait_busy(1)
        nb.expect(page.locator(".pdc-live")).to_have_text("live")
        nb.expect(page.locator(".pdc-charts .bqplot .line").first).to_be_attached()
        pause, resume = page.locator("button[data-verb=pause]"), page.locator("button[data-verb=resume]")
        nb.expect(pause).to_be_disabled()
        row.click()
        nb.expect(row).to_have_attribute("aria-selected", "true")
        nb.expect(resume).to_be_disabled()
        pause.click()
        nb.expect(row.locator(".pdc-state")).to_have_text("paused")
        nb.expect(page.locator(".pdc-say")).to_have_text("worker paused")
        nb.expect(pause).to_be_disabled()
        resume.click()
        nb.expect(row.locator(".pdc-state")).to_have_text("active")

        # The keyboard does it too: down to the other one, select it.
        page.locator(".pdc-grid").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        idler = page.locator(".pdc-body .pdc-row", has_text="idler")
        nb.expect(idler).to_have_attribute("aria-selected", "true")
        nb.expect(page.locator(".pdc-foot")).to_contain_text("2 of 2 selected")
        page.locator(".pdc input").fill("idl")
        nb.expect(row).to_be_hidden()

        nb.wait_busy(1)
        nb.go_on()
        nb.wait_done(1)
