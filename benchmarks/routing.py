"""What routers and topics cost per message, beside sending straight to one kernel in the same run.

    python benchmarks/routing.py [--json FILE] [--rounds N] [--quick]

Every row sends the same messages, as many at a time as fit the mailboxes: `send` is the time that they take until they
are in there, `all` that until they have been handled. It is CPU time of the thread that does all of it. All rows are
run in turn, `--rounds` times, and medians are printed; trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel

clock = time.thread_time_ns  # all rows run in this thread alone, and machines have others to run

POOL, BATCH = 4, 500


@message
class Request:
    data: int


@message
class Other:
    data: int


@ring_kernel(kernel_id="sink")
async def sink(ctx: KernelContext[Request, None]) -> None:
    async for _ in ctx:
        pass


@ring_kernel(kernel_id="source")
async def source(ctx: KernelContext[Request, Request]) -> None:
    async for request in ctx:
        await ctx.send(request)


Send = Callable[[Request], Awaitable[Any]]
Row = Callable[[RingKernelRuntime], Awaitable[Send]]


async def timed(row: Row, n: int) -> tuple[float, float]:
    """Nanoseconds a message: until it is in a mailbox, and until it is handled."""
    async with RingKernelRuntime("current") as runtime:
        send = await row(runtime)
        for _ in range(100):
            await send(Request(0))
        await runtime.wait_idle()
        sending = handling = 0
        for start in range(0, n, BATCH):
            requests = [Request(start + i) for i in range(BATCH)]
            begun = clock()
            for request in requests:
                await send(request)
            sent = clock()
            await runtime.wait_idle()
            sending += sent - begun
            handling += clock() - begun
        return sending / n, handling / n


async def started(runtime: RingKernelRuntime, *kernel_ids: str) -> None:
    for kernel_id in kernel_ids:
        await runtime.launch("source" if kernel_id.startswith("source") else "sink", kernel_id=kernel_id)
        await runtime.activate(kernel_id)


async def direct(runtime: RingKernelRuntime) -> Send:
    await started(runtime, "one")
    return lambda request: runtime.send("one", request)


def by_router(strategy: Any, by_id: bool = False, keys: int = 100) -> Row:
    async def row(runtime: RingKernelRuntime) -> Send:
        key = (lambda request: request.data % keys) if strategy == "hash" else None
        pool = await runtime.router("pool", "sink", size=POOL, strategy=strategy, key=key)
        return (lambda request: runtime.send("pool", request)) if by_id else pool.send

    return row


def by_topic(patterns: int) -> Row:
    """One of so many patterns matches."""

    async def row(runtime: RingKernelRuntime) -> Send:
        await started(runtime, "one", "two")
        await runtime.subscribe("sensors.*.temperature", "one")
        for i in range(patterns - 1):
            await runtime.subscribe(f"sensors.*.other-{i}" if i % 2 else f"sensors.place-{i}.#", "two")
        return lambda request: runtime.publish("sensors.berlin.temperature", request)

    return row


def by_new_topics(patterns: int) -> Row:
    """The same, with a topic for each message that was not published to before."""

    async def row(runtime: RingKernelRuntime) -> Send:
        await by_topic(patterns)(runtime)
        return lambda request: runtime.publish(f"sensors.{request.data}-{id(request)}.temperature", request)

    return row


async def by_topic_to_several(runtime: RingKernelRuntime) -> Send:
    names = [f"sink-{i}" for i in range(POOL)]
    await started(runtime, *names)
    for name in names:
        await runtime.subscribe("t", name)
    return lambda request: runtime.publish("t", request)


async def directly_to_several(runtime: RingKernelRuntime) -> Send:
    names = [f"sink-{i}" for i in range(POOL)]
    await started(runtime, *names)

    async def send(request: Request) -> None:
        for name in names:
            await runtime.send(name, request)

    return send


def connected(targets: int) -> Row:
    async def row(runtime: RingKernelRuntime) -> Send:
        names = [f"sink-{i}" for i in range(targets)]
        await started(runtime, "source", *names)
        await runtime.connect("source", *names)
        return lambda request: runtime.send("source", request)

    return row


SEND, SEVERAL, CHAIN = "send", f"send to {POOL} in turn", "connect to 1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each row (default 7)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the messages, three rounds")
    options = parser.parse_args()
    n, rounds = (4_000, 3) if options.quick else (20_000, options.rounds)
    rows: dict[str, tuple[Row, str | None]] = {
        SEND: (direct, None),
        "router, round_robin": (by_router("round_robin"), SEND),
        "router, round_robin, by its id": (by_router("round_robin", by_id=True), SEND),
        "router, least_queue": (by_router("least_queue"), SEND),
        "router, hash of 100 keys": (by_router("hash"), SEND),
        "router, hash of new keys": (by_router("hash", keys=1 << 62), SEND),
        "publish, 1 pattern": (by_topic(1), SEND),
        "publish, 10 patterns": (by_topic(10), SEND),
        "publish, 1,000 patterns": (by_topic(1000), SEND),
        "publish, 1,000 patterns, new topics": (by_new_topics(1000), SEND),
        SEVERAL: (directly_to_several, None),
        f"router, broadcast to {POOL}": (by_router("broadcast"), SEVERAL),
        f"publish to {POOL}": (by_topic_to_several, SEVERAL),
        CHAIN: (connected(1), None),
        f"connect to {POOL}": (connected(POOL), CHAIN),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (row, _) in rows.items():
            runs[name].append(asyncio.run(timed(row, n)))
    figures = {
        name: {"send": statistics.median(s for s, _ in times), "all": statistics.median(a for _, a in times)}
        for name, times in runs.items()
    }
    # Of one round, what was measured one after the other is compared.
    ratios = {
        name: {
            column: statistics.median(a[i] / b[i] for a, b in zip(runs[name], runs[base], strict=True))
            for i, column in enumerate(("send", "all"))
        }
        for name, (_, base) in rows.items()
        if base is not None
    }
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, median of {rounds} rounds\n")
    print(f"{'ns a message':38}{'send':>8}{'all':>8}{'send ×':>9}{'all ×':>8}   beside")
    for name, figure in figures.items():
        text = f"{name:38}{figure['send']:8,.0f}{figure['all']:8,.0f}"
        if name in ratios:
            text += f"{ratios[name]['send']:9.2f}{ratios[name]['all']:8.2f}   {rows[name][1]}"
        print(text)
    if options.json:
        options.json.write_text(
            json.dumps({"python": platform.python_version(), "figures": figures, "ratios": ratios}, indent=1)
        )


if __name__ == "__main__":
    main()
