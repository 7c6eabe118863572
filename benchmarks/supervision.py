"""What it costs to look into ring kernels and to supervise them, beside the same work without.

    python benchmarks/supervision.py [--json FILE] [--rounds N] [--quick]

All rows are run in turn, `--rounds` times; the median is printed. Machines are noisy: trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from _machine import machine

from pydotcompute import KernelContext, Observer, RingKernelRuntime, message
from pydotcompute.runtime import RingKernel, definition_of

clock = time.perf_counter_ns

Look = Callable[[RingKernelRuntime], AbstractContextManager[Any]]


@message
class Number:
    n: int


async def echo(ctx: KernelContext[Number, Number]) -> None:
    async for msg in ctx:
        await ctx.send(msg)


async def sink(ctx: KernelContext[Number, Number]) -> None:
    async for _ in ctx:
        pass


@asynccontextmanager
async def running(body: Any, **options: Any) -> AsyncIterator[RingKernel]:
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch(definition_of(body, kernel_id="it", **options))
        await kernel.activate()
        yield kernel


async def ask(n: int, look: Look, **options: Any) -> float:
    """Median µs of an ask."""
    async with running(echo, **options) as kernel:
        times = []
        with look(kernel.runtime):
            for i in range(n):
                begun = clock()
                await kernel.ask(Number(i))
                times.append(clock() - begun)
        return statistics.median(times) / 1e3


async def send(n: int, look: Look, **options: Any) -> float:
    """Mean µs of a message, from the first send until the last is handled."""
    async with running(sink, **options) as kernel:
        messages = [Number(i) for i in range(n)]
        with look(kernel.runtime):
            begun = clock()
            for msg in messages:
                await kernel.send(msg)
            await kernel.runtime.wait_idle()
            return (clock() - begun) / n / 1e3


async def restart(n: int, keep_state: bool) -> float:
    """Median µs from a failure to the first line of the next body."""
    failed, begun = [], []

    async def explode(ctx: KernelContext[Number, Number]) -> None:
        begun.append(clock())
        async for _ in ctx:
            failed.append(clock())
            raise ValueError

    options: dict[str, Any] = {"restart": "on_failure", "max_restarts": n + 1, "backoff": None}
    async with running(explode, keep_state=keep_state, **options) as kernel:
        for i in range(n):
            await kernel.send(Number(i))
        await kernel.runtime.wait_idle()
    return statistics.median(b - f for f, b in zip(failed, begun[1:], strict=False)) / 1e3


class Nothing(Observer):
    """An observer that does nothing: what is left is the way that messages take while somebody looks."""


class observed:  # noqa: N801 - used like a function
    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime, self._observer = runtime, Nothing()

    def __enter__(self) -> None:
        self._runtime.observe(self._observer)

    def __exit__(self, *_: object) -> None:
        self._runtime.unobserve(self._observer)


EVENTS = {"ask": 5, "send": 4}
"""Of one message, in a trace: send, enqueue, start, reply (of an ask), end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    options = parser.parse_args()
    n = 2_000 if options.quick else 20_000
    logging.getLogger("pydotcompute").addHandler(logging.NullHandler())
    logging.getLogger("pydotcompute").propagate = False
    folder = tempfile.TemporaryDirectory()
    logs = (Path(folder.name) / f"{i}.log" for i in range(10**6))

    rows: dict[str, Callable[[], Coroutine[Any, Any, float]]] = {}
    for name, act in (("ask", ask), ("send", send)):
        rows[f"{name}"] = lambda act=act: act(n, unseen)
        rows[f"{name}, on_failure"] = lambda act=act: act(n, unseen, restart="on_failure", max_retries=3)
        rows[f"{name}, after a trace"] = lambda act=act: act(n, traced_before)
        rows[f"{name}, observed"] = lambda act=act: act(n, observed)
        rows[f"{name}, traced"] = lambda act=act: act(n, lambda runtime: runtime.trace())
        rows[f"{name}, recorded"] = lambda act=act: act(n, lambda runtime: runtime.record(next(logs)))
    rows["restart, fresh state"] = lambda: restart(n // 20, False)
    rows["restart, kept state"] = lambda: restart(n // 20, True)

    figures: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(options.rounds):
        for row, run in rows.items():
            figures[row].append(asyncio.run(run()))
    folder.cleanup()
    medians = {row: statistics.median(figure) for row, figure in figures.items()}
    print(f"{'µs, median of ' + str(options.rounds) + ' rounds':28} {'µs':>8} {'ratio':>7}  {'µs an event':>11}")
    for row, median in medians.items():
        base = row.partition(",")[0]
        ratio = f"{median / medians[base]:7.2f}" if base in medians else " " * 7
        each = f"{(median - medians[base]) / EVENTS[base]:11.2f}" if row.endswith("traced") else ""
        print(f"{row:28} {median:8.2f} {ratio}  {each}")
    if options.json:
        text = {"machine": machine(), "rounds": options.rounds, "messages": n, "microseconds": medians}
        options.json.write_text(json.dumps(text, indent=1) + "\n")


def unseen(_: RingKernelRuntime) -> AbstractContextManager[Any]:
    """Nobody looks."""
    return nullcontext()


def traced_before(runtime: RingKernelRuntime) -> AbstractContextManager[Any]:
    """Somebody has looked, and does so no more."""
    with runtime.trace():
        pass
    return nullcontext()


if __name__ == "__main__":
    main()
