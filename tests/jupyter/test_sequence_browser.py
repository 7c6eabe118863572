"""The live sequence diagram in JupyterLab: who sends to whom, each message in full, and what is left out under load."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.jupyter.browser import Lab, Notebook

pytestmark = pytest.mark.needs_browser

SETUP = """
from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel, sequence

@message
class Job:
    n: int
    name: str = "measurement"

@message
class Mean:
    value: float

@ring_kernel
async def parse(ctx: KernelContext[Job, Mean]):
    async for job in ctx:
        await ctx.send(await ctx.ask("stats", job))

@ring_kernel
async def stats(ctx: KernelContext[Job, Mean]):
    async for job in ctx:
        if job.n == 3:
            await ctx.tell("alarm", job)
        await ctx.send(Mean(job.n / 2))

@ring_kernel(restart="on_failure")
async def alarm(ctx: KernelContext[Job, None]):
    async for job in ctx:
        if job.n == 3:
            raise ValueError("too hot")

runtime = RingKernelRuntime()
for kernel in (parse, stats, alarm):
    await runtime.launch(kernel)
    await runtime.activate(kernel.kernel_id)
trace = runtime.trace()
"""
ASK = """
for i in range(5):
    await runtime.ask("parse", Job(i))
await runtime.wait_idle()
"""
LOAD = """
import asyncio
over = asyncio.Event()

async def pour():
    while not over.is_set():
        await runtime.send_many("alarm", [Job(5)] * 200)
        await asyncio.sleep(0.01)

pouring = asyncio.ensure_future(pour())
"""
LANES = """
runtime = RingKernelRuntime()
for i in range(30):
    await runtime.launch(stats, kernel_id=f"stats-{i}")
    await runtime.activate(f"stats-{i}")
trace = runtime.trace().start()

async def each(*places):
    for i in places:
        await runtime.send(f"stats-{i}", Job(1))
    await runtime.wait_idle()

