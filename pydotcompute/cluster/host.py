"""A host: the process on a node in which ring kernels of another process's runtime run.

It holds an ordinary runtime, on a thread of its own. The loop of the engine's thread stays free meanwhile, so that a
body that blocks does not look like a node that is gone.
"""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import pickle
import sys
from asyncio import run_coroutine_threadsafe as hop
from collections import deque
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..exceptions import ClusterError, MessageDecodeError, PyDotComputeError
from ..messages import DEFAULT_PRIORITY, from_records, is_message_type, layout, to_records
from ..messages.message import registry, type_name
from ..runtime.compiled import CompiledKernel
from ..runtime.dead_letters import DeadLetter, DeadLetters
from ..runtime.executor import backend
from ..runtime.kernel import RingKernel
from ..runtime.lifecycle import KernelState
from ..runtime.runtime import RingKernelRuntime
from ..runtime.scheduler import AWAITED, NEW, SET, Wait
from ..runtime.step import StepDefinition
from ..runtime.topics import checked_topic
from ..telemetry.clock import Stamp, process_clock
from ..telemetry.observer import Delivery, Observer, acting, in_hand
from . import wire

BEAT = 0.5
"""Seconds after which a host answers also if it has nothing to say."""
GLANCE = 0.002
"""Seconds between looks at how far its kernels are, while they have messages."""
REPORT = 0.1
"""Seconds between the counters of a kernel."""
TELLS = 1024
"""Messages that the bodies here may have sent to a ring kernel elsewhere before it has taken the first of them."""

Frame = list[Any]
"""A frame, and what goes beside it."""

log = logging.getLogger("pydotcompute")


