"""The host's side of the CUDA backend, with native threads for a GPU: launches, quanta, leases, crowds, errors."""

import asyncio
import re
import threading
import time
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from pydotcompute import RingKernelRuntime, UnifiedBuffer, message, ring_kernel
from pydotcompute.exceptions import (
    BackendUnavailableError,
    DeviceError,
    DeviceMemoryError,
    KernelFailedError,
    KernelStateError,
)
from pydotcompute.runtime import KernelState, compiled
from pydotcompute.runtime.executor import BY_KEY
from tests.device import stand_in, steps
from tests.device.conformance import Load, collect, executors, ids, numbers, rounds_of, through
from tests.device.stand_in import GRID, LAUNCHES, RUNNING, StandIn, X, Y
from tests.device.steps import Number, Rounds, Sample, Tally, note, tally_of

pytestmark = [pytest.mark.needs_numba, pytest.mark.needs_cuda_compiler]


@message
class Keyed:
    key: np.int64
    n: np.int64


def keyed(state: Tally, msg: Keyed, out: Keyed) -> bool:
    note(state, msg.n)
    out.key, out.n = msg.key, msg.n
    return True


def buffers():
    """What `weigh` takes."""
    return {"weights": UnifiedBuffer((4, 2)), "uses": UnifiedBuffer(4, np.int64)}


def hand_on(state: Tally, msg: Number, out: Number) -> bool:
    """Counts down."""
    state.handled += 1
    out.n = msg.n - 1
    return msg.n > 1


def several(instances):
    """Options of a kernel that runs `keyed`."""
    return {"instances": instances, "key": "key"} if instances > 1 else {}


@pytest.fixture(scope="module", autouse=True)
def machinery(own_cache):
    """All is compiled here, for some seconds, and not in the time of a test."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in.install(patch)
        for i, (step, options) in enumerate(
            [
                (steps.tally, {}),
                (steps.tally, {"threads": 64}),
                (steps.spin, {}),
                (steps.weigh, {"buffers": buffers()}),
                (hand_on, {}),
                *((keyed, several(instances)) for instances in (1, 6, 1000)),
            ]
        ):
            ring_kernel(f"{i}", backend="cuda", **options)(step).build()


@pytest.fixture
def gpus(monkeypatch):
    """The GPUs of this machine: one, unless a test makes it others before it defines a kernel."""
    gpus = [StandIn()]
    stand_in.install(monkeypatch, lambda: gpus)
    return gpus


@pytest.fixture
def gpu(gpus):
    return gpus[0]


@pytest.fixture
def cuda(monkeypatch):
    """The module, which needs Numba."""
    from pydotcompute.device import cuda

    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    return cuda


@pytest.fixture
async def runtime(gpus):
    """After it, nothing may be left on a GPU."""
    async with RingKernelRuntime() as runtime:
        yield runtime
        await runtime.close(drain=False, timeout=1)
    assert all(gpu.is_empty for gpu in gpus)


@pytest.fixture
def start(runtime):
    async def start(step, kernel_id=None, *, activate=True, **options):
        definition = ring_kernel(kernel_id or step.__name__, backend="cuda", **options)(step)
        await asyncio.to_thread(definition.build)
        kernel = await runtime.launch(definition)
        if activate:
            await kernel.activate()
        return kernel

    return start


def stream_of(kernel):
    """The words of a kernel's stream, as `stand_in` names them."""
    executor = kernel._executor
    return executor._device.streams[executor._stream]


def on_device(kernel):
    return stream_of(kernel)[RUNNING] > 0


def keyed_series(instances, rounds):
    """To each instance the numbers from 0 on."""
    records = np.zeros(instances * rounds, Keyed.dtype)
    records["key"], records["n"] = np.tile(np.arange(instances), rounds), np.repeat(np.arange(rounds), instances)
    return records


async def to_each(runtime, kernel_id, instances, rounds):
    """Every instance gets the numbers from 0 on, and replies in their order."""
    sending = asyncio.ensure_future(runtime.send_batch(kernel_id, keyed_series(instances, rounds)))
    replies = await collect(runtime, kernel_id, instances * rounds)
    await sending
    by_instance = replies["n"][np.argsort(replies["key"], kind="stable")]
    np.testing.assert_array_equal(by_instance.reshape(instances, rounds), [np.arange(rounds)] * instances)


# -- the quantum -------------------------------------------------------------------------------------------------------


