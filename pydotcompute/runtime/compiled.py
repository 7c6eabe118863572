"""A compiled ring kernel: what the runtime does about a step that a backend runs."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable
from itertools import count
from struct import pack_into
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DeviceError, InstanceError, KernelStateError, UnifiedBufferError
from ..messages import DEFAULT_PRIORITY, checked_records, from_record, from_records
from ..telemetry import COUNTERS
from ..telemetry.observer import Delivery, Observer, delivery, on_behalf_of
from .dead_letters import Kind
from .executor import BY_KEY, PENDING, REFUSED, Engine, Event, Executor, Rings
from .intake import Intake, Outbox
from .kernel import CODES, Queued, RingKernel, RingKernelDefinition, log
from .lifecycle import KernelState
from .mailbox import Entry
from .scheduler import Wait, clock
from .step import StepDefinition
from .supervision import Restart

if TYPE_CHECKING:
    from .runtime import RingKernelRuntime

STREAK = 24
"""How many asks may be answered at once, which takes some microseconds each, until the event loop has its turn."""
GRACE = 1.0
"""Seconds that a step has to come back after the kernel's time to end is over."""


class CompiledKernel(RingKernel):
    """A compiled ring kernel of a runtime, and the handle to it; ``runtime["stats"][3]`` is that to an instance."""

    __slots__ = (
        "_asks",
        "_collecting",
        "_executor",
        "_failing",
        "_final",
        "_flying",
        "_holds",
        "_passes",
        "_swapping",
        "_tickets",
    )

    _way_out = "or by receive_batch(), let the step return False, or make queue_size larger"

    definition: StepDefinition
    _box: Intake
    _out: Outbox
    _successor: StepDefinition | None

    def __init__(self, runtime: RingKernelRuntime, definition: StepDefinition, kernel_id: str, engine: Engine) -> None:
        super().__init__(runtime, definition, kernel_id)
        self._asks: dict[int, Wait] = {}  # by ticket
        self._tickets = count(1)
        self._flying: dict[int, Delivery] = {}  # what is in the ring and observed, or tried again, by ticket
        self._collecting = False
        self._passes = 0  # of the loop, without an answer
        self._holds = 1  # reasons for not running; the first is that nobody has activated it
        self._swapping: asyncio.Task[None] | None = None
        self._failing: asyncio.Task[None] | None = None
        self._final: NDArray[np.void] | None = None  # the states, once it has ended
        self._executor: Executor = engine.executor(definition.build(), self._row, self._notified)
        self._box = Intake(self, definition)
        self._out = Outbox(self, definition)
        self._put_now, self._ask_now = self._direct_ways()

    # -- what a user asks of it ----------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self._executor.depth > 0

    @property
    def _processed(self) -> int:
        return self._row[_PROCESSED]

    @property
    def unanswered(self) -> int:
        return 0  # no step can put a message aside

    def _instance(self, instance: Any) -> int:
        n = self.definition.instances
        if not isinstance(instance, int) or isinstance(instance, bool) or not 0 <= instance < n:
            raise InstanceError(f"{self.id!r} has the instances 0 to {n - 1}, and none {instance!r}")
        return instance

    async def _snapshot(self, instance: int | None) -> Any:
        definition = self.definition
        if definition.state_type is None:
            return None
        async with self._at_rest():
            states = self._final if self.state.over else self._executor.states()
        if states is None:
            raise KernelStateError(
                f"the state of {self.id!r} is lost: its step did not come back when it was ended, or its device failed"
            )
        if instance is None and definition.instances > 1:
            return states
        return from_record(definition.state_type, states[instance or 0])

    # -- messages ------------------------------------------------------------------------------------------------------

    def _direct_ways(self) -> tuple[Callable[[Any, int | None], bool], Callable[[Any, int | None], Any]]:
        """What `send` and `ask` try first, on the runtime's loop. Closures, which is half of what they would cost."""
        executor, addressed, tickets, asks = self._executor, self._box.addressed, self._tickets, self._asks
        scheduler, streak = self._scheduler, 0

        def put_now(message: Any, instance: int | None) -> bool:
            """Put a message into the ring; False: it has to go the general way."""
            return message.priority is DEFAULT_PRIORITY and executor.put(message, addressed(instance))

        def ask_now(message: Any, instance: int | None) -> Any:
            """The reply to a message; a `Wait` that it will come to; or `REFUSED`: it has to go the general way."""
            nonlocal streak
            if message.priority is not DEFAULT_PRIORITY:
                return REFUSED
            ticket = next(tickets)
            answer = executor.ask(message, addressed(instance), ticket)
            if answer is PENDING:
                streak = 0
                wait = asks[ticket] = scheduler.wait()
                self._look_for_answers()
                return wait
            streak += 1
            if streak < STREAK or answer is REFUSED:
                return answer
            streak = 0
            wait = scheduler.wait()
            scheduler.loop.call_soon(self._reply, wait, answer)
            return wait

        return put_now, ask_now

    def _put_directly(self, message: Any, instance: int | None) -> bool:
        """Put a message into the ring from another thread; False: it has to go the general way."""
        if not self._is_direct(message):
            return False
        return self._executor.put_from_afar(message, self._addressed(instance))

    def _put_batch_directly(self, records: NDArray[np.void], instance: int | None) -> NDArray[np.void] | None:
        """Put records into the ring from another thread; those that have to go the general way, if any have."""
        records, address = checked_records(self.definition.message_type, records), self._addressed(instance)
        while len(records) and (taken := self._executor.put_records(records, address)) > 0:
            records = records[taken:]
        return records if len(records) else None

    def _ask_directly(self, message: Any, instance: int | None) -> Any:
        """Ask from another thread: the reply; a `Wait` that it will come to; or `REFUSED`: go the general way."""
        if not self._is_direct(message):
            return REFUSED
        instance = self._addressed(instance)
        ticket, wait = next(self._tickets), self._scheduler.wait()
        self._asks[ticket] = wait  # first: its answer may come to the loop at once
        answer: Any = REFUSED
        try:
            answer = self._executor.ask_from_afar(message, instance, ticket)
        finally:
            if answer is not PENDING:
                self._asks.pop(ticket, None)
        return wait if answer is PENDING else answer

    def _addressed(self, instance: int | None) -> int:
        return self._box.addressed(None) if instance is None else self._instance(instance)

    def _is_direct(self, message: Any) -> bool:
        return isinstance(message, self._input_types) and getattr(message, "priority", None) is DEFAULT_PRIORITY

    def _look_for_answers(self) -> None:
        """Look for answers at each pass of the loop for a while, and then wait to be told."""
        self._passes = 0
        if not self._collecting:
            self._collecting = True
            self._scheduler.loop.call_soon(self._collect)

    def _collect(self) -> None:
        self._collecting = False
        if self._deliver():
            self._passes = 0
        if self._asks or self._flying:
            self._passes += 1
            self._collecting = True
            if self._passes <= self._executor.patience:
                self._scheduler.loop.call_soon(self._collect)
            else:
                self._arm(Event.ANSWER)

    def _deliver(self) -> int:
        """Hand the answers out that are there; how many."""
        answers = self._executor.answers()
        if self._flying and answers:
            self._out.take_all()  # replies to what came before
        for ticket, reply in answers:
            sink = self._asks.pop(ticket, None)
            if (handled := self._flying.pop(ticket, None)) is not None:
                self._tell_end(handled, reply)
            if sink is not None:
                self._reply(sink, reply)
        if answers:
            self._box.go_on()
        return len(answers)

    def _tell_end(self, handled: Delivery, reply: Any) -> None:
        """A message that went with a ticket has been handled."""
        if reply is not None:
            if self._observers:
                self.seen("replied", handled, self.id, reply, handled if handled.is_ask else None)
            if not handled.is_ask:
                with on_behalf_of(handled):
                    self._out.come_by_ticket(delivery((reply, 0, None), self.id))
        if self._observers:
            self.seen_end(handled)

    def _reply(self, sink: Wait, reply: Any) -> None:
        if not sink.set(reply):
            self.bury((reply, 0, None), "late reply: the ask had ended", "late")

    def bury(self, entry: Entry, reason: str, kind: Kind = "unhandled", exception: BaseException | None = None) -> None:
        if entry[0] is not None:  # None: the step sent no reply to an ask
            super().bury(entry, reason, kind, exception)

    def _instance_of(self, mark: int) -> int | None:
        return None if mark == BY_KEY or self.definition.instances == 1 else mark

    def _observe(self, observers: tuple[Observer, ...]) -> None:
        super()._observe(observers)
        self._rewire()

    def _set_breakpoint(self, predicate: Callable[[Any], Any] | None) -> None:
        super()._set_breakpoint(predicate)
        self._rewire()

    def _rewire(self) -> None:
        """Let the host carry what is not to pass unseen."""
        for link in self.runtime._links:
            if self in (link.source, *link.targets):
                task = self._scheduler.loop.create_task(link.rewire())
                self.runtime._rewiring.add(task)
                task.add_done_callback(self.runtime._rewiring.discard)

    async def _put_batch(self, records: NDArray[np.void], instance: int | None) -> None:
        cls = self._input_types[0]
        await self.runtime._send_records(self, records, lambda done: from_records(cls, records[done:]), instance)

    def _pull_records(self, max_n: int) -> NDArray[np.void] | None:
        records = self._out.pull_records(max_n)
        return records if records is not None else super()._pull_records(max_n)

    # -- its life: only on the runtime's loop --------------------------------------------------------------------------

    def _arm(self, events: int) -> None:
        if come := self._executor.arm(events):
            self._scheduler.loop.call_soon(self._notified, come)

    def _notified(self, events: int) -> None:
        """What the executor was armed for has come."""
        if self.state.over:
            return
        if events & Event.FAILURE:
            self._hold(1)
            self._failing = self._scheduler.loop.create_task(self._fail())
        if events & Event.ANSWER:
            self._collect()
        if events & Event.REPLY:
            self._out.come()
        if events & (Event.ROOM | Event.IDLE):
            self._box.pump()
        if events & Event.IDLE:
            self._tell_watchers()

    async def _change(self) -> None:
        self._watch_idle()
        await self._move_or_idle()

    def _watch_idle(self) -> None:
        """Be told when nothing is left in the ring, unless the pump has more for it or a link is not done."""
        linked = self._link is not None and self._link.busy
        if not (linked or self.state.over or self._box.plain or self._box._extra or self._box.blocked):
            self._arm(Event.IDLE)

    def _hold(self, more: int) -> None:
        self._holds += more
        self._box.halt(self._holds > 0)

    @asynccontextmanager
    async def _at_rest(self) -> AsyncIterator[None]:
        """Hold it between two messages."""
        self._hold(1)
        try:
            await self._until_rest()
            yield
        finally:
            self._hold(-1)

    async def _until_rest(self) -> None:
        await self._until(lambda: self._executor.resting)

    async def _until_paused(self) -> None:
        """Until it is at rest, unless it goes on before that."""
        await self._until(lambda: self._executor.resting or not self._box.paused)

    async def _after_pause(self) -> None:
        if self.definition.buffers:
            await self._until_paused()

    async def _until(self, come: Callable[[], bool]) -> None:
        pause = 0.0
        while not (self.state.over or come()):
            await asyncio.sleep(pause)
            pause = min(2 * pause or 1e-5, 0.01)

    def _start_body(self, restart: Restart | None = None) -> None:
        self._begun = clock()
        hook = self.definition.policy.on_restart
        if restart is None or hook is None:
            self._hold(-1)
        else:
            self._failing = self._scheduler.loop.create_task(self._begin_after(hook, restart))

    async def _begin_after(self, hook: Callable[[Restart], Any], restart: Restart) -> None:
        try:
            done = hook(restart)
            if isawaitable(done):
                await done
        except Exception as error:  # noqa: BLE001 - it counts as a failure of the kernel
            if not self.state.over:
                await self._restart_or_end(error, None)
        else:
            self._hold(-1)

    def _check_successor(self, definition: RingKernelDefinition) -> None:
        super()._check_successor(definition)
        assert isinstance(definition, StepDefinition)
        if differences := self.definition.differences(definition):
            raise self._cannot_replace(f"the new definition differs in {' and '.join(differences)}")
        if why := self._executor.refusal(definition.build()):
            raise self._cannot_replace(why)

    def _replace(self, definition: RingKernelDefinition) -> None:
        if self.state.over or self.state is KernelState.TERMINATING:
            return
        assert isinstance(definition, StepDefinition)
        if self._successor is None:
            self._swapping = self._scheduler.loop.create_task(self._swap())
        self._successor = definition

    async def _swap(self) -> None:
        async with self._at_rest():
            if self._successor is not None and not self.state.over:
                self._executor.swap(self._successor.build())
                self._adopt(self._successor)

    def _adopt(self, definition: RingKernelDefinition) -> None:
        assert isinstance(definition, StepDefinition)
        self.definition, self._successor = definition, None
        self._input_types, self._output_types = definition.input_types, definition.output_types
        self._box.adopt(definition)
        self._limit = None
        self.version += 1
        self._tell_watchers()

    async def _terminate(self, drain: bool, timeout: float) -> None:
        begun = self.state is not KernelState.LAUNCHED
        self._move("terminate")
        self._successor = self._renewal = None
        if self._restarting is not None:
            self._restarting[0].cancel()
            self._restarting, drain = None, False
        if not drain:
            self._hold(1)  # before the mailbox closes, which ends a pause
        self._box.close(self._unusable)
        await self._end(drain and begun, timeout)

    async def _end(self, drain: bool, timeout: float) -> None:
        # A caller that is cancelled leaves the time limit in force.
        await asyncio.shield(asyncio.ensure_future(self._wind_up(drain, timeout)))

    async def _wind_up(self, drain: bool, timeout: float) -> None:
        end = self._scheduler.loop.time() + timeout
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self._cut_off()
                while drain and not self._idle:
                    await self._change()
        self._hold(1)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end + GRACE):
                await self._until_rest()
        if self.state.over:  # it has failed, or another call was at it
            return
        if not self._executor.resting:
            log.warning(
                "the step of %r does not come back and is given up: it ends with its loop, or with the process", self.id
            )
        reasons = [state for state, _ in self.history]
        if KernelState.ACTIVE not in reasons:
            reason = "terminated before the kernel was activated"
        else:
            reason = "the kernel is TERMINATED: it was not handled" if drain else "terminated without draining"
        self._move("return")
        self._wrap_up(reason)

    async def _cut_off(self) -> None:
        """Let no other kernel put its replies into the ring any more."""
        links = [asyncio.ensure_future(link.end(self)) for link in self._links_here()]
        await asyncio.gather(*map(asyncio.shield, links))

    async def _fail(self) -> None:
        """The step has failed; held already."""
        await self._until_rest()
        failure = self._executor.failure
        assert failure is not None
        self._deliver()
        await self._let_host_carry()
        await self._restart_or_end(failure, self._take_back())

    async def _restart_or_end(self, failure: BaseException, left: list[Entry] | None) -> None:
        """Begin again after a failure, as the policy says, or end; held meanwhile.

        `left` is what was in the ring, that which it failed with first; None: it has failed between two messages.
        """
        if self.state.over:  # it was terminated meanwhile
            self._bury_left(left or [], "failed", "the kernel failed while it had it in hand")
            return
        self._errors += 1
        policy, (renewal, self._renewal) = self.definition.policy, (self._renewal, None)
        first = left[0] if left else None
        if self._observers:
            self.seen("failed", self.id, failure, first if type(first) is Delivery else None)
        lost = isinstance(failure, DeviceError | UnifiedBufferError)  # no restart brings these back
        keep_state = renewal if renewal is not None else policy.keep_state
        wait = None if lost else self._wait_before_restart(failure, False, renewal)
        if wait is not None:
            try:
                self._executor.renew(keep_state)
            except Exception as error:  # noqa: BLE001 - the device is lost, or what makes its state raises
                failure, wait = error, None
        if wait is None:
            await self._end_failed(failure, left or [])
            return
        if first is not None and left is not None:
            self._give_back(left[1:])
            attempts = (first.attempts if type(first) is Delivery else 0) + 1
            if attempts <= policy.max_retries:
                self._put_back(first, first if type(first) is Delivery else None, attempts, self._foremost)
            else:
                self._unfinished += 1
                self.bury(first, "the kernel failed while it had it in hand", "failed", failure)
                if first[2] is not None:
                    first[2].fail(self._failure_of_message(failure))
        message = first[0] if first is not None else None
        self._restart_after(wait, Restart(self, self.restarts + 1, failure, message), keep_state)

    async def _end_failed(self, failure: BaseException, left: list[Entry]) -> None:
        await self._cut_off()
        if self.state.over:  # it was terminated meanwhile
            self._bury_left(left, "failed", "the kernel failed while it had it in hand")
            return
        self.exception = self.last_exception = failure
        self._successor = None
        self._move("raise")
        self._box.close(self._unusable)
        self._bury_left(left, "failed", "the kernel failed while it had it in hand")
        self._wrap_up("the kernel is FAILED: it was not handled")
        self._report(failure)
        if self._gave_up and self._group is not None:
            self._group.give_up(self)

    def _report(self, failure: BaseException, fate: str = "") -> None:
        context = self.definition.context or contextvars.copy_context()
        context.copy().run(super()._report, failure, fate)

    async def _let_host_carry(self) -> None:
        """Let no other kernel put its replies into the ring: what is taken back from there is older than what comes."""
        for link in self._links_here():
            await link.over_host()

    def _take_back(self) -> list[Entry]:
        """What is in the ring; only while it rests."""
        self._box.is_held = False
        left: list[Entry] = []
        for message, instance, ticket in self._executor.retrieve():
            sink, handled = self._asks.pop(ticket, None), self._flying.pop(ticket, None)
            left.append(handled if handled is not None else (message, instance, sink))
        return left

    def _give_back(self, left: list[Entry]) -> None:
        """Put what was in the ring into the mailbox, in front of all others: the ring is first in, first out."""
        priority = self._foremost
        for entry in reversed(left):
            self._box.put_first(entry, priority)

    @property
    def _foremost(self) -> int:
        """The priority of what is handed out next."""
        return max(self._box._top(), DEFAULT_PRIORITY)

    def _bury_left(self, left: list[Entry], kind: Kind, reason: str) -> None:
        """Make dead letters of what was in the ring: of the first for this reason, of the others since it has ended."""
        for entry in left:
            self._unfinished += 1
            self.bury(entry, reason, kind)
            if entry[2] is not None:
                entry[2].fail(self._unusable())
            kind, reason = "unhandled", f"the kernel is {self.state}: it was not handled"

    def _kill(self, error: BaseException) -> None:
        self._hold(1)
        self._failing = self._scheduler.loop.create_task(self._fail_between(error))

    async def _fail_between(self, error: BaseException) -> None:
        """Fail between two messages; held already."""
        await self._until_rest()
        if self.state.over or self._executor.failure is not None or self._restarting is not None:
            self._hold(-1)  # it has ended, or fails of itself, or waits to begin again
            if self._restarting is not None and self._gave_up:
                self._restarting[0].cancel()
                self._restarting = None
                await self._end_failed(error, [])
            return
        await self._let_host_carry()
        self._deliver()
        self._give_back(self._take_back())
        await self._restart_or_end(error, None)

    def _renew(self, keep_state: bool) -> None:
        over = self.state in (KernelState.LAUNCHED, KernelState.TERMINATING) or self.state.over
        if over or self._restarting is not None or self._renewal is not None:
            return
        self._renewal = keep_state
        self._failing = self._scheduler.loop.create_task(self._begin_again())

    async def _begin_again(self) -> None:
        self._hold(1)
        await self._until_rest()
        keep_state = self._renewal
        if self.state.over or self._executor.failure is not None or keep_state is None:
            self._hold(-1)
            return
        self._renewal = None
        await self._let_host_carry()
        self._deliver()
        self._give_back(self._take_back())
        try:
            self._executor.renew(keep_state)
        except Exception as error:  # noqa: BLE001 - as above
            self._errors += 1
            await self._end_failed(error, [])
            return
        self._restart_after(0.0, Restart(self, self.restarts + 1, None, None), keep_state)

    # -- stepping ------------------------------------------------------------------------------------------------------

    async def _steps(self, n: int, handled: list[Any]) -> None:
        executor, box = self._executor, self._box
        await self._until_paused()
        await self._let_host_carry()
        self._stopped_before = None
        while len(handled) < n and self.state is KernelState.DEACTIVATED:
            if self._holds or executor.failure is not None:  # somebody else is at it, or it begins again
                await asyncio.sleep(0.001)
                continue
            self._give_back(self._take_back())
            if self._restarting is not None or not (len(box) or box.take_rest_over()):
                await self._move_or_idle()
                continue
            top = box._top()
            message = box._level(top)[0][0]
            if not box._feed(top):
                await asyncio.sleep(0.001)  # until a reply is taken
                continue
            box._let_in()
            if not executor.depth:  # it could not be packed, and is a dead letter
                continue
            handled.append(message)
            executor.run()
            try:
                await self._until(lambda: executor.depth == 0 or self._box._runs)
            finally:
                if not box._runs:
                    executor.pause()
            await self._until_paused()
            self._deliver()

    async def _until_stop(self) -> None:
        await self._until_paused()
        if self._is_paused():
            await self._let_host_carry()

    def _handed_over(self) -> dict[str, int]:
        link, sent = self._link, super()._handed_over()
        if link is not None and (target := link.native_target) is not None:
            sent[target.id] = sent.get(target.id, 0) + self._executor.handed
        return sent

    def rings(self) -> Rings:
        return self._executor.rings()

    def _queue(self, most: int | None = None) -> list[Queued]:
        if not self._is_paused():
            raise KernelStateError(
                f"{self.id!r} is {self.state}, and what is queued is in its ring: pause it first, with "
                f"`await runtime.deactivate({self.id!r})`"
            )
        if not self._executor.resting or any(link.is_native() for link in self._links_here()):
            what = "has a message in hand" if not self._executor.resting else "is being handed messages"
            raise KernelStateError(
                f"{self.id!r} {what}: `await runtime.wait_paused({self.id!r})` waits until that is done"
            )
        if self._executor.failure is not None:
            raise KernelStateError(f"{self.id!r} has failed just now: look again when it has begun again, or ended")
        self._give_back(self._take_back())
        return super()._queue(most)

    def _age(self, entry: Entry, now: int) -> float | None:
        return None

    def _injected(self, message: Any) -> Entry:
        self._box.check(message)
        return (message, self._box.addressed(None), None)

    def _wrap_up(self, reason: str) -> None:
        """Leave nobody waiting, take out of the executor what is left, and give it back."""
        executor = self._executor
        self._box.close(self._unusable)
        self._deliver()
        if self._link is not None and self._link.task is None:
            self._link.let_go()
        for entry in self._take_back():
            self._unfinished += 1
            self.bury(entry, reason)
        self._out.take_all()
        if executor.resting and self.definition.state_type is not None:
            with suppress(DeviceError):  # it is lost
                self._final = executor.states()
        executor.close()
        self._out.close(self._unusable)
        self._box.bury_all(reason)
        while self._asks:
            self._asks.popitem()[1].fail(self._unusable())

    # -- telemetry -----------------------------------------------------------------------------------------------------

    def _publish_histograms(self) -> None:
        """The executor's loop writes them."""

    def _publish(self) -> None:
        box, out, row = self._box, self._out, self._row
        depth = len(box)
        box.peak = max(box.peak, depth)
        received = row[_PROCESSED] + depth + box.unhandled + self._unfinished
        pack_into("=7q", row, 0, CODES[self.state], self.version, box.capacity, depth, box.peak, len(out), received)
        counts = (box.dropped, self._dead_letters, self._errors, self.restarts, self._retried)
        pack_into("=5q", row, _DROPPED_AT, *counts)


