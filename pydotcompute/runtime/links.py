"""`connect`: the replies of one ring kernel become the messages of others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from ..exceptions import KernelStateError, MessageTypeError, QueueFullError
from ..messages import DEFAULT_PRIORITY, layout, same_schema
from ..telemetry.observer import Delivery, acting, in_hand, on_behalf_of
from .compiled import CompiledKernel
from .kernel import RingKernel
from .scheduler import SLICE_NS, Wait, clock

if TYPE_CHECKING:
    from .mailbox import Entry
    from .routing import Router

PATIENCE = 0.05
"""Seconds that a compiled kernel is held at most until its target has handled what the host has carried there."""


def offer(target: RingKernel | Router, message: Any) -> Coroutine[Any, Any, None] | None:
    """Put a message into a mailbox, on the runtime's loop. None: it is in. Else await this: the mailbox is full.

    Errors as in `RingKernelRuntime.send`.
    """
    if not isinstance(target, RingKernel):
        return target._offer(message)
    if not isinstance(message, target._input_types):
        target._admit_input(message)
    if (put_now := target._put_now) is not None and put_now(message, None):
        return None
    box = target._box
    plain = box.plain
    n = len(plain)
    if n < box.room and getattr(message, "priority", None) is DEFAULT_PRIORITY:
        plain.append((message, clock(), None))
        if n >= box.peak:
            box.peak = n + 1
        if box.getter is not None:
            box.wake()
        return None
    if box.would_block and target._task is not None and target._task is asyncio.current_task():
        raise QueueFullError(f"{target.id!r} would wait for ever for room in its own mailbox ({box.capacity})")
    wait = box.put(message)
    return None if wait is None else box.accepted(wait)


Refused = list[tuple["RingKernel | Router", BaseException]]
"""Who has not taken a message, each with the error that `RingKernelRuntime.send` would raise."""
Full = list[tuple["RingKernel | Router", Coroutine[Any, Any, None]]]
"""Whose mailbox is full, each with what to await until there is room."""


def put_into(targets: Iterable[RingKernel | Router], message: Any, refused: Refused, full: Full) -> int:
    """Put a message into several mailboxes; how many it is in. The others are added to the lists."""
    taken = 0
    for target in targets:
        try:
            waiting = offer(target, message)
        except Exception as error:  # noqa: BLE001 - the caller raises it when the others have got the message
            refused.append((target, error))
        else:
            if waiting is None:
                taken += 1
            else:
                full.append((target, waiting))
    return taken


async def wait_for_room(full: Full, refused: Refused) -> int:
    """Wait until the message is in these mailboxes too; how many it is in. Those that end meanwhile are refused."""
    results = await asyncio.gather(*(waiting for _, waiting in full), return_exceptions=True)
    taken = 0
    for (target, _), result in zip(full, results, strict=True):
        if isinstance(result, BaseException):
            refused.append((target, result))
        else:
            taken += 1
    return taken


async def spread(targets: Iterable[RingKernel | Router], message: Any) -> tuple[int, Refused]:
    """Put a message into several mailboxes; full ones are waited for when all others have got it.

    Returns:
        How many have taken it, and who has not.
    """
    refused: Refused = []
    full: Full = []
    taken = put_into(targets, message, refused, full)
    if full:
        taken += await wait_for_room(full, refused)
    return taken, refused


def first_error(refused: Refused, taken: int) -> BaseException:
    """The error to raise when some of several mailboxes have refused a message; it says how the others have fared."""
    (_, error), *others = refused
    if taken or others:
        error.add_note(f"{taken} others have got the message")
    for target, other in others:
        error.add_note(f"{target.id!r} has not either: {type(other).__name__}: {other}")
    return error


def is_closed(target: RingKernel | Router) -> bool:
    """Whether it takes no message any more, for good."""
    return target._box.closed is not None if isinstance(target, RingKernel) else target.closed


class Link:
    """Hands the replies of `source` that belong to no ask to each of `targets`, until it ends or they have.

    A compiled kernel does it itself where its only target is another one on the same backend that is not paused, and
    nobody observes them. Else the **host** carries: a task, one reply at a time, so that a full mailbox of any target
    holds the source up in the end.
    """

    def __init__(self, source: RingKernel) -> None:
        self.source = source
        self.targets: tuple[RingKernel | Router, ...] = ()
        self.task: asyncio.Task[None] | None = None
        """Carries; None while the source does it itself."""
        self.carries = False
        """Whether it has a reply in hand."""
        self.native_target: CompiledKernel | None = None
        """To whom the source hands over itself."""
        self._waiting: Wait | None = None  # for a reply
        self._refused = False  # the backend cannot hand over to this target
        self._not_before, self._patience = 0.0, PATIENCE  # when to try again that the source does it itself
        source._link = self
        source.runtime._links.add(self)

    @property
    def busy(self) -> bool:
        """Whether replies of the source still have to go to a target."""
        return self.task is not None and (self.carries or len(self.source._out) > 0)

    @property
    def names(self) -> str:
        """The targets, in words."""
        return " and ".join(repr(target.id) for target in self.targets)

    def add(self, targets: Sequence[RingKernel | Router]) -> None:
        """Hand replies over to these too. A compiled source is at rest."""
        begins = not self.targets
        former, self.targets = self.targets, (*self.targets, *targets)
        self._refused = False
        if begins and self._may_be_native and self._connect_natively():
            return
        if self.task is None:
            self._disconnect_natively()
            self._over_host(former)

    async def end(self, *targets: RingKernel | Router) -> None:
        """Hand replies over to these, or to nobody, any longer; but one in hand still goes there if they live."""
        async with at_rest(self.source) if self.task is None else nullcontext():
            self.let_go(*targets)

    def let_go(self, *targets: RingKernel | Router) -> None:
        """`end` where nothing has to be waited for."""
        source = self.source
        if source._link is not self:
            return
        self.targets = tuple(target for target in self.targets if target not in targets) if targets else ()
        if self.targets:
            self._poke()
            return
        source._link = None
        source.runtime._links.discard(self)
        if self.task is None:
            self._disconnect_natively()
        elif not self.carries and self.task is not asyncio.current_task():
            self.task.cancel()

    async def rewire(self) -> None:
        """Let the source or the host do it, whichever may now. No reply is lost, and each target's order is kept."""
        if self.is_native() and not self._may_be_native:
            await self.over_host()
        elif self.task is not None:
            self._refused, self._not_before = False, 0.0
            self._poke()

    async def over_host(self) -> None:
        """Let the host do it for now: replies come by the mailbox of the target, behind those that wait there."""
        self._not_before = self.source._scheduler.loop.time() + PATIENCE
        if self.is_native():
            async with at_rest(self.source):
                if self.is_native():  # still
                    self._disconnect_natively()
                    self._over_host(self.targets)

    def is_native(self) -> bool:
        """Whether the source does it itself."""
        return self.task is None and self.source._link is self

    # -- natively ------------------------------------------------------------------------------------------------------

    @property
    def _may_be_native(self) -> bool:
        source, target = self.source, self.targets[0] if len(self.targets) == 1 else None
        return (
            isinstance(source, CompiledKernel)
            and isinstance(target, CompiledKernel)
            and source.definition.backend_name == target.definition.backend_name
            and not (source._box._is_watched or target._box._is_watched or target._is_paused())
        )

    def _connect_natively(self) -> bool:
        source, target = self.source, self.targets[0]
        assert isinstance(source, CompiledKernel)
        assert isinstance(target, CompiledKernel)
        if source._executor.connect(target._executor):
            self.native_target = target
        return self.native_target is target

    def _disconnect_natively(self) -> None:
        source, target = self.source, self.native_target
        if target is not None:
            assert isinstance(source, CompiledKernel)
            source._sent[target.id] += source._executor.handed
            self.native_target = None
            if source._executor.resting:  # else the step does not come back
                source._executor.disconnect()

    async def _go_native(self) -> bool:
        """Let the source do it, when all that the host had to carry has been handled."""
        source, target = self.source, self.targets[0]
        assert isinstance(source, CompiledKernel)
        assert isinstance(target, CompiledKernel)
        now, self._patience = source._scheduler.loop.time, min(2 * self._patience, 1.0)
        async with source._at_rest():
            # Natively sent ones would overtake those that wait in front of the target's ring, or in it.
            end = now() + PATIENCE
            while (entry := source._out.pull()) is not None:
                if target._box.would_block or now() > end or not self._may_be_native:
                    source._out.put_back(entry)
                    break
                await self._hand_over(entry)
            await target._until(lambda: not len(target._box) or len(source._out) > 0 or now() > end)
            self._not_before = now() + self._patience
            if len(source._out) or len(target._box) or not self._may_be_native or source._link is not self:
                return False
            self._refused = not self._connect_natively()
            return not self._refused

    # -- over the host -------------------------------------------------------------------------------------------------

    def _over_host(self, former: Sequence[RingKernel | Router]) -> None:
        self.task = self.source._scheduler.loop.create_task(self._carry(former))

    def _poke(self) -> None:
        """Let the task look whether it is still wanted."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.source._out.leave(waiting)
            waiting.set(None)

    async def _carry(self, former: Sequence[RingKernel | Router]) -> None:
        source, scheduler = self.source, self.source._scheduler
        out = source._out
        in_hand.set(None)  # who has connected them is not the cause of what comes
        acting.set(None)
        for target in former:  # what the source has put there itself comes first
            if isinstance(target, CompiledKernel):
                await target._until(partial(_is_empty, target))
        while source._link is self and self.targets:
            if (entry := out.pull()) is not None:
                await self._hand_over(entry)
                if clock() >= scheduler.slice_end:  # a long drain: let the loop breathe
                    scheduler.over = True
                    scheduler.rest()
                    await asyncio.sleep(0)
                    scheduler.slice_end = clock() + SLICE_NS
            elif out.closed is not None:
                break
            elif (
                self._may_be_native
                and not self._refused
                and scheduler.loop.time() >= self._not_before
                and await self._go_native()
            ):
                self.task = None
                return
            elif not len(out):
                self._waiting = waiting = scheduler.wait()
                out.join(waiting)
                try:
                    await waiting
                except asyncio.CancelledError:
                    out.leave(waiting)
                    raise
                finally:
                    self._waiting = None
        self.let_go()

    async def _hand_over(self, entry: Entry) -> None:
        source, out, targets = self.source, self.source._out, self.targets
        self.carries = True
        try:
            refused: Refused = []
            full: Full = []
            if type(entry) is Delivery:
                with on_behalf_of(entry.cause, entry.source):
                    taken = put_into(targets, entry[0], refused, full)
            else:
                taken = put_into(targets, entry[0], refused, full)
            if full:
                taken += await wait_for_room(full, refused)
            if not refused:
                for target in targets:
                    source._sent[target.id] += 1
                return
            for target in {*targets}.difference(target for target, _ in refused):
                source._sent[target.id] += 1
            ended = [target for target, _ in refused if is_closed(target)]
            if len(ended) == len(refused) and not taken:
                out.put_back(entry)
            for target, error in refused:
                if target not in ended:
                    why = f"{target.id!r}, to which it is connected, did not take it: {error}"
                    source.bury(entry, why, "undeliverable")
            if ended:
                self.let_go(*ended)
        finally:
            self.carries = False
            source._tell_watchers()


def _is_empty(kernel: CompiledKernel) -> bool:
    return kernel._executor.depth == 0


def at_rest(kernel: RingKernel) -> AbstractAsyncContextManager[None]:
    """Where the replies of a compiled kernel go is not to change in the middle of a message."""
    return kernel._at_rest() if isinstance(kernel, CompiledKernel) else nullcontext()


async def connect(source: RingKernel, targets: Sequence[RingKernel | Router]) -> None:
    """Hand the replies of `source` over to these too.

    Raises:
        TypeError: no target is named.
        MessageTypeError: a target takes other messages than the source sends.
        InstanceError: a target has several instances, and no key says which one a message is for.
        KernelStateError, KernelFailedError: one of them stops or has ended, or two are connected already.
    """
    check_targets(source, targets)
    async with at_rest(source):
        check_targets(source, targets)  # still
        (source._link or Link(source)).add(targets)


def check_targets(source: RingKernel | Router, targets: Sequence[RingKernel | Router]) -> None:
    """Raise what `connect` would."""
    if not targets:
        raise TypeError(f"name whom the replies of {source.id!r} shall go to: connect({source.id!r}, ...)")
    for kernel in (source,) if isinstance(source, RingKernel) else source.kernels:
        for i, target in enumerate(targets):
            if target in targets[:i] or (kernel._link is not None and target in kernel._link.targets):
                raise KernelStateError(
                    f"replies of {source.id!r} go to {target.id!r} already: disconnect({source.id!r}, {target.id!r}) "
                    f"ends that"
                )
            for other in (target,) if isinstance(target, RingKernel) else target.kernels:
                _check(kernel, other)


async def disconnect(source: RingKernel, targets: Sequence[RingKernel | Router]) -> None:
    """Hand the replies of `source` over to these no longer; none named: to nobody.

    Raises:
        KernelStateError: they do not go there.
    """
    link = source._link
    if link is None:
        raise KernelStateError(f"replies of {source.id!r} go to no other kernel: connect({source.id!r}, ...) does that")
    for target in targets:
        if target not in link.targets:
            raise KernelStateError(f"replies of {source.id!r} do not go to {target.id!r}, but to {link.names}")
    await link.end(*targets)


def _check(source: RingKernel, target: RingKernel) -> None:
    for kernel in (source, target):
        if kernel._box.closed:
            raise kernel._unusable()
    if source is target:
        raise KernelStateError(
            f"{source.id!r} cannot be connected to itself: it would wait for room in its own mailbox"
        )
    compiled = [kernel for kernel in (source, target) if isinstance(kernel, CompiledKernel)]
    if source in compiled and not source._output_types:
        raise MessageTypeError(f"{source.id!r} never replies: its parameter `out` is None")
    sent, taken = source._output_types, target._input_types
    fits = all(s is object or any(issubclass(s, t) or same_schema(s, t) for t in taken) for s in sent)
    if len(compiled) == 2:  # nested classes may have been defined again
        fits = fits and layout(sent[0]).dtype == layout(taken[0]).dtype
    if not fits:
        names = [" or ".join(cls.__qualname__ for cls in types) for types in (sent, taken)]
        raise MessageTypeError(f"{source.id!r} sends {names[0]}, but {target.id!r} takes {names[1]}")
    if isinstance(target, CompiledKernel):
        target._box.addressed(None)