async def test_a_kernel_leaves_after_each_quantum_and_goes_on(runtime, start):
    one = await start(steps.tally, "one", quantum=0.01)
    two = await start(steps.tally, "two", quantum=0.01, queue_size=64)
    await runtime.connect("one", "two")
    async with Load(runtime, "one") as load:
        load._taking.cancel()  # what comes out of the other is taken
        load._taking = asyncio.ensure_future(take(load, runtime, "two"))
        while min(stream_of(one)[LAUNCHES], stream_of(two)[LAUNCHES]) < 25:
            await load.progress()
    np.testing.assert_array_equal(load.replies["n"], np.arange(load.sent))
    assert await one.snapshot() == await two.snapshot() == tally_of(load.sent)


async def take(load, runtime, kernel_id):
    while True:
        load._parts.append(await runtime.receive_batch(kernel_id))
        load.taken += len(load._parts[-1])


async def test_so_do_the_instances_of_one(runtime, start):
    kernel = await start(keyed, **several(6), quantum=0.01)
    rounds = 0
    while stream_of(kernel)[LAUNCHES] < 15:
        await kernel.send_batch(keyed_series(6, 20))
        replies = await collect(runtime, "keyed", 120)
        for instance in range(6):
            assert replies["n"][replies["key"] == instance].tolist() == list(range(20))
        rounds += 1
    states = await kernel.snapshot()
    assert states["handled"].tolist() == [20 * rounds] * 6
    assert states["disorder"].tolist() == [rounds - 1] * 6


async def test_it_leaves_while_it_has_nothing_to_do_and_while_it_has(start, eventually):
    idle = await start(steps.tally, "idle", quantum=0.01)
    busy = await start(steps.spin, "busy", quantum=0.01)
    asked = asyncio.ensure_future(busy.ask(Rounds(1 << 24)))  # some tenths of a second
    await eventually(lambda: stream_of(idle)[LAUNCHES] > 5)
    assert (await asked).n
    await eventually(lambda: stream_of(busy)[LAUNCHES] > 5)


async def test_the_default_is_half_a_second_and_none_is_for_ever(start, cuda, monkeypatch):
    from pydotcompute.device import bridge, host

    def quantum(kernel):
        executor = kernel._executor
        at = executor._seat + 8 * bridge.QUANTUM_NS
        return int(executor._device.read(at, 8, executor._stream).view(np.int64)[0])

    assert quantum(await start(steps.tally, "default")) == 500_000_000
    assert quantum(await start(steps.tally, "short", quantum=0.03)) == 30_000_000
    assert quantum(await start(steps.tally, "strict", quantum=None)) == host.FOR_EVER


async def test_without_a_quantum_it_is_launched_once(runtime, start, cuda, monkeypatch):
    monkeypatch.setattr(cuda, "QUANTUM", 0.01)
    other = await start(steps.tally, "other")
    strict = await start(steps.tally, "strict", quantum=None)
    async with Load(runtime, "strict") as load:
        while stream_of(other)[LAUNCHES] < 20:
            await load.progress()
    assert stream_of(strict)[LAUNCHES] == 1


# -- pauses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instances", [1, 6])
async def test_a_paused_kernel_is_not_on_the_device(runtime, start, eventually, instances):
    kernel = await start(keyed, queue_size=2048, **several(instances))
    await to_each(runtime, "keyed", instances, 10)
    assert stream_of(kernel)[RUNNING] == (1 if instances == 1 else 4)
    await kernel.send_batch(keyed_series(instances, 300))
    await kernel.deactivate()
    await eventually(lambda: not on_device(kernel))  # it says that it has left before its threads end
    handled = kernel.statistics().processed
    launches = int(stream_of(kernel)[LAUNCHES])
    await kernel.send_batch(keyed_series(instances, 10))
    states = await kernel.snapshot()
    assert states["handled"].sum() == handled if instances > 1 else states.handled == handled
    assert (stream_of(kernel)[RUNNING], stream_of(kernel)[LAUNCHES]) == (0, launches)
    await kernel.reactivate()
    replies = await collect(runtime, "keyed", 310 * instances)
    for instance in range(instances):
        own = replies["n"][replies["key"] == instance].tolist()
        assert own == [*range(300), *range(10)]
    assert stream_of(kernel)[LAUNCHES] == launches + 1