class Host:
    """What the engine runs on a node; its coroutines are called from afar."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._runtime = _Runtime(self)
        self._runtime._start()
        # Messages come by the thousand and go soon: this process has little else, and need not look for rings so often.
        gc.set_threshold(20_000, 20, 20)
        thread = self._runtime._thread
        assert thread is not None
        self._loop = thread.loop
        self._received = self._gathered = 0  # frames
        self._frames: deque[tuple[list[list[Any]], Future[Frame]]] = deque()
        self._taken_at = [0.0, 0.0]  # when the last two came, by the runtime's loop
        self._turns: dict[int, asyncio.Future[None]] = {}  # of frames that came before their predecessors
        self._taking = False
        self._next: Future[Frame] | None = None
        self._work = asyncio.Event()
        self._residents: dict[int, _Resident] = {}
        self._numbers: dict[str, int] = {}  # of the kernels, by id
        self._launching: dict[int, asyncio.Future[None]] = {}
        self._items: list[list[Any]] = []  # what is to be said
        self._asking: dict[int, asyncio.Future[Any]] = {}
        self._tokens = 0
        self._away: dict[str, Away] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._stepping: dict[int, asyncio.Future[list[Any]]] = {}
        self._clock = process_clock()
        self._watcher = _Watcher(self)
        self.watched: set[str] = set()
        """The ids of kernels here that observers in the runtime of the notebook look at."""
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Prints(getattr(sys, name), self))
        log.addHandler(_Logs(self))
        log.propagate = False

    async def hello(self) -> dict[str, Any]:
        """What this process is."""
        return {
            "pydotcompute": __version__,
            "python": sys.version.split()[0],
            "wire": wire.VERSION,
            "pid": os.getpid(),
            "gpus": [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu],
        }

    async def deliver(self, data: bytes, *beside: NDArray[np.uint8]) -> list[Any]:
        """Take a frame: why it was refused, None when all in it was put where it goes; and what `collect` gives."""
        try:
            number, items, heard = wire.unpacked(data, wire.TO_HOST, beside)
            wire.expect(number, self._received + 1, self._received + wire.FRAMES)
        except MessageDecodeError as error:
            return [str(error), b""]
        with suppress(ValueError):  # the clocks are far apart: the runtime says so
            self._clock.update(Stamp(*heard, "the runtime"))
        if number != self._received + 1:  # the engine has brought a small one past a large one
            turn = self._turns[number] = asyncio.get_running_loop().create_future()
            await turn
        self._received = number
        if number + 1 in self._turns:
            self._turns.pop(number + 1).set_result(None)
        taken: Future[Frame] = Future()
        self._loop.call_soon_threadsafe(self._take, items, taken)
        try:
            return [None, *await asyncio.wrap_future(taken)]
        except Exception as error:  # noqa: BLE001 - told to who has sent it
            return [f"{type(error).__name__}: {error}", b""]

    async def collect(self) -> Frame:
        """The next frame of what there is to say and what goes beside it, or [b""] after a while of nothing."""
        if self._next is None:
            self._next = hop(self._gather_soon(), self._loop)
        waiting = asyncio.wrap_future(self._next)
        done, _ = await asyncio.wait({waiting}, timeout=BEAT)
        if not done:
            return [b""]  # it stays for the next call
        self._next = None
        return waiting.result()

    async def leave(self) -> None:
        """End all kernels, without draining them."""
        with suppress(PyDotComputeError):
            await self._runtime.close(drain=False, timeout=1.0)

    # -- in: on the runtime's loop -------------------------------------------------------------------------------------

    def _take(self, items: list[list[Any]], taken: Future[Frame]) -> None:
        self._taken_at = [self._taken_at[1], self._loop.time()]
        self._frames.append((items, taken))
        if not self._taking:
            self._taking = True
            self._spawn(self._take_all())

    async def _take_all(self) -> None:
        """One frame after the other, also where one has to wait for room."""
        try:
            while self._frames:
                items, taken = self._frames.popleft()
                try:
                    for kind, *fields in items:
                        await self._take_item(kind, fields)
                except Exception as error:  # noqa: BLE001 - told to who has sent it
                    taken.set_exception(error)
                else:
                    taken.set_result(self._gather()[0])
                self._work.set()
        finally:
            self._taking = False

    async def _take_item(self, kind: str, fields: list[Any]) -> None:
        if kind == "messages":
            number, first, blobs, asked, instances = fields
            if (resident := self._residents.get(number)) is not None:
                await resident.in_turn(len(blobs), resident.take(first, blobs, set(asked), instances))
        elif kind == "records":
            number, first, n, data, instance = fields
            if (resident := self._residents.get(number)) is not None:
                records = resident.records(n, data)
                await resident.in_turn(n, resident.take_records(records, None if instance < 0 else instance))
        elif kind == "watch":
            if (resident := self._residents.get(fields[0])) is not None:
                self._watch(resident, fields[1])
        elif kind == "credit":
            if (resident := self._residents.get(fields[0])) is not None:
                resident.taken = fields[1]
        elif kind == "call":
            self._spawn(self._call(*fields))
        elif kind == "teach":
            for code in fields[0]:
                # Who misses one of them is told when a message of it comes.
                with suppress(ClusterError):
                    cls = _code(code)
                    if is_message_type(cls):
                        registry[type_name(cls)] = cls
        elif kind == "answer":
            token, there, value = fields
            if (future := self._asking.pop(token, None)) is not None and not future.done():
                if there:
                    try:
                        future.set_result(None if value is None else wire.decoded(value))
                    except MessageDecodeError as problem:  # of a class that is not known here
                        future.set_exception(problem)
                else:
                    future.set_exception(wire.restored(value, "the node of the runtime"))
        elif kind == "sent":
            target, n, error = fields
            if (away := self._away.get(target)) is not None:
                away.came(n, None if error is None else wire.restored(error, "the node of the runtime"))

    def _watch(self, resident: _Resident, watched: bool) -> None:
        """Tell from now on what becomes of each message of a kernel, or no more."""
        kernel = resident.kernel
        resident.events, resident.names = [], {}
        (self.watched.add if watched else self.watched.discard)(kernel.id)
        kernel._observe((self._watcher,) if watched else ())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, token: int, number: int, verb: str, arguments: bytes) -> None:
        """What the runtime asks of a kernel here, or of this host."""
        try:
            result = await self._do(number, verb, arguments)
        except Exception as error:  # noqa: BLE001 - told to who has called
            self.say("result", token, False, wire.described(error))
        else:
            self.say("result", token, True, result)

    async def _do(self, number: int, verb: str, arguments: bytes) -> Any:
        runtime = self._runtime
        if verb == "launch":
            self._launching[number] = launching = asyncio.ensure_future(self._launch(number, arguments))
            try:
                return await launching
            finally:
                del self._launching[number]
        if verb == "drop":
            if number in self._launching:
                await asyncio.wait({self._launching[number]})
            if number in self._residents:
                await self._drop(self._residents[number])
            return None
        if number not in self._residents:
            raise ClusterError(f"the ring kernel has ended on {self.name}")
        kernel = self._residents[number].kernel
        if verb == "replace":
            definition = _code(arguments)
            if isinstance(definition, StepDefinition):
                definition._backend = backend(definition.backend)
            kernel._check_successor(definition)
            kernel._replace(definition)
            return None
        given: Any = wire.decoded(arguments) if arguments else None
        if verb == "deactivate":
            if kernel.state is KernelState.ACTIVE:
                await runtime.deactivate(kernel.id)
            self._tell_done(number)
        elif verb == "come to a stop":
            await kernel._until_stop()
            self._tell_done(number)
        elif verb == "reactivate":
            if kernel.state is KernelState.DEACTIVATED:
                await runtime.reactivate(kernel.id)
        elif verb == "terminate":
            drain, timeout = given
            end = self._loop.time() + timeout
            if drain:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._residents[number].through.wait(), timeout)
            # The order to end came behind the messages, on a way of its own.
            if not kernel.state.over:
                await runtime.terminate(kernel.id, drain, max(end - self._loop.time(), 0.05))
        elif verb == "restart":
            await runtime.restart(kernel.id, keep_state=given)
        elif verb == "kill":
            await runtime.kill(kernel.id, wire.restored(given, "the node of the runtime"))
        elif verb == "step":
            stepping = self._stepping[number] = asyncio.ensure_future(runtime.step(kernel.id, given))
            try:
                return [wire.encoded(message) for message in await stepping]
            finally:
                del self._stepping[number]
                self._tell_done(number)
        elif verb == "step no more":
            if number in self._stepping:
                self._stepping[number].cancel()
        elif verb == "snapshot":
            return self._shown(kernel, await runtime.snapshot(kernel.id, instance=given))
        else:
            raise ClusterError(f"no host knows {verb!r}: install the same pydotcompute everywhere")
        return None

    async def _launch(self, number: int, code: bytes) -> None:
        runtime = self._runtime
        kernel_id, definition, paused, booked = _code(code)
        if isinstance(definition, StepDefinition):
            definition._backend = backend(definition.backend)
        while (former := self._numbers.get(kernel_id)) is not None:  # given up there, and not yet gone
            await self._drop(self._residents[former])
        kernel = await runtime.launch(definition, kernel_id=kernel_id)
        self._residents[number] = _Resident(self, number, kernel)
        self._numbers[kernel_id] = number
        if booked:
            self._runtime.booked.add(kernel_id)
        await runtime.activate(kernel_id)
        if paused:
            await runtime.deactivate(kernel_id)
        self._work.set()

    async def _drop(self, resident: _Resident) -> None:
        """End a kernel of which nobody wants to hear any more."""
        kernel = resident.kernel
        with suppress(PyDotComputeError):  # somebody else may be at it
            await self._runtime.terminate(kernel.id, drain=False, timeout=1.0)
        while not kernel.state.over:
            await kernel._move_or_idle()
        if self._residents.get(resident.number) is resident:
            self.forget(resident)

    def _tell_done(self, number: int) -> None:
        """Say, before what comes next, how far a kernel is that has come to a stop."""
        if (resident := self._residents.get(number)) is not None:
            resident.report(self._items)

    @staticmethod
    def _shown(kernel: RingKernel, state: Any) -> Any:
        """A state, as what `RemoteKernel` reads: bytes of records, fields of a namespace, or a message."""
        if isinstance(kernel, CompiledKernel) and state is not None:
            states = state if isinstance(state, np.ndarray) else to_records([state])
            return ["records", isinstance(state, np.ndarray), states.tobytes()]
        if state is not None and not is_message_type(type(state)) and hasattr(state, "__dict__"):
            return ["fields", wire.encoded(vars(state))]
        return ["value", wire.encoded(state)]

    # -- out: on the runtime's loop ------------------------------------------------------------------------------------

    def say(self, *item: Any) -> None:
        """Have an item in the next frame."""
        self._items.append(list(item))
        self._work.set()

    def say_from_afar(self, *item: Any) -> None:
        """`say`, by any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.say, *item)

    async def _gather_soon(self) -> Frame:
        while True:
            self._work.clear()
            before, last = self._taken_at
            if last - before < GLANCE and (wait := last + GLANCE - self._loop.time()) > 0:
                await asyncio.sleep(wait)  # frames come close together: what there is to say goes back with them
                continue
            frame, pause = self._gather()
            if frame[0]:
                return frame
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), pause)

    def forget(self, resident: _Resident) -> None:
        """It has ended, and that was told: its id is that of no kernel here any more."""
        kernel, number = resident.kernel, resident.number
        del self._residents[number]
        del self._numbers[kernel.id]
        self.watched.discard(kernel.id)
        del self._runtime._kernels[kernel.id]
        self._runtime.booked.discard(kernel.id)
        self._runtime._launches += 1
        kernel._retire()

    def _gather(self) -> tuple[Frame, float | None]:
        """A frame of what there is to say, or [b""]; and the seconds until there may be more, None: nobody is here."""
        pause = BEAT if self._residents else None
        for resident in list(self._residents.values()):
            pause = min(resident.report(self._items), pause or BEAT)
        if not self._items:
            return [b""], pause
        items, self._items = self._items, []
        self._gathered += 1
        data, beside = wire.packed(self._gathered, items, wire.FROM_HOST, self._clock.tick())
        # As arrays the engine takes them from the memory where they are.
        return [data, *(np.frombuffer(blob, np.uint8) for blob in beside)], pause

    def number_of(self, kernel_id: str | None) -> int:
        return self._numbers.get(kernel_id, 0) if kernel_id is not None else 0

    def resident(self, kernel_id: str) -> _Resident | None:
        return self._residents.get(self.number_of(kernel_id))

    def sender(self) -> list[int] | None:
        """The kernel whose body acts here and now and what it has in hand, if it is observed."""
        if (name := acting.get()) not in self.watched or (resident := self.resident(name)) is None:
            return None
        cause = in_hand.get()
        return [resident.number, 0 if cause is None else resident.names.get(cause.number, 0)]

    # -- to kernels elsewhere ------------------------------------------------------------------------------------------

    async def ask_runtime(self, *item: Any) -> Any:
        """Say an item that wants an answer; `item` is its kind and its fields but the token."""
        self._tokens += 1
        token = self._tokens
        future = self._asking[token] = self._loop.create_future()
        kind, *fields = item
        self.say(kind, token, *fields)
        try:
            return await future
        finally:
            self._asking.pop(token, None)

    def away(self, target: str) -> Away:
        """The way to a kernel that is not here."""
        if target not in self._away:
            self._away[target] = Away(self, target)
        return self._away[target]


