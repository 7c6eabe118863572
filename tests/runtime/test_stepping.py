"""Stepping, looking into a queue, editing it, breakpoints; of async and of compiled ring kernels."""

import asyncio

import numpy as np
import pytest

from pydotcompute import KernelContext, Record, message, ring_kernel
from pydotcompute.exceptions import (
    InstanceError,
    KernelFailedError,
    KernelNotFoundError,
    KernelStateError,
    MessageDiscardedError,
    MessageTypeError,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.runtime import KernelState
from pydotcompute.testing import FakeClock

pytestmark = pytest.mark.may_block  # looking at a queue on another loop waits for that loop


@message
class Number:
    n: np.int64


class Tally(Record):
    count: np.int64


async def square_async(ctx: KernelContext[Number, Number]):
    async for msg in ctx:
        await asyncio.sleep(0)
        await ctx.send(Number(msg.n * msg.n))


def square_step(state: Tally, msg: Number, out: Number) -> bool:
    state.count += 1
    out.n = msg.n * msg.n
    return True


@pytest.fixture
def launch(runtime, kind):
    """``await launch("a", queue_size=...)``: a kernel of this kind that squares, launched."""

    async def launch(kernel_id="square", *numbers, **options):
        if kind == "async":
            definition = ring_kernel(kernel_id, **options)(square_async)
        else:
            definition = ring_kernel(kernel_id, backend=kind, state=Tally, **options)(square_step)
        kernel = await runtime.launch(definition)
        for n in numbers:
            await kernel.send(Number(n))
        return kernel

    return launch


def queued(kernel):
    return [int(one.message.n) for one in kernel.queue()]


async def replies(kernel, count):
    return [int((await kernel.receive(timeout=5)).n) for _ in range(count)]


async def test_a_step_handles_exactly_so_many_messages(launch):
    kernel = await launch("square", 1, 2, 3, 4, 5)
    assert [msg.n for msg in await kernel.step()] == [1]
    assert kernel.state is KernelState.DEACTIVATED
    assert kernel.statistics().processed == 1
    assert [msg.n for msg in await kernel.step(2)] == [2, 3]
    assert queued(kernel) == [4, 5]
    assert kernel.statistics().processed == 3
    await kernel.reactivate()
    assert await replies(kernel, 5) == [1, 4, 9, 16, 25]


async def test_an_active_kernel_is_paused_by_its_first_step(runtime, launch):
    kernel = await launch("square", 1)
    await kernel.activate()
    assert await replies(kernel, 1) == [1]
    stepping = asyncio.ensure_future(kernel.step())
    while kernel.state is not KernelState.DEACTIVATED:
        await asyncio.sleep(0)
    await kernel.send(Number(2))
    await kernel.send(Number(3))
    assert [msg.n for msg in await stepping] == [2]
    assert queued(kernel) == [3]
    assert kernel.statistics().processed == 2


async def test_steps_keep_priorities(launch):
    kernel = await launch("square", 1, 2)
    await kernel.send(Number(3, priority=200))
    await kernel.send(Number(4, priority=10))
    assert [(one.message.n, one.priority) for one in kernel.queue()] == [(3, 200), (1, 128), (2, 128), (4, 10)]
    assert [msg.n for msg in await kernel.step(4)] == [3, 1, 2, 4]


async def test_a_step_that_finds_nothing_waits_or_times_out(launch):
    kernel = await launch("square", 1)
    with pytest.raises(QueueTimeoutError, match=r"handled 1 of 3 messages within 0\.05 s"):
        await kernel.step(3, timeout=0.05)
    assert kernel.state is KernelState.DEACTIVATED
    await kernel.send(Number(7))
    await kernel.send(Number(8))
    assert queued(kernel) == [7, 8]  # the steps that were not taken are forgotten


async def test_a_step_ends_when_the_kernel_is_reactivated_or_terminated(launch):
    kernel = await launch()
    stepping = asyncio.ensure_future(kernel.step(3))
    while kernel.state is not KernelState.DEACTIVATED:
        await asyncio.sleep(0)
    with pytest.raises(KernelStateError, match="stepped by another call"):
        await kernel.step()
    await kernel.send(Number(1))
    assert await replies(kernel, 1) == [1]
    await kernel.reactivate()
    assert [msg.n for msg in await stepping] == [1]
    await kernel.send(Number(2))
    assert await replies(kernel, 1) == [4]
    stepping = asyncio.ensure_future(kernel.step(3))
    while kernel.state is not KernelState.DEACTIVATED:
        await asyncio.sleep(0)
    await kernel.terminate()
    assert await stepping == []
    with pytest.raises(KernelStateError, match="TERMINATED"):
        await kernel.step()


async def test_what_cannot_be_stepped_says_so(runtime, launch):
    kernel = await launch()
    for n in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="at least 1"):
            await kernel.step(n)
    with pytest.raises(KernelNotFoundError):
        await runtime.step("nobody")


