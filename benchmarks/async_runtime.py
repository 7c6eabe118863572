"""What the async runtime costs, beside `asyncio.Queue` doing the same work in the same run.

    python benchmarks/async_runtime.py [--json FILE] [--rounds N] [--quick]

All features are on: type checks, priorities, ids, correlation, histograms, dead letters, back-pressure. Every row is
run `--rounds` times, all rows in turn, and the median is printed; machines are noisy, so trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel

clock = time.perf_counter_ns


@message
class Request:
    data: str


@message
class Response:
    data: str


@ring_kernel(kernel_id="echo")
async def echo(ctx: KernelContext[Request, Response]) -> None:
    async for request in ctx:
        await ctx.send(Response(data=request.data))


@ring_kernel(kernel_id="sink")
async def sink(ctx: KernelContext[Request, Response]) -> None:
    async for _ in ctx:
        pass


def stage(kernel_id: str, following: str) -> None:
    @ring_kernel(kernel_id=kernel_id)
    async def forward(ctx: KernelContext[Request, Response]) -> None:
        async for request in ctx:
            await ctx.tell(following, request)


stage("first", "second")
stage("second", "sink")


async def started(runtime: RingKernelRuntime, *kernel_ids: str) -> None:
    for kernel_id in kernel_ids:
        await runtime.launch(kernel_id)
        await runtime.activate(kernel_id)


# -- asyncio.Queue -----------------------------------------------------------------------------------------------------


async def queue_ask(n: int) -> float:
    """Median ns of a round trip through a pair of queues."""
    there: asyncio.Queue[Any] = asyncio.Queue()
    back: asyncio.Queue[Any] = asyncio.Queue()

    async def answer() -> None:
        while True:
            await back.put(await there.get())

    task = asyncio.create_task(answer())
    request, times = object(), []
    for _ in range(n):
        begun = clock()
        await there.put(request)
        await back.get()
        times.append(clock() - begun)
    task.cancel()
    return statistics.median(times)


async def queue_send(n: int) -> float:
    """Mean ns a message, from the first put to the last get."""
    queue: asyncio.Queue[Any] = asyncio.Queue(1024)
    request = object()

    async def take() -> None:
        for _ in range(n):
            await queue.get()

    task = asyncio.create_task(take())
    begun = clock()
    for _ in range(n):
        await queue.put(request)
    await task
    return (clock() - begun) / n


async def queue_pipeline(n: int) -> float:
    """Mean ns a message through three queues."""
    first, second, third = (asyncio.Queue[Any](1024) for _ in range(3))

    async def forward(source: asyncio.Queue[Any], target: asyncio.Queue[Any]) -> None:
        while True:
            await target.put(await source.get())

    async def take() -> None:
        for _ in range(n):
            await third.get()

    tasks = [asyncio.create_task(forward(first, second)), asyncio.create_task(forward(second, third))]
    task = asyncio.create_task(take())
    request = object()
    begun = clock()
    for _ in range(n):
        await first.put(request)
    await task
    spent = (clock() - begun) / n
    for forwarding in tasks:
        forwarding.cancel()
    return spent


# -- ring kernels ------------------------------------------------------------------------------------------------------


async def ask(runtime: RingKernelRuntime, n: int, timeout: float | None = None) -> float:
    await started(runtime, "echo")
    times = []
    for _ in range(n):
        request = Request("x")
        begun = clock()
        await runtime.ask("echo", request, timeout)
        times.append(clock() - begun)
    return statistics.median(times)


async def send(runtime: RingKernelRuntime, n: int) -> float:
    await started(runtime, "sink")
    requests = [Request("x") for _ in range(n)]
    begun = clock()
    for request in requests:
        await runtime.send("sink", request)
    await runtime.wait_idle("sink")
    spent = (clock() - begun) / n
    assert runtime["sink"].statistics().processed == n
    return spent


async def send_many(runtime: RingKernelRuntime, n: int) -> float:
    await started(runtime, "sink")
    requests = [Request("x") for _ in range(n)]
    begun = clock()
    for start in range(0, n, 256):
        await runtime.send_many("sink", requests[start : start + 256])
    await runtime.wait_idle("sink")
    spent = (clock() - begun) / n
    assert runtime["sink"].statistics().processed == n
    return spent


async def pipeline(runtime: RingKernelRuntime, n: int) -> float:
    await started(runtime, "first", "second", "sink")
    requests = [Request("x") for _ in range(n)]
    begun = clock()
    for request in requests:
        await runtime.send("first", request)
    await runtime.wait_idle()
    spent = (clock() - begun) / n
    assert runtime["sink"].statistics().processed == n
    return spent


async def create(kernels: int) -> tuple[float, float]:
    """Microseconds and bytes for each launched and active kernel."""
    async with RingKernelRuntime("current") as runtime:
        begun = clock()
        for i in range(kernels):
            name = f"echo-{i}"
            await runtime.launch("echo", kernel_id=name)
            await runtime.activate(name)
        await asyncio.sleep(0)
        spent = (clock() - begun) / kernels / 1000
    async with RingKernelRuntime("current") as runtime:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(kernels):
            name = f"echo-{i}"
            await runtime.launch("echo", kernel_id=name)
            await runtime.activate(name)
        await asyncio.sleep(0)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return spent, grown / kernels


async def sampling(kernels: int, seconds: float, busy: bool) -> float:
    """Per cent of a core that sampling so many kernels at 10 Hz takes: CPU time of the sampler's thread."""
    used: list[float] = []

    async with RingKernelRuntime("current") as runtime:
        for i in range(kernels):
            await runtime.launch("sink", kernel_id=f"sink-{i}")
            await runtime.activate(f"sink-{i}")
        done = threading.Event()
        frames = max(int(seconds * 10), 2)

        def listen(frame: Any) -> None:
            used.append(time.thread_time())
            if len(used) > frames:
                done.set()

        begun = clock()
        runtime.sampler.listen(listen, 10)
        while not done.is_set():
            if busy:  # every kernel handles a message between two frames
                for i in range(kernels):
                    await runtime.send(f"sink-{i}", Request("x"))
            await asyncio.sleep(0.09)
        elapsed = (clock() - begun) / 1e9
        runtime.sampler.ignore(listen)
    return 100 * (used[-1] - used[0]) / elapsed


