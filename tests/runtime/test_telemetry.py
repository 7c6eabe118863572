"""What the runtime tells about itself: counters, statistics, frames, lag, and how it shows itself in a notebook."""

import asyncio
import math
import threading
import time
from dataclasses import FrozenInstanceError

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import QueueFullError
from pydotcompute.runtime import KernelState
from pydotcompute.telemetry import COUNTERS, STATES


@message
class Job:
    n: int


async def echo(ctx):
    async for one in ctx:
        await ctx.send(one)


async def silent(ctx):
    async for _ in ctx:
        pass


class Ear:
    """A listener that keeps its frames and can be waited for."""

    def __init__(self):
        self.frames, self.threads = [], set()

    def __call__(self, frame):
        self.frames.append(frame)
        self.threads.add(threading.current_thread().name)


def row(frame, kernel_id):
    return frame.rows[frame.ids.index(kernel_id)]


# -- each counter --------------------------------------------------------------------------------------------------


def test_the_table_knows_every_state():
    assert tuple(KernelState.__members__) == STATES


async def test_counters_of_a_kernel_before_and_after_work(runtime, start):
    kernel = await start(echo, queue_size=10)
    statistics = kernel.statistics()
    assert (statistics.state, statistics.version, statistics.queue_size) == ("ACTIVE", 1, 10)
    counts = ("received", "processed", "replied", "dropped", "dead_letters", "errors", "queue_depth", "queue_peak")
    assert [getattr(statistics, name) for name in counts] == [0] * 8
    assert statistics.busy == 0
    assert all(math.isnan(getattr(statistics, name)) for name in ("wait_p50", "wait_p99", "handle_p50", "handle_p99"))

    await runtime.send_many("echo", [Job(n) for n in range(3)])
    await runtime.wait_idle()
    assert await runtime.ask("echo", Job(3)) == Job(3)
    await runtime.wait_idle()
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.replied, statistics.replies_unread) == (4, 4, 4, 3)
    assert statistics.queue_depth == 0
    assert 1 <= statistics.queue_peak <= 3
    assert 0 < statistics.handle_p50 <= statistics.handle_p99 < 1
    assert 0 < statistics.wait_p50 <= statistics.wait_p99 < 1
    assert sum(statistics.wait_histogram) == sum(statistics.handle_histogram) == 4
    assert 0 < statistics.busy < 1
    await runtime.receive("echo")
    assert kernel.statistics().replies_unread == 2


async def test_a_message_in_hand_is_received_and_not_yet_processed(runtime, start, gate):
    begun, go_on = gate(), gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await go_on.wait()

    kernel = await start(worker)
    assert not kernel.busy
    await runtime.send_many("worker", [1, 2, 3])
    await begun.wait()
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.queue_depth, statistics.queue_peak) == (3, 0, 2, 3)
    assert kernel.busy
    go_on.open()
    await runtime.wait_idle()
    assert not kernel.busy
    assert kernel.statistics().processed == 3


async def test_dropped_dead_letters_and_errors_are_counted(runtime, start):
    async def worker(ctx):
        async for number in ctx:
            _ = 1 / number

    kernel = await start(worker, queue_size=2, backpressure="drop_newest")
    await kernel.deactivate()
    for number in (1, 0, 2):
        await runtime.send("worker", number)
    assert kernel.statistics().dropped == kernel.statistics().dead_letters == 1
    await kernel.reactivate()
    await runtime.wait_ended("worker")
    statistics = kernel.statistics()
    assert (statistics.state, statistics.errors, statistics.dropped, statistics.dead_letters) == ("FAILED", 1, 1, 2)
    assert (statistics.received, statistics.processed) == (2, 1)
    assert runtime.statistics().dead_letters == 2


async def test_busy_and_handling_time_are_those_of_the_body(runtime, start):
    async def worker(ctx):
        async for seconds in ctx:
            await asyncio.sleep(seconds)

    kernel = await start(worker)
    for _ in range(4):
        await runtime.send("worker", 0.02)
    await runtime.wait_idle()
    statistics = kernel.statistics()
    assert 0.08 <= statistics.busy < 1
    assert 0.01 <= statistics.handle_p50 < 0.5
    assert statistics.wait_p99 >= 0.03  # the last waited for three others


async def test_the_time_in_the_mailbox_is_counted_from_when_it_was_sent(runtime, start):
    kernel = await start(silent)
    await kernel.deactivate()
    await runtime.send("silent", 1)
    await asyncio.sleep(0.05)
    await kernel.reactivate()
    await runtime.wait_idle()
    assert 0.025 <= kernel.statistics().wait_p50 < 1
    assert kernel.statistics().handle_p50 < 0.025


async def test_every_state_shows(runtime, start):
    kernel = await start(silent, activate=False)
    seen = [runtime.statistics()["silent"].state]
    for step in (kernel.activate, kernel.deactivate, kernel.reactivate, kernel.terminate):
        await step()
        seen.append(runtime.statistics()["silent"].state)
    assert seen == ["LAUNCHED", "ACTIVE", "DEACTIVATED", "ACTIVE", "TERMINATED"]