class _Asked(Wait):
    """Where the reply to an ask from afar goes."""

    __slots__ = ("number",)
    resident: ClassVar[_Resident]
    number: int

    def set(self, value: Any, state: int = SET) -> bool:
        if self.state > AWAITED:
            return False
        self.value, self.state = value, state
        self.resident.answered(self.number, value, state == SET)
        return True


class _Bell(Wait):
    """Rings when a reply comes."""

    __slots__ = ()
    host: ClassVar[Host]

    def set(self, value: Any, state: int = SET) -> bool:
        self.host._work.set()
        return True


class _Resident:
    """A ring kernel that runs here, and how far it is."""

    def __init__(self, host: Host, number: int, kernel: RingKernel) -> None:
        self._host, self.number, self.kernel = host, number, kernel
        self.taken = 0
        """How many of its replies were taken where they went."""
        self._accepted = self._told = self._sent = self._restarts = 0
        self._answers: list[list[Any]] = []
        self._asks: dict[int, Wait] = {}
        self._reported, self._reported_at, self._row = 0.0, 0, b""
        self._window = kernel.definition.queue_size
        self._clock = host._loop.time
        wait: Any = kernel._scheduler._wait_type
        # Classes of their own: what a scheduler's waits share are attributes of their class.
        self._asked: Any = type("Asked", (_Asked, wait), {"__slots__": (), "resident": self})
        self._bell: Any = type("Bell", (_Bell, wait), {"__slots__": (), "host": host})
        self.line: deque[Coroutine[Any, Any, None]] = deque()
        """Messages that there was no room for in its mailbox, because kernels beside it have filled that."""
        self.through = asyncio.Event()
        """There are none of them."""
        self.through.set()
        self._places: deque[tuple[int, int]] = deque()
        """How many messages have gone through the mailbox when those accepted have, if others were among them."""
        self._passed = 0  # of those accepted, as far as the places tell
        self.events: list[list[Any]] = []
        """What has become of its messages, while it is observed."""
        self.naming = 0
        """The number of the message that is put into the mailbox just now."""
        self.names: dict[int, int] = {}
        """The numbers of messages, by those of their deliveries here."""
        self._listen()

    async def in_turn(self, n: int, taking: Coroutine[Any, Any, None]) -> None:
        """Take messages into the mailbox; where there is no room for them, what is for other kernels does not wait."""
        box = self.kernel._box
        if not self.line and len(box) + box.blocked + n <= box.capacity:
            await taking
            return
        self.line.append(taking)
        self.through.clear()
        if len(self.line) == 1:
            self._host._spawn(self._take_line())

    async def _take_line(self) -> None:
        while self.line:
            taking = self.line[0]
            try:
                await taking
            except Exception:
                log.exception("messages for %r were not taken", self.kernel.id)
            del self.line[0]
            self._host._work.set()
        self.through.set()

    def _left(self) -> int:
        """How many messages have left the mailbox, and are done with."""
        return self.kernel._processed + self.kernel._unfinished + self.kernel._box.unhandled

    def _mark_place(self) -> None:
        """Remember what is before the message that was accepted last, if others than these came into the mailbox."""
        kernel, box = self.kernel, self.kernel._box
        if isinstance(kernel, CompiledKernel) or box._levels is not None:
            return  # not in the order in which they came
        place = self._left() + kernel.busy + len(box)
        if place != self._accepted:
            self._places.append((place, self._accepted))

    def _listen(self) -> None:
        """Hear of the next reply."""
        if self.kernel._out.getter is None:
            bell = self.kernel._out.getter = self._bell()
            bell.state = AWAITED

    def answered(self, number: int, value: Any, well: bool) -> None:
        """There is a reply to an ask, or none to come."""
        self._asks.pop(number, None)
        if not well and isinstance(value, asyncio.CancelledError):
            return  # the asker has gone
        try:
            blob = (None if value is None else wire.encoded(value)) if well else wire.described(value)
        except PyDotComputeError as error:
            well, blob = False, wire.described(error)
        self._answers.append([number, well, blob])
        self._host._work.set()

    async def take(self, first: int, blobs: list[bytes], asked: set[int], instances: list[Any] | None) -> None:
        kernel, box = self.kernel, self.kernel._box
        done = 0
        if not asked and instances is None and not isinstance(kernel, CompiledKernel):
            with suppress(MessageDecodeError):  # of one of them: which, is seen below
                done = box.put_many([wire.decoded(blob) for blob in blobs], 0)
            self._accepted += done
        for place, blob in islice(enumerate(blobs), done, None):
            sink: Any = None
            if place in asked:
                sink = self._asked()
                sink.state, sink.number = NEW, first + place
                self._asks[first + place] = sink
            try:
                message = wire.decoded(blob)
                instance = None if instances is None else instances[place]
                self.naming = first + place
                try:
                    if isinstance(kernel, CompiledKernel):
                        waiting = box.put(message, sink, instance)
                    else:
                        waiting = box.put_at(DEFAULT_PRIORITY, message, sink)
                finally:
                    self.naming = 0
                if waiting is not None:
                    await box.accepted(waiting)
            except PyDotComputeError as error:
                if sink is not None:
                    sink.fail(error)
                self._host.say(
                    "letter", self.number, blob, f"{self._host.name}: {error}", "undeliverable",
                    wire.described(error), False, None,
                )  # fmt: skip
            self._accepted += 1
        self._mark_place()

    def records(self, n: int, data: bytes) -> NDArray[np.void]:
        """Records for it.

        Raises:
            MessageDecodeError: they are not so many.
        """
        cls: type[Any] = self.kernel._input_types[0]
        records = np.frombuffer(data, layout(cls).dtype)
        if len(records) != n:
            raise MessageDecodeError(f"{len(records)} records came where {n} were announced")
        return records

    async def take_records(self, records: NDArray[np.void], instance: int | None) -> None:
        kernel = self.kernel
        cls: type[Any] = kernel._input_types[0]
        try:
            await kernel._put_batch(records, instance)
        except PyDotComputeError as error:
            lost: list[Any] = from_records(cls, records)
            for message in lost:
                self._host.say(
                    "letter", self.number, wire.encoded(message), f"{self._host.name}: {error}", "unhandled",
                    wire.described(error), False, instance,
                )  # fmt: skip
        self._accepted += len(records)

    def report(self, items: list[list[Any]]) -> float:
        """Add what there is to say; the seconds until it is to be asked again."""
        kernel, number = self.kernel, self.number
        over = kernel.state.over
        if self.events:
            items.append(["seen", number, self.events])
            self.events = []
        self._gather_replies(items)
        if self._answers:
            items.append(["answers", number, self._answers])
            self._answers = []
        done = self.tell_done(items, kernel._box.paused)
        now = self._clock()
        times = kernel.restarts - self._restarts
        if over or times or now - self._reported > REPORT:
            self._reported, self._reported_at = now, done
            kernel._publish()
            kernel._publish_histograms()
            row = bytes(kernel._row)
            if row != self._row:
                self._row = row
                items.append(["counters", number, row, kernel._handed_over(), kernel.waiting_for])
        if times:
            self._restarts = kernel.restarts
            failure = kernel.last_exception
            when = [list(one) for one in kernel.restarted[-min(times, 100) :]]
            texts = None if failure is None else wire.described(failure)
            items.append(["restarted", number, times, when, texts])
        if over:
            failure = kernel.exception
            items.append(["ended", number, None if failure is None else wire.described(failure), kernel._gave_up])
            self._host.forget(self)
            return BEAT
        if done < self._accepted:
            return GLANCE
        return REPORT if done != self._reported_at else BEAT

    def tell_done(self, items: list[list[Any]], now: bool) -> int:
        """Add how many messages it is done with, now or when it is worth while; the number."""
        kernel, over = self.kernel, self.kernel.state.over
        done = self._accepted if over else self._accepted - len(kernel._box) - kernel.busy * (not _counts_hand(kernel))
        if self._places:
            left = self._left()
            while self._places and self._places[0][0] <= left:
                self._passed = self._places.popleft()[1]
            done = max(done, self._passed)
        if len(kernel._out) and not over:
            done = self._told  # a message is done with when its replies are on their way: they could be lost with us
        enough = 1 if now else min(self._window // 4 + 1, 1024)
        if done - self._told >= enough or (done > self._told and done == self._accepted):
            self._told = done
            items.append(["done", self.number, done])
        return done

    def _gather_replies(self, items: list[list[Any]]) -> None:
        kernel, out = self.kernel, self.kernel._out
        # Of one that has ended all: nobody will ask here again.
        room = sys.maxsize if kernel.state.over else kernel.definition.queue_size - (self._sent - self.taken)
        if isinstance(kernel, CompiledKernel) and kernel.definition.reply_type is not None:
            while room > 0 and (records := kernel._pull_records(min(room, wire.FRAME))) is not None and len(records):
                items.append(["records", self.number, len(records), records.tobytes()])
                self._sent += len(records)
                room -= len(records)
            return
        blobs: list[bytes] = []
        while len(blobs) < room and (entry := out.pull()) is not None:
            try:
                blobs.append(wire.encoded(entry[0]))
            except PyDotComputeError as error:
                kernel.bury(entry, str(error), "undeliverable", error)
        self._listen()
        if blobs:
            self._sent += len(blobs)
            items.append(["replies", self.number, blobs])


def _counts_hand(kernel: RingKernel) -> bool:
    """Whether the length of its mailbox counts the message in hand."""
    return isinstance(kernel, CompiledKernel)


class Away:
    """A ring kernel elsewhere, as what a body here sends to; `RingKernelRuntime` takes it for a router."""

    def __init__(self, host: Host, target: str) -> None:
        self._host, self._target = host, target
        self._sent = self._came = 0
        self._found = False
        self._error: BaseException | None = None
        self._room = asyncio.Event()

    def came(self, n: int, error: BaseException | None) -> None:
        """So many were put where they go, and the last of them perhaps not."""
        self._came += n
        if error is not None:
            self._found = False
        self._room.set()

    def _offer(self, message: Any, instance: int | None = None) -> Coroutine[Any, Any, None] | None:
        if self._found and self._sent - self._came < TELLS:
            self._say(message, instance)
            return None
        return self._send(message, instance)

    async def _send(self, message: Any, instance: int | None) -> None:
        if not self._found:
            await self._host.ask_runtime("find", self._target)
            self._found = True
        while self._sent - self._came >= TELLS:
            self._room.clear()
            await self._room.wait()
        self._say(message, instance)

    def _say(self, message: Any, instance: int | None) -> None:
        blob = wire.encoded(message)
        self._sent += 1
        self._host.say("tell", self._target, blob, instance, self._host.sender())

    async def send_many(self, messages: Iterable[Any], instance: int | None = None) -> None:
        for message in messages:
            if (waiting := self._offer(message, instance)) is not None:
                await waiting

    async def ask(
        self, message: Any, timeout: float | None, sent: dict[str, int] | None, instance: int | None = None
    ) -> Any:
        if sent is not None:
            sent[self._target] += 1
        blob, sender = wire.encoded(message), self._host.sender()
        return await self._host.ask_runtime("ask", self._target, blob, instance, timeout, sender)


class _To:
    """`Away`, with an instance."""

    def __init__(self, away: Away, instance: int | None) -> None:
        self._away, self._number = away, instance

    def _offer(self, message: Any) -> Coroutine[Any, Any, None] | None:
        return self._away._offer(message, self._number)

    async def send_many(self, messages: Iterable[Any]) -> None:
        await self._away.send_many(messages, self._number)

    async def ask(self, message: Any, timeout: float | None, sent: dict[str, int] | None) -> Any:
        return await self._away.ask(message, timeout, sent, self._number)


class _Letters(DeadLetters):
    """Dead letters of a host: the runtime of the notebook keeps them."""

    def __init__(self, host: Host, limit: int, runtime: RingKernelRuntime) -> None:
        super().__init__(limit, runtime)
        self._host = host

    def add(self, letter: DeadLetter) -> None:
        try:
            blob: Any = wire.encoded(letter.message)
        except PyDotComputeError:
            blob = repr(letter.message)[:1000]
        number = self._host.number_of(letter.kernel_id)
        error = None if letter.exception is None else wire.described(letter.exception)
        self._host.say("letter", number, blob, letter.reason, letter.kind, error, letter.is_reply, letter.instance)


class _Runtime(RingKernelRuntime):
    """The runtime of a host: ids that it does not know are those of ring kernels elsewhere."""

    def __init__(self, host: Host) -> None:
        super().__init__(loop="thread")
        self._host = host
        self.dead_letters = _Letters(host, 1, self)
        self.booked: set[str] = set()
        """Kernels here whose messages must outlive this process: also those of kernels beside them go by way of the
        runtime of the notebook, which keeps them until they are handled. Those of kernels that are observed do so, too:
        observers are there."""

    def _target(self, kernel_id: Any) -> Any:
        found = super()._target(kernel_id)
        is_away = isinstance(kernel_id, str) and (found is None or self._is_booked(kernel_id))
        return self._host.away(kernel_id) if is_away else found

    async def send(self, kernel_id: str, message: Any, instance: int | None = None) -> None:
        if not self._is_booked(kernel_id):
            await super().send(kernel_id, message, instance)
        elif self._away:
            await self._hop(self.send, kernel_id, message, instance)
        elif (waiting := self._host.away(kernel_id)._offer(message, instance)) is not None:
            await waiting

    async def ask(
        self,
        kernel_id: str,
        message: Any,
        timeout: float | None = None,
        instance: int | None = None,
        _sent: dict[str, int] | None = None,
    ) -> Any:
        if not self._is_booked(kernel_id):
            return await super().ask(kernel_id, message, timeout, instance, _sent)
        if self._away:
            return await self._hop(self.ask, kernel_id, message, timeout, instance)
        return await self._host.away(kernel_id).ask(message, timeout, _sent, instance)

    def _is_booked(self, kernel_id: Any) -> bool:
        if not (self.booked or self._host.watched) or not isinstance(kernel_id, str):
            return False
        return kernel_id in self.booked or kernel_id in self._host.watched

    async def publish(self, topic: str, message: Any, _sent: dict[str, int] | None = None) -> int:
        """Those who have subscribed are known to the runtime of the notebook."""
        item = checked_topic(topic), wire.encoded(message), self._host.sender()
        count, sent = await self._host.ask_runtime("publish", *item)
        if _sent is not None:
            for target, n in sent.items():
                _sent[target] += n
        return int(count)

    def _router(self, kernel_id: Any, instance: int | None = None) -> Any:
        if not isinstance(kernel_id, str) or kernel_id in self._routers:
            return super()._router(kernel_id, instance)
        return _To(self._host.away(kernel_id), instance)


class _Watcher(Observer):
    """Notes for observers in the runtime of the notebook what becomes of messages here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _note(self, what: int, kernel_id: str, delivery: Delivery | None, about: Any = None) -> _Resident | None:
        resident = self._host.resident(kernel_id)
        if resident is not None:
            wall, logical, _ = self._host._clock.tick()
            number = 0 if delivery is None else resident.names.get(delivery.number, 0)
            resident.events.append([what, number, wall, logical, about])
            self._host._work.set()
        return resident

    def sent(self, delivery: Delivery) -> None:
        resident = self._host.resident(delivery.kernel_id)
        if resident is not None and resident.naming:
            resident.names[delivery.number] = resident.naming

    def started(self, delivery: Delivery) -> None:
        self._note(wire.START, delivery.kernel_id, delivery)

    def ended(self, delivery: Delivery) -> None:
        resident = self._note(wire.END, delivery.kernel_id, delivery)
        if resident is not None and not (delivery.is_ask and delivery[2].state <= AWAITED):
            resident.names.pop(delivery.number, None)

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        resident = self._host.resident(kernel_id)
        if resident is None:
            return
        number = 0 if answers is None else resident.names.get(answers.number, 0)
        self._note(wire.REPLY, kernel_id, delivery, [number, _encoded(reply)])
        if answers is not None and answers is not delivery:  # one that was put aside
            resident.names.pop(answers.number, None)

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        known = delivery is not None
        resident = self._note(wire.LOST, kernel_id, delivery, [kind, reason, None if known else _encoded(message)])
        if resident is not None and delivery is not None:
            resident.names.pop(delivery.number, None)

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        self._note(wire.FAILED, kernel_id, delivery)


class _Prints(io.TextIOBase):
    """Standard output: what a body prints goes to where the ring kernel was defined."""

    def __init__(self, stream: Any, host: Host) -> None:
        self._stream, self._host = stream, host

    def write(self, text: str) -> int:
        if number := self._host.number_of(acting.get()):
            self._host.say_from_afar("print", number, text)
        else:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Logs(logging.Handler):
    """Warnings of this package go to the runtime of the notebook."""

    def __init__(self, host: Host) -> None:
        super().__init__(logging.WARNING)
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "failed_kernel"):
            return  # which says that itself
        self._host.say_from_afar("log", self._host.number_of(acting.get()), record.levelno, self.format(record))


def _encoded(message: Any) -> bytes | None:
    """A message, if it has an encoding."""
    try:
        return wire.encoded(message)
    except PyDotComputeError:
        return None


def _code(data: bytes) -> Any:
    """Definitions and classes, as the runtime that started this host has packed them."""
    try:
        return pickle.loads(data)
    except Exception as error:
        raise ClusterError(
            f"the ring kernel cannot be made here ({type(error).__name__}: {error}): install what it imports on every "
            "node, or define it in the notebook"
        ) from error


__all__ = ["Host"]
