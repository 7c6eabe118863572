"""`connect`: the replies of one ring kernel become the messages of another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..exceptions import KernelFailedError, KernelStateError, MessageTypeError, PyDotComputeError
from ..messages import layout, same_schema
from .compiled import CompiledKernel

if TYPE_CHECKING:
    from .kernel import RingKernel


class Link:
    """Hands the replies of `source` that belong to no ask to `target`, until one of them ends.

    Compiled kernels of one backend do it themselves. Between others a task carries replies over, one at a time, so that
    a full mailbox of the target holds the source up in the end.

    Raises:
        MessageTypeError: the target takes other messages than the source sends.
        InstanceError: the target has several instances, and no key says which one a message is for.
        KernelStateError, KernelFailedError: one of them stops or has ended, or the source is connected already.
    """

    def __init__(self, source: RingKernel, target: RingKernel) -> None:
        _check(source, target)
        self.source, self.target = source, target
        self.carries = False
        """Whether it has a reply in hand."""
        self.task: asyncio.Task[None] | None = None
        if not (
            isinstance(source, CompiledKernel)
            and isinstance(target, CompiledKernel)
            and source.definition.backend_name == target.definition.backend_name
            and source._executor.connect(target._executor)
        ):
            self.task = source._scheduler.loop.create_task(self._carry())
        source._link = self
        source.runtime._links.add(self)

    @property
    def busy(self) -> bool:
        """Whether replies of the source still have to go to the target."""
        return self.task is not None and (self.carries or len(self.source._out) > 0)

    async def end(self) -> None:
        """From now on replies are unread ones of the source; but one in hand still goes to the target if that lives."""
        if self.task is not None:
            self.let_go()
        elif isinstance(self.source, CompiledKernel):
            async with self.source._at_rest():
                self.let_go()

    def let_go(self) -> None:
        """`end` where nothing has to be waited for."""
        source = self.source
        if source._link is not self:
            return
        source._link = None
        source.runtime._links.discard(self)
        if self.task is None and isinstance(source, CompiledKernel):
            if source._executor.resting:
                source._executor.disconnect()
        elif self.task is not None and not self.carries and self.task is not asyncio.current_task():
            self.task.cancel()

    async def _carry(self) -> None:
        source, target = self.source, self.target
        runtime, out = source.runtime, source._out
        while source._link is self:
            try:
                entry = await runtime._wait_for_reply(source, out.pull, None)
            except (KernelFailedError, KernelStateError):  # it has ended and nothing is left
                break
            self.carries = True
            try:
                await runtime.send(target.id, entry[0])
            except PyDotComputeError as error:
                if target._box.closed:
                    out.put_back(entry)
                    break
                source.bury(entry, f"{target.id!r}, to which it is connected, did not take it: {error}")
            finally:
                self.carries = False
                source._tell_watchers()
        self.let_go()


def _check(source: RingKernel, target: RingKernel) -> None:
    for kernel in (source, target):
        if kernel._box.closed:
            raise kernel._unusable()
    if source._link is not None:
        raise KernelStateError(
            f"replies of {source.id!r} go to {source._link.target.id!r} already: disconnect({source.id!r}) first"
        )
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
