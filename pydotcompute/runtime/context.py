"""What a body sees of its kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..exceptions import KernelStateError, KernelStopped, QueueTimeoutError
from ..telemetry.observer import Delivery, delivery, in_hand
from .checks import checked_timeout
from .lifecycle import KernelState
from .mailbox import Entry
from .scheduler import AWAITED, NEW, SLICE_NS, Wait, clock

if TYPE_CHECKING:
    from .kernel import RingKernel

In = TypeVar("In")
Out = TypeVar("Out")


class KernelContext(Generic[In, Out]):
    """A body's way to its mailbox, to whoever asked, and to other kernels.

    ``KernelContext[In, Out]`` in a body's signature says what it takes and what it sends; the runtime then checks both.
    Only tasks on the runtime's event loop may use it, and one task at a time may wait in `receive`.
    """

    __slots__ = (
        "_box",
        "_busy_ns",
        "_delivery",
        "_handled",
        "_kernel",
        "_msg",
        "_scheduler",
        "_sink",
        "_start",
        "_stops",
        "_taken_after",
        "_wait",
        "_waited",
        "should_terminate",
    )

    should_terminate: bool
    """True once termination was asked for and the mailbox is empty: time to leave the loop."""

    def __init__(self, kernel: RingKernel, former: KernelContext[Any, Any] | None = None) -> None:
        self._kernel, self._box, self._scheduler = kernel, kernel._box, kernel._scheduler
        self._waited, self._handled = kernel._waited, kernel._handled
        self._wait = self._scheduler.wait()  # one is enough: a body waits for one message at a time
        self._msg: Any = None
        self._sink: Wait | None = None  # where the reply to the message in hand goes
        self._delivery: Delivery | None = None  # the last one that was taken on the general way
        self._taken_after = 0  # how many messages had been handled then
        self._start = 0  # clock() when it was taken; 0 while there is none in hand
        self._busy_ns: int = former._busy_ns if former is not None else 0
        self._stops = 0  # how often receive() has said that the kernel stops
        self.should_terminate = False

    @property
    def kernel_id(self) -> str:
        """The id of the kernel that this body serves."""
        return self._kernel.id

    @property
    def delivery(self) -> Delivery | None:
        """The message in hand, if it came as a delivery: while somebody observes the kernel, or to be tried again."""
        taken = self._delivery
        if taken is None or taken[0] is not self._msg:
            return None
        # The fast way leaves it there, and may have brought the very same object once more.
        return taken if self._kernel._observers or sum(self._handled) == self._taken_after else None

    @property
    def is_active(self) -> bool:
        """Whether the kernel is in state ACTIVE, not paused and not on its way out."""
        return self._kernel.state is KernelState.ACTIVE

    @property
    def state(self) -> Any:
        """The kernel's own state: what ``state=`` of `ring_kernel` made, else a `types.SimpleNamespace`.

        It outlives the body: a body that was replaced while it ran finds here what the former one left.
        """
        return self._kernel.user_state

    @state.setter
    def state(self, value: Any) -> None:
        self._kernel.user_state = value

    async def receive(self, timeout: float | None = None, _at_end: type[BaseException] = KernelStopped) -> In:
        """The next message, by priority. It counts as handled when the next one is asked for.

        Args:
            timeout: seconds to wait; None waits until there is one.

        Raises:
            QueueTimeoutError: nothing came in time, or the kernel stops and the call has a timeout.
            KernelStopped: the kernel stops and nothing is queued, or the body is being replaced by a new version.
            KernelStateError: another task of this body waits in `receive` already.
        """
        now = clock()
        if self._start:
            spent = now - self._start
            try:
                self._handled[spent.bit_length()] += 1
            except IndexError:  # longer than the histogram tells apart
                self._handled[-1] += 1
            self._busy_ns += spent
            if self._sink is not None:
                self._kernel._set_aside(self)
        if timeout is not None:
            checked_timeout(timeout)
        scheduler = self._scheduler
        ready = self._box.ready
        if ready and now < scheduler.slice_end:
            msg, put, self._sink = ready.popleft()
        else:
            self._start = 0
            msg, put, self._sink = await self._take(now, timeout, _at_end)
            now = clock()
        self._msg = msg
        self._start = now
        try:
            self._waited[(now - put).bit_length()] += 1
        except IndexError:
            self._waited[-1] += 1
        return msg  # type: ignore[no-any-return]

    async def _take(self, now: int, timeout: float | None, at_end: type[BaseException]) -> Entry:
        """The general way to the next entry: by priority, when the loop has had its turn, or after a wait."""
        kernel, box, scheduler = self._kernel, self._box, self._scheduler
        if self._delivery is not None:
            if kernel._observers:
                if (handled := self.delivery) is not None:
                    kernel.seen_end(handled)
                in_hand.set(None)
            self._delivery = None
        while True:
            if box.ready and now < scheduler.slice_end:
                return box.ready.popleft()
            if kernel._successor is not None:
                await self._leave(KernelStopped(f"the body of {kernel.id!r} is replaced by a new version"))
            if kernel._renewal is not None:
                await self._leave(KernelStopped(f"the body of {kernel.id!r} is replaced by a new one"))
            if now >= scheduler.slice_end:
                scheduler.over = True
                if len(box) and not box.paused:  # a long drain: let the loop breathe
                    scheduler.rest()
                    await asyncio.sleep(0)
                    now = clock()
                    scheduler.slice_end = now + SLICE_NS
                    continue
            if (entry := box.pull()) is not None:
                self.should_terminate = box.closed is not None and not len(box)
                if kernel._observers:
                    if type(entry) is not Delivery:  # it came before those who observe
                        entry = delivery(entry, kernel.id)
                    in_hand.set(entry)
                    kernel.seen("started", entry)
                    if kernel._killed is not None:  # by one of them: with this message in hand, and not a later one
                        self._msg, _, self._sink = self._delivery = entry
                        self._start = now
                        raise asyncio.CancelledError
                if type(entry) is Delivery:
                    self._delivery = entry
                    if not kernel._observers:
                        self._taken_after = sum(self._handled)
                return entry
            if box.closed is not None:
                self.should_terminate = True
                text = f"{kernel.id!r} stops and nothing is queued: look at ctx.should_terminate"
                await self._leave(at_end(text) if timeout is None else QueueTimeoutError(text))
            wait = self._wait
            if wait.state != NEW:
                raise KernelStateError(
                    f"a task of {kernel.id!r} waits in ctx.receive() already: one task of a body may wait at a time"
                )
            self._msg = None  # an idle kernel keeps no message alive
            if kernel._watchers:
                kernel._tell_watchers()
            box.getter = wait
            try:
                await (wait if timeout is None else scheduler.within(wait, timeout))
            finally:
                wait.state = NEW
                if box.getter is wait:
                    box.getter = None
            now = clock()

    async def _leave(self, error: BaseException) -> None:
        """Raise in a body that shall end."""
        self._msg = None
        self._stops += 1
        if self._stops > 1:
            # A body that swallows the error and asks again would spin here and block the loop. One that was given up
            # stays here for good.
            pause = self._scheduler.wait()
            if not self._kernel._abandoned:
                with suppress(RuntimeError):  # the loop is closed: what is left of the body is being collected
                    self._scheduler.loop.call_later(0.02, pause.set, None)
            await pause
        raise error

    def __aiter__(self) -> KernelContext[In, Out]:
        """``async for message in ctx``: every message until the kernel stops; then the loop ends normally."""
        return self

    # The same code with another default, because a call of one by the other would cost every message 60 ns.
    __anext__ = cast(
        "Callable[[KernelContext[In, Out]], Coroutine[Any, Any, In]]",
        FunctionType(receive.__code__, globals(), "__anext__", (None, StopAsyncIteration)),
    )

    async def send(self, reply: Out) -> None:
        """Reply. The reply belongs to the message in hand unless its `correlation_id` names another one.

        It goes to the ask that waits for it, and only there; else to the kernel's outbox, from which `runtime.receive`
        takes. A full outbox makes the body wait here. The reply is never written to: the same object may be sent again.

        Raises:
            MessageTypeError: not of the kernel's output type.
        """
        kernel = self._kernel
        if not isinstance(reply, kernel._output_types):
            kernel._admit_output(reply)
        if (correlation := getattr(reply, "correlation_id", None)) is not None:
            sink = kernel._correlated(self, correlation)
        elif (sink := self._sink) is not None and sink.state <= AWAITED:
            self._sink = None
        kernel._replied += 1
        if kernel._observers:
            taken, answers = self.delivery, None
            if sink is not None:
                asked_by = kernel._asked_by
                answers = taken if taken is not None and taken[2] is sink else asked_by and asked_by.pop(sink, None)
            kernel.seen("replied", taken, kernel.id, reply, answers or None)
        if sink is not None:
            if not sink.set(reply):
                kernel.bury((reply, 0, None), "late reply: the ask had ended", "late")
            return
        out = kernel._out
        plain = out.plain
        if len(plain) < out.room:
            plain.append((reply, 0, None))
            if out.getter is not None:
                out.wake()
        else:
            await kernel._send_when_room(reply)

    async def tell(self, kernel_id: str, message: Any) -> None:
        """Send a message to another kernel; waits while its mailbox is full. Errors as in `RingKernelRuntime.send`."""
        kernel = self._kernel
        try:
            kernel._sent[kernel_id] += 1  # before: what has come from nowhere would count as from outside
        except TypeError:  # it is no id, which sending says
            return await kernel.runtime.send(kernel_id, message)
        try:
            await kernel.runtime.send(kernel_id, message)
        except BaseException:
            kernel._sent[kernel_id] -= 1
            if not kernel._sent[kernel_id]:  # there may be no such kernel, and many such ids
                del kernel._sent[kernel_id]
            raise

    async def publish(self, topic: str, message: Any) -> int:
        """Send a message to all who have subscribed to its topic; how many. Errors as in `runtime.publish`."""
        return await self._kernel.runtime.publish(topic, message, _sent=self._kernel._sent)

    async def ask(self, kernel_id: str, message: Any, timeout: float | None = None) -> Any:
        """Send a message to another kernel and wait for its reply. Errors as in `RingKernelRuntime.ask`.

        Raises:
            KernelStateError: a body that asks its own kernel would wait for ever.
        """
        return await self._kernel.runtime.ask(kernel_id, message, timeout, _sent=self._kernel._sent)

    def __repr__(self) -> str:
        return f"<context of {self._kernel!r}>"