async def test_a_step_into_a_failure_raises_it(runtime, start):
    async def explode(ctx):
        async for msg in ctx:
            raise ValueError(msg)

    kernel = await start(explode, activate=False)
    await kernel.send("boom")
    with pytest.raises(KernelFailedError, match="boom"):
        await kernel.step()


async def test_an_attempt_that_is_tried_again_is_a_step(runtime, start):
    tries = []

    async def third_time_lucky(ctx):
        async for msg in ctx:
            tries.append(msg)
            if len(tries) < 3:
                raise ValueError(len(tries))

    kernel = await start(third_time_lucky, activate=False, restart="on_failure", max_retries=2, backoff=None)
    await kernel.send("a")
    await kernel.send("b")
    assert await kernel.step() == ["a"]
    assert [(one.message, one.attempts) for one in kernel.queue()] == [("a", 1), ("b", 0)]
    assert await kernel.step(3) == ["a", "a", "b"]
    assert not runtime.dead_letters


async def test_asks_are_answered_while_stepping(launch):
    kernel = await launch()
    asks = [asyncio.ensure_future(kernel.ask(Number(n))) for n in (2, 3)]
    while kernel.queue_depth < 2:
        await asyncio.sleep(0)
    assert [one.is_ask for one in kernel.queue()] == [True, True]
    await kernel.step()
    assert (await asks[0]).n == 4
    assert not asks[1].done()
    await kernel.step()
    assert (await asks[1]).n == 9


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_peek_is_the_next_message_or_none(launch):
    kernel = await launch()
    assert kernel.peek() is None
    await kernel.send(Number(5))
    assert kernel.peek().n == 5
    assert kernel.queue_depth == 1


async def test_messages_are_moved_injected_and_discarded(runtime, launch):
    kernel = await launch("square", 0, 1, 2, 3)
    kernel.move(0, 2)
    assert queued(kernel) == [1, 2, 0, 3]
    kernel.move(-1, 0)
    assert queued(kernel) == [3, 1, 2, 0]
    kernel.inject(Number(10))
    kernel.inject(Number(11), at=2)
    kernel.inject(Number(12), at=-1)
    assert queued(kernel) == [10, 3, 11, 1, 2, 0, 12]
    assert kernel.discard(1).n == 3
    assert kernel.discard().n == 10
    assert queued(kernel) == [11, 1, 2, 0, 12]
    assert [(letter.message.n, letter.kind) for letter in runtime.dead_letters] == [(3, "discarded"), (10, "discarded")]
    assert [msg.n for msg in await kernel.step(5)] == [11, 1, 2, 0, 12]
    statistics = kernel.statistics()
    assert statistics.received == 7 == statistics.processed + statistics.dead_letters


async def test_a_message_takes_the_priority_of_where_it_is_put(launch):
    kernel = await launch("square", 1, 2)
    await kernel.send(Number(9, priority=200))
    kernel.inject(Number(3))
    kernel.move(3, 1)
    assert [(one.message.n, one.priority) for one in kernel.queue()] == [(3, 200), (2, 200), (9, 200), (1, 128)]
    kernel.inject(Number(4, priority=255), at=4)
    assert kernel.queue()[-1].priority == 128
    assert [msg.n for msg in await kernel.step(5)] == [3, 2, 9, 1, 4]


