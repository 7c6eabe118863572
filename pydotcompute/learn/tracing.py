"""Exercises of the tutorial "Tracing and stepping"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..runtime import RingKernelDefinition, RingKernelRuntime
from ..runtime.dead_letters import error_text
from . import Wrong, exercise
from ._trial import TIMEOUT, launched, reply, some_kernel

_PAYS = 10
_STEPS = 600
"""Messages that the ledger may need until all is paid in; a quarter of that is usual."""


@dataclass
class _Read:
    by: str


@dataclass
class _Write:
    by: str
    balance: int


@dataclass
class _Withdraw:
    by: str
    euros: int


@dataclass
class _Pay:
    euros: int


class _Account:
    balance = 0


@exercise(
    "tracing.1",
    hints=(
        "Bob's 20 euros are all that is left if he writes last. And what must he have read?",
        "Bob reads while nothing has been written, then the others do all that they have to do.",
    ),
    solution="""
        order = ["Bob", "Alice", "Alice", "Carol", "Carol", "Bob"]
    """,
    after="50 euros are gone. Alice and Carol were told that all is well, each with her balance.",
)
async def order(runtime: RingKernelRuntime, order: Any) -> None:
    """An order in which one client undoes what the others have done."""
    payments = {"Alice": 10, "Bob": 20, "Carol": 40}
    try:
        turns = [str(name) for name in order]
    except TypeError:
        raise Wrong(f"A list of six names is wanted, not {type(order).__name__}.") from None
    if sorted(turns) != sorted([*payments, *payments]):
        raise Wrong(f"Each of {', '.join(payments)} has two turns, one to read and one to write; you gave {turns}.")

    async def account(ctx: Any) -> None:
        async for request in ctx:
            if isinstance(request, _Write):
                ctx.state.balance = request.balance
            await ctx.send(ctx.state.balance)

    async def client(ctx: Any) -> None:
        me = ctx.kernel_id
        async for euros in ctx:
            before = await ctx.ask("account", _Read(me))
            await ctx.ask("account", _Write(me, before + euros))

    shared = await launched(runtime, RingKernelDefinition(account, state=_Account))
    await shared.deactivate()
    for name, euros in payments.items():
        await launched(runtime, RingKernelDefinition(client), name)
        await runtime.send(name, euros)

    def senders() -> list[str]:
        return [queued.message.by for queued in shared.queue()]

    for name in turns:
        await _until(partial(lambda name: name in senders(), name))
        shared.move(senders().index(name), to=0)
        await shared.step()
    if shared.user_state.balance != 20:
        raise Wrong(f"In that order {shared.user_state.balance} euros are left, and not 20.")


@exercise(
    "tracing.2",
    hints=(
        "Look at the balance before you take from it. Nobody can come in between: one message is handled at a time.",
        "Two cases: enough is there, then take it and reply what was taken; or not, then the balance stays as it is.",
    ),
    solution="""
        @message
        class Withdraw:
            by: str
            euros: int


        @message
        class Balance:
            euros: int


        class Purse:
            balance = 100


        @ring_kernel(state=Purse)
        async def purse(ctx: KernelContext[Withdraw, Balance]):
            async for withdraw in ctx:
                paid = withdraw.euros if withdraw.euros <= ctx.state.balance else 0
                ctx.state.balance -= paid
                await ctx.send(Balance(paid))
    """,
    after="It asks and takes within one message; so no order of messages can make it pay what is not there.",
)
async def purse(runtime: RingKernelRuntime, purse: Any) -> None:
    """Pays only what is there."""
    definition = some_kernel(purse)
    kind = _taken(definition, _Withdraw)
    for number, wishes in enumerate(([60, 70, 40, 1], [70, 60, 30, 1], [101, 100, 100])):
        kernel = await launched(runtime, definition, f"purse {number}")
        left, story = 100, "It began with 100 euros"
        for euros in wishes:
            answer = await reply(kernel, kind(by="Alice", euros=euros))
            paid, wanted = getattr(answer, "euros", answer), euros if euros <= left else 0
            if paid != wanted:
                raise Wrong(f"{story}; then somebody wanted {euros}, and it paid {paid!r}, not {wanted}.")
            left -= wanted
            story += f", was to pay {euros} and paid {wanted}"


@exercise(
    "tracing.3",
    hints=(
        "Where `expected` is not the balance, the ledger writes nothing, and says what is.",
        "A customer sees from the reply whether it was refused. Then it begins again, and with what balance?",
        "A balance that is what you wanted to write may be somebody else's: reply with `written`, and go by that.",
    ),
    solution="""
        @message
        class Read:
            by: str


        @message
        class Swap:
            by: str
            expected: int
            balance: int


        @message
        class Pay:
            euros: int


        @message
        class Balance:
            euros: int
            written: bool = False


        class Account:
            balance = 0


        @ring_kernel(state=Account)
        async def ledger(ctx: KernelContext[Read | Swap, Balance]):
            async for request in ctx:
                fits = isinstance(request, Swap) and request.expected == ctx.state.balance
                if fits:
                    ctx.state.balance = request.balance
                await ctx.send(Balance(ctx.state.balance, fits))


        @ring_kernel
        async def customer(ctx: KernelContext[Pay, Balance]):
            me = ctx.kernel_id
            async for pay in ctx:
                found = await ctx.ask("ledger", Read(me))
                while not found.written:
                    found = await ctx.ask("ledger", Swap(me, found.euros, found.euros + pay.euros))
                await ctx.send(found)
    """,
    after="Who is refused has lost to one who got through: somebody always goes on. Databases call that an optimistic "
    "lock, processors compare-and-swap.",
)
async def swap(runtime: RingKernelRuntime, ledger: Any, customer: Any) -> None:
    """An account that writes only on a condition, and a customer that tries again."""
    shared = await launched(runtime, ledger, "ledger")
    await shared.deactivate()
    definition = some_kernel(customer)
    kind = _taken(definition, _Pay)
    clients = [await launched(runtime, definition, name) for name in ("Alice", "Bob", "Carol")]
    for one in clients:
        await one.send_many([kind(euros=1) for _ in range(_PAYS)])

    def unfinished() -> int:
        for one in (shared, *clients):
            if one.exception is not None:
                raise Wrong(f"{one.id} failed: {error_text(one.exception)}.")
            if one.state.over:
                raise Wrong(f"{one.id} has ended: a loop, `async for ... in ctx:`, takes every message.")
        return sum(one.statistics().processed < _PAYS for one in clients)

    steps = 0
    while unfinished():  # all three ask before anybody gets an answer, again and again
        await _until(lambda: shared.queue_depth >= unfinished())
        if shared.queue_depth:
            await shared.step(timeout=TIMEOUT)
        steps += 1
        if steps > _STEPS:
            raise Wrong(
                f"After {_STEPS} messages to the ledger they are not done: is one of them refused for ever, "
                f"because what it expects is old?"
            )
    paid, balance = 3 * _PAYS, getattr(shared.user_state, "balance", None)
    if balance is None:
        raise Wrong("The ledger has no `ctx.state.balance`: write `state=Account` in its decorator.")
    if balance != paid:
        what = "lost" if balance < paid else "paid in twice"
        raise Wrong(
            f"Three customers have paid in {paid} euros, and {balance} are in the ledger: "
            f"{abs(paid - balance)} were {what}."
        )
    if missing := [one for one in clients if one.statistics().replied != _PAYS]:
        counted = missing[0].statistics().replied
        raise Wrong(f"{missing[0].id} got {_PAYS} payments and answered {counted}: one reply for each is wanted.")
    if steps <= 4 * _PAYS:
        raise Wrong(
            "All is there, by one message for each payment: that is the till. Here a customer reads, then writes."
        )


def _taken(definition: RingKernelDefinition, otherwise: type) -> Any:
    """The class of the messages that it takes."""
    return otherwise if object in definition.input_types else definition.input_types[0]


async def _until(true: Callable[[], Any]) -> None:
    """Let the others run until something is true.

    Raises:
        Wrong: it is not, within `TIMEOUT`.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            while not true():  # noqa: ASYNC110 - it is the kernels of the answer that make it true
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise Wrong(
            f"For {TIMEOUT:g} s somebody who is not done has asked nothing: what does that one wait for?"
        ) from None
