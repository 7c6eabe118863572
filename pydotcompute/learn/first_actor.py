"""Exercises of the tutorial "A first actor"."""

from __future__ import annotations

from typing import Any

from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import launched, reply, some_kernel


@exercise(
    "first_actor.1",
    hints=(
        "The body handles one message in each turn of `async for text in ctx:`; what it answers goes to `ctx.send`.",
        "A text can be sliced like a list, also with a step that goes backwards: `word[start:end:step]`.",
    ),
    solution="""
        @ring_kernel
        async def backwards(ctx):
            async for text in ctx:
                await ctx.send(text[::-1])
    """,
    after="Whoever asked gets that reply, and no other: each question has an id, and its reply carries it.",
)
async def backwards(runtime: RingKernelRuntime, backwards: Any) -> None:
    """Answers every text with the same text backwards."""
    kernel = await launched(runtime, backwards)
    for text in ("ring", "kernel", ""):
        answer = await reply(kernel, text)
        if answer != text[::-1]:
            raise Wrong(f"Asked {text!r}, it answers {answer!r}, not {text[::-1]!r}.")


@exercise(
    "first_actor.2",
    hints=(
        "What the body knows between two messages can be a local variable that is made before the loop.",
        "Compare with `counter`: what is made once there, before the loop, and what is done again with each message?",
    ),
    solution="""
        @ring_kernel
        async def summing(ctx):
            total = 0
            async for number in ctx:
                total += number
                await ctx.send(total)
    """,
    after="Nobody else can see `total`: that is why no lock is needed, however many send to it.",
)
async def summing(runtime: RingKernelRuntime, summing: Any) -> None:
    """Answers every number with the sum of all numbers so far."""
    definition = some_kernel(summing)
    first = await launched(runtime, definition, "summing")
    total = 0
    for number in (3, 4, -10, 0):
        total += number
        answer = await reply(first, number)
        if isinstance(answer, str):
            raise Wrong(f"After the numbers so far, it answers the text {answer!r}, and not the number {total}.")
        if answer != total:
            raise Wrong(f"After the numbers so far, whose sum is {total}, it answers {answer!r}.")
    second = await launched(runtime, definition, "another summing")
    answer = await reply(second, 5)
    if answer != 5:
        raise Wrong(
            f"Two ring kernels were made of your body, and the second answers its first number, 5, with {answer!r}: "
            f"what it adds to stands outside of the body, where all share it."
        )
