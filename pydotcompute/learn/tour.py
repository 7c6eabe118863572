"""Exercises of the tour."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..exceptions import KernelNotFoundError, PyDotComputeError
from ..runtime import RingKernelDefinition, RingKernelRuntime
from ..runtime.dead_letters import error_text
from . import Wrong, exercise
from ._trial import launched, some_kernel

_SPREADS = (0.5, 3.5, 3.0, -2.5, 4.0, -3.1, -3.0, 2.5, -8.0, 8.0)


@dataclass
class _Deviation:
    time: datetime
    celsius: float
    expected: float
    spreads: float


@exercise(
    "tour.1",
    hints=(
        "Compare with the `alarm` of the tour, line by line: what is to be different, and what is not?",
        "`abs(deviation.spreads)` is how far it is from what was expected, to either side. The reply is `deviation`.",
    ),
    solution="""
        @message
        class Deviation:
            time: datetime
            celsius: float
            expected: float
            spreads: float


        @ring_kernel
        async def finer(ctx: KernelContext[Deviation, Deviation]):
            async for deviation in ctx:
                if abs(deviation.spreads) > 3:
                    await ctx.send(deviation)
    """,
    after="Whatever sends deviations to it need not know of the new limit.",
)
async def finer(runtime: RingKernelRuntime, finer: Any) -> None:
    """Replies with what is more than 3 spreads away, to either side."""
    definition = some_kernel(finer)
    taken: Any = _Deviation if object in definition.input_types else definition.input_types[0]
    try:
        deviations = [taken(datetime(2013, 7, 1, hour), 20 + 2 * n, 20, n) for hour, n in enumerate(_SPREADS)]
    except TypeError:
        raise Wrong(f"It takes {taken.__name__}, and it is sent deviations: `KernelContext[Deviation, ...]`.") from None
    kernel = await launched(runtime, definition)
    try:
        await kernel.send_many(deviations)
        await runtime.wait_idle(kernel.id, timeout=5)
    except (PyDotComputeError, TimeoutError) as error:
        raise Wrong(f"Of {len(deviations)} deviations it did not take all: {error_text(error)}.") from error
    if isinstance(kernel.exception, KernelNotFoundError):
        raise Wrong("It tells another ring kernel, and is to reply: `ctx.send`.")
    if kernel.exception is not None:
        raise Wrong(f"It failed: {error_text(kernel.exception)}.")
    if kernel.state.over:
        raise Wrong("It has ended after the first deviations: the loop `async for deviation in ctx:` takes all.")
    replies = [await kernel.receive() for _ in range(kernel.statistics().replies_unread)]
    if strange := [reply for reply in replies if not hasattr(reply, "spreads")]:
        raise Wrong(f"It replies with {strange[0]!r}, and not with the deviation.")
    rang = [reply.spreads for reply in replies]
    wanted = [n for n in _SPREADS if abs(n) > 3]
    if missing := [n for n in wanted if n not in rang]:
        raise Wrong(f"At {missing[0]:g} spreads there is no alarm: it is more than 3 away, and so an alarm is wanted.")
    if false := [n for n in rang if n not in wanted]:
        raise Wrong(f"At {false[0]:g} spreads there is an alarm: it is not more than 3 away.")
    if rang != wanted:
        raise Wrong(f"Of {len(wanted)} alarms that are wanted it made {len(rang)}: one for each.")


@exercise(
    "tour.2",
    hints=(
        "A line that has gone is somewhere. Go through the chain and count the places where it can be.",
        "A ring kernel that waits until another has room holds something in its hands.",
    ),
    solution="""
        sent = 31
    """,
    after="10 in the mailbox of `statistics`, 20 in that of `parse`, and the one that `parse` cannot get rid of.",
)
async def lines(runtime: RingKernelRuntime, sent: Any) -> None:
    """How many lines leave the feed until it has to wait."""
    if not isinstance(sent, int) or isinstance(sent, bool):
        raise Wrong(f"A number is wanted, such as 12, not {sent!r}.")
    gone = 0

    async def statistics(ctx: Any) -> None:
        async for _ in ctx:
            pass

    async def parse(ctx: Any) -> None:
        async for line in ctx:
            await ctx.tell("statistics", line)

    await launched(runtime, RingKernelDefinition(statistics, queue_size=10))
    await runtime.deactivate("statistics")
    await launched(runtime, RingKernelDefinition(parse, queue_size=20))
    try:
        while True:
            await asyncio.wait_for(runtime.send("parse", gone), 0.3)
            gone += 1
    except TimeoutError:
        pass
    if sent == gone:
        return
    if sent == gone - 1:
        raise Wrong(f"In the two mailboxes there are {sent}. Is a line nowhere else?")
    if sent == gone + 1:
        raise Wrong(f"{sent} is too many: what can `statistics`, which is paused, have in hand?")
    if sent in (10, 20):
        raise Wrong(f"{sent} is what one mailbox holds. The lines pass through two.")
    raise Wrong(f"Not {sent!r}: the check has sent lines until it had to wait, and it was another number.")
