"""What many actors, many threads, long chains and many interruptions must not break, on any parallel backend.

Run, like the conformance suite, by a class of a test module that names its backend::

    class TestStress(Stress):
        backend = "cpu"
        scale = 0.1
"""

import asyncio
from itertools import pairwise
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, RingKernelRuntime, Shape, barrier, lane, message, width
from tests.device import steps
from tests.device.conformance import Load, collect, everything_at_once, feed, numbers, through
from tests.device.steps import Number, Tally, note, tally_of

CELLS = 256


@message
class Keyed:
    key: np.int64
    n: np.int64


@message
class Vector:
    n: np.int64
    values: Annotated[NDArray[np.float64], Shape(CELLS)]


@message
class Total:
    n: np.int64
    total: np.float64
    width: np.int64


@message
class Lap:
    n: np.int64
    left: np.int64


class Sums(Record):
    total: Annotated[NDArray[np.float64], Shape(CELLS)]
    handled: np.int64


def keyed(state: Tally, msg: Keyed, out: Keyed) -> bool:
    note(state, msg.n)
    out.key, out.n = msg.key, msg.n
    return True


def keyed_otherwise(state: Tally, msg: Keyed, out: Keyed) -> bool:
    note(state, msg.n)
    out.key, out.n = -1 - msg.key, msg.n
    return True


def accumulate(state: Sums, msg: Vector, out: Total) -> bool:
    """All threads of a block add; then one of them reads what all have written."""
    for i in range(lane(), CELLS, width()):
        state.total[i] += msg.values[i]
    barrier()
    if lane() == 0:
        total = 0.0
        for i in range(CELLS):
            total += state.total[i]
        state.handled += 1
        out.n, out.total, out.width = msg.n, total, width()
    return True


def hand_on(state: Tally, msg: Lap, out: Lap) -> bool:
    state.handled += 1
    out.n, out.left = msg.n, msg.left - 1
    return msg.left > 1


def laps(ns, left):
    records = np.zeros(len(ns), Lap.dtype)
    records["n"], records["left"] = ns, left
    return records


async def to_instances(runtime, kernel_id, instances, rounds):
    """To each instance the numbers from 0 on, instances in another order in each round; the replies."""
    rng = np.random.default_rng(instances)
    records = np.zeros(instances * rounds, Keyed.dtype)
    for i in range(rounds):
        part = records[i * instances : (i + 1) * instances]
        part["key"], part["n"] = rng.permutation(instances), i

    async def send():
        for start in range(0, len(records), 4096):
            await runtime.send_batch(kernel_id, records[start : start + 4096])

    sending = asyncio.ensure_future(send())
    replies = await collect(runtime, kernel_id, len(records))
    await sending
    return replies