await each(*range(30))
sequence(trace, hz=10)
"""


@pytest.fixture(scope="module")
def nb(lab: Lab) -> Iterator[Notebook]:
    with lab.notebook([SETUP + "sequence(trace, hz=10, limit=50)", LANES]) as nb:
        nb.run(0)
        nb.wait_done(0)
        yield nb


def test_it_says_what_to_do_and_then_draws_what_happens(nb: Notebook) -> None:
    nb.expect(nb.page.locator(".pdc-live")).to_have_text("not recording")
    nb.expect(nb.page.locator(".pdc-empty")).to_contain_text("Start it with trace.start()")
    nb.execute("trace.start();\n" + ASK)
    nb.expect(nb.page.locator(".pdc-live")).to_have_text("live")
    nb.expect(nb.page.locator(".pdc-lane")).to_have_text(["outside", "parse", "stats", "alarm"])
    nb.expect(nb.page.locator(".pdc-event[data-kind=send]")).to_have_count(11)
    nb.expect(nb.page.locator(".pdc-event[data-kind=reply]")).to_have_count(10)
    nb.expect(nb.page.locator(".pdc-event[data-kind=crash]")).to_contain_text("ValueError: too hot")
    nb.expect(nb.page.locator(".pdc-event[data-kind=drop]")).to_have_count(1)
    nb.expect(nb.page.locator(".pdc-event[data-kind=restart]")).to_contain_text("restart 1")
    nb.expect(nb.page.locator(".pdc-bars rect[data-look=failed]")).to_have_count(1)
    nb.expect(nb.page.locator(".pdc-foot")).to_contain_text("11 messages shown, 0 left out")


def test_a_message_is_shown_in_full_by_mouse_and_by_keyboard(nb: Notebook) -> None:
    panel = nb.page.locator(".pdc-chosen")
    nb.expect(panel).to_be_hidden()
    arrow = nb.page.locator(".pdc-event[data-kind=send]", has_text="Job").nth(6)
    arrow.locator("text").first.click()
    nb.expect(panel.locator("pre")).to_have_text("Job(n=3, name='measurement')")
    nb.expect(panel).to_contain_text("answered")
    nb.expect(arrow).to_have_attribute("aria-pressed", "true")
    nb.page.keyboard.press("Escape")
    nb.expect(panel).to_be_hidden()
    nb.page.keyboard.press("Home")
    nb.page.keyboard.press("Enter")
    nb.expect(panel.locator("pre")).to_have_text("Job(n=0, name='measurement')")
    panel.locator(".pdc-caused button").click()
    nb.expect(panel).to_contain_text("parse")
    panel.get_by_role("button", name="Close").click()
    nb.expect(panel).to_be_hidden()


def test_a_filter_leaves_the_messages_that_pass_it(nb: Notebook) -> None:
    sends = nb.page.locator(".pdc-event[data-kind=send]")
    nb.page.get_by_label("only messages of this kernel").select_option("alarm")
    nb.expect(sends).to_have_count(1)
    nb.expect(nb.page.locator(".pdc-lane")).to_have_text(["stats", "alarm"])
    nb.page.get_by_label("only messages of this kernel").select_option("")
    nb.page.get_by_label("only messages with this text").fill("n=4")
    nb.expect(sends).to_have_count(2)
    nb.page.get_by_label("only messages with this text").fill("nothing has this")
    nb.expect(nb.page.locator(".pdc-empty")).to_contain_text("No message passes the filter")
    nb.page.get_by_label("only messages with this text").fill("")
    nb.expect(sends).to_have_count(11)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nobody_is_kept_out(nb: Notebook, dark: bool) -> None:
    nb.set_dark(dark)
    assert nb.axe() == []


def test_under_load_pictures_go_on_and_say_what_they_leave_out(nb: Notebook) -> None:
    foot = nb.page.locator(".pdc-foot")
    nb.page.get_by_role("button", name="Newest").click()  # whoever walks through it with the keyboard holds it
    nb.execute(LOAD)
    says = re.compile(r"[\d,]{3,} events since the last picture; 50 messages shown, \d+,\d{3} left out")
    nb.expect(foot).to_contain_text(says)
    before = foot.inner_text()
    nb.page.wait_for_function("([el, before]) => el.innerText !== before", arg=[foot.element_handle(), before])
    nb.page.get_by_role("button", name="Older").click()
    nb.expect(nb.page.get_by_role("button", name="Newest")).to_be_enabled()
    held = nb.page.locator(".pdc-event").first.get_attribute("data-at")
    before = foot.inner_text()
    nb.page.wait_for_function("([el, before]) => el.innerText !== before", arg=[foot.element_handle(), before])
    assert nb.page.locator(".pdc-event").first.get_attribute("data-at") == held
    nb.page.get_by_role("button", name="Newest").click()
    nb.expect(nb.page.get_by_role("button", name="Newest")).to_be_disabled()
    nb.execute("over.set()\nawait pouring")
    nb.expect(nb.page.locator(".pdc-live")).to_have_text("live")


def test_of_many_lanes_those_come_into_sight_in_which_something_happens(nb: Notebook) -> None:
    nb.run(1)
    nb.wait_done(1)
    nb.output(1).scroll_into_view_if_needed()
    lane = nb.output(1).locator(".pdc-lane")
    nb.expect(lane).to_have_count(31)
    nb.expect(lane.last).to_be_in_viewport()
    nb.execute("await each(2)")
    nb.expect(lane.nth(3)).to_be_in_viewport()
    nb.expect(nb.output(1).locator(".pdc-time").last).to_be_in_viewport()
    box = nb.output(1).locator(".pdc-sequence")
    box.evaluate("(box) => { box.scrollLeft = 900; }")  # what the reader looks at stays for a while
    nb.execute("await each(29)")
    nb.expect(nb.output(1).locator(".pdc-foot")).to_contain_text("32 messages shown")
    assert box.evaluate("(box) => box.scrollLeft") == 900