async def test_statistics_are_a_snapshot_that_does_not_change(runtime, start):
    await start(echo)
    await runtime.ask("echo", 1)
    await runtime.wait_idle()
    before = runtime.statistics()
    await runtime.ask("echo", 2)
    await runtime.wait_idle()
    assert before["echo"].processed == 1
    assert runtime.statistics()["echo"].processed == 2
    with pytest.raises(FrozenInstanceError):
        before["echo"].processed = 3
    with pytest.raises(TypeError):
        before.kernels["other"] = before["echo"]
    assert list(before.kernels) == ["echo"]


async def test_a_handle_and_the_runtime_tell_the_same(runtime, start):
    kernel = await start(silent)
    await runtime.send_many("silent", range(10))
    await runtime.wait_idle()
    assert kernel.statistics() == runtime.statistics()["silent"]


async def test_a_former_handle_does_not_disturb_the_counters_of_its_successor(runtime, start):
    former = await start(echo)
    for n in range(50):
        await runtime.ask("echo", n)
    await former.terminate()
    latter = await runtime.launch("echo")
    await latter.activate()
    assert former.statistics().processed == 50
    fresh = runtime.statistics()["echo"]
    assert (fresh.processed, sum(fresh.handle_histogram), fresh.queue_peak) == (0, 0, 0)
    await runtime.ask("echo", 1)
    await runtime.wait_idle()
    assert former.statistics().processed == 50
    assert (latter.statistics().processed, sum(latter.statistics().wait_histogram)) == (1, 1)


@pytest.mark.may_block
async def test_counters_read_from_another_thread_never_run_backwards():
    async def perpetual(ctx):
        async for job in ctx:
            if not stop.is_set():
                await ctx.tell("perpetual", job)

    stop = threading.Event()
    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(perpetual))).activate()
        await runtime.send_many("perpetual", [Job(n) for n in range(10)])
        last = runtime.statistics()["perpetual"]
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            now = runtime.statistics()["perpetual"]
            assert now.processed >= last.processed
            assert now.busy >= last.busy
            # Rows are copied while the kernel runs: what moves meanwhile may be counted twice, for a moment.
            assert now.received >= last.received - 50
            last = now
        stop.set()
        await runtime.wait_idle()
        final = runtime.statistics()["perpetual"]
        assert final.received == final.processed >= last.processed


# -- frames --------------------------------------------------------------------------------------------------------


async def test_frames_are_absolute_and_hold_every_kernel(runtime, start, eventually):
    await start(echo)
    await start(silent)
    ear = Ear()
    runtime.sampler.listen(ear, 100)
    await eventually(lambda: len(ear.frames) >= 3)
    for n in range(20):
        await runtime.ask("echo", n)
    await runtime.wait_idle()
    count = len(ear.frames)
    await eventually(lambda: len(ear.frames) >= count + 2)
    frame = ear.frames[-1]
    assert frame.ids == ("echo", "silent")
    assert frame.rows.dtype == COUNTERS
    assert frame.rows.shape == (2,)
    assert row(frame, "echo")["processed"] == 20
    assert row(frame, "echo")["handled"].sum() == 20
    assert row(frame, "silent")["processed"] == 0
    assert STATES[row(frame, "silent")["state"]] == "ACTIVE"
    numbers = [frame.number for frame in ear.frames]
    assert numbers == sorted(set(numbers))
    times = [frame.time_ns for frame in ear.frames]
    assert times == sorted(times)
    assert ear.threads == {"pydotcompute-sampler"}


async def test_kernels_that_come_go_and_restart_show_in_the_next_frames(runtime, start, eventually):
    ear = Ear()
    runtime.sampler.listen(ear, 100)
    await eventually(lambda: ear.frames)
    assert ear.frames[0].ids == ()
    kernel = await start(echo)
    await eventually(lambda: ear.frames[-1].ids == ("echo",))
    await runtime.ask("echo", 1)
    await kernel.terminate()
    await eventually(lambda: STATES[row(ear.frames[-1], "echo")["state"]] == "TERMINATED")
    assert row(ear.frames[-1], "echo")["processed"] == 1
    former = ear.frames[-1].launches
    await (await runtime.launch("echo")).activate()
    await eventually(lambda: STATES[row(ear.frames[-1], "echo")["state"]] == "ACTIVE")
    assert row(ear.frames[-1], "echo")["processed"] == 0
    again = ear.frames[-1].launches
    assert again.shape == former.shape == (1,)
    assert again > former
    await runtime.launch("echo", kernel_id="another")
    await eventually(lambda: ear.frames[-1].ids == ("echo", "another"))
    assert ear.frames[-1].launches[0] == again < ear.frames[-1].launches[1]