async def test_a_snapshot_takes_it_off_for_a_moment(runtime, start):
    kernel = await start(steps.tally)
    assert (await kernel.ask(Number(0))).n == 0
    assert await kernel.snapshot() == tally_of(1)
    assert (await kernel.ask(Number(1))).n == 1
    assert stream_of(kernel)[LAUNCHES] == 2


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.may_block
@pytest.mark.parametrize("instances", [1, 6])
async def test_a_kernel_leaves_when_its_host_stands_still(runtime, start, cuda, monkeypatch, instances):
    """Its messages are not lost, those that come meanwhile neither."""
    from pydotcompute.device import host

    monkeypatch.setattr(host, "LEASE", 0.05)
    monkeypatch.setattr(cuda, "LEASE", 0.1)
    kernel = await start(keyed, quantum=None, queue_size=2048, **several(instances))
    await to_each(runtime, "keyed", instances, 1)
    await kernel.send_batch(keyed_series(instances, 200)[instances:])
    end = time.monotonic() + 10
    while on_device(kernel):
        assert time.monotonic() < end, "it stays"
        time.sleep(0.001)
    producer = threading.Thread(
        target=runtime.sync.send_batch, args=("keyed", keyed_series(instances, 400)[200 * instances :])
    )
    producer.start()
    producer.join()
    assert (stream_of(kernel)[LAUNCHES], stream_of(kernel)[RUNNING]) == (1, 0)
    replies = await collect(runtime, "keyed", 399 * instances)
    for instance in range(instances):
        assert replies["n"][replies["key"] == instance].tolist() == list(range(1, 400))
    assert stream_of(kernel)[LAUNCHES] == 2


def test_it_ends_although_the_loop_has_stood_still(gpu, monkeypatch):
    """As where the process ends and nobody has closed the runtime."""
    from pydotcompute.device import host

    async def begin():
        runtime = await RingKernelRuntime().__aenter__()
        kernel = await runtime.launch(ring_kernel("tally", backend="cuda", quantum=None)(steps.tally))
        await kernel.activate()
        assert (await kernel.ask(Number(0))).n == 0
        return runtime, kernel._executor.pool

    monkeypatch.setattr(host, "LEASE", 0.05)
    loop = asyncio.new_event_loop()
    runtime, pool = loop.run_until_complete(begin())
    end = time.monotonic() + 10
    while pool._renewed.is_set():  # the poller waits for the loop
        assert time.monotonic() < end
        time.sleep(0.001)
    begun = time.monotonic()
    runtime._close_engines()
    assert time.monotonic() - begun < 1
    assert gpu.is_empty
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("instances", [1, 6])
async def test_it_stays_while_the_host_lives(start, cuda, monkeypatch, eventually, instances):
    """Also where nothing happens for longer than the lease."""
    from pydotcompute.device import bridge

    monkeypatch.setattr(cuda, "LEASE", 0.4)
    kernel = await start(keyed, quantum=None, **several(instances))
    await eventually(lambda: kernel._executor._control[bridge.LEASE] > 12)  # 0.6 s and more
    assert (stream_of(kernel)[LAUNCHES], on_device(kernel)) == (1, True)


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_idle_kernels_cost_the_host_next_to_nothing(runtime, start, gpu, eventually):
    from pydotcompute.device import bridge

    kernels = [await start(steps.tally, f"k{i}", quantum=None) for i in range(5)]
    for kernel in kernels:
        assert (await kernel.ask(Number(1))).n == 1
    pool = kernels[0]._executor.pool
    beats = kernels[0]._executor._control
    clock = time.pthread_getcpuclockid(pool._threads[0].ident)

    async def until(beat):
        await eventually(lambda: beats[bridge.LEASE] >= beat)
        return time.monotonic(), time.clock_gettime(clock), int(pool._passes[0])

    first = int(beats[bridge.LEASE])
    began, spent, passes = await until(first + 4)  # it looks around for a while after the last message
    end, spent_then, passes_then = await until(first + 16)
    assert passes_then - passes <= 3 * 12
    assert (spent_then - spent) / (end - began) < 0.01


# -- crowds ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(cuda, monkeypatch):
    """Two kernels are many."""
    monkeypatch.setattr(cuda, "CONNECTIONS", 2)


