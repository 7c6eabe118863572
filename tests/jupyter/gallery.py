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
    shown="""(root) => root.querySelector(".pdc-facts span")?.textContent""",
    truth="(lambda s: f'{human_size(s.in_use)} in {s.buffers} buffer' + 's' * (s.buffers > 1))(pool.statistics())",
    change="held.append(pool.empty(3000))",
    end="del held, pool",
    says="given up",
    over="given up",
    stays=False,
)

EXHIBITS = [DASHBOARD, MEMORY]