# -- a caller in a notebook: another thread than the runtime's ---------------------------------------------------------


def rounds_of_asyncio(function: Callable[..., Any], n: int) -> float:
    return asyncio.run(function(n))  # type: ignore[no-any-return]


def on_loop(mode: Any, function: Callable[..., Any], n: int, *args: Any) -> float:
    async def go() -> Any:
        async with RingKernelRuntime(mode) as runtime:
            return await function(runtime, n, *args)

    return asyncio.run(go())  # type: ignore[no-any-return]


def import_times(code: str) -> float:
    """Milliseconds that a fresh interpreter takes from its first statement to its last; the least of five."""
    script = f"import time; t = time.perf_counter()\n{code}\nprint(time.perf_counter() - t)"
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # the first run compiles, for both sides
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
        for _ in range(5)
    ]
    return min(float(run.stdout) for run in runs) * 1000


PUBLIC = "from pydotcompute import KernelContext, RingKernelRuntime, UnifiedBuffer, message, ring_kernel"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each row (default 7)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, three rounds")
    options = parser.parse_args()
    scale, rounds = (0.1, 3) if options.quick else (1.0, options.rounds)
    n, m = int(10_000 * scale), int(50_000 * scale)
    rows: dict[str, Callable[[], float]] = {
        "queue pair": lambda: rounds_of_asyncio(queue_ask, n),
        "ask": lambda: on_loop("current", ask, n),
        "ask, timeout=5": lambda: on_loop("current", ask, n, 5.0),
        "queue put, get": lambda: rounds_of_asyncio(queue_send, m),
        "send": lambda: on_loop("current", send, m),
        "send_many by 256": lambda: on_loop("current", send_many, m),
        "three queues": lambda: rounds_of_asyncio(queue_pipeline, m // 2),
        "three kernels": lambda: on_loop("current", pipeline, m // 2),
        "ask from a notebook": lambda: on_loop("thread", ask, n // 10),
        "send from a notebook": lambda: on_loop("thread", send, m // 50),
        "send_many from a notebook": lambda: on_loop("thread", send_many, m),
        "three kernels from a notebook": lambda: on_loop("thread", pipeline, m // 50),
    }
    beside = {
        "ask": "queue pair",
        "ask, timeout=5": "queue pair",
        "send": "queue put, get",
        "send_many by 256": "queue put, get",
        "three kernels": "three queues",
        "ask from a notebook": "queue pair",
        "send from a notebook": "queue put, get",
        "send_many from a notebook": "queue put, get",
        "three kernels from a notebook": "three queues",
    }
    runs: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, row in rows.items():
            runs[name].append(row())
    figures = {name: statistics.median(values) for name, values in runs.items()}
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, median of {rounds} rounds\n")
    print(f"{'':32}{'ns':>10}{'time ×':>10}{'rate ×':>10}   beside")
    for name, value in figures.items():
        base = beside.get(name)
        ratio = f"{value / figures[base]:10.2f}{figures[base] / value:10.2f}   {base}" if base else ""
        print(f"{name:32}{value:10,.0f}{ratio}")
    creation = [asyncio.run(create(1000)) for _ in range(rounds)]
    figures["create: µs a kernel"] = statistics.median(time for time, _ in creation)
    figures["create: bytes a kernel"] = statistics.median(size for _, size in creation)
    seconds = 1.0 if options.quick else 3.0
    figures["sampler: % of a core, 1,000 idle kernels, 10 Hz"] = asyncio.run(sampling(1000, seconds, busy=False))
    figures["sampler: % of a core, 1,000 busy kernels, 10 Hz"] = asyncio.run(sampling(1000, seconds, busy=True))
    figures["import: asyncio, numpy, msgpack, ms"] = base_import = import_times("import asyncio, numpy, msgpack")
    figures["import: pydotcompute's public names, ms"] = own_import = import_times(PUBLIC)
    figures["import: ratio"] = own_import / base_import
    print()
    for name, value in list(figures.items())[len(rows) :]:
        print(f"{name:52}{value:10,.2f}")
    if options.json:
        ratios = {name: figures[name] / figures[base] for name, base in beside.items()}
        options.json.write_text(
            json.dumps({"python": platform.python_version(), "figures": figures, "time_ratios": ratios}, indent=1)
        )


if __name__ == "__main__":
    main()