async def test_where_kernels_are_many_those_without_work_leave(runtime, start, eventually, crowded):
    kernels = [await start(steps.tally, f"k{i}", quantum=60.0) for i in range(6)]
    await eventually(lambda: not any(map(on_device, kernels)))
    launched = []
    for n in range(3):
        before = [int(stream_of(kernel)[LAUNCHES]) for kernel in kernels]
        for kernel in kernels:
            assert (await kernel.ask(Number(n))).n == n
        await eventually(lambda: not any(map(on_device, kernels)))
        launched.append([int(stream_of(kernel)[LAUNCHES]) - n for kernel, n in zip(kernels, before, strict=True)])
    assert min(min(times) for times in launched) == 1
    # One that a busy machine lets wait is taken for one that waits for another, makes room, and comes again.
    assert [1] * 6 in launched
    # A connected one is launched when it is handed something.
    for one, following in pairwise(kernels):
        await runtime.connect(one.id, following.id)
    replies = await through(runtime, "k0", "k5", 500, 50)
    assert replies["n"].tolist() == list(range(500))
    assert {kernel.statistics().processed for kernel in kernels} == {503}
    await eventually(lambda: not any(map(on_device, kernels)))
    # When they are few again, they stay.
    for kernel in kernels[2:]:
        await kernel.terminate()
    await eventually(lambda: all(map(on_device, kernels[:2])))


@pytest.mark.parametrize("quantum", [0.01, 60.0])
async def test_all_of_many_get_on(runtime, start, crowded, quantum):
    names = [f"k{i}" for i in range(6)]
    for name in names:
        await start(steps.tally, name, quantum=quantum, queue_size=32)
    for replies in await asyncio.gather(*(through(runtime, name, name, 600, 50) for name in names)):
        assert replies["n"].tolist() == list(range(600))


async def test_the_environment_may_allow_fewer(start, cuda, monkeypatch, eventually):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    kernels = [await start(steps.tally, f"k{i}", quantum=60.0) for i in range(2)]
    assert [(await kernel.ask(Number(i))).n for i, kernel in enumerate(kernels)] == [0, 1]
    await eventually(lambda: not any(map(on_device, kernels)))


# -- dimensions and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "dimensions"), [(1, (1, 32)), (64, (64, 1))])
async def test_the_dimensions_of_a_block(start, threads, dimensions):
    kernel = await start(steps.tally, threads=threads)
    assert (await kernel.ask(Number(0))).n == 0
    words = stream_of(kernel)
    assert (words[GRID], words[X], words[Y]) == (1, *dimensions)


@pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
async def test_a_swap_may_change_the_threads_and_the_quantum(start, in_thread, eventually):
    kernel = await start(steps.tally, quantum=None)
    assert (await kernel.ask(Number(0))).n == 0
    words = stream_of(kernel)
    assert (words[X], words[Y], words[LAUNCHES]) == (1, 32, 1)
    await in_thread(lambda: ring_kernel("tally", backend="cuda", threads=64, quantum=0.01)(steps.tally))
    await eventually(lambda: kernel.version == 2)
    assert (await kernel.ask(Number(1))).n == 1
    assert (words[X], words[Y]) == (64, 1)
    await eventually(lambda: words[LAUNCHES] > 4)
    assert await kernel.snapshot() == tally_of(2)


@pytest.mark.parametrize(("room", "blocks"), [(1, 1), (2, 1), (3, 1), (8, 4)])
async def test_instances_share_blocks_where_there_is_little_room(runtime, start, gpu, room, blocks):
    gpu.blocks = room
    kernel = await start(keyed, **several(1000), quantum=0.05, queue_size=500)
    await to_each(runtime, "keyed", 1000, 4)
    assert stream_of(kernel)[GRID] == blocks
    states = await kernel.snapshot()
    for field in ("handled", "total", "mixed", "disorder", "last"):
        assert (states[field] == getattr(tally_of(4), field)).all(), field
    assert (await kernel[999].ask(Keyed(0, 4))) == Keyed(0, 4)
    assert (await kernel[999].snapshot()).handled == 5


async def test_what_has_no_room_at_all_is_refused(runtime, start, gpu):
    gpu.blocks = 0
    with pytest.raises(BackendUnavailableError, match=r"too many instances for GPU 0.*'tally'.*threads"):
        await start(steps.tally)
    assert gpu.is_empty


async def test_who_never_leaves_must_have_room_beside_the_others(runtime, start, gpu):
    gpu.blocks = 1
    first = await start(keyed, "first", **several(6))
    with pytest.raises(BackendUnavailableError, match=r"too many instances.*'first'.*quantum"):
        await start(keyed, quantum=None, **several(6))
    await start(keyed, quantum=0.01, **several(6))
    await to_each(runtime, "keyed", 6, 20)
    assert await first[3].ask(Keyed(0, 7)) == Keyed(0, 7)
    await runtime.terminate("first")
    await runtime.terminate("keyed")
    strict = await start(keyed, "strict", quantum=None, **several(6))
    await to_each(runtime, "strict", 6, 20)
    assert stream_of(strict)[LAUNCHES] == 1


