"""Exercises of the tutorial "Beyond one machine"; none of them needs a cluster."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..exceptions import QueueTimeoutError
from ..messages import message
from ..messages.message import is_message_type
from ..runtime import RingKernelDefinition, RingKernelRuntime, StepDefinition
from . import Wrong, exercise
from ._trial import launched, reply, some_kernel, unreported

_SOON = 2.0
"""Seconds for a reply that may not come."""
_NOT_YET = 0.25
"""Seconds in which a reply comes that does not wait."""


@message
class _Payment:
    number: int
    cents: int


@exercise(
    "cluster.1",
    hints=(
        "What has to be remembered to know that a payment was there before? The last number is not enough.",
        "A set of numbers: `seen = set()`, `number in seen`, `seen.add(number)`.",
        "Only the sum depends on whether the number is in the set. The reply goes out either way.",
    ),
    solution="""
        @ring_kernel
        async def balance(ctx):
            total, seen = 0, set()
            async for payment in ctx:
                if payment.number not in seen:
                    seen.add(payment.number)
                    total += payment.cents
                await ctx.send(total)
    """,
    after="Sent once or three times, a payment counts once. (The set grows for ever. Where each sender numbers its "
    "messages in order, the last number of each is enough.)",
)
async def once(runtime: RingKernelRuntime, balance: Any) -> None:
    """Takes each payment once, and answers all."""
    definition = _some_async(balance, "payment")
    taken = _taken(definition)
    await _paid(runtime, definition, taken, "first", [(3, 500), (1, 250), (2, 500), (3, 500), (1, 250), (9, 1)])
    await _paid(runtime, definition, taken, "second", [(5, 70), (0, 30), (4, -70), (5, 70), (0, 30), (0, 30), (3, 200)])


def _some_async(answer: Any, what: str) -> RingKernelDefinition:
    """The answer, if it is an async ring kernel."""
    definition = some_kernel(answer)
    if isinstance(definition, StepDefinition):
        raise Wrong(f"It is a compiled one: write `async def`, with a loop `async for {what} in ctx:`.")
    return definition


def _taken(definition: RingKernelDefinition) -> Any:
    """The class of the messages that it takes."""
    taken = _Payment if object in definition.input_types else definition.input_types[0]
    if not is_message_type(taken) or not {"number", "cents"} <= {one.name for one in fields(taken)}:
        raise Wrong(
            f"It takes {taken.__name__}, and gets payments: annotate it with the class `Payment`, or not at all."
        )
    return taken


async def _paid(
    runtime: RingKernelRuntime, definition: RingKernelDefinition, taken: Any, name: str, payments: list[tuple[int, int]]
) -> None:
    kernel = await launched(runtime, definition, f"the {name} balance")
    wanted, before = 0, dict[int, int]()
    for place, (number, cents) in enumerate(payments):
        again = number in before
        said = f"Payment {number}, of {cents} cents,"
        try:
            with unreported():
                got = await reply(kernel, taken(number=number, cents=cents), _SOON)
        except Wrong as wrong:
            if again:
                raise Wrong(
                    f"{said} came a second time. It is to be answered like the first time, by the balance of {wanted}: "
                    f"who has sent it waits. But: {wrong}"
                ) from wrong
            raise
        old, wanted = wanted, wanted if again else wanted + cents
        if isinstance(got, bool) or not isinstance(got, int | float):
            raise Wrong(f"{said} was answered by {got!r}. The balance is wanted, a number of cents: {wanted}.")
        if got != wanted and not place:
            more = " Is the sum in a variable outside of the body?" if name == "second" else ""
            raise Wrong(f"{said} is the first one that the {name} balance gets, and is answered by {got}.{more}")
        if got != wanted and again:
            raise Wrong(
                f"{said} came a second time (as a message of its own: somebody has asked twice), and the balance went "
                f"from {old} to {got}."
            )
        if got != wanted:
            alike = [other for other, amount in before.items() if amount == cents]
            lower = number < max(before)
            why = (
                f" Payment {alike[0]} was of the same amount, and is another one."
                if alike
                else " A larger number was there before: they come in any order."
                if lower
                else ""
            )
            raise Wrong(
                f"{said} came for the first time, and the balance went from {old} to {got}, not to {wanted}.{why}"
            )
        before[number] = cents


@exercise(
    "cluster.2",
    hints=(
        "A body that begins elsewhere begins at its first line: there it can ask the safe.",
        '`total = await ctx.ask("safe", "load")` before the loop. In it: add, tell the safe, reply; in this order.',
        'It begins again only if a policy says so: `@ring_kernel(restart="on_failure")`.',
    ),
    solution="""
        @ring_kernel(restart="on_failure")
        async def counter(ctx):
            total = await ctx.ask("safe", "load")
            async for number in ctx:
                total += number
                await ctx.tell("safe", total)
                await ctx.send(total)
    """,
    after="With what was seen (exercise 1) in the safe as well, together with the sum, at least once counts each "
    "number exactly once.",
)
async def outlives(runtime: RingKernelRuntime, counter: Any) -> None:
    """Goes on with the sum that it had."""
    definition = _some_async(counter, "number")
    if definition.policy.restart == "never":
        raise Wrong(
            "It has no policy: when its node is lost, it is FAILED and begins nowhere. See `till` and `patient`."
        )
    kept: list[Any] = []

    async def safe(ctx: Any) -> None:
        async for one in ctx:
            if one == "load":
                await ctx.send(kept[-1])
            else:
                kept.append(one)

    for start, where in ((0, "an empty safe"), (1000, "1000 in the safe")):
        kept[:] = [start]
        await launched(runtime, RingKernelDefinition(safe, kernel_id="safe", queue_size=1))
        total = await _counted(runtime, definition, kept, start, (5, 7, -2), f"With {where}")
        # As when its node is lost: what it had in memory is gone, and it begins anew under the same id.
        await runtime.terminate("counter", drain=False)
        total = await _counted(runtime, definition, kept, total, (3,), f"Its node was lost when the sum was {total}")
        await _relied_on(runtime, total)
        for name in ("counter", "safe"):
            await runtime.terminate(name, drain=False)


async def _counted(
    runtime: RingKernelRuntime, definition: RingKernelDefinition, kept: list[Any], total: int, numbers: Any, story: str
) -> int:
    """What the sum is after these numbers."""
    kernel = await launched(runtime, definition, "counter")
    for number in numbers:
        old, total = total, total + number
        with unreported():
            got = await reply(kernel, number, _SOON)
        if got != total:
            more = " Is the sum in a variable outside of the body? Another node has none." if kept[0] else ""
            raise Wrong(f"{story}: at a sum of {old} it got {number}, and replied {got!r}, not {total}.{more}")
        await runtime.wait_idle("safe", timeout=_SOON)
        if kept[-1] != total:
            raise Wrong(
                f"{story}: it got {number} and replied {total}, but what was told to the safe last is {kept[-1]!r}."
            )
    return total


async def _relied_on(runtime: RingKernelRuntime, total: int) -> None:
    """While the safe takes nothing, there is no reply."""
    await runtime.deactivate("safe")
    await runtime.send("safe", total)  # its mailbox is full now
    try:
        got = await runtime.ask("counter", 4, timeout=_NOT_YET)
    except QueueTimeoutError:
        return
    finally:
        await runtime.reactivate("safe")
    raise Wrong(
        f"The safe was busy and took nothing for a while. It has replied {got!r} all the same, before that was in the "
        "safe: had its node been lost then, who got the reply would have relied on a sum that nobody has."
    )