async def test_into_an_empty_queue_a_message_goes_with_its_own_priority(launch):
    kernel = await launch()
    kernel.inject(Number(4, priority=7))
    assert kernel.queue()[0].priority == 7
    assert [msg.n for msg in await kernel.step()] == [4]


async def test_a_discarded_ask_fails(launch):
    kernel = await launch()
    asked = asyncio.ensure_future(kernel.ask(Number(1)))
    while not kernel.queue_depth:
        await asyncio.sleep(0)
    kernel.discard()
    with pytest.raises(MessageDiscardedError, match="discarded by hand"):
        await asked


async def test_a_queue_is_edited_only_while_it_stands_still(launch, kind):
    kernel = await launch()
    await kernel.activate()
    for edit in (lambda: kernel.inject(Number(1)), lambda: kernel.move(0, 0), kernel.discard):
        with pytest.raises(KernelStateError, match="pause it first"):
            edit()
    if kind == "async":
        assert kernel.queue() == []
    else:
        with pytest.raises(KernelStateError, match="pause it first"):
            kernel.peek()


async def test_places_types_and_bounds_are_checked(launch):
    kernel = await launch("square", 1, queue_size=2)
    for edit in (lambda: kernel.move(0, 1), lambda: kernel.discard(1), lambda: kernel.inject(Number(1), at=5)):
        with pytest.raises(IndexError, match="there is no place"):
            edit()
    with pytest.raises(TypeError, match="integer"):
        kernel.discard("first")
    with pytest.raises(MessageTypeError):
        kernel.inject("text")
    kernel.inject(Number(2))
    with pytest.raises(QueueFullError, match="discard a message first"):
        kernel.inject(Number(3))
    assert queued(kernel) == [2, 1]


async def test_discarding_lets_a_sender_in_that_waits(launch):
    kernel = await launch("square", 1, queue_size=1)
    sending = asyncio.ensure_future(kernel.send(Number(2)))
    while not kernel._box.blocked:
        await asyncio.sleep(0)
    kernel.discard()
    await sending
    assert queued(kernel) == [2]


async def test_waiting_times_and_asks_are_shown(launch, kind):
    kernel = await launch("square", 1)
    (one,) = kernel.queue()
    assert (one.waits is None) == (kind != "async")
    assert one.waits is None or 0 < one.waits < 60
    assert one.attempts == 0


# -- breakpoints -------------------------------------------------------------------------------------------------------


async def test_a_breakpoint_pauses_before_the_message(runtime, launch):
    kernel = await launch("square", *range(10))
    kernel.break_when(lambda msg: msg.n in (4, 7))
    await kernel.activate()
    assert (await kernel.wait_paused(timeout=5)).n == 4
    assert kernel.statistics().processed == 4
    assert "before Number(n=4" in kernel.waiting_for
    await kernel.reactivate()
    assert (await kernel.wait_paused(timeout=5)).n == 7
    assert [msg.n for msg in await kernel.step()] == [7]
    kernel.break_when(None)
    await kernel.reactivate()
    assert await replies(kernel, 10) == [n * n for n in range(10)]


async def test_a_breakpoint_that_raises_stops_and_is_in_the_log(launch, caplog):
    kernel = await launch("square", 1)
    kernel.break_when(lambda msg: msg.no_such_field)
    await kernel.activate()
    assert (await kernel.wait_paused(timeout=5)).n == 1
    assert "the breakpoint of 'square' raised at Number(n=1" in caplog.text


async def test_a_breakpoint_does_not_keep_a_kernel_from_ending(runtime, launch):
    kernel = await launch("square", 1, 2)
    kernel.break_when(lambda msg: True)
    await kernel.activate()
    await kernel.wait_paused(timeout=5)
    await kernel.terminate(timeout=5)
    assert kernel.statistics().processed == 2


async def test_a_message_that_was_moved_is_stopped_at_again(launch):
    kernel = await launch("square", 1, 2)
    kernel.break_when(lambda msg: msg.n == 1)
    await kernel.activate()
    assert (await kernel.wait_paused(timeout=5)).n == 1
    kernel.move(0, 1)
    await kernel.reactivate()
    assert (await kernel.wait_paused(timeout=5)).n == 1
    assert kernel.statistics().processed == 1