# -- several GPUs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(gpus):
    gpus.append(StandIn(1))
    return gpus


def used(gpus):
    return [len(gpu.streams) for gpu in gpus]


async def test_a_kernel_runs_on_the_gpu_that_it_names(runtime, start, two):
    for n in range(3):
        kernel = await start(steps.tally, f"k{n}", device=1)
        assert (await kernel.ask(Number(0))).n == 0
    assert used(two) == [0, 3]
    kernel = await start(steps.tally, "other", device=0)
    assert (await kernel.ask(Number(0))).n == 0
    assert used(two) == [1, 3]
    assert [gpu.pollers for gpu in two] == [["pydotcompute-cuda-0-0"], ["pydotcompute-cuda-1-0"]]


async def test_auto_is_the_gpu_with_the_least_to_do(runtime, start, two, eventually):
    await start(keyed, "large", **several(6))
    assert used(two) == [1, 0]
    for n in range(4):
        await start(steps.tally, f"small {n}")
    assert used(two) == [1, 4]
    await runtime.terminate("large")
    await eventually(lambda: used(two) == [0, 4])
    for n in range(4, 8):
        await start(steps.tally, f"small {n}")
    assert used(two) == [4, 4]


async def test_a_gpu_is_in_use_while_it_has_kernels(runtime, start, two, eventually):
    await start(steps.tally, "one", device=1)
    engine = runtime._engines["cuda"]
    assert engine.in_use == [1]
    await start(steps.tally, "other", device=0)
    assert engine.in_use == [0, 1]
    await runtime.terminate("one")
    await eventually(lambda: engine.in_use == [0])


async def test_kernels_on_two_gpus_are_connected_through_the_host(runtime, start, two):
    one = await start(steps.tally, "one", device=0, quantum=0.01)
    there = await start(steps.tally, "two", device=1, queue_size=20)
    three = await start(steps.tally, "three", device=0)
    for name, following in (("one", "two"), ("two", "three")):
        await runtime.connect(name, following)
    assert one._executor._target is there._executor._target is None
    replies = await through(runtime, "one", "three", 2000, 100)
    assert replies["n"].tolist() == list(range(2000))
    assert await three.snapshot() == await there.snapshot() == tally_of(2000)
    # On one GPU the host is not in the way.
    await start(steps.tally, "four", device=0)
    await runtime.connect("three", "four")
    assert three._executor._target is runtime["four"]._executor


async def test_a_gpu_that_is_not_there(start):
    with pytest.raises(BackendUnavailableError, match=r"'tally' is for device=7.* 1 GPU.*device='auto'"):
        await start(steps.tally, device=7)


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_a_gpu_without_memory(runtime, start, gpu):
    gpu.limit = 1000
    with pytest.raises(DeviceMemoryError, match="fewer instances") as caught:
        await start(steps.tally)
    assert isinstance(caught.value, MemoryError)
    assert gpu.is_empty
    assert not runtime.statistics().kernels
    gpu.limit = None
    kernel = await runtime.launch("tally")
    await kernel.activate()
    assert (await kernel.ask(Number(0))).n == 0


async def test_one_kernel_too_many_leaves_nothing_behind(start, gpu):
    kernel = await start(steps.tally)
    kernel._executor.pool._free.clear()
    with pytest.raises(BackendUnavailableError, match="ring kernels at most"):
        await start(steps.tally, "one more")
    assert (len(gpu.streams), len(gpu.memory), len(gpu.mapped)) == (1, 1, 1)


@pytest.mark.parametrize("activate", [True, False])
async def test_what_a_kernel_had_is_given_back_when_it_ends(runtime, start, gpu, eventually, activate):
    other = await start(steps.tally, "other")
    for n in range(3):
        await start(steps.tally, "one", activate=activate)
        assert (len(gpu.streams), len(gpu.memory), len(gpu.mapped)) == (2, 2, 2)
        await runtime.terminate("one", drain=False)
        await eventually(lambda: (len(gpu.streams), len(gpu.memory), len(gpu.mapped)) == (1, 1, 1))
        assert (await other.ask(Number(n))).n == n
    assert len(other._executor.pool._executors) == 1


async def test_a_runtime_that_closes_under_load_gives_all_back(gpus, gpu):
    for _ in range(3):
        async with RingKernelRuntime() as runtime:
            for name in ("one", "two", "never activated"):
                definition = ring_kernel(name, backend="cuda", quantum=0.005)(steps.tally)
                await asyncio.to_thread(definition.build)
                await runtime.launch(definition)
            await runtime.connect("one", "two")
            for name in ("one", "two"):
                await runtime.activate(name)
                await runtime.send_batch(name, numbers(range(300)))
            begun = time.monotonic()
            await runtime.close(drain=False, timeout=1)
        assert time.monotonic() - begun < 1.5
        assert gpu.is_empty


