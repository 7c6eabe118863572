"""What every backend of compiled ring kernels must show, through the public API alone.

A backend runs it by a class of its own in a test module::

    class TestInterpreted(Conformance):
        backend = "interpreted"
        scale = 0.002

`ParallelConformance` holds, beyond that, for backends whose steps run beside the event loop.
"""

import asyncio
import gc
import inspect
import logging
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager
from operator import gt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.testing  # here: NumPy loads it when it is first used, which reads files
import pytest

from pydotcompute import KernelContext, RingKernelRuntime, UnifiedBuffer, message, ring_kernel
from pydotcompute.exceptions import (
    DefinitionError,
    InstanceError,
    KernelFailedError,
    KernelNotFoundError,
    KernelStateError,
    MessageTypeError,
    QueueFullError,
    QueueTimeoutError,
    StepError,
    UnifiedBufferError,
)
from pydotcompute.runtime import KernelState
from pydotcompute.runtime.executor import BY_KEY, NOTHING, Event
from pydotcompute.telemetry import COUNTERS
from tests.device import steps
from tests.device.steps import (
    Everything,
    Fraction,
    Gain,
    Number,
    Pair,
    Point,
    Rounds,
    Sample,
    SensorState,
    Stats,
    Tagged,
    Tally,
    tally_of,
)

ROOT = Path(__file__).parents[2]
NOWHERE = 99
"""A producer for which `listen` has no place, and fails where bounds are checked."""
BATCH = 4096
STRATEGIES = ("block", "reject", "drop_oldest", "drop_newest")


def numbers(ns):
    """Records of `Number`, shape (len(ns),)."""
    records = np.zeros(len(ns), Number.dtype)
    records["n"] = ns
    return records


async def feed(runtime, kernel_id, n, batch=BATCH):
    """Send the numbers from 0 to n - 1."""
    for start in range(0, n, batch):
        await runtime.send_batch(kernel_id, numbers(range(start, min(start + batch, n))))


async def collect(runtime, kernel_id, n, batch=BATCH):
    """The next n replies, as one array."""
    parts, got = [], 0
    while got < n:
        part = await runtime.receive_batch(kernel_id, min(batch, n - got))
        assert 1 <= len(part) <= batch
        parts.append(part)
        got += len(part)
    return np.concatenate(parts)


async def through(runtime, first, last, n, batch=BATCH):
    """What comes out of `last` when the numbers from 0 to n - 1 go into `first`."""
    feeding = asyncio.ensure_future(feed(runtime, first, n, batch))
    replies = await collect(runtime, last, n, batch)
    await feeding
    return replies


class Load:
    """``async with Load(runtime, "id") as load``: numbers go into a kernel, and its replies are taken, until the end.

    Then all replies are there: `replies`, shape (sent,).
    """

    def __init__(self, runtime, kernel_id, batch=50):
        self._runtime, self._id, self._batch = runtime, kernel_id, batch
        self._parts, self._stop = [], False
        self.sent = self.taken = 0

    async def __aenter__(self):
        self._feeding = asyncio.ensure_future(self._feed())
        self._taking = asyncio.ensure_future(self._take())
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await self._feeding
        try:
            await self.reach(self.sent)
            self.replies = np.concatenate(self._parts)
        finally:
            self._taking.cancel()

    async def _feed(self):
        while not self._stop:
            batch = numbers(range(self.sent, self.sent + self._batch))
            self.sent += self._batch
            await self._runtime.send_batch(self._id, batch)
            await asyncio.sleep(0)

    async def _take(self):
        while True:
            self._parts.append(await self._runtime.receive_batch(self._id))
            self.taken += len(self._parts[-1])
            await asyncio.sleep(0)

    async def reach(self, goal):
        """Wait until so many replies have been taken."""
        end = time.monotonic() + 10
        while self.taken < goal:
            assert time.monotonic() < end, f"{goal - self.taken} of {self.sent} did not come back"
            assert not self._taking.done(), self._taking.exception()
            await asyncio.sleep(0.0005)

    async def progress(self):
        await self.reach(self.taken + 2 * self._batch)


async def rounds_of(kernel, seconds):
    """How many rounds of the step `spin` take that long here."""
    rounds = 1000
    while True:
        begun = time.perf_counter()
        await kernel.ask(Rounds(rounds))
        spent = time.perf_counter() - begun
        if spent > 0.02:
            return int(rounds * seconds / spent)
        rounds *= 4


class Alone:
    """An executor without a runtime around it: what it counts, and the events that it has told of."""

    def __init__(self, engine, program):
        self.counters, self.told = np.zeros(1, COUNTERS), []
        self.executor = engine.executor(program, memoryview(self.counters.view(np.int64)), self.told.append)

    @property
    def processed(self):
        return int(self.counters["processed"][0])

    async def until(self, come):
        while not come():
            await asyncio.sleep(0.0005)

    async def rest(self):
        """Pause it."""
        self.executor.pause()
        await self.until(lambda: self.executor.resting)

    async def failure(self, n=1):
        """Wait until it has told of its n-th failure, and rests."""
        await self.until(lambda: self.told.count(Event.FAILURE) == n)
        await self.until(lambda: self.executor.resting)
        return self.executor.failure

    async def run(self, handled):
        """Let it run until it has handled so many messages since it was made, nothing is left, and it rests again."""
        self.executor.run()
        await self.until(lambda: self.processed >= handled or self.executor.failure)
        assert self.executor.failure is None
        assert self.executor.depth == 0
        await self.rest()
        assert self.processed == handled

    def feed(self, messages):
        for message_, instance, ticket in messages:
            assert self.executor.feed(message_, instance, ticket)

    def replies(self):
        """All that can be taken."""
        return list(iter(self.executor.take, NOTHING))


@asynccontextmanager
async def executors(define):
    """``await alone(step, "id", queue_size=3)``: the executor of a ring kernel, all on one engine."""
    engines, made = [], []

    async def alone(step, kernel_id=None, **options):
        definition = await asyncio.to_thread(define, step, kernel_id, **options)
        program = await asyncio.to_thread(definition.build)
        if not engines:
            engines.append(definition.engine(asyncio.get_running_loop()))
        made.append(Alone(engines[0], program))
        return made[-1]

    yield alone
    for one in made:
        one.executor.close()
    for engine in engines:
        await asyncio.to_thread(engine.close)
    await asyncio.sleep(0)  # it leaves the loop


