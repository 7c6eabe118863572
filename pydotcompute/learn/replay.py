"""Exercises of the tutorial "Record and replay"."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..runtime import RingKernelRuntime, ring_kernel
from . import Wrong, exercise
from ._trial import launched, reply, some_kernel

THROWS = 40
"""So many throws are the same by chance once in 6 to the 40th."""


@exercise(
    "replay.1",
    hints=(
        "`@ring_kernel(state=Generator)` makes the state anew whenever the ring kernel starts afresh.",
        "In the body: `await ctx.send(ctx.state.generator.randint(1, 6))`.",
    ),
    solution="""
        import random


        class Generator:
            def __init__(self):
                self.generator = random.Random(1)


        @ring_kernel(state=Generator)
        async def seeded(ctx):
            async for _ in ctx:
                await ctx.send(ctx.state.generator.randint(1, 6))
    """,
    after="Pseudo-random is good enough to gamble with a test, and repeatable.",
)
async def seeded(runtime: RingKernelRuntime, seeded: Any) -> None:
    """Throws that can be repeated."""
    kernel = await launched(runtime, some_kernel(seeded))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dice.pdclog"
        throws = []
        with runtime.record(path):
            for _ in range(THROWS):
                throws.append(await reply(kernel, "throw"))
        if strange := [throw for throw in throws if throw not in range(1, 7)]:
            raise Wrong(f"It throws {strange[0]!r}: a die has 1 to 6.")
        if len(set(throws)) < 3:
            raise Wrong(f"In {THROWS} throws there were only {sorted(set(throws))}: that is no die.")
        await runtime.restart(kernel.id)
        replay = await runtime.replay(path)
    if not replay:
        raise Wrong(
            f"Replayed, {len(replay.differences)} of {THROWS} throws are others: where does the generator begin when "
            f"the ring kernel starts afresh?"
        )


@exercise(
    "replay.2",
    hints=(
        "First collect the numbers of the messages to that ring kernel, then count the ends with such a number.",
        "Go through `read_log(path)` twice: it can be read again and again.",
    ),
    solution="""
        from pydotcompute import read_log


        def handled(path, kernel_id):
            numbers = {
                entry.number
                for entry in read_log(path)
                if type(entry).__name__ == "RecordedMessage" and entry.kernel_id == kernel_id
            }
            return sum(type(entry).__name__ == "RecordedEnd" and entry.number in numbers for entry in read_log(path))
    """,
)
async def handled(runtime: RingKernelRuntime, handled: Any) -> None:
    """Counts what was handled to the end."""
    if not callable(handled):
        raise Wrong(f"A function is wanted, not {type(handled).__name__}.")

    async def picky(ctx: Any) -> None:
        async for number in ctx:
            if number < 0:
                raise ValueError("a negative number")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picky.pdclog"
        with runtime.record(path):
            for kernel_id, numbers in (("a", (1, 2, 3)), ("b", (1, 2, 3, 4, 5))):
                kernel = await launched(runtime, ring_kernel(kernel_id, restart="on_failure")(picky), kernel_id)
                for number in numbers:
                    await kernel.send(number)
            await runtime.send("a", -1)
            await runtime.wait_idle("a", "b", timeout=5)
        for kernel_id, expected in (("a", 3), ("b", 5)):
            found = handled(path, kernel_id)
            if found != expected:
                more = " (Another one made it fail.)" if kernel_id == "a" else ""
                raise Wrong(f"{kernel_id!r} has handled {expected} messages to the end, not {found!r}.{more}")