# -- steps that do not come back ---------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    from pydotcompute.device import host

    monkeypatch.setattr(compiled, "GRACE", 0.02)
    monkeypatch.setattr(host, "PATIENCE_AT_END", 0.05)


async def lasting(kernel, seconds):
    """Rounds of `spin` that take that long; what disturbs one measurement makes them too few."""
    return max([await rounds_of(kernel, seconds) for _ in range(4)])


async def in_hand(kernel, eventually):
    """Until the device has all messages that were sent, and its only block a message in hand."""
    from pydotcompute.device import bridge, ring

    executor = kernel._executor
    inbox = executor._inbox.words

    def is_in_hand():
        cells = executor._device.read(executor._seat + 8 * bridge.CELLS, 8, executor._stream).view(np.int64)[0]
        command = executor._device.read(int(cells) + 8 * (bridge.DESK + bridge.COMMAND), 8, executor._stream)
        return executor._bridge[bridge.BRIDGE_SENT] == inbox[ring.TAIL] and command.view(np.int64)[0] == bridge.HANDLE

    await eventually(is_in_hand)


@pytest.mark.may_block
async def test_a_kernel_that_does_not_leave_is_named_and_its_memory_kept(
    runtime, start, gpus, impatient, eventually, caplog
):
    (gpu,) = gpus
    other = await start(steps.tally)
    kernel = await start(steps.spin)
    rounds = await lasting(kernel, 3.0)
    asked = asyncio.ensure_future(kernel.ask(Rounds(rounds)))
    await in_hand(kernel, eventually)
    words, executor = stream_of(kernel), kernel._executor
    begun = time.monotonic()
    await runtime.close(drain=False, timeout=0.02)
    assert time.monotonic() - begun < 1
    with pytest.raises(KernelStateError):
        await asked
    told = [record.getMessage() for record in caplog.records if "memory on the GPU is kept" in record.getMessage()]
    assert len(told) == 1
    assert "'spin'" in told[0]
    assert (list(gpu.streams), list(gpu.memory)) == ([executor._stream], [executor._memory])
    assert other._executor._memory not in gpu.memory
    assert not any(thread.name in gpu.pollers for thread in threading.enumerate())
    await eventually(lambda: not words[RUNNING])  # it has been asked to
    gpus.clear()  # what it had is kept until the process ends


async def test_one_that_leaves_late_gives_its_memory_back_then(runtime, start, gpu, impatient, eventually):
    kernel = await start(steps.spin)
    await kernel.send(Rounds(await lasting(kernel, 0.4)))
    await in_hand(kernel, eventually)
    await kernel.terminate(timeout=0.02)
    assert len(gpu.memory) == 1
    await eventually(lambda: gpu.is_empty)


# -- taking back and beginning again -----------------------------------------------------------------------------------


@pytest.fixture
async def alone(gpus):
    async with executors(
        lambda step, name=None, **options: ring_kernel(name, backend="cuda", **options)(step)
    ) as alone:
        yield alone
    assert all(gpu.is_empty for gpu in gpus)


