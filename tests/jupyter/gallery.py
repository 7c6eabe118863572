"""All live widgets, for the tests that each of them has to pass in a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.jupyter.browser import Notebook

SETUP = """
import json
from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel

@message
class Job:
    n: int

@ring_kernel
async def worker(ctx: KernelContext[Job, None]):
    async for job in ctx:
        if job.n % 10 == 0:
            await ctx.tell("sink", job)

@ring_kernel
async def sink(ctx: KernelContext[Job, None]):
    async for job in ctx:
        pass

runtime = RingKernelRuntime()
for kernel in (worker, sink):
    await runtime.launch(kernel)
    await runtime.activate(kernel.kernel_id)

async def work(n):
    await runtime.send_many("worker", [Job(i) for i in range(n)])
    await runtime.wait_idle()

await work(20)
"""
"""Two ring kernels, `worker` and `sink`, of `runtime`; `await work(n)` gives them something to do."""


@dataclass(frozen=True)
class Exhibit:
    """A widget, and what a test has to know of it. Selectors are within the output of its cell."""

    name: str
    source: str
    """The cell that shows it, after `SETUP`."""
    shown: str
    """JavaScript, `(root) => value`: what it shows."""
    truth: str
    """Python, an expression: what it must show, of `runtime.statistics()` and what else there is."""
    says: str
    """Words that stand in its picture in a saved notebook, once the runtime is closed."""
    change: str = "await work(50)"
    """Python: something happens that it shows."""
    end: str = ""
    """Python: what it shows ends, together with the runtime; nothing, if it is that."""
    over: str = "runtime closed"
    """What it says of itself then."""
    stays: bool = True
    """Whether the view is there then, or only its picture."""
    press: tuple[tuple[str, str, str], ...] = ()
    """Buttons, in turn: a selector to click, a selector, and the text that is to stand there then."""

    def wait_same(self, nb: Notebook, cell: int) -> Any:
        """Wait until it shows, below its cell, what is true; that is returned."""
        truth = json.loads(nb.execute(f"print(json.dumps({self.truth}))"))
        output = nb.output(cell)
        output.scroll_into_view_if_needed()
        nb.page.wait_for_function(
            f"([root, truth]) => JSON.stringify(({self.shown})(root)) === truth",
            arg=[output.locator(".pdc").element_handle(), json.dumps(truth, separators=(",", ":"), ensure_ascii=False)],
        )
        return truth

    def use(self, nb: Notebook, cell: int) -> None:
        """Press its buttons, and wait for what comes of them."""
        output = nb.output(cell)
        output.scroll_into_view_if_needed()
        for button, place, text in self.press:
            output.locator(button).click()
            nb.expect(output.locator(place)).to_contain_text(text)


DASHBOARD = Exhibit(
    name="dashboard",
    source="from pydotcompute import dashboard\ndashboard(runtime)",
    shown="""(root) => Object.fromEntries([...root.querySelectorAll(".pdc-body .pdc-row:not([hidden])")].map((row) => [
        row.querySelector(".pdc-id span").textContent,
        [row.querySelector(".pdc-state").textContent, row.querySelector(".pdc-queue span").textContent],
    ]))""",
    truth="""{k.kernel_id: [{"ACTIVE": "active", "DEACTIVATED": "paused"}[k.state], f"{k.queue_depth} ({k.queue_peak})"]
        for k in runtime.statistics().kernels.values()}""",
    says="ended",
    press=(
        (".pdc-row:has-text('worker')", ".pdc-foot", "1 of 2 selected"),
        ("button[data-verb=pause]", ".pdc-row:has-text('worker') .pdc-state", "paused"),
        ("button[data-verb=resume]", ".pdc-row:has-text('worker') .pdc-state", "active"),
    ),
)

MEMORY = Exhibit(
    name="memory",
    source="""
from pydotcompute import MemoryPool, memory
from pydotcompute.device.text import human_size