async def test_a_breakpoint_is_a_function_or_none(launch):
    kernel = await launch()
    with pytest.raises(TypeError, match="function of a message"):
        kernel.break_when("n == 4")


async def test_waiting_for_a_pause_has_a_timeout_and_ends_with_the_kernel(launch):
    kernel = await launch()
    await kernel.activate()
    with pytest.raises(QueueTimeoutError, match=r"was not paused within 0\.01 s"):
        await kernel.wait_paused(timeout=0.01)
    waiting = asyncio.ensure_future(kernel.wait_paused())
    await asyncio.sleep(0)
    await kernel.terminate()
    with pytest.raises(KernelStateError):
        await waiting


async def test_closing_the_runtime_goes_past_breakpoints(runtime, launch):
    kernel = await launch("square", 1, 2)
    kernel.break_when(lambda msg: True)
    await kernel.activate()
    await kernel.wait_paused(timeout=5)
    await runtime.close(timeout=5)
    assert kernel.statistics().processed == 2


# -- compiled ring kernels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_steps_of_instances_keep_their_address(runtime, kind):
    definition = ring_kernel("square", backend=kind, state=Tally, instances=3)(square_step)
    kernel = await runtime.launch(definition)
    for n, instance in enumerate((2, 0, 2)):
        await kernel[instance].send(Number(n))
    with pytest.raises(InstanceError):
        kernel.inject(Number(5))
    kernel.move(0, 2)
    await kernel.step(2)
    assert (await kernel.snapshot())["count"].tolist() == [1, 0, 1]
    kernel.discard()
    assert runtime.dead_letters[-1].instance == 2


@pytest.mark.parametrize("kind", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_what_was_in_the_ring_can_be_looked_at_and_goes_on(runtime, launch, kind):
    kernel = await launch()
    await kernel.activate()
    await kernel.deactivate()
    await kernel.wait_paused(timeout=5)
    await kernel.send_batch(np.array([(n,) for n in range(1000)], Number.dtype))
    assert queued(kernel)[:3] == [0, 1, 2]
    kernel.discard(1)
    await kernel.reactivate()
    await runtime.wait_idle(timeout=5)
    assert kernel.statistics().processed == 999


async def test_who_waits_for_messages_to_step_or_for_a_pause_keeps_nothing_busy(runtime, launch):
    kernel = await launch()
    with FakeClock(runtime):  # time passes only while nothing is to be done
        with pytest.raises(QueueTimeoutError):
            await kernel.step(1, timeout=3600)
        await kernel.reactivate()
        with pytest.raises(QueueTimeoutError):
            await kernel.wait_paused(timeout=3600)


async def test_a_message_that_is_still_in_hand_when_the_time_is_over_was_not_handled(start, gate):
    go_on = gate()

    async def slow(ctx):
        async for _ in ctx:
            await go_on.wait()

    kernel = await start(slow, activate=False)
    await kernel.send(1)
    with pytest.raises(QueueTimeoutError, match=r"handled 0 of 1 messages .* handling a message"):
        await kernel.step(timeout=0.02)
    go_on.open()


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_records_that_wait_for_room_are_stepped_too(start, eventually, backend):
    kernel = await start(square_step, "square", backend=backend, state=Tally, queue_size=4)
    sending = asyncio.ensure_future(kernel.send_batch(np.array([(n,) for n in range(20)], Number.dtype)))
    await eventually(lambda: kernel._out.blocked and kernel._box._rests)
    await kernel.deactivate()
    await kernel.wait_paused(timeout=5)
    found = []
    while len(found) < 20:
        while len(kernel._out):
            found.append(int((await kernel.receive(timeout=5)).n))
        if len(found) < 20:
            await kernel.step(timeout=5)
    await sending
    assert found == [n * n for n in range(20)]
    assert kernel.state is KernelState.DEACTIVATED


async def test_an_async_kernel_has_no_rings(start):
    kernel = await start(square_async)
    with pytest.raises(KernelStateError, match="has a mailbox and no ring; queue"):
        kernel.rings()
