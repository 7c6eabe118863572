"""Exercises of the tutorial "Coming from .NET DotCompute"."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from ..runtime import RingKernelRuntime, ring_kernel
from . import Wrong, exercise
from ._trial import launched, reply, some_kernel


@exercise(
    "from_dotnet.1",
    hints=(
        "Local variables before the loop, as in C#; `while not ctx.should_terminate:` or `async for sample in ctx:`.",
        "`ReceiveAsync` is `await ctx.receive()`, `SendAsync` is `await ctx.send(...)`.",
    ),
    solution="""
        @message
        class Sample:
            sensor: int
            value: float


        @ring_kernel(kernel_id="average")
        async def average(ctx: KernelContext[Sample, float]):
            total, n = 0.0, 0
            async for sample in ctx:
                total += sample.value
                n += 1
                await ctx.send(total / n)
    """,
)
async def average(runtime: RingKernelRuntime, average: Any, Sample: Any) -> None:  # noqa: N803
    """The running mean."""
    kernel = await launched(runtime, some_kernel(average))
    values: list[float] = []
    for value in (1.0, 2.0, 6.0, -1.0):
        values.append(value)
        expected = sum(values) / len(values)
        answer = await reply(kernel, Sample(0, value))
        if not isinstance(answer, int | float) or abs(answer - expected) > 1e-9:
            raise Wrong(f"After {values} it answers {answer!r}, not {expected:g}.")
    await kernel.terminate()


@exercise(
    "from_dotnet.2",
    hints=(
        "There is a word for send-and-wait which finds the answer to this very message.",
        "`answer = await runtime.ask(kernel_id, Sample(sensor, value))`, and its `value`.",
    ),
    solution="""
        @message
        class Sample:
            sensor: int
            value: float


        async def doubled(runtime, kernel_id, sensor, value):
            answer = await runtime.ask(kernel_id, Sample(sensor, value))
            return answer.value
    """,
    after="Each question has an id, and its reply carries it, so nothing can be swapped.",
)
async def doubled(runtime: RingKernelRuntime, doubled: Any, Sample: Any) -> None:  # noqa: N803
    """An ask, by many at the same time."""
    if not inspect.iscoroutinefunction(doubled):
        raise Wrong("A coroutine is wanted: `async def doubled(runtime, kernel_id, sensor, value):`.")

    async def gain(ctx: Any) -> None:
        pending: set[asyncio.Task[None]] = set()

        async def answer(sample: Any) -> None:
            await asyncio.sleep(0.002 * (sample.sensor % 5))  # the last come first
            await ctx.send(sample.reply(Sample, sensor=sample.sensor, value=2 * sample.value))

        async for sample in ctx:
            pending.add(asyncio.create_task(answer(sample)))

    kernel = await launched(runtime, ring_kernel("gain")(gain), "gain")
    values = [float(n) for n in range(20)]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(doubled(runtime, kernel.id, int(9 - n % 10), n) for n in values))
    for value, answer in zip(values, answers, strict=True):
        if answer != 2 * value:
            raise Wrong(f"Called 20 times at once, the caller with {value:g} got {answer!r}, not {2 * value:g}.")
