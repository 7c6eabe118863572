"""One compiled ring kernel whose instances are spread over nodes."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, RingKernelRuntime, message, ring_kernel
from pydotcompute.cluster.ray import Engine
from pydotcompute.exceptions import ClusterError, InstanceError, KernelFailedError, NodeLostError
from pydotcompute.messages import Shape, to_records

pytestmark = pytest.mark.needs_numba
SENSORS = 8


@message
class Reading:
    sensor: np.int64
    value: np.int64


@message
class Last:
    sensor: np.int64
    count: np.int64
    total: np.int64


class Sums(Record):
    count: np.int64 = 0
    total: np.int64 = 0
    last: np.int64 = -1
    in_order: np.int64 = 1
    cells: Annotated[NDArray[np.int64], Shape(2)]


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
async def runtime(ray: Any) -> AsyncIterator[RingKernelRuntime]:
    """A runtime of two hosts of its own, in the loop of the test."""
    async with RingKernelRuntime("current", cluster="ray", nodes=2) as runtime:
        await runtime.join()
        yield runtime


def sums(**options: Any) -> Any:
    options = {"instances": SENSORS, "key": "sensor", "queue_size": 1024, "state": Sums} | options

    @ring_kernel("sums of sensors", **options)
    def sums(state, msg: Reading, out: Last):  # type: ignore[no-untyped-def]
        if msg.value < 0:
            state.cells[msg.value] = 1
        state.count += 1
        state.total += msg.value
        if msg.value < state.last:
            state.in_order = 0
        state.last = msg.value
        out.sensor, out.count, out.total = msg.sensor, state.count, state.total
        return True

    return sums


def quiet(**options: Any) -> Any:
    """The same, without replies."""
    options = {"instances": SENSORS, "key": "sensor", "queue_size": 1024, "state": Sums} | options

    @ring_kernel("quiet sums", **options)
    def quiet(state, msg: Reading, out: None):  # type: ignore[no-untyped-def]
        state.count += 1
        state.total += msg.value
        if msg.value < state.last:
            state.in_order = 0
        state.last = msg.value

    return quiet


def readings(n: int, first: int = 0) -> list[Reading]:
    return [Reading(sensor=i % SENSORS, value=first + i) for i in range(n)]


def kill(runtime: RingKernelRuntime, name: str) -> None:
    pid = runtime.nodes[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_each_instance_is_on_one_node_and_gets_all_its_messages(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(quiet(), spread=True)
    await kernel.activate()
    await kernel.send(Reading(sensor=0, value=0))
    await cluster.wait_idle("quiet sums", timeout=20)
    assert kernel.node == "node-1 and node-2"
    assert [node.kernels for node in cluster.nodes.values()] == [["quiet sums"], ["quiet sums"]]
    await cluster.send_many("quiet sums", readings(800))
    await cluster.send_batch("quiet sums", to_records(readings(8000, 1000)))
    for value in range(10):
        await kernel[SENSORS - 1].send(Reading(sensor=0, value=10_000 + value))  # the instance is named: not by its key
    await cluster.send_batch("quiet sums", to_records(readings(5, 20_000)), instance=2)
    await cluster.wait_idle("quiet sums", timeout=30)
    states = await kernel.snapshot()
    counts = Counter(dict.fromkeys(range(SENSORS), 1100)) + Counter({0: 1, SENSORS - 1: 10, 2: 5})
    assert dict(enumerate(states["count"])) == counts
    assert states["in_order"].all()
    for i in range(SENSORS):
        assert (await kernel[i].snapshot()).count == counts[i]
    async with asyncio.timeout(20):
        while cluster.statistics()["quiet sums"].processed < counts.total():
            await asyncio.sleep(0.02)
    half = sum(counts[i] for i in range(SENSORS // 2))
    assert [lane.done_there for lane in kernel._lanes] == [half, counts.total() - half]


async def test_asks_and_replies_come_from_all_nodes(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(sums(), spread=True)
    await kernel.activate()
    replies = await asyncio.gather(*(kernel.ask(one, timeout=20) for one in readings(80)))
    assert Counter(int(reply.sensor) for reply in replies) == dict.fromkeys(range(SENSORS), 10)
    assert max(int(reply.count) for reply in replies) == 10
    assert (await kernel[3].ask(Reading(sensor=5, value=100), timeout=20)).count == 11
    sending = asyncio.ensure_future(cluster.send_batch("sums of sensors", to_records(readings(8000, 100))))
    got = [await kernel.receive(timeout=20) for _ in range(8000)]
    await sending
    for sensor in range(SENSORS):
        mine = [int(reply.count) for reply in got if reply.sensor == sensor]
        assert mine == sorted(mine)
        assert len(mine) == 1000
    with pytest.raises(InstanceError, match=f"0 to {SENSORS - 1}"):
        await kernel[SENSORS].ask(Reading(sensor=0, value=0))


async def test_keys_are_those_of_the_time_of_sending(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(quiet(), spread=True)
    await kernel.activate()
    await kernel.deactivate()
    several, one = readings(SENSORS), Reading(sensor=-1, value=0)  # that of the last instance, as of a list
    await cluster.send_many("quiet sums", several)
    await kernel.send(one)
    for reading in (*several, one):
        reading.sensor = np.int64(SENSORS // 2)
    await kernel.reactivate()
    await cluster.wait_idle("quiet sums", timeout=20)
    assert list((await kernel.snapshot())["count"]) == [1] * (SENSORS - 1) + [2]


async def test_it_is_paused_stepped_and_ended_as_one(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(quiet(), spread=True)
    await kernel.activate()
    await kernel.deactivate()
    await cluster.send_many("quiet sums", readings(40))
    assert (await kernel.snapshot())["count"].sum() == 0
    handled = await cluster.step("quiet sums", 5, timeout=20)
    assert len(handled) == 5
    assert (await kernel.snapshot())["count"].sum() == 5
    assert len(await cluster.step("quiet sums", 20, timeout=20)) == 20
    assert (await kernel.snapshot())["count"].sum() == 25
    await kernel.reactivate()
    await cluster.wait_idle("quiet sums", timeout=20)
    assert list((await kernel.snapshot())["count"]) == [5] * SENSORS
    await cluster.restart("quiet sums", keep_state=False)
    async with asyncio.timeout(20):
        while (await kernel.snapshot())["count"].sum():
            await asyncio.sleep(0.02)
    await cluster.send_many("quiet sums", readings(1000))
    await kernel.terminate(drain=True, timeout=20)
    assert cluster.statistics()["quiet sums"].processed == 1040
    assert kernel.state == "TERMINATED"
    assert kernel.node is None
    assert [node.kernels for node in cluster.nodes.values()] == [[], []]


async def test_an_instance_that_fails_ends_it_on_all_nodes(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(sums(boundscheck=True), spread=True)
    await kernel.activate()
    with pytest.raises(KernelFailedError, match="out of bounds"):
        await kernel.ask(Reading(sensor=SENSORS - 1, value=-5), timeout=20)
    assert await cluster.wait_ended("sums of sensors", timeout=20) == "FAILED"
    assert cluster.statistics()["sums of sensors"].errors == 1
    async with asyncio.timeout(20):
        while any(node.kernels for node in cluster.nodes.values()):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
async def test_others_go_on_with_the_instances_of_a_node_that_is_lost(
    runtime: RingKernelRuntime, delivery: Any, caplog: pytest.LogCaptureFixture
) -> None:
    definition = quiet(restart="on_failure", max_restarts=3, backoff=None)
    kernel = await runtime.launch(definition, spread=True, delivery=delivery)
    await kernel.activate()
    await runtime.send_many("quiet sums", readings(800))
    await runtime.wait_idle("quiet sums", timeout=20)
    kill(runtime, "node-2")
    await runtime.send_batch("quiet sums", to_records(readings(80_000, 1000)))
    await runtime.wait_idle("quiet sums", timeout=30)
    async with asyncio.timeout(20):
        while kernel.node != "node-1":
            await asyncio.sleep(0.02)
    await runtime.send_many("quiet sums", readings(80, 100_000))
    await runtime.wait_idle("quiet sums", timeout=20)
    lost = Counter(int(letter.message.sensor) for letter in runtime.dead_letters.of("quiet sums"))
    states = await kernel.snapshot()
    half = SENSORS // 2
    assert list(states["count"][:half]) == [100 + 10_000 + 10] * half  # they know nothing of it
    assert kernel.restarts == 1
    assert kernel.state == "ACTIVE"
    assert f"node-1 begins {half} of its instances anew" in caplog.text
    assert "_take_over" not in caplog.text
    assert runtime.statistics()["quiet sums"].errors == 1
    for i in range(half, SENSORS):
        if delivery == "at_most_once":
            # It began anew: what it had handled before is gone with the node, and what was there is a dead letter.
            assert states["count"][i] + lost[i] + 100 == 100 + 10_000 + 10
        else:
            assert states["count"][i] == 10_000 + 10
    assert (lost.total() > 0) == (delivery == "at_most_once")
    assert all(i >= half for i in lost)


async def test_it_fails_with_a_node_if_it_is_not_to_be_started_again(runtime: RingKernelRuntime) -> None:
    kernel = await runtime.launch(sums(), spread=True)
    await kernel.activate()
    assert (await kernel.ask(Reading(sensor=7, value=1), timeout=20)).count == 1
    kill(runtime, "node-2")
    assert await runtime.wait_ended("sums of sensors", timeout=20) == "FAILED"
    assert isinstance(kernel.exception, NodeLostError)
    async with asyncio.timeout(20):
        while runtime.nodes["node-1"].kernels:
            await asyncio.sleep(0.02)


async def test_what_has_one_instance_is_on_one_node(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(quiet(instances=1, key=None), spread=True)
    await kernel.activate()
    await kernel.send(Reading(sensor=0, value=0))
    await cluster.wait_idle("quiet sums", timeout=20)
    assert kernel.node == "node-1"


async def test_without_spread_all_instances_are_on_one_node(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(quiet(), node="node-2")
    await kernel.activate()
    await kernel.send(Reading(sensor=0, value=0))
    await cluster.wait_idle("quiet sums", timeout=20)
    assert kernel.node == "node-2"


async def test_instances_are_spread_over_gpus_that_nobody_has(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of two GPUs: Ray is told that there are, and starts hosts that have none."""
    places, host = Engine.places, Engine.host

    async def with_gpus(self: Any, loop: Any) -> Any:
        return [replace(place, gpus=2) for place in await places(self, loop)]

    monkeypatch.setattr(Engine, "places", with_gpus)
    monkeypatch.setattr(Engine, "host", lambda self, name, place, num_gpus: host(self, name, place, 0))
    async with RingKernelRuntime("current", cluster="ray", nodes=1) as runtime:
        first = await runtime.launch(sums(backend="cpu"), num_gpus=1)
        await first.activate()
        assert (await first.ask(Reading(sensor=0, value=1), timeout=20)).count == 1
        assert first.node == "gpu-1"
        kernel = await runtime.launch(quiet(backend="cpu"), num_gpus=1, spread=True)
        await kernel.activate()
        await runtime.send_many("quiet sums", readings(80))
        await runtime.wait_idle("quiet sums", timeout=20)
        assert list((await kernel.snapshot())["count"]) == [10] * SENSORS
        names = str(kernel.node).split(" and ")
        assert names == ["gpu-2", "gpu-3", "gpu-4"]
        machines = Counter(runtime.nodes[name].place.id for name in [*names, "gpu-1"])
        assert sorted(machines.values()) == [2, 2]
        third = await runtime.launch(quiet(backend="cpu"), kernel_id="third", num_gpus=1)
        await third.activate()
        assert await runtime.wait_ended("third", timeout=20) == "FAILED"
        assert isinstance(third.exception, ClusterError)
        assert "no node has 1 GPU left: " in str(third.exception)
        assert "taken by 'quiet sums'" in str(third.exception)
        await kernel.terminate()
        assert list(runtime.nodes) == ["node-1", "gpu-1"]