class Stress:
    backend: str
    scale = 1.0
    """Of the numbers of messages; 1.0 is for a backend that handles tens of millions in a second."""
    threads = 128
    seen_width = 1
    """What `width()` is with so many threads."""

    def load(self, messages, least=200):
        return max(int(messages * self.scale), least)

    @pytest.mark.parametrize("instances", [132, 1056])
    async def test_each_of_many_instances_gets_its_messages_in_order(self, runtime, start, instances):
        kernel = await start(keyed, instances=instances, key="key", queue_size=1 << 13)
        rounds = self.load(2_000_000 // instances, 20)
        replies = await to_instances(runtime, "keyed", instances, rounds)
        by_instance = replies["n"][np.argsort(replies["key"], kind="stable")]
        np.testing.assert_array_equal(by_instance.reshape(instances, rounds), [np.arange(rounds)] * instances)
        states, one = await kernel.snapshot(), tally_of(rounds)
        for field in ("handled", "total", "mixed", "disorder"):
            assert (states[field] == getattr(one, field)).all(), field
        assert kernel.statistics().processed == instances * rounds

    @pytest.mark.parametrize("instances", [1, 132])
    async def test_the_threads_of_a_block_share_a_message(self, runtime, start, instances):
        options = {"key": "n"} if instances > 1 else {}
        kernel = await start(accumulate, instances=instances, threads=self.threads, **options)
        n = self.load(20_000, 2 * instances) // instances * instances
        records = np.zeros(n, Vector.dtype)
        records["n"] = np.arange(n)
        records["values"] = np.arange(n)[:, None] % 7 + np.arange(CELLS)
        sending = asyncio.ensure_future(runtime.send_batch("accumulate", records))
        replies = await collect(runtime, "accumulate", n)
        await sending
        replies = replies[np.argsort(replies["n"])]
        expected = records["values"].sum(axis=1).reshape(-1, instances).cumsum(axis=0).reshape(-1)
        np.testing.assert_array_equal(replies["n"], np.arange(n))
        np.testing.assert_array_equal(replies["total"], expected)
        assert set(replies["width"].tolist()) == {self.seen_width}
        sums = await kernel[instances - 1].snapshot()
        assert sums.handled == n // instances
        np.testing.assert_array_equal(sums.total, records["values"][instances - 1 :: instances].sum(axis=0))

    @pytest.mark.parametrize("queue_size", [4, 1024])
    async def test_a_long_chain(self, runtime, start, queue_size):
        names = [f"stage {i}" for i in range(12)]
        for name in names:
            await start(steps.increment, name, queue_size=queue_size)
        for name, following in pairwise(names):
            await runtime.connect(name, following)
        n = self.load(100_000)
        replies = await through(runtime, names[0], names[-1], n, 500)
        np.testing.assert_array_equal(replies["n"], np.arange(n) + len(names))
        await runtime.wait_idle()  # what goes from kernel to kernel on a device is counted a moment later
        assert {runtime[name].statistics().processed for name in names} == {n}

    @pytest.mark.parametrize("queue_size", [2, 64])
    async def test_many_are_connected_to_one(self, runtime, start, queue_size):
        names = [f"source {i}" for i in range(8)]
        await start(steps.echo, "sink", queue_size=queue_size)
        for name in names:
            await start(steps.echo, name, queue_size=queue_size)
            await runtime.connect(name, "sink")
        n = self.load(20_000)
        series = [numbers(range(i * n, (i + 1) * n)) for i in range(len(names))]
        *_, replies = await asyncio.gather(
            *(runtime.send_batch(name, records) for name, records in zip(names, series, strict=True)),
            collect(runtime, "sink", len(names) * n),
        )
        for i in range(len(names)):
            own = replies["n"][replies["n"] // n == i]
            np.testing.assert_array_equal(own, np.arange(i * n, (i + 1) * n))

    async def test_messages_go_round_in_a_circle(self, runtime, start, eventually):
        names = [f"place {i}" for i in range(4)]
        for name in names:
            await start(hand_on, name)
        for name, following in pairwise([*names, names[0]]):
            await runtime.connect(name, following)
        hops, at_once = self.load(50_000) // 4 * 4, 10
        await runtime.send_batch(names[0], laps(range(at_once), hops))
        await eventually(lambda: sum(runtime[name].statistics().processed for name in names) == hops * at_once)
        states = [await runtime[name].snapshot() for name in names]
        assert [state.handled for state in states] == [hops // 4 * at_once] * 4

    async def test_two_runtimes_at_once(self, runtime, start):
        for name in ("one", "two", "three"):
            await start(steps.tally, name, queue_size=100)
        n = self.load(100_000)
        async with RingKernelRuntime() as other:
            for name in ("one", "two"):
                await (await other.launch(name)).activate()
            await asyncio.gather(
                *(through(runtime, name, name, n, 500) for name in ("one", "two", "three")),
                *(through(other, name, name, n, 500) for name in ("one", "two")),
            )
            assert await other["two"].snapshot() == tally_of(n)
        for name in ("one", "two", "three"):
            assert await runtime[name].snapshot() == tally_of(n)
            await runtime[name].send(Number(n))
            assert (await runtime.receive(name)).n == n

    @pytest.mark.parametrize("quantum", [0.002, 0.05])
    async def test_short_quanta_lose_nothing(self, runtime, start, quantum):
        for name in ("one", "two"):
            await start(steps.tally, name, queue_size=64, quantum=quantum)
        await runtime.connect("one", "two")
        many = await start(keyed, instances=132, key="key", quantum=quantum)
        n, rounds = self.load(200_000), self.load(1000, 10)
        replies, _ = await asyncio.gather(
            through(runtime, "one", "two", n, 500), to_instances(runtime, "keyed", 132, rounds)
        )
        np.testing.assert_array_equal(replies["n"], np.arange(n))
        assert await runtime["two"].snapshot() == tally_of(n)
        assert set((await many.snapshot())["disorder"].tolist()) == {0}

    async def test_pauses_and_snapshots_under_load(self, runtime, start):
        kernel = await start(keyed, instances=132, key="key", queue_size=500)
        rounds = self.load(2000, 20)

        async def disturb():
            while True:
                await kernel.deactivate()
                before = await kernel.snapshot()
                await asyncio.sleep(0)
                np.testing.assert_array_equal(await kernel.snapshot(), before)
                assert before["handled"].sum() == kernel.statistics().processed
                await kernel.reactivate()
                await asyncio.sleep(0.002)

        disturbing = asyncio.ensure_future(disturb())
        await to_instances(runtime, "keyed", 132, rounds)
        assert not disturbing.done(), disturbing.exception()
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        assert set((await kernel.snapshot())["handled"].tolist()) == {rounds}

    @pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
    async def test_many_instances_are_swapped_under_load(self, runtime, start, define, eventually, in_thread):
        options = {"instances": 132, "key": "key", "queue_size": 1000}
        kernel = await start(keyed, "swapped", **options)
        rounds, others = self.load(4000, 40), (keyed_otherwise, keyed)
        await in_thread(define, keyed_otherwise, "compiled before")  # so that the swap comes while messages go through
        exchange = asyncio.ensure_future(to_instances(runtime, "swapped", 132, rounds))
        for version, step in enumerate(others, 2):
            await in_thread(lambda step=step: define(step, "swapped", **options))
            await eventually(lambda version=version: kernel.version == version)
        replies = await exchange
        keys = np.where(replies["key"] < 0, -1 - replies["key"], replies["key"])
        by_instance = replies["n"][np.argsort(keys, kind="stable")]
        np.testing.assert_array_equal(by_instance.reshape(132, rounds), [np.arange(rounds)] * 132)
        assert set((await kernel.snapshot())["disorder"].tolist()) == {0}
        assert (kernel.version, kernel.statistics().dead_letters) == (3, 0)

    async def test_kernels_that_come_and_go_beside_a_busy_one(self, runtime, start):
        kernel = await start(steps.tally)
        await start(keyed, instances=132, key="key", activate=False)
        async with Load(runtime, "tally") as load:
            for turn in range(10):
                await load.progress()
                await runtime.terminate("keyed", drain=turn % 2 == 0)
                await (await runtime.launch("keyed")).activate()
                replies = await to_instances(runtime, "keyed", 132, 3)
                assert sorted(replies["key"].tolist()) == sorted([*range(132)] * 3)
        assert await kernel.snapshot() == tally_of(load.sent)

    async def test_everything_at_once(self):
        await everything_at_once(self.backend, self.load(200_000))

    async def test_a_runtime_that_closes_under_load(self, runtime, start):
        await start(steps.echo, queue_size=32)
        sink = await start(steps.count, queue_size=32)
        await runtime.connect("echo", "count")
        n = self.load(100_000)
        await feed(runtime, "echo", n)
        await runtime.close(timeout=15)
        assert sink.statistics().processed == n
        assert runtime.dead_letters.total == 0