@pytest.mark.parametrize("instances", [1, 6, 1000])
async def test_what_is_taken_back_between_launches_is_handled_once_and_in_order(alone, cuda, monkeypatch, instances):
    """Some has been copied down, some is in the inbox; blocks have some of it in their queues."""
    monkeypatch.setattr(cuda, "WINDOW", 16)
    rng = Random(instances)
    one = await alone(keyed, queue_size=100, quantum=0.002, **several(instances))
    executor, unsent, answers, n = one.executor, keyed_series(instances, 2000 // instances or 2), [], 0
    total = len(unsent)
    while one.processed < total:
        while len(unsent) and (taken := executor.feed_records(unsent[:7], BY_KEY)):
            unsent = unsent[taken:]
            n += 1
            if len(unsent) and executor.feed(Keyed(*unsent[0].tolist()), BY_KEY, n):
                unsent = unsent[1:]
        executor.run()
        for _ in range(rng.randrange(10)):
            await asyncio.sleep(0.0002)
            one.replies()
        await one.rest()
        answers += executor.answers()
        left = executor.retrieve()
        assert executor.depth == 0
        one.feed(left)
        if rng.random() < 0.2 and executor.retrieve() == left:
            executor.renew(True)
            one.feed(left)
    assert executor.states()["disorder"].tolist() == [0] * instances
    assert executor.states()["handled"].tolist() == [total // instances] * instances
    tickets = [ticket for ticket, _ in answers]
    assert len(set(tickets)) == len(tickets)


async def test_where_the_device_is_lost_it_stays_failed(alone, gpus):
    (gpu,) = gpus
    one = await alone(steps.tally)
    executor = one.executor
    one.feed([(Number(0), BY_KEY, 0)])
    await one.run(1)
    one.feed([(Number(1), 0, 5)])
    assert executor.retrieve() == [(Number(1), 0, 5)]
    gpu.fail()
    with pytest.raises(DeviceError):  # another kernel has broken it
        executor.renew(True)
    executor.run()
    assert isinstance(await one.failure(), DeviceError)
    one.feed([(Number(2), 0, 6)])
    assert executor.retrieve() == [(Number(2), 0, 6)]
    for keep_states in (True, False):
        with pytest.raises(DeviceError):
            executor.renew(keep_states)
    assert isinstance(executor.failure, DeviceError)
    assert executor.resting
    gpus.clear()  # what it has is lost


# -- errors of the device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "code"), [("while it runs", 700), ("at the launch", 701), ("it ends by itself", -1)])
async def test_an_error_of_the_device_ends_its_kernels(runtime, start, gpus, settle, fault, code):
    (gpu,) = gpus
    lent = buffers()
    lender = await start(steps.weigh, buffers=lent)
    assert await lender.ask(Sample(1, 1.0)) == Sample(1, 0.0)
    kernel = await start(steps.tally)
    assert (await kernel.ask(Number(0))).n == 0
    for one in (kernel, lender):
        await one.deactivate()
    await kernel.send(Number(1))
    asked = asyncio.ensure_future(kernel.ask(Number(2)))
    await settle()
    await kernel.send(Number(3))
    if fault == "it ends by itself":
        for words in gpu.streams.values():
            words[stand_in.IS_VOID] = 1
    elif fault == "at the launch":
        for words in gpu.streams.values():
            words[stand_in.REFUSAL] = code
    else:
        await runtime.reactivate("weigh")
        assert await lender.ask(Sample(1, 1.0)) == Sample(1, 0.0)
        gpu.fail(700)
    for one in (kernel, lender):
        if one.state is KernelState.DEACTIVATED:
            await one.reactivate()
        assert await runtime.wait_ended(one.id, timeout=10) is KernelState.FAILED
        assert isinstance(one.exception, DeviceError)
        text = str(one.exception)
        what = "ended by itself" if code == -1 else f"CUDA_ERROR_{code}"
        assert re.search(rf"GPU 0.*{one.id!r}.*{what}.*boundscheck=True.*restart", text)
        assert one.exception.code == code
    with pytest.raises(KernelFailedError) as caught:
        await asked
    assert isinstance(caught.value.__cause__, DeviceError)
    assert ids(runtime.dead_letters) == [1, 2, 3]
    with pytest.raises(KernelStateError, match="lost"):
        await kernel.snapshot()
    with pytest.raises(KernelFailedError):
        await kernel.send(Number(4))
    assert kernel.statistics().processed == 1
    assert lent["uses"].host[1] >= 1  # given back
    begun = time.monotonic()
    await runtime.close(timeout=5)
    assert time.monotonic() - begun < 1
    assert not any(thread.name in gpu.pollers for thread in threading.enumerate())
    if code == 700:
        assert len(gpu.memory) == 2  # nothing can be given back there
    gpus.clear()


async def test_messages_on_the_device_are_dead_letters_after_an_error(runtime, start, gpus, eventually):
    kernel = await start(steps.spin)
    behind = await start(steps.tally)
    await runtime.connect("spin", "tally")
    rounds = await lasting(kernel, 1.0)
    asked = [asyncio.ensure_future(kernel.ask(Rounds(n))) for n in (rounds, 1)]
    await asyncio.sleep(0)
    await kernel.send(Rounds(2))
    await in_hand(kernel, eventually)
    handled = kernel.statistics().processed
    gpus[0].fail(719)
    for one in asked:
        with pytest.raises(KernelFailedError, match="spin"):
            await one
    assert await runtime.wait_ended("tally", timeout=10) is KernelState.FAILED
    assert ids(runtime.dead_letters) == [rounds, 1, 2]
    statistics = kernel.statistics()
    assert (statistics.processed, statistics.received, statistics.dead_letters) == (handled, handled + 3, 3)
    assert behind.exception.code == 719
    gpus.clear()


async def test_another_gpu_goes_on(runtime, start, two):
    broken = await start(steps.tally, "broken", device=0)
    kernel = await start(steps.tally, "whole", device=1)
    assert (await broken.ask(Number(0))).n == 0
    two[0].fail()
    assert await runtime.wait_ended("broken", timeout=10) is KernelState.FAILED
    replies = await through(runtime, "whole", "whole", 500)
    assert replies["n"].tolist() == list(range(500))
    assert kernel.state is KernelState.ACTIVE
    del two[0]  # what was there is lost


# -- everything at once ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
@pytest.mark.parametrize("seed", range(4))
async def test_every_message_is_accounted_for(runtime, start, cuda, monkeypatch, gpu, seed):
    """Chains, a circle, instances, pauses, swaps, asks and batches while kernels leave every other millisecond."""
    random = Random(seed)
    monkeypatch.setattr(cuda, "QUANTUM", 0.002)
    monkeypatch.setattr(cuda, "CONNECTIONS", random.choice([3, 32]))
    chain = [f"stage {i}" for i in range(3)]
    for name in chain:
        await start(steps.tally, name, queue_size=random.choice([3, 50, 500]))
    for one, following in pairwise(chain):
        await runtime.connect(one, following)
    circle = [f"place {i}" for i in range(3)]
    for name in circle:
        await start(hand_on, name, queue_size=64)
    for one, following in pairwise([*circle, circle[0]]):
        await runtime.connect(one, following)
    await start(keyed, "many", **several(6), queue_size=random.choice([30, 1000]))
    await start(steps.tally, "swapped", queue_size=8)
    other = ring_kernel("compiled before", backend="cuda", threads=64)(steps.tally)
    await asyncio.to_thread(other.build)
    n, laps, rounds, asks = 3000, 600, 200, 400
    over = False

    async def disturb():
        names = [*chain, *circle, "many", "swapped"]
        while not over:
            name = random.choice(names)
            match random.choice(["pause", "snapshot", "swap"]):
                case "pause":
                    await runtime.deactivate(name)
                    await asyncio.sleep(random.random() * 0.003)
                    await runtime.reactivate(name)
                case "snapshot":
                    await runtime[name].snapshot()
                case "swap":
                    options = {"queue_size": 8, "threads": random.choice([1, 64])}
                    await asyncio.to_thread(ring_kernel("swapped", backend="cuda", **options), steps.tally)
            await asyncio.sleep(random.random() * 0.005)

    async def ask():
        for i in range(asks):
            assert (await runtime.ask("swapped", Number(i))).n == i

    disturbing = asyncio.ensure_future(disturb())
    await runtime.send_batch(circle[0], numbers([laps] * 10))
    replies, *_ = await asyncio.gather(
        through(runtime, chain[0], chain[-1], n, random.choice([1, 7, 100])),
        to_each(runtime, "many", 6, rounds),
        ask(),
    )
    while sum(runtime[name].statistics().processed for name in circle) < 10 * laps:
        assert not disturbing.done(), disturbing.exception()
        await asyncio.sleep(0.001)
    over = True
    await disturbing
    assert replies["n"].tolist() == list(range(n))
    for name in chain:
        assert await runtime[name].snapshot() == tally_of(n)
    assert [(await runtime[name].snapshot()).handled for name in circle] == [10 * laps // 3] * 3
    assert (await runtime["many"].snapshot())["handled"].tolist() == [rounds] * 6
    assert (await runtime["swapped"].snapshot()) == tally_of(asks)
    assert {name: one.processed for name, one in runtime.statistics().kernels.items()} == {
        **dict.fromkeys(chain, n),
        **dict.fromkeys(circle, 10 * laps // 3),
        "many": 6 * rounds,
        "swapped": asks,
    }
    assert runtime.dead_letters.total == 0
    assert all(runtime[name].statistics().queue_depth == 0 for name in runtime.statistics().kernels)


@pytest.mark.may_block
@pytest.mark.parametrize("activate", [True, False])
async def test_kernels_in_a_circle_end_at_once_with_their_runtime(runtime, start, gpu, on_loop, caplog, activate):
    """As at the end of the process, where nobody disconnects them."""
    for name in ("ping", "pong"):
        await start(steps.increment, name, activate=activate)
    await runtime.connect("ping", "pong")
    await runtime.connect("pong", "ping")

    async def close():
        runtime._close_engines()

    await on_loop(close)
    assert gpu.is_empty
    assert "does not come back" not in caplog.text
