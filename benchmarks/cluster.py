"""What ring kernels on another node cost, beside plain Ray with the same frames, and beside ring kernels here.

    python benchmarks/cluster.py [--json FILE] [--rounds N] [--quick]

A Ray on this machine; the node is another process. All rows run in turn, `--rounds` times, and medians are printed;
trust the ratios. Plain Ray is an async actor that gets frames of 4,096 encoded messages, four of them on the way, and
decodes each message; with records it looks at the array. Both are given the same list of messages: those that are made
and dropped one by one cost half as much to encode, as their memory is used again and the garbage collector finds none.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from _machine import machine

from pydotcompute import KernelContext, RingKernelRuntime, decode, encode, message, ring_kernel
from pydotcompute.cluster import wire
from pydotcompute.messages.codec import also_from
from pydotcompute.telemetry.clock import process_clock

clock = time.perf_counter
FRAME, WINDOW = wire.FRAME, wire.FRAMES


@message
class Number:
    n: int


@message
class Sample:
    n: np.int64
    value: np.float64


@ring_kernel("sink", queue_size=4 * FRAME * WINDOW)
async def sink(ctx: KernelContext[Number, None]) -> None:
    async for _ in ctx:
        pass


@ring_kernel("echo", queue_size=4 * FRAME * WINDOW)
async def echo(ctx: KernelContext[Number, Number]) -> None:
    async for number in ctx:
        await ctx.send(number)


@ring_kernel("step", queue_size=4 * FRAME * WINDOW)
def step(state: None, msg: Sample, out: None) -> bool:
    return False


class Plain:
    """What plain Ray does with the same frames."""

    def __init__(self, cls: type, dtype: np.dtype[np.void]) -> None:
        also_from(cls, cls.__module__)  # what decodes knows it
        self.dtype = dtype
        self.n = 0

    async def messages(self, data: bytes) -> int:
        _, items, _ = wire.unpacked(data, wire.TO_HOST)
        for blob in items[0][3]:
            decode(blob)
            self.n += 1
        return self.n

    async def records(self, data: bytes) -> int:
        _, items, _ = wire.unpacked(data, wire.TO_HOST)
        self.n += len(np.frombuffer(items[0][4], self.dtype))
        return self.n

    async def pid(self) -> int:
        return os.getpid()


def _memory(pid: int | None) -> int:
    """Bytes of a process that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def packed(item: list[Any]) -> bytes:
    """A frame of one item, as ring kernels send it."""
    return wire.packed(1, [item], wire.TO_HOST, process_clock().tick())[0]


