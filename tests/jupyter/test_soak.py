"""Ten minutes of dashboards: memory does not grow, neither in the browser nor in the kernel. `make soak` runs it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.jupyter.browser import Lab, Notebook

pytestmark = [pytest.mark.needs_browser, pytest.mark.soak]

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
ROUNDS = 10
"""The memory is looked at after each of these; the first two are for what is filled once."""
GROWN = 1.1
"""Times the memory may grow from the third round to the last, at most; the steps of the allocators are of this size."""
KERNELS = 300
SHOW = f"""
import asyncio, gc, json
from pydotcompute import KernelContext, RingKernelRuntime, dashboard, message, ring_kernel

@message
class Number:
    value: int

@ring_kernel
async def worker(ctx: KernelContext[Number, None]):
    async for number in ctx:
        pass

@ring_kernel
async def feed(ctx: KernelContext):
    i = 0
    while True:
        for _ in range(10):
            i = (i + 1) % {KERNELS}
            await ctx.tell(f"worker-{{i}}", Number(i))
        await asyncio.sleep(0.01)

runtime = RingKernelRuntime()
for i in range({KERNELS}):
    await runtime.launch(worker, kernel_id=f"worker-{{i}}")
    await runtime.activate(f"worker-{{i}}")
await runtime.launch(feed)
await runtime.activate("feed")

async def restart():
    # Kernels come and go: each time the roster is another one.
    await runtime.terminate("worker-0")
    await runtime.launch(worker, kernel_id="worker-0")
    await runtime.activate("worker-0")
"""


def in_kernel(nb: Notebook) -> float:
    """MB of the kernel process that are its own."""
    pid = nb.execute("gc.collect(); import os; print(os.getpid())").strip()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def in_page(nb: Notebook) -> float:
    """MB of the page's objects, after a collection."""
    session = nb.page.context.new_cdp_session(nb.page)
    session.send("HeapProfiler.collectGarbage")
    size = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return float(size) / 1e6


def test_memory_does_not_grow(lab: Lab) -> None:
    with lab.notebook([SHOW, "dashboard(runtime, hz=10)", "other = dashboard(runtime)", "other"]) as nb:
        for i in range(3):
            nb.run(i)
            nb.wait_done(i)
        seen: dict[str, list[float]] = {"kernel": [], "page": []}
        for _ in range(ROUNDS):
            nb.run(3)  # another view in place of the one before
            nb.wait_done(3)
            nb.output(1).locator(".pdc-body .pdc-row").first.wait_for()
            nb.output(1).scroll_into_view_if_needed()
            nb.execute("await restart()")
            time.sleep(60 * MINUTES / ROUNDS)
            seen["kernel"].append(in_kernel(nb))
            seen["page"].append(in_page(nb))
            print({where: f"{sizes[-1]:.1f} MB" for where, sizes in seen.items()}, flush=True)
        nb.expect(nb.output(1).locator(".pdc-live")).to_have_text("live")
    for where, sizes in seen.items():
        assert sizes[-1] < GROWN * sizes[2], f"{where}: {sizes}"