def series(n, *, failing_at=None, producers=3):
    """Messages of some producers in turn, for `listen`, that of place `failing_at` one that it fails with."""
    messages = [Tagged(1 + i // producers, i % producers) for i in range(n)]
    if failing_at is not None:
        messages.insert(failing_at, Tagged(0, NOWHERE))
    return messages


def ids(letters):
    """The numbers in dead letters."""
    return [letter.message.n for letter in letters]


def line_of(step):
    """Number of the source line of a step, or of its helper, that is marked as the one at fault."""
    lines, at = inspect.getsourcelines(step)
    return at + next(i for i, line in enumerate(lines) if "# the line" in line)


class Conformance:
    backend: str
    scale = 1.0
    """Of the numbers of messages; 1.0 is for a backend that handles tens of millions in a second."""
    positions: str | None = "pydotcompute.device.ring.START"
    """Where the position is kept at which new rings begin; None: it counts none."""
    in_the_loop = True
    """Steps run on the event loop, which stands still meanwhile."""
    long_step = 0.2
    """Seconds that a step takes which is to stop meanwhile."""
    shares_memory = True
    """The host may use buffers while a kernel that has them runs."""
    prelude = ""
    """What a process of its own runs first."""

    def load(self, messages):
        return max(int(messages * self.scale), 200)

    # -- one after the other ---------------------------------------------------------------------------------------

    async def test_the_first_example(self, runtime, start):
        kernel = await start(steps.stats, state=SensorState)
        assert await kernel.ask(Sample(3, 1.0)) == Stats(3, 1.0)
        assert await runtime.ask("stats", Sample(3, 2.0)) == Stats(3, 1.5)
        await runtime.send("stats", Sample(5, 8.0))
        assert await runtime.receive("stats") == Stats(5, 8.0)
        state = await kernel.snapshot()
        assert isinstance(state, SensorState)
        assert (state.count[3], state.total[3], state.count[5], state.count.sum()) == (2, 3.0, 1, 3)

    @pytest.mark.parametrize("queue_size", [1, 2, 3, 1024])
    async def test_replies_come_in_the_order_of_the_messages(self, runtime, start, queue_size):
        kernel = await start(steps.tally, queue_size=queue_size)
        n = self.load(5_000) if queue_size > 3 else 300

        async def send():
            for i in range(n):
                await runtime.send("tally", Number(i))

        sending = asyncio.ensure_future(send())
        assert [(await runtime.receive("tally")).n for _ in range(n)] == list(range(n))
        await sending
        assert await kernel.snapshot() == tally_of(n)
        assert kernel.statistics().queue_peak <= queue_size

    @pytest.mark.parametrize("queue_size", [1, 3, 1000])
    async def test_batches_of_any_size_go_through_rings_of_any_size(self, runtime, start, queue_size):
        kernel = await start(steps.tally, queue_size=queue_size)
        for batch in (1, 2, 3, 5, 1000, 1001):
            n = min(5 * batch, 600 if queue_size < 10 else 2500)
            replies = await through(runtime, "tally", "tally", n, batch)
            np.testing.assert_array_equal(replies["n"], np.arange(n))
            # The series begins anew: one number that does not follow, for each but the first.
        state = await kernel.snapshot()
        assert state.disorder == 5
        assert kernel.statistics().queue_peak <= queue_size

    async def test_many_messages_with_a_checksum_and_none_lost(self, runtime, start):
        n = int(10_000_000 * self.scale)
        kernel = await start(steps.tally, queue_size=1 << 15)
        replies = await through(runtime, "tally", "tally", n, 1 << 14)
        assert np.array_equal(replies["n"], np.arange(n))
        assert await kernel.snapshot() == tally_of(n)
        statistics = kernel.statistics()
        assert (statistics.received, statistics.processed, statistics.replied) == (n, n, n)
        assert (statistics.queue_depth, statistics.replies_unread, statistics.dead_letters) == (0, 0, 0)

    @pytest.mark.parametrize("queue_size", [3, 64])
    @pytest.mark.parametrize("at", [2**31, 2**32, 2**62])
    async def test_positions_may_pass_any_power_of_two(self, runtime, start, monkeypatch, at, queue_size):
        if self.positions is not None:
            monkeypatch.setattr(self.positions, at - 100)
        kernel = await start(steps.tally, queue_size=queue_size)
        replies = await through(runtime, "tally", "tally", 150, 7)
        np.testing.assert_array_equal(replies["n"], np.arange(150))
        for n in range(150, 300):  # answers may have positions of their own
            assert (await kernel.ask(Number(n))).n == n
        total = 300 + queue_size
        await runtime.send_many("tally", map(Number, range(300, total)))
        assert [(await runtime.receive("tally")).n for _ in range(queue_size)] == [*range(300, total)]
        assert await kernel.snapshot() == tally_of(total)
        statistics = kernel.statistics()
        assert (statistics.processed, statistics.queue_depth, statistics.replies_unread) == (total, 0, 0)
        sink = await start(steps.count, queue_size=queue_size)
        await runtime.connect("tally", "count")
        await feed(runtime, "tally", 300)
        await runtime.wait_idle()
        assert await sink.snapshot() == tally_of(300)

    async def test_every_kind_of_field(self, runtime, start):
        await start(steps.copy_everything)
        grid = np.arange(6, dtype=np.float32).reshape(2, 3)
        low = Everything(
            False, -128, 0, -(2**15), 0, -(2**31), 0, -(2**63), 0, -0.5, -1e300, -1j, 1 - 1j, False, -(2**63), 0.0, 0j,
            -grid, Point(x=-1.5, y=-2.5),
        )  # fmt: skip
        high = Everything(
            True, 127, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 0.5, 1e300, 1 + 1j,
            1 - 1j, True, 2**63 - 1, 0.1, 1e9j, grid.T.copy().T, Point(x=1.5, y=2.5),
        )  # fmt: skip
        for message_ in (low, high):
            reply = await runtime.ask("copy_everything", message_)
            assert reply == message_
            assert reply.grid.dtype == np.float32
            assert {type(reply.flag), type(reply.u64), type(reply.f32), type(reply.c64)} == {bool, int, float, complex}
        records = np.zeros(3, Everything.dtype)
        records["u64"], records["grid"][1], records["point"]["y"] = 2**64 - 1, grid, [1, 2, 3]
        await runtime.send_batch("copy_everything", records)
        replies = await collect(runtime, "copy_everything", 3)
        for field in Everything.dtype.names:
            np.testing.assert_array_equal(replies[field], records[field])

    async def test_a_field_that_the_step_does_not_write_is_zero(self, runtime, start):
        await start(steps.sparse, queue_size=2)
        replies = [await runtime.ask("sparse", Number(n)) for n in range(12)]
        assert [reply.tag for reply in replies] == [7, 0] * 6

    async def test_division_by_zero_is_that_of_floating_point(self, runtime, start):
        kernel = await start(steps.divide)
        reply = await kernel.ask(Fraction(1.0, 0.0, 1, 0))
        assert (reply.real, reply.whole) == (np.inf, 0)
        assert np.isnan((await kernel.ask(Fraction(0.0, 0.0, 7, 2))).real)
        reply = await kernel.ask(Fraction(1.0, 4.0, 7, 2))
        assert (reply.real, reply.whole) == (0.25, 3)
        assert kernel.state is KernelState.ACTIVE
        assert runtime.dead_letters.total == 0

    async def test_a_step_finds_itself_alone_in_its_block(self, runtime, start):
        await start(steps.block)
        reply = await runtime.ask("block", Number(0))
        assert (reply.lane, reply.width) == (0, 1)

    async def test_it_waits_for_a_reply_and_for_a_time(self, runtime, start):
        kernel = await start(steps.echo)
        for receive in (kernel.receive, lambda timeout: kernel.receive_batch(timeout=timeout)):
            for timeout in (0, 0.01):
                with pytest.raises(QueueTimeoutError, match="echo"):
                    await receive(timeout=timeout)
            waiting = asyncio.ensure_future(receive(timeout=10))
            await asyncio.sleep(0)
            await kernel.send(Number(7))
            reply = await waiting
            assert (reply if isinstance(reply, Number) else reply[0]["n"]) in (Number(7), 7)

    async def test_each_of_many_receivers_gets_one_reply(self, runtime, start, settle):
        kernel = await start(steps.echo)
        singles = [asyncio.ensure_future(kernel.receive()) for _ in range(10)]
        batches = [asyncio.ensure_future(kernel.receive_batch(2)) for _ in range(5)]
        await settle()
        await kernel.send_batch(numbers(range(10)))
        got = [reply.n for reply in await asyncio.gather(*singles)]
        assert sorted(got) == list(range(10))
        assert not any(batch.done() for batch in batches)
        for n in range(10, 20):
            await kernel.send(Number(n))
        got = np.concatenate(await asyncio.gather(*batches))["n"].tolist()
        got += (await collect(runtime, "echo", 10 - len(got)))["n"].tolist() if len(got) < 10 else []
        assert sorted(got) == list(range(10, 20))

    async def test_a_batch_that_is_received_is_the_callers_own(self, runtime, start):
        kernel = await start(steps.echo, queue_size=4)
        await kernel.send_batch(numbers(range(4)))
        batch = await collect(runtime, "echo", 4)
        assert batch.flags.writeable
        await through(runtime, "echo", "echo", 8, 4)
        assert batch["n"].tolist() == [0, 1, 2, 3]
        await kernel.send_batch(numbers(range(4)))
        await runtime.wait_idle("echo")
        assert [len(await kernel.receive_batch(n)) for n in (1, 2, 10)] == [1, 2, 1]

    async def test_a_batch_that_was_sent_may_be_written_to(self, runtime, start):
        kernel = await start(steps.echo, queue_size=100)
        await kernel.deactivate()
        records = numbers(range(100))
        await kernel.send_batch(records)
        records["n"] = -1
        message_ = Number(100)
        sending = asyncio.ensure_future(kernel.send(message_))
        await kernel.reactivate()
        assert (await collect(runtime, "echo", 100))["n"].tolist() == list(range(100))
        await sending

    async def test_messages_wait_for_a_kernel_that_was_only_launched(self, runtime, start):
        kernel = await start(steps.tally, activate=False)
        await kernel.send(Number(0))
        await kernel.send_batch(numbers([1, 2]))
        asked = asyncio.ensure_future(kernel.ask(Number(3)))
        await asyncio.sleep(0.01)  # nothing happens, which nothing announces
        assert (kernel.statistics().processed, kernel.waiting_for) == (0, "activate()")
        await kernel.activate()
        assert (await asked).n == 3
        assert (await collect(runtime, "tally", 3))["n"].tolist() == [0, 1, 2]
        assert await kernel.snapshot() == tally_of(4)

    async def test_the_positions_of_its_rings(self, runtime, start, in_thread):
        kernel = await start(steps.echo, queue_size=5, activate=False)
        new = kernel.rings()
        assert (new.messages.limit, new.replies.limit) == (5, 5)
        assert new.messages.places >= 5
        assert new.messages.tail - new.messages.head == new.replies.tail - new.replies.head == 0
        await kernel.activate()
        await kernel.send_batch(numbers(range(5)))
        await runtime.wait_idle("echo")
        messages, replies = await in_thread(kernel.rings)
        assert messages.head == messages.tail == new.messages.tail + 5
        assert (replies.head, replies.tail) == (new.replies.head, new.replies.head + 5)
        await kernel.send_batch(numbers([5, 6]))  # for whose replies there is no room
        messages, replies = kernel.rings()
        assert messages.head <= messages.tail == new.messages.tail + 7
        assert replies.tail == new.replies.head + 5
        await collect(runtime, "echo", 3)
        await kernel.receive()
        assert kernel.rings().replies.head == replies.head + 4
        await collect(runtime, "echo", 3)
        await kernel.deactivate()
        await kernel.wait_paused()
        await kernel.send(Number(9))
        assert [queued.message.n for queued in await in_thread(kernel.queue)] == [9]
        messages = kernel.rings().messages
        assert messages.head == messages.tail >= new.messages.tail + 7

    async def test_one_definition_runs_under_several_ids(self, runtime, define, in_thread):
        definition = await in_thread(define, steps.tally)
        for kernel_id, n in (("one", 5), ("two", 9)):
            await (await runtime.launch(definition, kernel_id=kernel_id)).activate()
            await through(runtime, kernel_id, kernel_id, n)
        assert await runtime["one"].snapshot() == tally_of(5)
        assert await runtime["two"].snapshot() == tally_of(9)

    async def test_a_kernel_that_is_launched_again_starts_afresh(self, runtime, start):
        kernel = await start(steps.tally)
        await through(runtime, "tally", "tally", 5)
        await kernel.terminate()
        kernel = await start(steps.tally)
        assert await kernel.snapshot() == Tally()
        assert (await kernel.ask(Number(0))).n == 0
        assert kernel.statistics().processed == 1

    async def test_the_same_id_in_two_runtimes(self, runtime, start):
        kernel = await start(steps.tally)
        async with RingKernelRuntime() as other:
            await (await other.launch("tally")).activate()
            await through(other, "tally", "tally", 5)
            assert await kernel.snapshot() == Tally()
        assert (await kernel.ask(Number(0))).n == 0

    async def test_the_blocking_twins(self, runtime, start, in_thread):
        await start(steps.double)
        await start(steps.tally, activate=False)

        def use():
            runtime.sync.activate("tally")
            runtime.sync.send("double", Number(1))
            assert runtime.sync.receive("double") == Number(2)
            assert runtime.sync.ask("double", Number(4)) == Number(8)
            assert [reply.n for reply in runtime.sync.map("double", map(Number, range(5)))] == [0, 2, 4, 6, 8]
            runtime.sync.send_batch("double", numbers([3]))
            assert runtime.sync.receive_batch("double", 10, 5.0)["n"].tolist() == [6]
            runtime.sync.connect("double", "tally")
            runtime.sync.send_batch("double", numbers([5]))
            assert runtime.sync.receive("tally", 5.0) == Number(10)
            runtime.sync.disconnect("double")
            runtime.sync.send_many("double", [Number(6)])
            assert runtime.sync.receive("double", 5.0) == Number(12)
            runtime.sync.deactivate("double")
            runtime.sync.reactivate("double")
            runtime.sync.wait_idle(timeout=5.0)
            runtime.sync.terminate("double")
            assert runtime.sync.wait_ended("double") is KernelState.TERMINATED

        await in_thread(use)

    # -- state -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("state", [None, Gain, Gain(gain=3.0), lambda: Gain(gain=4.0, used=10)])
    async def test_the_state_at_first(self, runtime, start, state):
        kernel = await start(steps.amplify, **({} if state is None else {"state": state}))
        before = Gain() if state is None else state if isinstance(state, Gain) else state()
        assert await kernel.snapshot() == before
        assert await kernel.ask(Sample(1, 10.0)) == Sample(1, 10.0 * before.gain)
        assert await kernel.snapshot() == Gain(gain=before.gain, used=before.used + 1)

    async def test_a_snapshot_is_a_copy(self, runtime, start):
        kernel = await start(steps.stats)
        before = await kernel.snapshot()
        await kernel.ask(Sample(1, 5.0))
        assert before.count[1] == 0
        before.count[:] = 99
        assert (await kernel.snapshot()).count[1] == 1

    async def test_without_state_there_is_nothing_to_copy(self, start):
        assert await (await start(steps.echo)).snapshot() is None

    async def test_a_snapshot_is_taken_between_two_messages(self, runtime, start):
        kernel = await start(steps.agree, queue_size=1000)
        stop = False

        async def busy():
            while not stop:
                await kernel.send_batch(numbers(range(500)))
                await asyncio.sleep(0)

        sending = asyncio.ensure_future(busy())
        seen = []
        while len(seen) < 30 or seen[-1] < 500:
            state = await kernel.snapshot()
            assert isinstance(state, Pair)
            assert set(state.cells.tolist()) == {state.first} == {-state.negative}
            seen.append(state.first)
            await asyncio.sleep(0.0005)  # each snapshot holds it; it shall run in between
        stop = True
        await sending
        await runtime.wait_idle()
        assert seen == sorted(seen)
        assert len(set(seen)) > 3, "it did not run meanwhile"
        assert (await kernel.snapshot()).first == kernel.statistics().processed

    @pytest.mark.parametrize("activate", [False, True])
    async def test_a_snapshot_of_a_kernel_that_does_not_run(self, runtime, start, activate):
        kernel = await start(steps.tally, activate=activate)
        if activate:
            await through(runtime, "tally", "tally", 3)
            await kernel.deactivate()
        await kernel.send(Number(9))
        assert await kernel.snapshot() == (tally_of(3) if activate else Tally())
        assert kernel.state is (KernelState.DEACTIVATED if activate else KernelState.LAUNCHED)
        assert kernel.queue_depth == 1

    # -- pause -----------------------------------------------------------------------------------------------------

    async def test_a_paused_kernel_handles_nothing(self, runtime, start):
        kernel = await start(steps.tally, queue_size=64)
        async with Load(runtime, "tally") as load:
            for _ in range(8):
                await load.progress()
                await kernel.deactivate()
                at_rest = await kernel.snapshot()
                for _ in range(30):
                    await asyncio.sleep(0)
                    assert await kernel.snapshot() == at_rest
                assert kernel.statistics().processed == at_rest.handled
                assert kernel.queue_depth <= 64
                await kernel.reactivate()
        np.testing.assert_array_equal(load.replies["n"], np.arange(load.sent))
        assert await kernel.snapshot() == tally_of(load.sent)
        assert kernel.statistics().queue_peak <= 64

    @pytest.mark.parametrize("queue_size", [3, 1000])
    async def test_the_messages_of_one_sender_keep_their_order_whichever_way_they_take(
        self, runtime, start, queue_size
    ):
        rng = random.Random(queue_size)
        kernel = await start(steps.tally, queue_size=queue_size)
        n = max(self.load(50_000), 10_000) if queue_size > 3 else 500

        async def send():
            sent = 0
            while sent < n:
                some = range(sent, min(sent + rng.randrange(1, 2 * queue_size), n))
                match rng.randrange(3):
                    case 0:
                        await kernel.send_batch(numbers(some))
                    case 1:
                        await kernel.send_many(map(Number, some))
                    case _:
                        some = some[:20]
                        for i in some:
                            await kernel.send(Number(i))
                sent += len(some)

        async def pause():
            while not done:
                await asyncio.sleep(0.001 * rng.random())
                await kernel.deactivate()
                for _ in range(rng.randrange(20)):
                    await asyncio.sleep(0)
                await kernel.reactivate()

        done = False
        sending, pausing = asyncio.ensure_future(send()), asyncio.ensure_future(pause())
        replies = await collect(runtime, "tally", n)
        done = True
        await asyncio.gather(sending, pausing)
        np.testing.assert_array_equal(replies["n"], np.arange(n))
        assert await kernel.snapshot() == tally_of(n)
        assert kernel.statistics().queue_peak <= queue_size

    async def test_a_batch_does_not_overtake_what_waited_while_it_was_paused(self, runtime, start):
        kernel = await start(steps.tally, queue_size=1000)
        await kernel.deactivate()
        await kernel.send_many(map(Number, range(900)))
        await kernel.reactivate()
        sending = asyncio.ensure_future(kernel.send_batch(numbers(range(900, 2500))))
        replies = await collect(runtime, "tally", 2500)
        await sending
        np.testing.assert_array_equal(replies["n"], np.arange(2500))

    async def test_what_comes_while_it_is_paused_is_handled_afterwards_in_order(self, runtime, start):
        kernel = await start(steps.tally, queue_size=300)
        await kernel.deactivate()
        for n in range(100):
            await kernel.send(Number(n))
        await kernel.send_batch(numbers(range(100, 200)))
        await kernel.send_many(map(Number, range(200, 299)))
        asked = asyncio.ensure_future(kernel.ask(Number(299)))
        await asyncio.sleep(0.01)  # nothing happens, which nothing announces
        assert (await kernel.snapshot(), kernel.queue_depth) == (Tally(), 300)
        assert kernel.waiting_for == "reactivate()"
        await kernel.reactivate()
        assert (await asked).n == 299
        assert (await collect(runtime, "tally", 299))["n"].tolist() == list(range(299))
        assert await kernel.snapshot() == tally_of(300)

    async def test_priorities_are_exact_while_it_is_paused(self, runtime, start):
        rng = random.Random(5)
        kernel = await start(steps.echo, queue_size=1000)
        await kernel.deactivate()
        sent = [Number(n, priority=rng.choice((0, 1, 127, 128, 129, 254, 255))) for n in range(700)]
        for number in sent[:350]:
            await kernel.send(number)
        await kernel.send_many(sent[350:])
        await kernel.reactivate()
        expected = [number.n for number in sorted(sent, key=lambda number: -number.priority)]  # a stable sort
        assert (await collect(runtime, "echo", 700))["n"].tolist() == expected

    async def test_asks_with_priorities_are_answered_each_its_own(self, runtime, start):
        rng = random.Random(3)
        kernel = await start(steps.double, queue_size=50)
        asks = (kernel.ask(Number(n, priority=rng.randrange(256))) for n in range(1000))
        assert [reply.n for reply in await asyncio.gather(*asks)] == [2 * n for n in range(1000)]
        await runtime.wait_idle()
        statistics = kernel.statistics()
        assert (statistics.received, statistics.processed, statistics.replied) == (1000, 1000, 1000)
        assert (statistics.replies_unread, statistics.dead_letters, kernel.unanswered) == (0, 0, 0)
        assert statistics.queue_peak <= 50

    # -- asks ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("queue_size", [7, 4096])
    @pytest.mark.parametrize("timeout", [None, 20.0])
    async def test_each_of_a_thousand_asks_gets_its_own_reply(self, runtime, start, queue_size, timeout):
        await start(steps.even, queue_size=queue_size)
        replies = await asyncio.gather(*(runtime.ask("even", Number(n), timeout) for n in range(1000)))
        assert [reply and reply.n for reply in replies] == [None if n % 2 else n for n in range(1000)]
        assert runtime.dead_letters.total == 0

    async def test_asks_and_sends_are_kept_apart(self, runtime, start):
        await start(steps.double)

        async def ask(n):
            assert (await runtime.ask("double", Number(n))).n == 2 * n

        await asyncio.gather(
            *(ask(n) if n % 3 else runtime.send("double", Number(n)) for n in range(600)),
            runtime.send_batch("double", numbers(range(1000, 1100))),
        )
        unasked = sorted((await collect(runtime, "double", 300))["n"].tolist())
        assert unasked == [2 * n for n in [*range(0, 600, 3), *range(1000, 1100)]]

    async def test_asks_leave_the_loop_its_turns(self, runtime, start, on_loop):
        kernel = await start(steps.echo)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        async def ask():
            ticking = asyncio.ensure_future(tick())
            try:
                for n in range(2000):
                    await kernel.ask(Number(n))
            finally:
                ticking.cancel()

        await on_loop(ask)
        assert ticks > 5

    async def test_one_message_may_be_asked_many_times_at_once(self, runtime, start):
        await start(steps.double)
        one = Number(21)
        replies = await asyncio.gather(*(runtime.ask("double", one) for _ in range(50)))
        assert [reply.n for reply in replies] == [42] * 50

    async def test_a_step_without_a_reply_answers_none(self, runtime, start):
        await start(steps.count)
        await start(steps.even)
        assert await runtime.ask("count", Number(0)) is None
        assert await runtime.ask("even", Number(3)) is None
        assert await runtime.ask("even", Number(4)) == Number(4)
        await runtime.send_many("even", map(Number, range(10)))
        assert (await collect(runtime, "even", 5))["n"].tolist() == [0, 2, 4, 6, 8]
        for kernel_id in ("even", "count"):
            with pytest.raises(QueueTimeoutError):
                await runtime.receive(kernel_id, timeout=0)

    async def test_map_yields_one_item_for_each_input(self, runtime, start):
        await start(steps.even)
        for window in (1, 8, 500):
            replies = [reply async for reply in runtime.map("even", map(Number, range(100)), window=window)]
            assert [reply and reply.n for reply in replies] == [None if n % 2 else n for n in range(100)]

    @pytest.mark.parametrize("priority", [128, 200])
    async def test_a_late_reply_is_a_dead_letter_and_never_the_next_callers(self, runtime, start, priority):
        kernel = await start(steps.even)
        await kernel.deactivate()
        for n in (10, 11):  # the late answer to the second is None, and no letter
            with pytest.raises(QueueTimeoutError, match="even"):
                await kernel.ask(Number(n, priority=priority), timeout=0.01)
        await kernel.reactivate()
        assert (await kernel.ask(Number(20, priority=0))).n == 20
        assert ids(runtime.dead_letters) == [10]
        assert "late" in runtime.dead_letters[0].reason
        with pytest.raises(QueueTimeoutError):
            await kernel.receive(timeout=0)

    async def test_the_reply_to_an_asker_that_was_cancelled_is_a_dead_letter(self, runtime, start, settle):
        kernel = await start(steps.double)
        await kernel.deactivate()
        asks = [asyncio.ensure_future(kernel.ask(Number(n))) for n in range(4)]
        await settle()
        asks[1].cancel()
        asks[2].cancel()
        await settle()
        await kernel.reactivate()
        assert (await asks[0], await asks[3]) == (Number(0), Number(6))
        await runtime.wait_idle()
        assert ids(runtime.dead_letters) == [2, 4]
        assert kernel.statistics().replies_unread == 0

    async def test_an_ask_waits_for_room_and_no_longer_than_it_may(self, runtime, start):
        kernel = await start(steps.echo, queue_size=2)
        await kernel.deactivate()
        await kernel.send_many([Number(0), Number(1)])
        with pytest.raises(QueueTimeoutError, match="room"):
            await kernel.ask(Number(2), timeout=0.01)
        asked = asyncio.ensure_future(kernel.ask(Number(3)))
        await kernel.reactivate()
        assert (await asked).n == 3
        assert (await collect(runtime, "echo", 2))["n"].tolist() == [0, 1]

    # -- back-pressure ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", ["send", "send_many", "send_batch"])
    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_a_full_queue_does_what_its_strategy_says(self, runtime, start, settle, eventually, strategy, way):
        kernel = await start(steps.echo, queue_size=10, backpressure=strategy)
        await kernel.deactivate()
        refused = []

        async def send():
            try:
                if way == "send_batch":
                    await kernel.send_batch(numbers(range(25)))
                elif way == "send_many":
                    await kernel.send_many(map(Number, range(25)))
                else:
                    for n in range(25):
                        await kernel.send(Number(n))
            except QueueFullError as error:
                refused.append(str(error))

        sending = asyncio.ensure_future(send())
        if strategy != "block":
            await sending
        else:
            await eventually(lambda: kernel.queue_depth == 10)
            await settle()
            assert not sending.done()
        statistics = kernel.statistics()
        assert (statistics.queue_depth, statistics.queue_peak) == (10, 10)
        await kernel.reactivate()
        kept = {"block": range(25), "drop_oldest": range(15, 25)}.get(strategy, range(10))
        assert (await collect(runtime, "echo", len(kept)))["n"].tolist() == list(kept)
        await sending
        await runtime.wait_idle()

        assert len(refused) == (strategy == "reject")
        dropped = {"drop_oldest": range(15), "drop_newest": range(10, 25)}.get(strategy, ())
        assert ids(runtime.dead_letters) == list(dropped)
        assert {letter.reason for letter in runtime.dead_letters} <= {strategy}
        statistics = kernel.statistics()
        assert (statistics.dropped, statistics.dead_letters) == (len(dropped), len(dropped))
        assert (statistics.processed, statistics.queue_depth, statistics.queue_peak) == (len(kept), 0, 10)

    @pytest.mark.parametrize("way", ["cancel", "terminate"])
    async def test_a_sender_that_waits_for_room_may_go_or_be_sent_away(self, runtime, start, settle, eventually, way):
        kernel = await start(steps.echo, queue_size=10)
        await kernel.deactivate()
        senders = [
            asyncio.ensure_future(kernel.send_batch(numbers(range(25)))),
            asyncio.ensure_future(kernel.send_many(map(Number, range(100, 125)))),
            asyncio.ensure_future(kernel.send(Number(200))),
        ]
        await eventually(lambda: kernel.queue_depth == 10)
        await settle()
        if way == "cancel":
            for sender in senders:
                sender.cancel()
            outcomes = await asyncio.gather(*senders, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
            await settle()
            await kernel.reactivate()
            await runtime.wait_idle()
            handled = (await collect(runtime, "echo", 10))["n"].tolist()
            assert kernel.statistics().replies_unread == 0
        else:
            await kernel.terminate(drain=False)
            outcomes = await asyncio.gather(*senders, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {KernelStateError}
            handled = ids(runtime.dead_letters)
        # Each one's messages in their order, and none of those that had to wait.
        assert len(handled) == 10
        assert [n for n in handled if n < 25] == list(range(sum(n < 25 for n in handled)))
        assert kernel.statistics().received == 10

    async def test_the_lowest_priority_is_dropped_first(self, runtime, start):
        kernel = await start(steps.echo, queue_size=3, backpressure="drop_oldest")
        await kernel.deactivate()
        for n, priority in enumerate((200, 5, 128, 128, 5, 255)):
            await kernel.send(Number(n, priority=priority))
        await kernel.reactivate()
        assert (await collect(runtime, "echo", 3))["n"].tolist() == [5, 0, 3]
        assert ids(runtime.dead_letters) == [1, 4, 2]

    async def test_an_ask_whose_message_is_dropped_is_told(self, runtime, start, settle):
        kernel = await start(steps.echo, queue_size=1, backpressure="drop_oldest")
        await kernel.deactivate()
        asked = asyncio.ensure_future(kernel.ask(Number(0)))
        await settle()
        await kernel.send(Number(1))
        with pytest.raises(QueueFullError, match="drop_oldest"):
            await asked
        await kernel.reactivate()
        assert (await kernel.receive()).n == 1

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("queue_size", [1, 50])
    async def test_a_thousand_senders_at_once_can_all_be_accounted_for(self, runtime, start, strategy, queue_size):
        kernel = await start(steps.even, queue_size=queue_size, backpressure=strategy)
        replies = []

        async def take():
            while True:
                replies.append((await kernel.receive()).n)

        taking = asyncio.ensure_future(take())
        outcomes = await asyncio.gather(*(kernel.send(Number(n)) for n in range(1000)), return_exceptions=True)
        await runtime.wait_idle()
        while kernel.statistics().replies_unread:
            await asyncio.sleep(0)
        statistics = kernel.statistics()
        while len(replies) < statistics.replied:
            await asyncio.sleep(0)
        taking.cancel()

        refused = {n for n, outcome in enumerate(outcomes) if isinstance(outcome, QueueFullError)}
        assert all(outcome is None for n, outcome in enumerate(outcomes) if n not in refused)
        dropped = set(ids(runtime.dead_letters))
        handled = set(range(1000)) - refused - dropped
        assert sorted(replies) == [n for n in sorted(handled) if n % 2 == 0]
        assert statistics.processed == len(handled)
        assert statistics.dropped == statistics.dead_letters == len(dropped) == runtime.dead_letters.total
        assert statistics.queue_peak <= queue_size
        if strategy == "block":
            assert len(handled) == 1000
        elif strategy == "reject":
            assert not dropped
        else:
            assert not refused

    async def test_replies_that_nobody_takes_stop_the_kernel(self, runtime, start, eventually):
        kernel = await start(steps.tally, queue_size=8)
        await kernel.send_batch(numbers(range(8)))
        await eventually(lambda: kernel.statistics().replies_unread == 8)
        sending = asyncio.ensure_future(feed(runtime, "tally", 100))
        await eventually(lambda: "unread" in kernel.waiting_for and kernel.queue_depth == 8)
        statistics = kernel.statistics()
        assert statistics.processed <= 9
        assert (statistics.replies_unread, statistics.queue_peak) == (8, 8)
        assert not sending.done()
        replies = await collect(runtime, "tally", 108)
        await sending
        assert replies["n"].tolist() == [*range(8), *range(100)]
        assert kernel.waiting_for == ""
        assert kernel.statistics().processed == 108

    async def test_unread_replies_do_not_hold_up_answers(self, runtime, start, eventually):
        kernel = await start(steps.echo, queue_size=4)
        await kernel.send_batch(numbers(range(4)))
        await eventually(lambda: kernel.statistics().replies_unread == 4)
        assert (await kernel.ask(Number(5), timeout=10)).n == 5
        assert (await collect(runtime, "echo", 4))["n"].tolist() == [0, 1, 2, 3]

    # -- several senders -------------------------------------------------------------------------------------------

    async def test_producers_on_threads_and_loops_of_their_own(self, runtime, start, in_thread):
        kernel = await start(steps.listen, queue_size=100)
        each = self.load(1000)

        def records(producer, start, stop):
            batch = np.zeros(stop - start, Tagged.dtype)
            batch["n"], batch["tag"] = range(start, stop), producer
            return batch

        def send_one_by_one(producer):
            for n in range(1, each + 1):
                runtime.sync.send("listen", Tagged(n, producer))

        def send_batches(producer):
            for n in range(1, each + 1, 20):
                runtime.sync.send_batch("listen", records(producer, n, min(n + 20, each + 1)))

        def ask_and_map(producer):
            assert runtime.sync.ask("listen", Tagged(1, producer)) == Tagged(1, producer)
            asked = (Tagged(n, producer) for n in range(2, each + 1))
            replies = runtime.sync.map("listen", asked, window=1)
            assert [(reply.n, reply.tag) for reply in replies] == [(n, producer) for n in range(2, each + 1)]

        def on_a_loop(producer):
            async def send():
                for n in range(1, each // 2):
                    await runtime.send("listen", Tagged(n, producer))
                for n in range(each // 2, each):
                    assert (await runtime.ask("listen", Tagged(n, producer))).n == n
                await runtime.send_batch("listen", records(producer, each, each + 1))

            asyncio.run(send())

        ways = [send_one_by_one, send_batches, ask_and_map, on_a_loop] * 2
        asked = 2 * each + 2 * (each - each // 2)  # by ask_and_map, and by on_a_loop
        producers = [in_thread(way, producer) for producer, way in enumerate(ways)]
        gathering = asyncio.gather(*producers, collect(runtime, "listen", len(ways) * each - asked))
        replies = (await gathering)[-1]
        for producer in range(len(ways)):
            own = replies["n"][replies["tag"] == producer]
            assert own.tolist() == sorted(own.tolist())
        state = await kernel.snapshot()
        assert state.last.tolist() == [each] * len(ways) + [0] * (16 - len(ways))
        assert state.handled == len(ways) * each
        assert state.total == len(ways) * each * (each + 1) // 2
        assert state.disorder == 0
        assert kernel.statistics().queue_peak <= 100
        assert kernel.statistics().replies_unread == 0

    # -- async ring kernels beside it ------------------------------------------------------------------------------

    async def test_async_ring_kernels_tell_and_ask_it(self, runtime, start):
        async def front(ctx: KernelContext[Number, Number]):
            async for number in ctx:
                doubled = await ctx.ask("double", number)
                await ctx.tell("back", doubled)
                await ctx.tell("tally", number)

        async def back(ctx: KernelContext[Number, Number]):
            async for number in ctx:
                await ctx.send(Number(number.n + 1))

        for step in (front, back, steps.double, steps.count):
            await start(step, "tally" if step is steps.count else None, queue_size=16)
        n = self.load(2000)
        sending = asyncio.ensure_future(runtime.send_many("front", map(Number, range(n))))
        assert [(await runtime.receive("back")).n for _ in range(n)] == [2 * i + 1 for i in range(n)]
        await sending
        await runtime.wait_idle()
        assert await runtime["tally"].snapshot() == tally_of(n)

    async def test_runtimes_show_both_kinds_alike(self, runtime, start):
        await start(steps.tally)
        await start(steps.echo_body)
        for kernel_id in ("tally", "echo_body"):
            await through(runtime, kernel_id, kernel_id, 10)
        both = runtime.statistics()
        for field in ("state", "version", "received", "processed", "replied", "replies_unread", "queue_depth"):
            assert getattr(both["tally"], field) == getattr(both["echo_body"], field), field
        assert "tally" in runtime._repr_html_()
        assert "ACTIVE" in runtime["tally"].outlook
        assert "tally" in repr(runtime["tally"])

    # -- connected -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kinds", ["ccc", "aca", "cac", "acc", "cca"])
    async def test_a_pipeline_of_three(self, runtime, start, kinds):
        """Compiled (c) or async (a)."""
        bodies = {
            "c": (steps.double, steps.increment, steps.echo),
            "a": (steps.double_body, steps.increment_body, steps.echo_body),
        }
        names = ("one", "two", "three")
        for place, (kind, name) in enumerate(zip(kinds, names, strict=True)):
            await start(bodies[kind][place], name, queue_size=128)
        await runtime.connect("one", "two")
        await runtime["two"].connect("three")
        n = self.load(200_000 if kinds == "ccc" else 10_000)
        replies = await through(runtime, "one", "three", n)
        assert np.array_equal(replies["n"], 2 * np.arange(n) + 1)
        for name in names:
            statistics = runtime[name].statistics()
            assert (statistics.processed, statistics.replied, statistics.queue_depth) == (n, n, 0)
            assert statistics.queue_peak <= 128
            assert statistics.replies_unread == 0
        assert runtime.dead_letters.total == 0
        assert runtime.edges() == {(None, "one"): n, ("one", "two"): n, ("two", "three"): n}

    @pytest.mark.parametrize("kinds", ["cc", "ac", "ca"])
    async def test_a_connection_hands_back_pressure_on(self, runtime, start, settle, eventually, kinds):
        await start(steps.double if kinds[0] == "c" else steps.double_body, "one", queue_size=8)
        two = await start(steps.tally if kinds[1] == "c" else steps.echo_body, "two", queue_size=8)
        await runtime.connect("one", "two")
        await two.deactivate()
        sent = 0

        async def send():
            nonlocal sent
            for n in range(200):
                await runtime.send("one", Number(n))
                sent += 1

        sending = asyncio.ensure_future(send())
        await eventually(lambda: two.queue_depth == 8 and runtime["one"].queue_depth == 8)
        await settle()
        assert sent <= 8 + 8 + 8 + 4  # two queues, an outbox, and what is in hand
        assert two.statistics().processed == 0
        await two.reactivate()
        assert (await collect(runtime, "two", 200))["n"].tolist() == [2 * n for n in range(200)]
        await sending
        assert two.statistics().queue_peak <= 8
        assert runtime["one"].statistics().queue_peak <= 8

    async def test_an_ask_of_a_connected_kernel_is_answered_to_the_asker(self, runtime, start):
        await start(steps.double)
        two = await start(steps.count)
        await runtime.connect("double", "count")
        replies = await asyncio.gather(*(runtime.ask("double", Number(n)) for n in range(50)))
        assert [reply.n for reply in replies] == [2 * n for n in range(50)]
        await runtime.wait_idle()
        assert two.statistics().processed == 0
        await runtime.send("double", Number(0))
        await runtime.wait_idle()
        assert await two.snapshot() == tally_of(1)
        assert runtime.edges() == {(None, "double"): 51, ("double", "count"): 1}

    @pytest.mark.parametrize("how", ["disconnect", "terminate"])
    async def test_replies_can_be_received_again_after_a_connection(self, runtime, start, how):
        await start(steps.double)
        await start(steps.echo)
        await runtime.connect("double", "echo")
        await runtime.send("double", Number(1))
        assert (await runtime.receive("echo")).n == 2
        if how == "disconnect":
            await runtime.disconnect("double")
        else:
            await runtime.terminate("echo")
        await runtime.send_batch("double", numbers([2, 3]))
        assert (await collect(runtime, "double", 2))["n"].tolist() == [4, 6]
        assert (await runtime.ask("double", Number(4))).n == 8
        if how == "terminate":
            await start(steps.echo)
        await runtime.connect("double", "echo")
        await runtime.send("double", Number(5))
        assert (await runtime.receive("echo")).n == 10
        # What the former kernel of the id was sent does not count for the latter.
        assert runtime.edges() == {(None, "double"): 5, ("double", "echo"): 2 if how == "disconnect" else 1}

    async def test_what_cannot_be_connected(self, runtime, start):
        await start(steps.double)
        await start(steps.echo)
        await start(steps.count)
        await start(steps.divide)
        with pytest.raises(MessageTypeError, match=r"(?s)Number.*Fraction|Fraction.*Number"):
            await runtime.connect("double", "divide")
        with pytest.raises((MessageTypeError, KernelStateError), match="count"):
            await runtime.connect("count", "double")  # it has no replies
        with pytest.raises(KernelNotFoundError, match="nobody"):
            await runtime.connect("double", "nobody")
        with pytest.raises(KernelNotFoundError, match="nobody"):
            await runtime.connect("nobody", "double")
        await runtime.connect("double", "count")
        with pytest.raises(KernelStateError, match="'double' go to 'count' already"):
            await runtime.connect("double", "count")
        with pytest.raises(KernelStateError, match="echo"):
            await runtime.disconnect("echo")
        await runtime.terminate("echo")
        with pytest.raises(KernelStateError, match="echo"):
            await runtime.connect("echo", "count")
        await runtime.send("double", Number(0))
        await runtime.wait_idle()
        assert await runtime["count"].snapshot() == tally_of(1)

    async def test_several_kernels_may_be_connected_to_one(self, runtime, start):
        for name in ("one", "two", "three"):
            await start(steps.echo, name, queue_size=16)
        await start(steps.even, "sink", queue_size=16)
        for name in ("one", "two", "three"):
            await runtime.connect(name, "sink")
        n = self.load(20_000)
        *_, replies = await asyncio.gather(
            *(feed(runtime, name, n) for name in ("one", "two", "three")),
            collect(runtime, "sink", 3 * len(range(0, n, 2))),
        )
        assert Counter(replies["n"].tolist()) == Counter([*range(0, n, 2)] * 3)

    async def test_a_kernel_that_drains_hands_everything_on(self, runtime, start):
        await start(steps.echo, queue_size=32)
        await start(steps.count, queue_size=32)
        await runtime.connect("echo", "count")
        n = self.load(100_000)
        await feed(runtime, "echo", n)
        await runtime.terminate("echo", timeout=15)
        assert runtime["echo"].statistics().processed == n
        await runtime.terminate("count", timeout=15)
        assert runtime["count"].statistics().processed == n
        assert runtime.dead_letters.total == 0

    async def test_a_runtime_that_closes_drains_its_pipelines(self, runtime, start):
        await start(steps.double, queue_size=32)
        await start(steps.echo_body, queue_size=32)
        await start(steps.count, queue_size=32)
        await runtime.connect("double", "echo_body")
        await runtime.connect("echo_body", "count")
        n = self.load(5000)
        await feed(runtime, "double", n)
        await runtime.close(timeout=15)
        assert [runtime.statistics()[name].processed for name in ("double", "echo_body", "count")] == [n, n, n]
        assert runtime.dead_letters.total == 0

    # -- instances and buffers -------------------------------------------------------------------------------------

    async def test_a_key_chooses_the_instance(self, runtime, start):
        kernel = await start(steps.stats, instances=4, key="sensor")
        rng = np.random.default_rng(1)
        samples = np.zeros(self.load(10_000), Sample.dtype)
        samples["sensor"], samples["value"] = rng.integers(0, 16, len(samples)), rng.random(len(samples))
        half = len(samples) // 2
        sending = asyncio.ensure_future(runtime.send_batch("stats", samples[:half]))
        await collect(runtime, "stats", half)
        await sending
        for sensor, value in samples[half:][:100].tolist():
            await runtime.send("stats", Sample(sensor, value))
        await collect(runtime, "stats", 100)
        states = await kernel.snapshot()
        assert states.shape == (4,)
        seen = samples[: half + 100]
        for instance in range(4):
            mine = seen[seen["sensor"] % 4 == instance]
            np.testing.assert_array_equal(states["count"][instance], np.bincount(mine["sensor"], minlength=16))
            np.testing.assert_allclose(
                states["total"][instance], np.bincount(mine["sensor"], mine["value"], minlength=16)
            )
            one = await kernel[instance].snapshot()
            assert isinstance(one, SensorState)
            assert one.count.tolist() == states["count"][instance].tolist()

    async def test_a_key_may_be_negative(self, runtime, start):
        kernel = await start(steps.amplify, instances=4, key="sensor")
        records = np.zeros(2, Sample.dtype)
        records["sensor"] = [-1, -2]
        await kernel.send_batch(records)
        await collect(runtime, "amplify", 2)
        await kernel.ask(Sample(-1, 0.0))
        await kernel.ask(Sample(-(2**31), 0.0))
        assert (await kernel.snapshot())["used"].tolist() == [1, 0, 1, 2]

    @pytest.mark.parametrize("paused", [False, True])
    async def test_an_instance_is_addressed_by_its_handle(self, runtime, start, paused):
        kernel = await start(steps.tally, instances=5)
        if paused:
            await kernel.deactivate()
        third = runtime["tally"][3]
        await third.send(Number(0))
        await third.send_many([Number(1), Number(2)])
        await third.send_batch(numbers([3, 4]))
        asked = asyncio.ensure_future(third.ask(Number(5)))
        await runtime.send_batch("tally", numbers([0]), instance=1)
        if paused:
            await kernel.reactivate()
        assert (await asked).n == 5
        await collect(runtime, "tally", 6)
        states = await kernel.snapshot()
        assert states["handled"].tolist() == [0, 1, 0, 6, 0]
        assert await third.snapshot() == tally_of(6)
        assert await kernel[0].snapshot() == Tally()
        assert kernel.statistics().processed == 7

    async def test_who_names_no_instance_or_a_wrong_one_is_told(self, runtime, start):
        kernel = await start(steps.count, instances=3)
        for call in (
            lambda: kernel.send(Number(0)),
            lambda: kernel.send_many([Number(0)]),
            lambda: kernel.ask(Number(0)),
            lambda: kernel.send_batch(numbers([0])),
        ):
            with pytest.raises(InstanceError, match=r"key="):
                await call()
        for wrong in (3, -1, 1 << 40, "0", 0.0, None):
            with pytest.raises((InstanceError, TypeError), match=r"count|instance"):
                kernel[wrong]
        for wrong in (3, -1):
            with pytest.raises(InstanceError, match="count"):
                await runtime.send_batch("count", numbers([0]), instance=wrong)
        assert kernel.statistics().received == 0
        await runtime.wait_idle()
        assert (await kernel.snapshot())["handled"].tolist() == [0, 0, 0]

    async def test_a_kernel_without_instances_has_one(self, runtime, start):
        kernel = await start(steps.tally)
        assert (await kernel[0].ask(Number(0))).n == 0
        assert await kernel[0].snapshot() == tally_of(1)
        with pytest.raises(InstanceError):
            kernel[1]

    async def test_a_thousand_instances(self, runtime, start):
        kernel = await start(steps.amplify, instances=1000, key="sensor", queue_size=500)
        n = self.load(200_000) // 1000 * 1000 or 1000
        samples = np.zeros(n, Sample.dtype)
        samples["sensor"], samples["value"] = np.random.default_rng(2).permutation(n), np.arange(n)

        async def send():
            for i in range(0, n, 300):
                await kernel.send_batch(samples[i : i + 300])

        sending = asyncio.ensure_future(send())
        replies = await collect(runtime, "amplify", n)
        await sending
        assert np.array_equal(np.sort(replies["value"]), 2.0 * np.arange(n))
        for instance in (0, 7, 999):  # each one's are in order
            own = replies["value"][replies["sensor"] % 1000 == instance]
            assert np.array_equal(own, np.sort(own))
        assert (await kernel.snapshot())["used"].tolist() == [n // 1000] * 1000

    async def test_many_kernels_of_one_definition(self, runtime, define, in_thread):
        definition = await in_thread(define, steps.tally)
        names = [f"kernel {i}" for i in range(100)]
        for name in names:
            await (await runtime.launch(definition, kernel_id=name)).activate()
        for n in range(3):
            replies = await asyncio.gather(*(runtime.ask(name, Number(n)) for name in names))
            assert [reply.n for reply in replies] == [n] * 100
            await asyncio.gather(*(runtime.send_batch(name, numbers([7])) for name in names[::2]))
        await runtime.wait_idle()
        for i, name in enumerate(names):
            assert (await runtime[name].snapshot()).handled == (3 if i % 2 else 6)
            await runtime.terminate(name)

    async def test_busy_kernels_do_not_keep_others_waiting(self, runtime, start):
        rounds = await rounds_of(await start(steps.spin, "busy 0"), 0.002)
        busy = [runtime["busy 0"], *[await start(steps.spin, f"busy {i}") for i in range(1, 6)]]
        echo = await start(steps.echo)
        for kernel in busy:
            await kernel.send_batch(np.array([(rounds,)] * 50, Rounds.dtype))
        assert (await echo.ask(Number(7))).n == 7
        assert all(kernel.queue_depth > 0 for kernel in busy)
        for kernel in busy:
            await kernel.terminate(drain=False)

    async def test_a_busy_kernel_leaves_other_threads_their_turn(self, runtime, start, in_thread):
        """As of a notebook: cells run and the dashboard is drawn."""
        await start(steps.tally)
        async with Load(runtime, "tally") as load:
            await load.progress()
            begun = time.monotonic()
            await in_thread(lambda: [time.sleep(0.001) for _ in range(100)])
            assert time.monotonic() - begun < 5

    async def test_buffers_are_further_arguments(self, runtime, start):
        weights = UnifiedBuffer.from_array(np.arange(8.0).reshape(4, 2))
        uses = UnifiedBuffer(4, np.int64)
        kernel = await start(steps.weigh, buffers={"weights": weights, "uses": uses})
        assert await kernel.ask(Sample(2, 10.0)) == Sample(2, 45.0)
        if not self.shares_memory:
            for use in (lambda: weights.host, lambda: np.asarray(uses), lambda: weights.numpy()):
                with pytest.raises(UnifiedBufferError, match=r"'weigh'.*deactivate"):
                    use()
            await kernel.deactivate()
        weights.host[2] = 1.0, 0.5
        if not self.shares_memory:
            await kernel.reactivate()
        assert await kernel.ask(Sample(2, 10.0)) == Sample(2, 10.5)
        assert await kernel.ask(Sample(3, 1.0)) == Sample(3, 13.0)
        await kernel.terminate()
        assert uses.host.tolist() == [0, 0, 2, 1]

    async def test_a_buffer_that_was_closed(self, runtime, start):
        """A kernel that runs has its memory still; one that is to go on with it fails, and says why."""
        weights, uses = UnifiedBuffer.from_array(np.ones((4, 2))), UnifiedBuffer(4, np.int64)
        kernel = await start(steps.weigh, buffers={"weights": weights, "uses": uses})
        if self.shares_memory:
            weights.close()
            del weights
            gc.collect()
            assert await kernel.ask(Sample(2, 10.0)) == Sample(2, 11.0)
        if self.in_the_loop:
            return  # it has arrays of them
        await kernel.deactivate()
        uses.close()
        await kernel.reactivate()
        with pytest.raises(KernelFailedError, match="weigh") as caught:
            await kernel.ask(Sample(2, 10.0), 10)
        for word in ("uses" if not self.shares_memory else "weights", "closed"):
            assert word in str(caught.value.__cause__)
        assert await runtime.wait_ended("weigh", timeout=10) is KernelState.FAILED

    # -- hot swap --------------------------------------------------------------------------------------------------

    @pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
    async def test_a_step_is_swapped_under_load(self, runtime, start, define, eventually, in_thread):
        kernel = await start(steps.first, "swapped", queue_size=100)
        async with Load(runtime, "swapped") as load:
            for version, step in enumerate((steps.second, steps.first, steps.second, steps.first), 2):
                await load.progress()
                await in_thread(lambda step=step: define(step, "swapped", queue_size=100))
                await eventually(lambda version=version: kernel.version == version)
            await load.progress()
        np.testing.assert_array_equal(load.replies["n"], np.arange(load.sent))
        tags = load.replies["tag"]
        assert tags[0] == tags[-1] == 1
        assert np.count_nonzero(np.diff(tags)) == 4
        assert await kernel.snapshot() == tally_of(load.sent)
        statistics = kernel.statistics()
        assert (statistics.version, statistics.processed, statistics.dead_letters) == (5, load.sent, 0)

    @pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
    async def test_what_waits_is_kept_when_a_paused_kernel_gets_a_new_step(
        self, runtime, start, define, eventually, in_thread
    ):
        kernel = await start(steps.first, "swapped")
        assert (await kernel.ask(Number(0))).tag == 1
        await kernel.deactivate()
        await kernel.send_batch(numbers([1, 2]))
        asked = asyncio.ensure_future(kernel.ask(Number(3, priority=0)))
        await in_thread(lambda: define(steps.second, "swapped"))
        await eventually(lambda: kernel.version == 2)
        assert kernel.state is KernelState.DEACTIVATED
        await kernel.reactivate()
        assert (await asked) == Tagged(3, 2)
        assert (await collect(runtime, "swapped", 2)).tolist() == [(1, 2), (2, 2)]
        assert await kernel.snapshot() == tally_of(4)

    @pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
    @pytest.mark.parametrize(
        ("step", "options", "text"),
        [
            (steps.amplify, {}, "Gain|Sample|state|message"),
            (steps.even, {}, "state|layout"),
            (steps.first, {"instances": 2, "key": "n"}, "instances"),
            (steps.echo_body, {}, "async"),
            (steps.prints, {}, "print"),
        ],
    )
    async def test_a_definition_that_cannot_take_over_leaves_the_old_one_running(
        self, runtime, start, define, in_thread, step, options, text
    ):
        kernel = await start(steps.first, "kept")
        await kernel.ask(Number(0))
        with pytest.raises(DefinitionError, match=text):
            await in_thread(lambda: define(step, "kept", **options))
        assert await kernel.ask(Number(1)) == Tagged(1, 1)
        assert (kernel.version, kernel.state) == (1, KernelState.ACTIVE)
        assert await kernel.snapshot() == tally_of(2)
        await kernel.terminate()
        await (await runtime.launch("kept")).activate()
        assert await runtime.ask("kept", Number(0)) == Tagged(0, 1)

    @pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
    async def test_a_compiled_step_does_not_take_over_from_an_async_body(self, runtime, start, define, in_thread):
        kernel = await start(steps.echo_body, "kept")
        with pytest.raises(DefinitionError, match="async"):
            await in_thread(lambda: define(steps.double, "kept"))
        assert (await kernel.ask(Number(1))).n == 1

    # -- the end ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("paused", [False, True])
    async def test_a_kernel_that_is_terminated_handles_what_is_queued(self, runtime, start, paused):
        n = self.load(10_000)
        kernel = await start(steps.count, queue_size=n + 1)
        if paused:
            await kernel.deactivate()
        await feed(runtime, "count", n)
        await kernel.send(Number(n, priority=0))
        await kernel.terminate(timeout=15)
        assert kernel.state is KernelState.TERMINATED
        statistics = kernel.statistics()
        assert (statistics.processed, statistics.queue_depth, statistics.dead_letters) == (n + 1, 0, 0)
        for call in (kernel.send(Number(0)), kernel.ask(Number(0)), kernel.send_batch(numbers([0])), kernel.receive()):
            with pytest.raises(KernelStateError, match="launch it again"):
                await call

    async def test_replies_can_be_read_after_the_end(self, runtime, start):
        kernel = await start(steps.tally, queue_size=10)
        await kernel.send_batch(numbers(range(10)))
        await kernel.terminate()
        assert (await kernel.receive()).n == 0
        assert (await kernel.receive_batch(5))["n"].tolist() == [1, 2, 3, 4, 5]
        assert (await kernel.receive_batch())["n"].tolist() == [6, 7, 8, 9]
        with pytest.raises(KernelStateError):
            await kernel.receive_batch()

    async def test_without_draining_what_is_queued_becomes_dead_letters(self, runtime, start, settle):
        kernel = await start(steps.tally, queue_size=20)
        await through(runtime, "tally", "tally", 5)
        await kernel.deactivate()
        await kernel.send_many(map(Number, range(5, 10)))
        await kernel.send_batch(numbers(range(10, 15)))
        asked = asyncio.ensure_future(kernel.ask(Number(15)))
        await settle()
        await kernel.terminate(drain=False)
        with pytest.raises(KernelStateError):
            await asked
        assert ids(runtime.dead_letters) == list(range(5, 16))
        assert all(isinstance(letter.message, Number) for letter in runtime.dead_letters)
        assert {letter.reason for letter in runtime.dead_letters} == {"terminated without draining"}
        statistics = kernel.statistics()
        assert (statistics.processed, statistics.dead_letters, statistics.queue_depth) == (5, 11, 0)

    @pytest.mark.parametrize("drain", [False, True])
    async def test_messages_that_are_in_the_ring_are_not_lost_either(self, runtime, start, settle, eventually, drain):
        """Its replies are unread, so that it stands still with messages in every place."""
        kernel = await start(steps.tally, queue_size=10)
        await kernel.send_batch(numbers(range(10)))
        await eventually(lambda: kernel.statistics().replies_unread == 10)
        await kernel.send_batch(numbers(range(10, 18)))
        asked = asyncio.ensure_future(kernel.ask(Number(18)))
        await settle()
        begun = time.monotonic()
        await kernel.terminate(drain=drain, timeout=0.2)
        assert time.monotonic() - begun < 5
        outcome = (await asyncio.gather(asked, return_exceptions=True))[0]
        assert isinstance(outcome, KernelStateError)
        statistics = kernel.statistics()
        replies = await collect(runtime, "tally", 10)
        assert replies["n"].tolist() == list(range(10))
        handled = statistics.processed
        assert handled in (10, 11)
        # Of one that was handled the reply is lost with the kernel: it is the letter then.
        assert ids(runtime.dead_letters) == list(range(10, 19))
        assert statistics.dead_letters == 9

    async def test_a_kernel_that_was_never_activated_buries_its_messages(self, runtime, start):
        kernel = await start(steps.tally, activate=False)
        await kernel.send(Number(0))
        await kernel.send_batch(numbers([1, 2]))
        await kernel.terminate()
        assert kernel.state is KernelState.TERMINATED
        assert ids(runtime.dead_letters) == [0, 1, 2]

    @pytest.mark.parametrize("drain", [False, True])
    async def test_replies_that_are_unread_when_the_runtime_closes_are_dead_letters(self, runtime, start, drain):
        kernel = await start(steps.tally, queue_size=30)
        await kernel.send_batch(numbers(range(30)))
        await kernel.send_many(map(Number, range(30, 55)))
        await runtime.close(drain=drain)
        letters = sorted(ids(runtime.dead_letters))
        assert letters == list(range(55))  # either it, or its reply
        statistics = kernel.statistics()
        if drain:
            assert statistics.processed == 55
            assert {letter.reason for letter in runtime.dead_letters} == {
                "the reply was unread when the runtime closed"
            }
        assert statistics.queue_depth == 0
        assert statistics.state == "TERMINATED"

    async def test_a_long_step_is_finished_when_its_kernel_is_paused(self, runtime, start):
        kernel = await start(steps.spin)
        rounds = await rounds_of(kernel, self.long_step)
        before = kernel.statistics().processed
        asked = [asyncio.ensure_future(kernel.ask(Rounds(n))) for n in (rounds, 1, 1)]
        await asyncio.sleep(0.02)  # nothing tells when it has the first in hand
        await kernel.deactivate()
        assert (await asked[0]).n > 0
        handled = kernel.statistics().processed - before
        assert handled == 1 or (self.in_the_loop and handled <= 3)
        await asyncio.sleep(0.02)  # nothing happens, which nothing announces
        assert kernel.statistics().processed - before == handled
        await kernel.reactivate()
        for one in asked[1:]:
            assert (await one).n > 0
        assert kernel.statistics().processed == before + 3

    @pytest.mark.parametrize("drain", [False, True])
    async def test_a_long_step_is_finished_when_its_kernel_is_terminated(self, runtime, start, drain):
        kernel = await start(steps.spin)
        rounds = await rounds_of(kernel, self.long_step)
        before = kernel.statistics().processed
        await kernel.send_batch(np.array([(rounds,), (1,), (2,)], Rounds.dtype))
        await asyncio.sleep(0.02)  # nothing tells when it has the first in hand
        begun = time.monotonic()
        await kernel.terminate(drain=drain)
        assert time.monotonic() - begun < 2 * self.long_step + 1
        assert kernel.state is KernelState.TERMINATED
        handled = kernel.statistics().processed - before
        if handled:
            await collect(runtime, "spin", handled)
        assert ids(runtime.dead_letters) == [rounds, 1, 2][handled:]
        if drain:
            assert handled == 3
        elif not self.in_the_loop:
            assert handled == 1

    # -- failure ---------------------------------------------------------------------------------------------------

    async def test_a_step_that_fails(self, runtime, start, settle, caplog):
        kernel = await start(steps.pick, boundscheck=True)
        assert (await kernel.ask(Number(3))).n == 0
        await kernel.deactivate()
        await kernel.send(Number(15))
        fatal = asyncio.ensure_future(kernel.ask(Number(1000)))
        await settle()
        await kernel.send(Number(5))
        behind = asyncio.ensure_future(kernel.ask(Number(6)))
        await settle()
        await kernel.reactivate()
        for asked in (fatal, behind):
            with pytest.raises(KernelFailedError, match="pick") as caught:
                await asked
            assert isinstance(caught.value.__cause__, IndexError)
        assert await runtime.wait_ended("pick", timeout=10) is KernelState.FAILED
        assert isinstance(kernel.exception, IndexError)
        assert ids(runtime.dead_letters) == [1000, 5, 6]
        assert runtime.dead_letters[0].reason == "the kernel failed while it had it in hand"
        assert all(letter.exception is kernel.exception for letter in runtime.dead_letters)
        assert (await kernel.receive()).n == 0  # of the one before
        for call in (kernel.send(Number(0)), kernel.ask(Number(0)), kernel.receive(), kernel.send_batch(numbers([0]))):
            with pytest.raises(KernelFailedError):
                await call
        statistics = kernel.statistics()
        assert (statistics.state, statistics.processed, statistics.errors) == ("FAILED", 2, 1)
        assert (statistics.dead_letters, statistics.queue_depth) == (3, 0)
        told = [record for record in caplog.records if getattr(record, "failed_kernel", None) == "pick"]
        assert len(told) == 1
        assert told[0].levelno == logging.ERROR
        kernel = await start(steps.pick, boundscheck=True)
        assert (await kernel.ask(Number(3))).n == 0

    async def test_one_that_fails_leaves_the_others_alone(self, runtime, start):
        await start(steps.pick, boundscheck=True)
        kernel = await start(steps.tally)
        async with Load(runtime, "tally") as load:
            await load.progress()
            with pytest.raises(KernelFailedError):
                await runtime.ask("pick", Number(99))
            await load.progress()
        assert await kernel.snapshot() == tally_of(load.sent)

    @pytest.mark.parametrize("way", ["fail", "terminate"])
    async def test_who_waits_for_a_reply_learns_of_the_end(self, runtime, start, settle, way):
        kernel = await start(steps.pick, boundscheck=True)
        waiting = [asyncio.ensure_future(call) for call in (kernel.receive(), kernel.receive_batch(timeout=15))]
        await settle()
        if way == "fail":
            await kernel.send(Number(99))
        else:
            await kernel.terminate()
        for one in waiting:
            with pytest.raises(KernelFailedError if way == "fail" else KernelStateError, match="pick"):
                await one

    async def test_a_connection_ends_with_either_kernel(self, runtime, start):
        await start(steps.echo)
        await start(steps.pick, boundscheck=True)
        await runtime.connect("echo", "pick")
        await runtime.send("echo", Number(99))
        assert await runtime.wait_ended("pick", timeout=10) is KernelState.FAILED
        await runtime.send("echo", Number(1))
        assert (await runtime.receive("echo", timeout=10)).n == 1

    # -- counted ---------------------------------------------------------------------------------------------------

    async def test_counters_are_right_at_rest(self, runtime, start):
        kernel = await start(steps.even, queue_size=2000)
        n = 1000
        await kernel.send_batch(numbers(range(n)))
        await kernel.send_many(map(Number, range(n, n + 500)))
        await asyncio.gather(*(kernel.ask(Number(i)) for i in range(200)))
        await runtime.wait_idle()
        await kernel.deactivate()
        await kernel.send_many(map(Number, range(7)))
        statistics = runtime.statistics()["even"]
        assert statistics.processed == 1700
        assert statistics.replied == 850
        assert statistics.replies_unread == 750
        assert statistics.received == 1707
        assert statistics.queue_depth == 7
        assert statistics.queue_size == 2000
        assert 7 <= statistics.queue_peak <= 2000
        assert statistics.busy > 0
        assert sum(statistics.handle_histogram) >= 1  # of a sample
        assert sum(statistics.wait_histogram) >= 1
        assert 0 < statistics.handle_p50 < 1
        await kernel.terminate(drain=False)
        statistics = kernel.statistics()
        assert statistics.processed + statistics.dead_letters + statistics.queue_depth == 1707
        assert (statistics.queue_depth, statistics.dead_letters) == (0, 7)

    async def test_frames_show_it_while_it_runs(self, runtime, start, eventually):
        kernel = await start(steps.tally)
        frames = []
        runtime.sampler.listen(frames.append, hz=100)
        async with Load(runtime, "tally") as load:
            await eventually(lambda: len(frames) > 2 and frames[-1].rows["processed"][0] > 0)
        await eventually(lambda: frames[-1].rows["processed"][0] == load.sent)
        assert frames[-1].ids == (kernel.id,)
        counted = [int(frame.rows["processed"][0]) for frame in frames]
        assert counted == sorted(counted)
        assert sum(frames[-1].rows["handled"][0]) > 0

    # -- wrong input -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("paused", [False, True])
    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"sensor": 2**31, "value": 0.0}, "Sample.sensor"),
            ({"sensor": -(2**31) - 1, "value": 0.0}, "Sample.sensor"),
            ({"sensor": 2**70, "value": 0.0}, "Sample.sensor"),
            ({"sensor": 1.5, "value": 0.0}, "Sample.sensor"),
            ({"sensor": 1.0, "value": 0.0}, "Sample.sensor"),
            ({"sensor": "1", "value": 0.0}, "Sample.sensor"),
            ({"sensor": None, "value": 0.0}, "Sample.sensor"),
            ({"sensor": 1, "value": "0"}, "Sample.value"),
            ({"sensor": 1, "value": 1j}, "Sample.value"),
            ({"sensor": 1, "value": None}, "Sample.value"),
        ],
    )
    async def test_a_value_that_does_not_fit_is_refused_in_the_sender(self, runtime, start, fields, named, paused):
        kernel = await start(steps.amplify)
        if paused:
            await kernel.deactivate()
        wrong = Sample(**fields)
        for call in (kernel.send(wrong), kernel.ask(wrong, 5.0), kernel.send_many([Sample(1, 1.0), wrong])):
            with pytest.raises(MessageTypeError, match=named):
                await call
        if paused:
            await kernel.reactivate()
        assert await kernel.ask(Sample(np.int32(1), 3)) == Sample(1, 6.0)  # these do fit
        statistics = kernel.statistics()
        assert (statistics.received, statistics.processed, statistics.dead_letters) == (1, 1, 0)

    async def test_a_message_of_another_type_is_refused_in_the_sender(self, runtime, start):
        kernel = await start(steps.echo)

        @message
        class Other:
            n: np.int64

        for wrong in (Other(1), SimpleNamespace(n=1), 1, None, numbers([1])[0]):
            for call in (kernel.send(wrong), kernel.ask(wrong), kernel.send_many([Number(0), wrong])):
                with pytest.raises(MessageTypeError, match="'echo' takes Number"):
                    await call
        assert kernel.statistics().received == 0

    async def test_arrays_of_the_right_dtype_in_any_form_are_taken(self, runtime, start):
        kernel = await start(steps.amplify)
        packed = np.dtype([("sensor", np.int32), ("value", np.float64)])
        wide = np.zeros((4, 3), Sample.dtype)
        wide["sensor"] = np.arange(12).reshape(4, 3)
        read_only = wide[0].copy()
        read_only.flags.writeable = False
        for records in (
            wide[:, 1],
            wide[::-2, 2],
            wide[1][::-1],
            read_only,
            np.asfortranarray(wide)[0],
            wide[2].astype(packed),
            wide[0, :0],
            np.rec.array(wide[3]),
        ):
            await kernel.send_batch(records)
            if len(records):
                got = await collect(runtime, "amplify", len(records))
                assert got["sensor"].tolist() == records["sensor"].tolist()
        await runtime.wait_idle()
        assert kernel.statistics().replies_unread == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            [(1, 2.0)],
            [Sample(1, 2.0)],
            (1, 2.0),
            "text",
            None,
            np.arange(4.0),
            np.arange(4, dtype=np.int64),
            np.zeros((2, 2), steps.Sample.dtype),
            np.zeros((), steps.Sample.dtype),
            np.zeros(2, steps.Sample.dtype)[0],
            np.zeros(3, steps.Stats.dtype),
            np.zeros(3, [("sensor", np.int32), ("value", np.float32)]),
            np.zeros(3, [("sensor", np.int64), ("value", np.float64)]),
            np.zeros(3, [("sensor", ">i4"), ("value", ">f8")]),
            np.zeros(3, [("value", np.float64)]),
            np.zeros(3, [("sensor", np.int32), ("value", np.float64), ("more", np.int8)]),
            np.zeros(3, [("value", np.float64), ("sensor", np.int32)]),
            np.zeros(3, [("sensor", np.int32), ("value", np.float64, 2)]),
            np.zeros(3, object),
            np.zeros(48, np.uint8),
        ],
        ids=lambda wrong: f"{type(wrong).__name__}-{getattr(wrong, 'dtype', '')}{getattr(wrong, 'shape', '')}",
    )
    async def test_what_is_no_array_of_records_is_refused_in_the_sender(self, runtime, start, wrong):
        kernel = await start(steps.amplify)
        with pytest.raises(MessageTypeError, match=r"Sample|to_records"):
            await kernel.send_batch(wrong)
        with pytest.raises(MessageTypeError, match=r"Sample|to_records"):
            await kernel[0].send_batch(wrong)
        assert await kernel.ask(Sample(1, 3.0)) == Sample(1, 6.0)
        assert kernel.statistics().received == 1

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "1"])
    async def test_how_many_replies_must_be_a_count(self, start, wrong):
        kernel = await start(steps.echo)
        with pytest.raises((ValueError, TypeError)):
            await kernel.receive_batch(wrong, timeout=0)

    @pytest.mark.parametrize(
        ("step", "text"),
        [
            (steps.raises, "raise"),
            (steps.asserts, "assert"),
            (steps.tries, "try"),
            (steps.prints, "print"),
            (steps.allocates, "np.zeros"),
            (steps.lists, r"list|\["),
            (steps.uses_np_sqrt, r"math\.sqrt"),
            (steps.returns_text, "return"),
            (steps.calls_a_helper_that_prints, "print"),
        ],
    )
    def test_a_step_that_could_not_run_on_a_gpu_is_refused_with_its_line(self, define, step, text):
        with pytest.raises(StepError, match=text) as caught:
            define(step)
        at = line_of(steps._print_helper if step is steps.calls_a_helper_that_prints else step)
        assert f"line {at}" in str(caught.value)
        assert "numba" not in str(caught.value).lower()

    @pytest.mark.parametrize(
        ("step", "options", "text"),
        [
            (steps.two_parameters, {}, r"\(state, msg, out\)"),
            (steps.four_parameters, {}, "more"),
            (steps.five_parameters, {}, "more"),
            (steps.no_message_type, {}, "msg"),
            (steps.no_reply_type, {}, "out"),
            (steps.unsized_message, {}, r"Named\.name.*no fixed size"),
            (steps.unsized_reply, {}, r"Named\.name.*no fixed size"),
            (steps.message_of_no_kind, {}, "Loose.*@message|@message.*Loose"),
            (steps.state_of_no_kind, {}, "Loose.*Record|Record.*Loose"),
            (steps.tally, {"state": SensorState}, "Tally.*SensorState|SensorState.*Tally"),
            (steps.echo, {"instances": 0}, "instances"),
            (steps.echo, {"instances": 1.5}, "instances"),
            (steps.echo, {"instances": 2, "key": "m"}, "'m'"),
            (steps.amplify, {"instances": 2, "key": "value"}, "value.*integer|integer.*value"),
            (steps.echo, {"key": "n"}, "instances"),
            (steps.echo, {"queue_size": 0}, "queue_size"),
            (steps.echo, {"backpressure": "some"}, "backpressure"),
            (steps.weighs, {}, "weights"),
            (steps.weighs, {"buffers": {"waits": UnifiedBuffer(4)}}, "weights|waits"),
            (steps.weighs, {"buffers": {"weights": np.zeros(4)}}, "UnifiedBuffer"),
            (steps.echo, {"buffers": {"weights": UnifiedBuffer(4)}}, "weights"),
            (steps.weighs, {"buffers": {"weights": UnifiedBuffer(8)[::2]}}, "weights.*gaps.*from_array"),
            (steps.echo, {"backend": "abacus"}, "abacus"),
            (steps.echo, {"quantum": -1.0}, "quantum"),
        ],
    )
    def test_a_definition_that_cannot_be_says_what_to_write(self, define, step, options, text):
        with pytest.raises(DefinitionError, match=f"(?s){text}"):
            define(step, **options)

    # -- taking back and beginning again: executors, without a runtime ---------------------------------------------

    @pytest.fixture
    async def alone(self, define):
        async with executors(define) as alone:
            yield alone

    @pytest.mark.parametrize("keep_states", [True, False])
    @pytest.mark.parametrize("failing_at", [0, 1, 29, 60])
    @pytest.mark.parametrize("instances", [1, 4])
    async def test_after_a_failure_what_is_left_comes_back_and_it_begins_again(
        self, alone, instances, failing_at, keep_states
    ):
        options = {"instances": instances, "key": "tag"} if instances > 1 else {}
        one = await alone(steps.listen, queue_size=64, boundscheck=True, **options)
        executor = one.executor
        sent = []
        for i, message_ in enumerate(series(60, failing_at=failing_at)):
            # Asked or not; some name their instance, which is that of their key: `listen` tells their order by it.
            named = message_.tag % instances if i % 3 == 1 else BY_KEY
            sent.append((message_, named, 100 + i if i % 4 == 2 else 0))
        one.feed(sent)
        assert executor.arm(Event.IDLE) == 0
        executor.run()
        assert isinstance(await one.failure(), IndexError)
        processed = one.processed

        left = executor.retrieve()
        assert left[0] == sent[failing_at]
        assert [one for one in sent if one in left[1:]] == left[1:]
        assert len(left) == 61 - processed
        if instances == 1:
            assert left == sent[failing_at:]
        assert (executor.depth, one.processed) == (0, processed)
        await one.until(lambda: Event.IDLE in one.told)
        assert isinstance(executor.failure, IndexError)

        before = executor.states()
        executor.renew(keep_states)
        assert executor.failure is None
        assert executor.resting
        assert executor.retrieve() == []
        np.testing.assert_array_equal(executor.states(), before if keep_states else np.zeros_like(before))
        one.feed(left[1:])
        assert executor.depth == 60 - processed
        await one.run(60)

        states = executor.states()
        assert states["handled"].sum() == (60 if keep_states else 60 - processed)
        if keep_states:
            assert states["last"].max(0).tolist()[:3] == [20, 20, 20]
            assert states["disorder"].tolist() == [0] * instances
        answers = executor.answers()
        good = [one for one in sent if one[0].tag != NOWHERE]
        assert sorted((ticket, reply.n, reply.tag) for ticket, reply in answers) == [
            (ticket, message_.n, message_.tag) for message_, _, ticket in good if ticket
        ]
        replies = [(reply.tag, reply.n) for reply in one.replies()]
        for producer in range(3):
            assert [reply for reply in replies if reply[0] == producer] == [
                (producer, message_.n) for message_, _, ticket in good if not ticket and message_.tag == producer
            ]
        assert one.counters["replied"][0] == 60
        assert one.told.count(Event.FAILURE) == 1

    async def test_it_may_begin_again_any_number_of_times_and_leaves_nothing_behind(self, alone):
        n = 100
        one = await alone(steps.listen, queue_size=8, boundscheck=True)
        executor, files = one.executor, Path("/proc/self/fd")
        tracemalloc.start()
        try:
            for i in range(1, n + 1):
                one.feed((Tagged(k, 0), BY_KEY, 10 * i + k) for k in (1, 2))
                one.feed([(Tagged(0, NOWHERE), BY_KEY, 7), (Tagged(0, i % 3), 0, 0)])
                executor.run()
                assert await one.failure(i) is not None
                left = executor.retrieve()
                assert left == [(Tagged(0, NOWHERE), BY_KEY, 7), (Tagged(0, i % 3), 0, 0)]
                assert [(ticket, reply.n) for ticket, reply in executor.answers()] == [(10 * i + 1, 1), (10 * i + 2, 2)]
                assert executor.states()["handled"][0] == 2
                executor.renew(False)
                assert (one.processed, executor.unread) == (2 * i, 0)
                if i == n // 2:
                    gc.collect()
                    before = tracemalloc.get_traced_memory()[0], len(list(files.iterdir())) if files.exists() else 0
            gc.collect()
            after = tracemalloc.get_traced_memory()[0], len(list(files.iterdir())) if files.exists() else 0
        finally:
            tracemalloc.stop()
        assert after[0] - before[0] < 20_000, "bytes"
        assert after[1] == before[1], "open files"
        one.feed([(Tagged(1, 0), BY_KEY, 1)])
        await one.run(2 * n + 1)
        assert executor.answers() == [(1, Tagged(1, 0))]

    async def test_what_it_has_not_begun_may_be_taken_back_and_put_in_another_order(self, alone):
        """A batch of which some were handled, and an ask behind it, held up by replies that nobody takes."""
        one = await alone(steps.tally, queue_size=64)
        executor = one.executor
        assert executor.feed_records(numbers(range(64)), BY_KEY) == 64
        executor.run()
        await one.until(lambda: executor.unread == 64)
        assert executor.feed_records(numbers(range(64, 104)), 0) == 40
        one.feed([(Number(104), BY_KEY, 9)])
        assert executor.arm(Event.IDLE) == 0
        assert [executor.take().n for _ in range(10)] == [*range(10)]
        await one.until(lambda: one.processed == 74)
        await one.rest()
        left = executor.retrieve()
        assert left == [*((Number(n), 0, 0) for n in range(74, 104)), (Number(104), BY_KEY, 9)]
        assert (executor.depth, one.processed, executor.unread) == (0, 74, 64)
        await one.until(lambda: Event.IDLE in one.told)
        assert [reply.n for reply in one.replies()] == [*range(10, 74)]
        one.feed(reversed(left))
        await one.run(105)
        assert executor.answers() == [(9, Number(104))]
        assert [reply.n for reply in one.replies()] == [*reversed(range(74, 104))]
        assert executor.states()["handled"][0] == 105
        executor.renew(False)  # one that has not failed begins again too
        assert executor.states()["handled"][0] == 0

    async def test_messages_that_are_taken_back_at_any_moment_are_handled_once_each(self, alone):
        rng = random.Random(11)
        one = await alone(steps.echo, queue_size=100)
        executor, got, answered, put = one.executor, [], [], 0
        left = []
        while put < 4000 or left:
            rng.shuffle(left)
            one.feed(left)
            while put < 4000 and executor.depth < 90:
                some = rng.randrange(1, 10)
                if rng.random() < 0.5:
                    assert executor.feed_records(numbers(range(put, put + some)), BY_KEY) == some
                else:
                    one.feed((Number(n), BY_KEY, n) for n in range(put, put + some) if n)
                    some += put == 0 and executor.feed_records(numbers([0]), BY_KEY) - 1
                put += some
            executor.run()
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
                got += [reply.n for reply in one.replies()]
            await one.rest()
            answered += executor.answers()
            left = executor.retrieve()
            assert executor.depth == 0
            if rng.random() < 0.3:
                executor.renew(rng.random() < 0.5)
        got += [reply.n for reply in one.replies()]
        answered += executor.answers()
        assert all(ticket == reply.n for ticket, reply in answered)
        assert sorted([*got, *(reply.n for _, reply in answered)]) == [*range(put)]
        assert one.processed == put

    async def test_room_that_comes_of_taking_back_is_told(self, alone):
        one = await alone(steps.echo, queue_size=4)
        one.feed((Number(n), BY_KEY, 0) for n in range(4))
        assert not one.executor.feed(Number(4), BY_KEY)
        assert one.executor.arm(Event.ROOM) == 0
        await one.rest()
        assert len(one.executor.retrieve()) == 4
        await one.until(lambda: Event.ROOM in one.told)
        one.feed([(Number(4), BY_KEY, 0)])
        await one.run(1)

    async def test_it_begins_again_with_the_step_that_it_was_given_meanwhile(self, alone, define):
        one = await alone(steps.first, "swapped", state=lambda: Tally(handled=10))
        successor = await asyncio.to_thread(
            lambda: define(steps.second, "other", state=lambda: Tally(handled=100)).build()
        )
        one.feed((Number(n), BY_KEY, 0) for n in range(3))
        await one.run(3)
        one.feed([(Number(3), BY_KEY, 5)])
        left = one.executor.retrieve()
        one.executor.swap(successor)
        one.executor.renew(False)
        assert one.executor.states()["handled"][0] == 100
        one.feed(left)
        await one.run(4)
        assert one.executor.answers() == [(5, Tagged(3, 2))]
        assert [reply.tag for reply in one.replies()] == [1, 1, 1]
        assert one.executor.states()["handled"][0] == 101

    async def test_a_state_that_cannot_be_made_leaves_all_as_it_was(self, alone):
        states = [Tally(handled=7), Tally(handled=7)]
        one = await alone(steps.tally, state=states.pop)
        one.feed([(Number(0), BY_KEY, 0)])
        await one.run(1)
        with pytest.raises(IndexError, match="empty list"):
            one.executor.renew(False)
        assert one.executor.resting
        one.executor.renew(True)
        assert one.executor.states()["handled"][0] == 8

    @pytest.mark.parametrize("instances", [1, 4])
    async def test_what_a_connected_kernel_has_sent_comes_back_too(self, alone, instances):
        options = {"instances": instances, "key": "tag"} if instances > 1 else {}
        source = await alone(steps.hand_over, queue_size=32)
        target = await alone(steps.listen, "target", queue_size=32, boundscheck=True, **options)
        assert source.executor.connect(target.executor)
        sent = series(16, failing_at=5, producers=1)[:16]
        source.feed((message_, BY_KEY, 0) for message_ in sent)
        await source.run(16)
        target.feed([(Tagged(1, 7), BY_KEY, 3)])
        target.executor.run()
        assert isinstance(await target.failure(), IndexError)
        handled = target.processed
        await target.until(lambda: target.executor.depth == 17 - handled)  # all is known of what has come
        left = target.executor.retrieve()
        assert left[0] == (sent[5], BY_KEY, 0)
        assert len(left) == 17 - handled
        assert [message_ for message_, *_ in left[1:] if message_.tag == 0] == sent[-10:]
        assert target.executor.depth == 0
        target.executor.renew(True)
        target.feed(left[1:])
        await target.run(16)
        # They are connected still, and the source begins again where the target rests and is full.
        more = [Tagged(n, 0) for n in range(16, 86)]
        source.feed((message_, BY_KEY, 0) for message_ in more[:32])
        source.executor.run()
        await source.until(lambda: source.processed == 48)
        source.feed((message_, BY_KEY, 0) for message_ in more[32:64])
        await target.until(lambda: target.executor.depth >= 32)
        left = target.executor.retrieve()
        assert left[:32] == [(message_, BY_KEY, 0) for message_ in more[:32]]
        await source.until(lambda: source.executor.depth == 0)  # there was room
        source.feed((message_, BY_KEY, 0) for message_ in more[64:])
        target.executor.renew(False)
        target.executor.run()
        # Its own replies, which nobody takes, hold it up.
        await target.until(lambda: len(target.replies()) + 1 and target.processed == 16 + 70 - len(left))
        target.feed(left[:16])
        target.feed(left[16:])
        await target.until(lambda: len(target.replies()) + 1 and target.processed == 86)
        await target.rest()
        assert target.executor.states()["handled"].sum() == 70
        assert [ticket for ticket, _ in target.executor.answers()] == [3]

    async def test_a_connected_kernel_that_fails_begins_again_and_is_connected(self, alone):
        source = await alone(steps.listen, queue_size=64, boundscheck=True)
        target = await alone(steps.hand_over, "target", queue_size=64)
        assert source.executor.connect(target.executor)
        target.executor.run()
        source.feed((message_, BY_KEY, 0) for message_ in series(60, failing_at=20, producers=2))
        source.executor.run()
        await source.failure()
        left = source.executor.retrieve()
        assert len(left) == 41
        source.executor.renew(True)
        source.feed(left[1:])
        await source.run(60)
        await target.until(lambda: target.processed == 60)
        assert [(reply.n, reply.tag) for reply in target.replies()] == [(m.n, m.tag) for m in series(60, producers=2)]
        assert source.executor.states()["disorder"][0] == 0

    @pytest.mark.parametrize("instances", [1, 4])
    async def test_what_a_connected_kernel_sends_is_handled_once_whenever_it_is_taken_back(self, alone, instances):
        rng, n = random.Random(7), self.load(1000)
        options = {"instances": instances, "key": "n"} if instances > 1 else {}
        source = await alone(steps.echo, queue_size=100)
        target = await alone(steps.count, queue_size=50, **options)
        assert source.executor.connect(target.executor)
        source.executor.run()
        put, left = 0, []
        while target.processed < n:
            if put < n:
                put += source.executor.feed_records(numbers(range(put, min(put + rng.randrange(1, 100), n))), BY_KEY)
            target.feed(left[:20])
            left = left[20:]
            target.executor.run()
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            await target.rest()
            left += target.executor.retrieve()
            if rng.random() < 0.2:
                target.executor.renew(True)
        assert left == []
        states = target.executor.states()
        assert (target.processed, states["handled"].sum(), source.processed) == (n, n, n)
        assert states["total"].sum() == n * (n - 1) // 2
        assert np.bitwise_xor.reduce(states["mixed"]) == tally_of(n).mixed

    async def test_connections_may_be_made_again_and_again(self, alone):
        source = await alone(steps.echo, queue_size=2048)
        target = await alone(steps.double, queue_size=2048)
        tracemalloc.start()
        try:
            for n in range(1, 61):
                assert source.executor.connect(target.executor), n
                source.feed([(Number(n), BY_KEY, 0)])
                await source.run(n)
                await target.until(lambda: target.executor.depth == 1)
                source.executor.disconnect()
                await target.run(n)
                assert target.replies() == [Number(2 * n)]
                if n == 30:
                    before = tracemalloc.get_traced_memory()[0]
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert after - before < 10 * 2048 * 8, "bytes"

    # -- everything at once ----------------------------------------------------------------------------------------

    async def test_under_a_thread_that_hogs_the_interpreter(self, hog):
        await everything_at_once(self.backend, 100)  # compiles, which takes minutes beside such a thread
        with hog():
            await everything_at_once(self.backend, self.load(20_000))

    def test_on_one_core(self):
        """In a process of its own, which runs on one core from its beginning."""
        script = f"""
import asyncio, os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from tests.device.conformance import everything_at_once
{self.prelude}
asyncio.run(everything_at_once({self.backend!r}, {self.load(100_000)}))
"""
        ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=25)
        assert ran.stderr == ""
        assert (ran.returncode, ran.stdout) == (0, "")

    def test_a_hundred_runtimes_leave_nothing_behind(self):
        async def cycle():
            async with RingKernelRuntime() as runtime:
                await (await runtime.launch("tally")).activate()
                await runtime.send_batch("tally", numbers([0]))
                assert (await runtime.ask("tally", Number(1), 10)).n == 1
                assert (await runtime.receive("tally", 10)).n == 0

        def left():
            threads = Path("/proc/self/task")
            files = Path("/proc/self/fd")
            return (
                threading.active_count(),
                len(list(threads.iterdir())) if threads.exists() else 0,
                len(list(files.iterdir())) if files.exists() else 0,
            )

        ring_kernel("tally", backend=self.backend)(steps.tally)
        for _ in range(3):
            asyncio.run(cycle())
        before = left()
        for _ in range(100):
            asyncio.run(cycle())
        end = time.monotonic() + 2
        while any(map(gt, left(), before)) and time.monotonic() < end:  # a thread may be shown for a while yet
            time.sleep(0.01)
        assert not any(map(gt, left(), before)), (left(), before)


