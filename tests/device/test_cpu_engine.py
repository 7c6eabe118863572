"""What is special about the CPU backend: its threads, and how they sleep, wake, share and stop."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest

from pydotcompute import message, ring_kernel
from pydotcompute.exceptions import KernelFailedError, StepError
from pydotcompute.runtime import KernelState

pytestmark = pytest.mark.needs_numba


@message
class Number:
    n: np.int64


def increment(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n + 1
    return True


def labour(state: None, msg: Number, out: Number) -> bool:
    """Some microseconds of what no compiler can shorten: each round needs the one before."""
    x = msg.n
    for _ in range(500):
        x = (x * 1_103_515_245 + 12_345) % 2_147_483_647
    out.n = x
    return True


def hang(state: None, msg: Number, out: Number) -> bool:
    """Seconds of it."""
    x = 1
    for _ in range(msg.n):
        x = (x * 1_103_515_245 + 12_345) % 2_147_483_647
    out.n = x
    return True


@pytest.fixture
def host():
    from pydotcompute.device import host

    return host


@pytest.fixture
def start(runtime):
    async def start(step, kernel_id=None, **options):
        kernel = await runtime.launch(ring_kernel(kernel_id or step.__name__, backend="cpu", **options)(step))
        await kernel.activate()
        return kernel

    return start


def numbers(n):
    records = np.zeros(n, Number.dtype)
    records["n"] = np.arange(n)
    return records


@pytest.fixture
def workers():
    """Those that were not there before: some may still be in the long steps of other tests."""
    before = set(threading.enumerate())
    return lambda: [t for t in set(threading.enumerate()) - before if t.name.startswith("pydotcompute-cpu")]


async def test_there_are_as_many_workers_as_cores_and_none_after_the_end(workers, runtime, start, host, monkeypatch):
    monkeypatch.setattr(host, "cores", lambda: 3)
    await start(increment)
    assert len(workers()) == 3
    await runtime.close()
    assert not workers()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_the_quota_of_the_control_group_counts(host, monkeypatch, tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "CONTROL_GROUP", tmp_path)
    host.quota.cache_clear()
    try:
        assert host.quota() == quota
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert host.cores() == max(1, min(available, 10**9 if quota == float("inf") else int(np.ceil(quota))))
    finally:
        host.quota.cache_clear()


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("pipes", [False, True])
async def test_it_works_with_what_a_system_has(runtime, start, host, monkeypatch, cores, fenced, pipes):
    """One core, where nobody spins; no fence for all threads; pipes where there is no eventfd."""
    monkeypatch.setattr(host, "cores", lambda: cores)
    if fenced:
        monkeypatch.setattr(host.native(), "has_membarrier", False)
    if pipes:
        monkeypatch.delattr(os, "eventfd", raising=False)
    await start(increment, queue_size=64)
    await start(increment, "second", queue_size=64)
    await runtime.connect("increment", "second")
    sending = asyncio.ensure_future(runtime.send_batch("increment", numbers(5000)))
    got = []
    while len(got) < 5000:
        got += (await runtime.receive_batch("second"))["n"].tolist()
    await sending
    assert got == list(range(2, 5002))
    for i in range(200):
        assert (await runtime.ask("second", Number(i))).n == i + 1


@pytest.mark.may_block
async def test_workers_rest_while_the_event_loop_does_not_move_and_then_go_on(
    runtime, start, host, monkeypatch, on_loop, eventually
):
    """Two kernels that send each other one message for ever: nobody else would stop them."""
    monkeypatch.setattr(host, "LEASE", 0.1)
    for name in ("ping", "pong"):
        await start(increment, name)
    await runtime.connect("ping", "pong")
    await runtime.connect("pong", "ping")
    await runtime.send("ping", Number(0))
    ping = runtime["ping"]

    async def block():
        time.sleep(0.3)
        first = ping.statistics().processed
        time.sleep(0.1)
        return first, ping.statistics().processed

    first, second = await on_loop(block)
    assert first == second > 0
    await eventually(lambda: ping.statistics().processed > second)
    await runtime.disconnect("pong")


@pytest.mark.parametrize(("quantum", "is_shared"), [(60.0, False), (1e-4, True)])
async def test_the_quantum_is_how_long_a_kernel_keeps_its_worker(runtime, start, host, monkeypatch, quantum, is_shared):
    monkeypatch.setattr(host, "cores", lambda: 1)
    busy = await start(labour, "busy", quantum=quantum, queue_size=1 << 14)
    await start(increment, "other")
    assert (await runtime.ask("other", Number(1))).n == 2
    await busy.send_batch(numbers(1 << 14))
    while not busy.statistics().processed:
        await asyncio.sleep(0)
    assert (await runtime.ask("other", Number(1))).n == 2
    assert (busy.queue_depth > 0) is is_shared
    await runtime.wait_idle()


async def test_places_are_used_again_and_there_is_an_end_to_them(runtime, start, host, monkeypatch):
    from pydotcompute.device import ring
    from pydotcompute.exceptions import BackendUnavailableError

    monkeypatch.setattr(ring, "MAX_KERNELS", 64)
    for _ in range(3):
        for i in range(40):
            await start(increment, f"k{i}")
            assert (await runtime.ask(f"k{i}", Number(i))).n == i + 1
        for i in range(40):
            await runtime.terminate(f"k{i}")
    for i in range(64):
        await start(increment, f"m{i}")
    with pytest.raises(BackendUnavailableError, match="64 ring kernels at most"):
        await start(increment, "one more")


async def test_a_step_that_hangs_keeps_nobody_from_closing(workers, runtime, start, host, monkeypatch, caplog):
    """Its thread stays until the step comes back; what it uses is not given back before."""
    monkeypatch.setattr(host, "PATIENCE_AT_END", 0.05)
    await start(increment)
    kernel = await start(hang, queue_size=4)
    await runtime.send("hang", Number(400_000_000))
    while not kernel.queue_depth:
        await asyncio.sleep(0)
    await runtime.close(timeout=0.05)
    assert "stay in steps that do not end" in caplog.text
    for thread in workers():
        await asyncio.to_thread(thread.join, 20)
    assert not workers()


TABLE = (1.0, 2.0, 3.0)


@message
class Index:
    i: np.int64
    value: np.float64 = 0.0


def look_up(state: None, msg: Index, out: Index) -> bool:
    out.value = TABLE[msg.i]
    return True


def count_by(state: None, msg: Index, out: Index) -> bool:
    for _ in range(0, 6, 3 - msg.i):
        out.value += 1
    return True


@pytest.mark.parametrize(
    ("step", "error"),
    [(look_up, "IndexError: tuple index out of range"), (count_by, "ValueError: range.. arg 3 must not be zero")],
)
async def test_what_raises_in_compiled_code_ends_the_kernel_once(runtime, start, step, error):
    """Also without `boundscheck`, which is for what does not raise by itself."""
    kernel = await start(step)
    assert (await kernel.ask(Index(1))).value != 0
    with pytest.raises(KernelFailedError, match=error):
        await kernel.ask(Index(3))
    assert kernel.state is KernelState.FAILED
    assert [letter.message.i for letter in runtime.dead_letters] == [3]
    assert kernel.statistics().processed == 1


def above(state: None, msg: Index, out: Index) -> bool:
    if msg.value > 1:
        out.value = msg.value
        return True


async def test_a_step_that_does_not_return_on_some_way_sends_no_reply_there(runtime, start):
    kernel = await start(above)
    assert await kernel.ask(Index(0, 0.5)) is None
    assert (await kernel.ask(Index(0, 2.5))).value == 2.5


async def test_a_step_that_never_returns_anything_cannot_reply(start):
    def forgetful(state: None, msg: Index, out: Index) -> bool:
        out.value = 1.0

    with pytest.raises(StepError, match="end with `return True`, or annotate 'out' with None"):
        await start(forgetful)