async def windowed(call: Callable[[bytes], Awaitable[Any]], frames: Callable[[int], bytes], n: int) -> None:
    flying: deque[asyncio.Future[Any]] = deque()
    for i in range(-(-n // FRAME)):
        while len(flying) >= WINDOW:
            await flying.popleft()
        flying.append(asyncio.ensure_future(call(frames(i))))
        await asyncio.sleep(0)
    while flying:
        await flying.popleft()


async def rate(work: Awaitable[Any], n: int) -> float:
    """Things a second."""
    gc.collect()
    begun = clock()
    await work
    return n / (clock() - begun)


async def ask_p50(runtime: RingKernelRuntime, kernel_id: str, n: int) -> float:
    """Microseconds."""
    times = []
    for i in range(n):
        begun = clock()
        await runtime.ask(kernel_id, Number(i))
        times.append(clock() - begun)
    return statistics.median(times) * 1e6


async def measured(options: argparse.Namespace) -> dict[str, list[float]]:
    part = 10 if options.quick else 1
    n, batch, asks = 100_000 // part, 2_000_000 // part, 200_000 // part
    records = np.zeros(batch, Sample.dtype)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    begun = clock()
    async with RingKernelRuntime("current", cluster="ray", nodes=1) as there, RingKernelRuntime("current") as here:
        await there.join()
        note("seconds until the cluster is there", clock() - begun)
        plain = ray.remote(Plain).options(num_cpus=0, max_concurrency=100).remote(Number, Sample.dtype)
        for name in ("sink", "echo", "step"):
            await there.launch(name, node="node-1")
        for runtime in (there, here):
            await runtime.launch("echo", kernel_id="echo here")
            await runtime.launch("sink", kernel_id="sink here")
        for runtime in (there, here):
            for kernel in runtime.kernels.values():
                await kernel.activate()
        await there.send_batch("step", records[:1000])
        await there.ask("echo", Number(0))
        await there.wait_idle()
        note("private memory of a host, MiB", _memory(there.nodes["node-1"].pid) / 2**20)
        note("private memory of a plain actor, MiB", _memory(await plain.pid.remote()) / 2**20)

        async def one_way() -> None:
            await there.send_many("sink", [Number(i) for i in range(n)])
            await there.wait_idle("sink")

        async def plain_one_way() -> None:
            messages = [Number(i) for i in range(n)]

            def frame(i: int) -> bytes:
                blobs = [encode(one) for one in messages[i * FRAME : (i + 1) * FRAME]]
                return packed(["messages", 1, 1, blobs, [], None])

            await windowed(lambda data: plain.messages.remote(data), frame, n)

        async def batches() -> None:
            await there.send_batch("step", records)
            await there.wait_idle("step")

        async def plain_batches() -> None:
            def frame(i: int) -> bytes:
                some = records[i * FRAME : (i + 1) * FRAME]
                return packed(["records", 1, 1, len(some), some.tobytes(), -1])

            await windowed(lambda data: plain.records.remote(data), frame, batch)

        async def many_asks() -> None:
            await asyncio.gather(*(there.ask("echo", Number(i)) for i in range(n // 5)))

        async def asks_of(runtime: RingKernelRuntime) -> None:
            for i in range(asks):
                await runtime.ask("echo here", Number(i))

        async def sends_of(runtime: RingKernelRuntime) -> None:
            for i in range(asks):
                await runtime.send("sink here", Number(i))
            await runtime.wait_idle("sink here")

        for _ in range(options.rounds):
            note("async, send_many, messages/s", await rate(one_way(), n))
            note("plain Ray, messages/s", await rate(plain_one_way(), n))
            note("compiled, send_batch, messages/s", await rate(batches(), batch))
            note("plain Ray, records/s", await rate(plain_batches(), batch))
            note("asks at once, asks/s", await rate(many_asks(), n // 5))
            note("ask p50, µs", await ask_p50(there, "echo", 300))
            for name, work in (("ask", asks_of), ("send", sends_of)):
                note(f"{name} here, µs", 1e6 / await rate(work(here), asks))
                note(f"{name} here, runtime with a cluster, µs", 1e6 / await rate(work(there), asks))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    all_figures = asyncio.run(measured(options))
    figures = {name: statistics.median(values) for name, values in all_figures.items()}
    for name, figure in figures.items():
        print(f"{name:<58}{figure:>14,.2f}")
    bounds: list[tuple[str, float, str, float]] = [
        ("async, messages/s", figures["async, send_many, messages/s"], "≥", 60_000),
        ("compiled, messages/s", figures["compiled, send_batch, messages/s"], "≥", 200_000),
        (
            "async: time ÷ that of plain Ray",
            figures["plain Ray, messages/s"] / figures["async, send_many, messages/s"],
            "≤",
            1.3,
        ),
        (
            "compiled: time ÷ that of plain Ray",
            figures["plain Ray, records/s"] / figures["compiled, send_batch, messages/s"],
            "≤",
            1.3,
        ),
    ]
    for name in ("ask", "send"):
        ratio = figures[f"{name} here, runtime with a cluster, µs"] / figures[f"{name} here, µs"]
        bounds.append((f"{name} here: with a cluster ÷ without", ratio, "≤", 1.05))
    print()
    for name, figure, sign, bound in bounds:
        well = figure >= bound if sign == "≥" else figure <= bound
        print(f"{name:<58}{figure:>14,.2f}  {sign} {bound:<10,g}{'ok' if well else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "figures": all_figures}, indent=1))


if __name__ == "__main__":
    main()