_PROCESSED, _DROPPED_AT = COUNTERS.names.index("processed"), COUNTERS.fields["dropped"][1]  # type: ignore[union-attr, index]


class InstanceHandle:
    """The handle to one instance of a compiled ring kernel: ``runtime["stats"][3]``."""

    __slots__ = ("index", "kernel")

    def __init__(self, kernel: RingKernel, index: int) -> None:
        self.kernel = kernel
        self.index = index

    async def send(self, message: Any) -> None:
        """`RingKernelRuntime.send` to this instance."""
        await self.kernel.runtime.send(self.kernel.id, message, instance=self.index)

    async def send_many(self, messages: Iterable[Any]) -> None:
        """`RingKernelRuntime.send_many` to this instance."""
        await self.kernel.runtime.send_many(self.kernel.id, messages, instance=self.index)

    async def send_batch(self, records: NDArray[np.void], *, progress: bool = False) -> None:
        """`RingKernelRuntime.send_batch` to this instance."""
        await self.kernel.runtime.send_batch(self.kernel.id, records, instance=self.index, progress=progress)

    async def ask(self, message: Any, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.ask` of this instance."""
        return await self.kernel.runtime.ask(self.kernel.id, message, timeout, instance=self.index)

    async def snapshot(self) -> Any:
        """`RingKernelRuntime.snapshot` of this instance."""
        return await self.kernel.runtime.snapshot(self.kernel.id, instance=self.index)

    def __repr__(self) -> str:
        return f"<instance {self.index} of {self.kernel!r}>"