async def test_histograms_of_many_kernels_are_whole_within_seconds(runtime, eventually):
    definition = ring_kernel(echo)
    names = [f"echo {n}" for n in range(250)]
    for name in names:
        await (await runtime.launch(definition, kernel_id=name)).activate()
    ear = Ear()
    runtime.sampler.listen(ear, 50)
    for name in names:
        await runtime.ask(name, 1)
    await runtime.wait_idle()
    await eventually(lambda: ear.frames and ear.frames[-1].rows["handled"].sum() == 250)
    assert ear.frames[-1].rows["processed"].sum() == 250


async def test_the_sampler_ends_with_its_last_listener_and_with_the_runtime(runtime, start, eventually):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "pydotcompute-sampler"]

    await start(echo)
    assert threads() == []
    first, second = Ear(), Ear()
    runtime.sampler.listen(first, 50)
    runtime.sampler.listen(second, 50)
    assert runtime.sampler.running
    await eventually(lambda: first.frames and second.frames)
    runtime.sampler.ignore(first)
    assert len(threads()) == 1
    runtime.sampler.ignore(second)
    await eventually(lambda: threads() == [])
    runtime.sampler.listen(first, 50)
    await eventually(lambda: len(threads()) == 1)
    await runtime.close()
    assert threads() == []
    assert not runtime.sampler.running


async def test_the_dead_letters_are_in_the_frames(runtime, start, eventually):
    await start(silent, queue_size=1, backpressure="drop_newest")
    await runtime["silent"].deactivate()
    ear = Ear()
    runtime.sampler.listen(ear, 100)
    for n in range(5):
        await runtime.send("silent", n)
    await eventually(lambda: ear.frames and ear.frames[-1].dead_letters == 4)
    assert row(ear.frames[-1], "silent")["dropped"] == 4


# -- lag -----------------------------------------------------------------------------------------------------------


@pytest.mark.may_block
async def test_a_body_that_blocks_the_loop_is_shown_while_it_blocks(runtime, start, eventually):
    shown = []

    async def blocking(ctx):
        async for _ in ctx:
            end = time.monotonic() + 10
            while not (shown and shown[-1] > 0.05):  # it blocks until the sampler has seen that it does
                assert time.monotonic() < end
                time.sleep(0.005)

    await start(blocking)

    def listen(frame):
        if frame.loop_lag is not None:
            shown.append(frame.loop_lag)

    runtime.sampler.listen(listen, 100)
    await eventually(lambda: shown)
    shown.clear()
    await runtime.send("blocking", 1)
    await runtime.wait_idle()
    assert shown[-1] > 0.05
    await eventually(lambda: shown[-1] < 0.05)


@pytest.mark.may_block
async def test_a_caller_that_blocks_its_loop_shows_as_lag_of_the_notebook():
    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(echo))).activate()
        frames = []
        runtime.sampler.listen(frames.append, 100)
        end = time.monotonic() + 10
        while not (frames and (frames[-1].notebook_lag or 0) > 0.05):
            assert time.monotonic() < end
            time.sleep(0.005)
        assert frames[-1].loop_lag < 0.05
        statistics = runtime.statistics()
        assert statistics.notebook_lag > 0.05
        assert statistics.loop_lag < 0.05


async def test_nobody_knows_the_lag_while_nobody_samples(runtime, start, eventually):
    await start(echo)
    assert runtime.statistics().loop_lag is None
    ear = Ear()
    runtime.sampler.listen(ear, 100)
    await eventually(lambda: ear.frames and ear.frames[-1].loop_lag is not None)
    assert 0 <= runtime.statistics().loop_lag < 5
    runtime.sampler.ignore(ear)
    statistics = runtime.statistics()
    assert (statistics.loop_lag, statistics.notebook_lag) == (None, None)


# -- in a notebook -------------------------------------------------------------------------------------------------


async def test_a_runtime_and_its_kernels_show_as_tables(runtime, start):
    await start(echo, "<echo & co>")
    await start(silent)
    await runtime.ask("<echo & co>", 1)
    for html in (runtime._repr_html_(), runtime["<echo & co>"]._repr_html_()):
        assert "<table" in html
        assert "&lt;echo &amp; co&gt;" in html
        assert "<echo" not in html
    assert "silent" in runtime._repr_html_()
    await runtime.close()
    assert "<table" in runtime._repr_html_()


async def test_a_runtime_without_kernels_shows_too(runtime):
    assert "0 ring kernels" in runtime._repr_html_()


async def test_a_refused_message_changes_no_counter(runtime, start):
    kernel = await start(silent, queue_size=1, backpressure="reject", input_type=int)
    await kernel.deactivate()
    await kernel.send(1)
    before = kernel.statistics()
    with pytest.raises(QueueFullError):
        await kernel.send(2)
    with pytest.raises(TypeError):
        await kernel.send("text")
    assert repr(kernel.statistics()) == repr(before)