pool = MemoryPool()
held = [pool.empty(1000)]
memory(pool)
""",
    shown="""(root) => root.querySelector(".pdc-mem-facts span")?.textContent""",
    truth="(lambda s: f'{human_size(s.in_use)} in {s.buffers} buffer' + 's' * (s.buffers > 1))(pool.statistics())",
    change="held.append(pool.empty(3000))",
    end="del held, pool",
    says="given up",
    over="given up",
    stays=False,
)

LIFECYCLE = Exhibit(
    name="lifecycle",
    source="from pydotcompute import lifecycle\nlifecycle(runtime['sink'])",
    shown="""(root) => [root.querySelector(".pdc-life-box.pdc-life-lit text").textContent,
        [...root.querySelectorAll(".pdc-life-way li span")].map((word) => word.textContent)]""",
    truth="""[runtime["sink"].state, [{"DEACTIVATED": "paused"}.get(state, state.lower())
        for state, _ in runtime["sink"].history[-12:]]]""",
    change="await runtime.deactivate('sink')\nawait runtime.reactivate('sink')",
    says="ended",
    press=(
        ("button[data-verb=pause]", ".pdc-life-box.pdc-life-lit", "DEACTIVATED"),
        ("button[data-verb=resume]", ".pdc-life-box.pdc-life-lit", "ACTIVE"),
    ),
)

MAILBOX = Exhibit(
    name="mailbox",
    source="""
from pydotcompute import mailbox

desk = RingKernelRuntime()
await desk.launch(sink, kernel_id="desk")
await desk.activate("desk")
await desk.deactivate("desk")
await desk.send_many("desk", [Job(1), Job(2), Job(3)])
mailbox(desk["desk"])
""",
    shown="""(root) => [root.querySelector(".pdc-tag").textContent,
        [...root.querySelectorAll(".pdc-mail-message span")].map((fields) => fields.textContent)]""",
    truth="""[f"{desk['desk'].queue_depth} of 1,024", [f"n={one.message.n}" for one in desk["desk"].queue()]]""",
    change="await desk.send('desk', Job(4))",
    end="await desk.close(drain=False)",
    says="ended",
    press=(
        (".pdc-mail-message >> nth=1", ".pdc-mail-detail", "place 1: Job(n=2)"),
        ("button[data-verb=up]", ".pdc-mail-message >> nth=0", "n=2"),
        ("button[data-verb=step]", ".pdc-mail-message >> nth=0", "n=1"),
        ("button[data-verb=discard]", ".pdc-say", "Job(n=1) discarded"),
        ("button[data-verb=inject]", ".pdc-mail-message >> nth=0", "n=0"),
    ),
)

TOPOLOGY = Exhibit(
    name="topology",
    source="from pydotcompute import topology\ntopology(runtime)",
    shown="""(root) => [...root.querySelectorAll(".pdc-arrow title")].map(
        (title) => title.textContent.split(" message")[0]).sort()""",
    truth="""sorted(f"{'outside' if source is None else source} → {target}: {n:,}"
        for (source, target), n in runtime.edges().items())""",
    says="2 ended",
    press=(
        (".pdc-node[data-name=worker]", ".pdc-detail", "to sink"),
        (".pdc-node[data-name=sink]", ".pdc-detail", "from worker"),
        ("button[data-verb=arrange]", ".pdc-say", "arranged anew"),
    ),
)

SEQUENCE = Exhibit(
    name="sequence",
    source="""
from pydotcompute import sequence

trace = runtime.trace().start()
await work(3)
sequence(trace, limit=1000)
""",
    shown="""(root) => root.querySelectorAll(".pdc-event[data-kind=send]").length""",
    truth="len(trace.of(kind='send'))",
    says="messages shown",
    press=((".pdc-event[data-kind=send] >> nth=-1 >> css=text >> nth=0", ".pdc-chosen", "Job(n="),),
)

EXHIBITS = [DASHBOARD, MEMORY, LIFECYCLE, MAILBOX, TOPOLOGY, SEQUENCE]
