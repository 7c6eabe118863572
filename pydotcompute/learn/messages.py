"""Exercises of the tutorial "Messages"."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ..exceptions import PyDotComputeError
from ..messages.message import is_message_type
from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import launched, reply, some_kernel


@exercise(
    "messages.1",
    hints=(
        "A field with a default is written `name: type = default`, after the fields without one.",
        "`priority` is a field that all messages have. A class may write it out like its own, with another default.",
    ),
    solution="""
        @message
        class Order:
            item: str
            amount: int = 1


        @message
        class Payment:
            order: Order
            method: str = "cash"
            priority: int = 200
    """,
    after="Every payment now goes before every order, and before whatever else has the priority of 128.",
)
def payment(Payment: Any) -> None:  # noqa: N803 - what the student calls it
    """A message class with a field that is a message, a default, and a priority of its own."""
    if not isinstance(Payment, type):
        if is_message_type(type(Payment)):
            raise Wrong("The class itself is wanted, `Payment`, not a payment that was made of it.")
        raise Wrong(f"Payment has to be a class, not {type(Payment).__name__}.")
    if not is_message_type(Payment):
        raise Wrong("Payment is no message class: write `@message` above it.")
    known: dict[str, Any] = {one.name: one for one in fields(Payment)}
    for base in Payment.__bases__:
        if is_message_type(base):
            raise Wrong(f"Payment is a kind of {base.__name__}: it should have an order, not be one.")
    if missing := [name for name in ("order", "method") if name not in known]:
        raise Wrong(
            f"Payment has no field {' and no field '.join(f'`{name}`' for name in missing)}. With its type a "
            f"name in a class becomes a field."
        )
    if known["order"].type in (str, "str"):
        raise Wrong("`order` is a text: a payment has the order itself, `order: Order`.")
    if known["order"].default is not MISSING:
        raise Wrong("`order` has a default, but there is no payment without an order.")
    if known["method"].default is MISSING and known["method"].default_factory is MISSING:
        raise Wrong("`method` has no default: whoever says nothing pays cash.")
    made = Payment(order=None)
    if made.method != "cash":
        raise Wrong(f"`method` is {made.method!r} when nobody says otherwise, not 'cash'.")
    if made.priority != 200:
        raise Wrong(f"The priority of a payment is {made.priority} when nobody gives another, not 200.")
    if Payment(order=None, priority=3).priority != 3:
        raise Wrong("A payment does not take another priority: `Payment(order, priority=3)` should.")


@exercise(
    "messages.2",
    hints=(
        "Two kinds of messages come, and only one of them is answered: how can the body tell them apart?",
        "`isinstance(message, Receipt)` is true of a receipt. What is to be remembered is made before the loop.",
    ),
    solution="""
        @message
        class Receipt:
            text: str
            total: float


        @ring_kernel
        async def accountant(ctx: KernelContext[Receipt | str, float]):
            total = 0.0
            async for message in ctx:
                if isinstance(message, Receipt):
                    total += message.total
                else:
                    await ctx.send(total)
    """,
    after="A ring kernel that takes several kinds of messages is a small protocol: its types say which.",
)
async def accountant(runtime: RingKernelRuntime, accountant: Any, Receipt: Any) -> None:  # noqa: N803
    """Adds up receipts, and answers "total"."""
    kernel = await launched(runtime, some_kernel(accountant))
    expected = 0.0
    for totals in ((2.5, 4.0), (), (10.0,)):
        for total in totals:
            expected += total
            try:
                await kernel.send(Receipt("", total))
            except PyDotComputeError as error:
                raise Wrong(f"It does not take a receipt: {error}.") from error
        answer = await reply(kernel, "total")
        if not isinstance(answer, int | float) or abs(answer - expected) > 1e-9:
            raise Wrong(f"After receipts of {expected:g} in all, it answers {answer!r}.")
    if left := kernel.statistics().replies_unread:
        raise Wrong(f"It also answers receipts: {left} replies wait that nobody asked for.")
    try:
        await kernel.send(3)
    except PyDotComputeError:
        return
    raise Wrong("It takes a number, too: say in `KernelContext[..., float]` what it takes.")