class ParallelConformance(Conformance):
    """For backends whose steps run beside the event loop, on threads or on a device."""

    in_the_loop = False
    long_step = 1.0

    async def test_the_loop_goes_on_beside_a_long_step(self, runtime, start):
        kernel = await start(steps.spin)
        rounds = await rounds_of(kernel, 0.3)
        asked = asyncio.ensure_future(kernel.ask(Rounds(rounds)))
        ticks = 0
        while not asked.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert (await asked).n > 0
        assert ticks > 10

    async def test_a_reply_that_comes_after_the_timeout_is_a_dead_letter(self, runtime, start):
        kernel = await start(steps.spin)
        rounds = await rounds_of(kernel, 0.2)
        with pytest.raises(QueueTimeoutError, match="reply from 'spin'"):
            await kernel.ask(Rounds(rounds), timeout=0.02)
        assert (await kernel.ask(Rounds(1))).n == 1_103_527_590
        assert len(runtime.dead_letters) == 1
        assert "late" in runtime.dead_letters[0].reason
        assert isinstance(runtime.dead_letters[0].message, Number)

    @pytest.mark.parametrize("loop_mode", ["current"])
    async def test_a_step_that_does_not_come_back_in_time_is_named_and_left(self, runtime, start, caplog):
        kernel = await start(steps.spin)
        rounds = await rounds_of(kernel, 2.5)
        asked = asyncio.ensure_future(kernel.ask(Rounds(rounds)))
        await asyncio.sleep(0.2)  # nothing tells when it has it in hand
        await kernel.send(Rounds(1))
        begun = time.monotonic()
        await kernel.terminate(timeout=0.1)
        assert time.monotonic() - begun < 2.2
        assert kernel.state is KernelState.TERMINATED
        assert any("'spin'" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
        with pytest.raises(KernelStateError):
            await asked
        assert 1 in ids(runtime.dead_letters)
        await runtime.close(timeout=5)


async def everything_at_once(backend, n):
    """Batches, asks, sends, pauses, snapshots and swaps on several kernels; every message is accounted for."""

    def define(step, kernel_id, **options):
        return ring_kernel(kernel_id, backend=backend, **options)(step)

    async with RingKernelRuntime() as runtime:
        await (await runtime.launch(define(steps.tally, "numbers", queue_size=1000))).activate()
        await (await runtime.launch(define(steps.double, "double", queue_size=8))).activate()
        await (await runtime.launch(define(steps.listen, "lines", queue_size=50))).activate()
        await (await runtime.launch(define(steps.amplify, "many", instances=10, key="sensor"))).activate()
        await runtime.launch(define(steps.increment, "left"))
        await (await runtime.launch(define(steps.count, "right"))).activate()
        await runtime.connect("left", "right")
        await runtime.activate("left")

        async def ask():
            for first in range(0, 200, 20):
                asks = (runtime.ask("double", Number(i)) for i in range(first, first + 20))
                assert [reply.n for reply in await asyncio.gather(*asks)] == [2 * i for i in range(first, first + 20)]

        def produce(producer):
            for i in range(1, 21):
                runtime.sync.send("lines", Tagged(i, producer))

        async def pause():
            for _ in range(5):
                await runtime.deactivate("numbers")
                before = await runtime["numbers"].snapshot()
                await asyncio.sleep(0)
                assert await runtime["numbers"].snapshot() == before
                await runtime.reactivate("numbers")
                await asyncio.sleep(0.002)

        async def address():
            for i in range(100):
                assert await runtime["many"][i % 10].ask(Sample(0, float(i))) == Sample(0, 2.0 * i)

        replies, lines, *_ = await asyncio.gather(
            through(runtime, "numbers", "numbers", n, 500),
            collect(runtime, "lines", 60),
            *(asyncio.to_thread(produce, producer) for producer in range(3)),
            feed(runtime, "left", n, 500),
            ask(),
            pause(),
            address(),
        )
        await runtime.wait_idle()
        assert np.array_equal(replies["n"], np.arange(n))
        assert await runtime["numbers"].snapshot() == tally_of(n)
        assert Counter(lines["tag"].tolist()) == {0: 20, 1: 20, 2: 20}
        assert (await runtime["lines"].snapshot()).disorder == 0
        assert (await runtime["many"].snapshot())["used"].tolist() == [10] * 10
        right = await runtime["right"].snapshot()
        assert (right.handled, right.total, right.disorder) == (n, n * (n + 1) // 2, 1)  # it begins with 1
        statistics = runtime.statistics()
        assert {name: one.processed for name, one in statistics.kernels.items()} == {
            "numbers": n,
            "double": 200,
            "lines": 60,
            "many": 100,
            "left": n,
            "right": n,
        }
        assert statistics.dead_letters == 0
