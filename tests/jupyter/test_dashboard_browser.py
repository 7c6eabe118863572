"""The dashboard in JupyterLab, in a real browser, while a cell blocks the kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.jupyter.browser import BLOCK, ROOT, Lab, Notebook

pytestmark = pytest.mark.needs_browser

SHOW = """
from pydotcompute import RingKernelRuntime, dashboard, ring_kernel

@ring_kernel
async def worker(ctx):
    async for message in ctx:
        if message == "bad":
            raise ValueError("no such unit")

runtime = RingKernelRuntime()
for kernel_id in ("worker", "idler", "broken"):
    await runtime.launch(worker, kernel_id=kernel_id)
    await runtime.activate(kernel_id)
for message in range(1234):
    await runtime.send("worker", message)
await runtime.send("broken", "bad")
await runtime.wait_ended("broken")
await runtime.deactivate("idler")
for message in range(3):
    await runtime.send("idler", message)
board = dashboard(runtime)
board
"""
OTHERS = """
from IPython.display import display
display(dashboard(runtime, layout="compact"), dashboard(runtime, embed="idler"))
"""
ROW = ".pdc-all .pdc-body .pdc-row"
SHOWN = """(root) => Object.fromEntries([...root.querySelectorAll(".pdc-body .pdc-row:not([hidden])")].map((row) => {
    const cells = [...row.children].map((cell) => cell.textContent);
    const number = (text) => Number(text.replaceAll(",", ""));
    const [, depth, peak] = /^([\\d,]+) \\(([\\d,]+)\\)$/.exec(cells[2]);
    const counts = [depth, peak, ...cells.slice(7)].map(number);
    return [row.firstChild.firstChild.textContent, [cells[1], ...counts]];
}))"""
TRUTH = """
import json
words = {"ACTIVE": "active", "DEACTIVATED": "paused", "FAILED": "failed"}
print(json.dumps({
    kernel_id: [words[k.state], k.queue_depth, k.queue_peak, k.errors, k.restarts, k.dead_letters]
    for kernel_id, k in runtime.statistics().kernels.items()
}))
"""


def test_a_launched_kernel_is_activated_and_dead_letters_of_former_ones_are_named(lab: Lab) -> None:
    with lab.notebook([SHOW]) as nb:
        nb.run(0)
        nb.wait_done(0)
        board = nb.output(0)
        activate = board.locator("button[data-verb=activate]")
        nb.expect(board.locator(ROW)).to_have_count(3)
        nb.expect(activate).to_be_hidden()
        nb.execute("await runtime.launch(worker, kernel_id='late')")
        nb.expect(activate).to_be_disabled()
        late = board.locator(ROW, has_text="late")
        late.click()
        activate.click()
        nb.expect(late.locator(".pdc-state")).to_have_text("active")
        nb.expect(activate).to_be_hidden()
        nb.execute("await runtime.send('late', 'bad'); await runtime.wait_ended('late')")
        nb.expect(late.locator(".pdc-state")).to_have_text("failed")
        head = board.locator(".pdc-kpis")
        nb.expect(head).not_to_contain_text("former")
        nb.execute("await runtime.launch(worker, kernel_id='late')")
        nb.expect(head).to_contain_text("dead letters, 1 of former kernels")


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


@pytest.fixture(scope="module")
def nb(lab: Lab) -> Iterator[Notebook]:
    """A notebook with a dashboard of each layout; its last cell, which blocks, has not run."""
    with lab.notebook([SHOW, OTHERS, BLOCK]) as nb:
        for i in (0, 1):
            nb.run(i)
            nb.wait_done(i)
        yield nb


def test_it_shows_what_the_statistics_say(nb: Notebook) -> None:
    board = nb.output(0)
    nb.expect(board.locator(".pdc-live")).to_have_text("live")
    nb.expect(board.locator(ROW)).to_have_count(3)
    truth = json.loads(nb.execute(TRUTH))
    shown = board.locator(".pdc").element_handle()
    assert truth["idler"][:2] == ["paused", 3]
    nb.page.wait_for_function(
        f"([root, truth]) => JSON.stringify(({SHOWN})(root)) === truth",
        arg=[shown, json.dumps(truth, separators=(",", ":"))],
    )
    nb.expect(board.locator(".pdc-kpis")).to_contain_text("1 active · 1 paused · 1 failed")
    nb.expect(board.locator(".pdc-kpis")).to_contain_text(re.compile(r"\d+ %CPU"))
    nb.expect(board.locator(".pdc-charts .bqplot .line").first).to_be_attached()


FITS = """(root) => [560, 600, 640, 680, 720, 760, 800, 840, 880, 920, 1000, 1040, 1100].map((width) => {
    root.parentElement.style.width = width + "px";
    const row = root.querySelector(".pdc-body .pdc-row");
    const fits = row.scrollWidth <= row.clientWidth && row.clientWidth <= root.clientWidth;
    return [width, root.clientWidth <= width && fits, width < 721 || root.querySelector(".pdc-bar").clientHeight < 50];
})"""


def test_all_columns_are_there_however_wide_it_is(nb: Notebook) -> None:
    board = nb.output(0).locator(".pdc")
    shown = board.evaluate(FITS)
    board.evaluate("(root) => root.parentElement.style.removeProperty('width')")
    assert [(width, *fits) for width, *fits in shown if fits != [True, True]] == []


def test_one_line_and_one_kernel(nb: Notebook) -> None:
    line, one = nb.output(1).locator(".pdc-compact"), nb.output(1).locator(".pdc-embed")
    nb.output(1).scroll_into_view_if_needed()
    nb.expect(line.locator(".pdc-head")).to_contain_text("1 active")
    nb.expect(line.locator(".pdc-head")).to_contain_text("3 queued")
    nb.expect(line.locator(".pdc-wrong")).to_have_text("broken failed: ValueError: no such unit")
    nb.expect(line.locator(".pdc-foot")).to_be_hidden()
    assert line.bounding_box()["height"] < 40
    nb.expect(one.locator("h2")).to_have_text("idler")
    nb.expect(one.locator(".pdc-body .pdc-row")).to_have_count(1)
    nb.expect(one.locator(".pdc-row .pdc-state")).to_have_text("paused")
    nb.expect(nb.output(1).locator(".pdc-charts .bqplot .line").first).to_be_attached()


def test_the_rate_is_chosen_in_the_view(nb: Notebook) -> None:
    board = nb.output(0)
    board.scroll_into_view_if_needed()
    rates, windows = board.get_by_label("pictures a second"), board.get_by_label("seconds that the charts show")
    nb.expect(rates).to_have_value("5")
    assert rates.locator("option").all_inner_texts() == ["1 Hz", "2 Hz", "5 Hz", "10 Hz", "20 Hz"]
    rates.select_option("20")
    nb.page.wait_for_function(
        """(root) => {
        const number = () => Number(root.querySelector(".pdc-foot").dataset.frame);
        const first = number();
        return new Promise((done) => setTimeout(() => done(number() - first > 7), 1000));
    }""",
        arg=board.locator(".pdc").element_handle(),
    )  # more than 5 Hz could give
    assert nb.execute("print(board.hz)").strip() == "20.0"
    windows.select_option("300")
    nb.expect(board.locator(".pdc-charts .axislabel").first).to_have_text("minutes")
    assert nb.execute("print(board.window)").strip() == "300.0"
    nb.execute("board.window = 77")
    nb.expect(windows).to_have_value("77")


def test_a_page_that_cannot_keep_up_says_so(nb: Notebook) -> None:
    board, page = nb.output(0), nb.page
    board.scroll_into_view_if_needed()
    foot = board.locator(".pdc-foot")
    page.evaluate("() => { window.fast = requestAnimationFrame; requestAnimationFrame = (f) => setTimeout(f, 800); }")
    nb.expect(foot).to_contain_text(re.compile(r"this page is slow: \d+ of the last \d+ pictures left out"))
    page.evaluate("() => { requestAnimationFrame = window.fast; }")
    nb.expect(foot).not_to_contain_text("slow")


def test_its_buttons_act_while_a_cell_blocks(nb: Notebook) -> None:
    board, page = nb.output(0), nb.page
    nb.run(2)
    nb.wait_busy(2)
    board.scroll_into_view_if_needed()
    worker, idler, broken = (board.locator(ROW, has_text=name) for name in ("worker", "idler", "broken"))
    button = {
        verb: board.locator(f".pdc-slot button[data-verb={verb}]") for verb in ("pause", "resume", "step", "restart")
    }
    say = board.locator(".pdc-say")
    nb.expect(button["pause"]).to_be_disabled()
    worker.click()
    nb.expect(worker).to_have_attribute("aria-selected", "true")
    nb.expect(button["resume"]).to_be_disabled()
    button["pause"].click()
    nb.expect(worker.locator(".pdc-state")).to_have_text("paused")
    nb.expect(say).to_have_text("worker paused")
    nb.expect(button["pause"]).to_be_disabled()
    button["resume"].click()
    nb.expect(worker.locator(".pdc-state")).to_have_text("active")

    idler.click()
    nb.expect(worker).to_have_attribute("aria-selected", "false")
    button["step"].click()
    nb.expect(say).to_have_text("idler handled 0")
    nb.expect(idler.locator(".pdc-queue")).to_have_text("2 (3)")

    # Why it failed, in place, and another try.
    note = board.locator(".pdc-notes [role=listitem]")
    nb.expect(note).to_contain_text(re.compile(r"broken failed: ValueError: no such unit — cell In \[\d+\], line 7"))
    note.get_by_role("button", name="traceback").click()
    nb.expect(note.locator("pre")).to_contain_text(re.compile(r"Cell In\[\d+\], line 7, in worker"))
    note.get_by_role("button", name="restart").click()
    nb.expect(broken.locator(".pdc-state")).to_have_text("active")
    nb.expect(note).to_be_hidden()

    # The keyboard does it too: down to the other one, select it.
    board.locator(".pdc-grid").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    nb.expect(worker).to_have_attribute("aria-selected", "true")
    nb.expect(board.locator(".pdc-foot")).to_contain_text("2 of 3 selected")
    board.locator(".pdc input").fill("idl")
    nb.expect(worker).to_be_hidden()
    board.locator(".pdc input").fill("async")
    nb.expect(worker).to_be_visible()

    nb.wait_busy(2)
    nb.go_on()
    nb.wait_done(2)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_layout_is_accessible(nb: Notebook, dark: bool) -> None:
    nb.execute("if runtime['broken'].state == 'ACTIVE': await runtime.send('broken', 'bad')")
    board = nb.output(0)
    board.scroll_into_view_if_needed()
    show = board.locator(".pdc-notes").get_by_role("button", name="traceback")
    if show.get_attribute("aria-expanded") == "false":
        show.click()
    nb.expect(board.locator(".pdc-notes pre")).to_contain_text("ValueError")
    nb.set_dark(dark)
    assert nb.axe() == []
