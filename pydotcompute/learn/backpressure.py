"""Exercises of the tutorial "Back-pressure"."""

from __future__ import annotations

import asyncio
from typing import Any

from ..exceptions import PyDotComputeError
from ..runtime import RingKernelRuntime
from ..runtime.dead_letters import error_text
from ..runtime.mailbox import STRATEGIES
from . import Wrong, exercise
from ._trial import launched, some_kernel


@exercise(
    "backpressure.1",
    hints=(
        "Ask of each: may the sender wait? And if not: may a message be lost, and which one would you rather keep?",
        "Read the table from the side of the sender: what does he notice of a full mailbox, with each of the four?",
    ),
    solution="""
        screen, bank, web = "drop_oldest", "block", "reject"
    """,
    after="There is no best one: it depends on who may wait, and on what a message is worth when it is old.",
)
def choice(screen: Any, bank: Any, web: Any) -> None:
    """Which strategy fits."""
    for name, answer in (("screen", screen), ("bank", bank), ("web", web)):
        if answer not in STRATEGIES:
            raise Wrong(f"{name}: there is no strategy {answer!r}; there are {', '.join(map(repr, STRATEGIES))}.")
    if screen == "drop_newest":
        raise Wrong("screen: the robot has moved on, and the screen shows where it was when the mailbox filled up.")
    if screen != "drop_oldest":
        raise Wrong("screen: the robot does not stop to wait for its picture, and has no use for an error.")
    if bank in ("drop_oldest", "drop_newest"):
        raise Wrong("bank: somebody's money is gone (though the dead letters know whose).")
    if bank != "block":
        raise Wrong("bank: that works if the reader of the file tries again; but it can simply wait.")
    if web != "reject":
        raise Wrong("web: the customer is to be told at once. Which strategy tells the sender?")


@exercise(
    "backpressure.2",
    hints=(
        "`queue_size=` says how many messages the mailbox holds, `backpressure=` what goes when it is full.",
        "How many messages may wait, if only one counts? And which row of the table keeps the last one?",
    ),
    solution="""
        class Seen:
            def __init__(self):
                self.seen = []


        @ring_kernel(queue_size=1, backpressure="drop_oldest", state=Seen)
        async def latest(ctx):
            async for value in ctx:
                ctx.state.seen.append(value)
    """,
    after="A mailbox of one that drops what is old is a variable with a bell: the newest value, and a reader woken.",
)
async def latest(runtime: RingKernelRuntime, latest: Any) -> None:
    """A mailbox that keeps the newest message."""
    kernel = await launched(runtime, some_kernel(latest))
    await kernel.deactivate()
    for value in range(5):
        try:
            await asyncio.wait_for(kernel.send(value), 0.5)
        except (PyDotComputeError, TimeoutError) as error:
            why = "is refused" if isinstance(error, PyDotComputeError) else "has to wait for room"
            raise Wrong(f"It was paused and had got {value}: one more {why}.") from error
    await kernel.reactivate()
    await runtime.wait_idle(kernel.id, timeout=5)
    seen = getattr(kernel.user_state, "seen", None)
    if seen is None:
        raise Wrong("It has no `ctx.state.seen`: write `state=Seen` in the decorator.")
    if kernel.exception is not None:
        raise Wrong(f"It failed: {error_text(kernel.exception)}.")
    if seen != [4]:
        raise Wrong(
            f"It was paused, got 0, 1, 2, 3 and 4, and then went on: `ctx.state.seen` is {seen}, and [4] was expected."
        )
    if kernel.state.over:
        raise Wrong("It has handled one message and ended: a loop, `async for ... in ctx:`, takes every message.")
    if kernel.statistics().replied:
        raise Wrong("It answers the messages: nobody asked for that.")
    await kernel.send(5)
    await runtime.wait_idle(kernel.id, timeout=5)
    if (seen := getattr(kernel.user_state, "seen", None)) != [4, 5]:
        raise Wrong(f"It handled 4, and later 5: `ctx.state.seen` is {seen}, and each is to be noted, [4, 5].")
