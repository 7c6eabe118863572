"""After `deactivate` the message in hand is finished, and no further one is handed out until `reactivate`."""

import asyncio

import pytest

from pydotcompute.exceptions import KernelStateError, QueueFullError, QueueTimeoutError
from pydotcompute.runtime import KernelState


async def test_nothing_is_handled_while_paused_and_all_of_it_afterwards_in_order(runtime, start, settle):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    await start(worker)
    await runtime.send("worker", -1)
    await runtime.wait_idle()
    await runtime.deactivate("worker")
    for number in range(100):
        await runtime.send("worker", number)
    await settle()
    assert seen == [-1]
    assert runtime.statistics()["worker"].queue_depth == 100
    assert runtime.statistics()["worker"].processed == 1
    await runtime.reactivate("worker")
    await runtime.wait_idle()
    assert seen == [-1, *range(100)]


async def test_a_message_that_was_on_its_way_to_the_body_stays_queued(runtime, start, on_loop, settle):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    kernel = await start(worker)
    await runtime.wait_idle()

    async def send_and_pause_at_once():
        await runtime.send("worker", 1)  # the body is woken, but has not run yet
        await runtime.deactivate("worker")

    await on_loop(send_and_pause_at_once)
    await settle()
    assert seen == []
    assert kernel.queue_depth == 1
    await runtime.reactivate("worker")
    await runtime.wait_idle()
    assert seen == [1]


async def test_the_message_in_hand_is_finished_and_the_next_one_is_not_begun(runtime, start, settle, gate):
    begun, go_on, log = gate(), gate(), []

    async def worker(ctx):
        while not ctx.should_terminate:
            number = await ctx.receive()
            log.append(f"begin {number}")
            begun.open()
            await go_on.wait()
            log.append(f"end {number}")

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2])
    await begun.wait()
    await runtime.deactivate("worker")
    go_on.open()
    await settle()
    assert log == ["begin 1", "end 1"]
    assert kernel.state is KernelState.DEACTIVATED
    assert kernel.queue_depth == 1
    await runtime.reactivate("worker")
    await runtime.wait_idle()
    assert log == ["begin 1", "end 1", "begin 2", "end 2"]


async def test_senders_wait_for_room_while_it_is_paused(runtime, start, settle):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    kernel = await start(worker, queue_size=4)
    await runtime.deactivate("worker")
    senders = [asyncio.ensure_future(runtime.send("worker", number)) for number in range(10)]
    await settle()
    assert [sender.done() for sender in senders].count(True) == kernel.queue_depth == 4
    await runtime.reactivate("worker")
    await asyncio.gather(*senders)
    await runtime.wait_idle()
    assert seen == list(range(10))


async def test_a_full_paused_mailbox_refuses_as_its_strategy_says(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    await start(worker, queue_size=2, backpressure="reject")
    await runtime.deactivate("worker")
    await runtime.send_many("worker", [1, 2])
    with pytest.raises(QueueFullError):
        await runtime.send("worker", 3)


async def test_an_ask_waits_for_the_end_of_the_pause(runtime, start, settle):
    async def double(ctx):
        async for number in ctx:
            await ctx.send(2 * number)

    await start(double)
    await runtime.deactivate("double")
    asked = asyncio.ensure_future(runtime.ask("double", 21))
    await settle()
    assert not asked.done()
    with pytest.raises(QueueTimeoutError):
        await runtime.ask("double", 1, timeout=0.01)
    await runtime.reactivate("double")
    assert await asked == 42


async def test_a_body_that_waits_for_a_while_only_gets_nothing_while_paused(runtime, start, clock):
    timeouts, seen = [], []

    async def patient(ctx):
        while not ctx.should_terminate:
            try:
                seen.append(await ctx.receive(timeout=600))
            except TimeoutError:
                timeouts.append(ctx.is_active)

    await start(patient)
    await runtime.deactivate("patient")
    timeouts.clear()
    await runtime.send("patient", "message")
    await clock.advance(3600)
    assert len(timeouts) >= 6
    assert seen == []
    assert timeouts[-1] is False
    await runtime.reactivate("patient")
    await runtime.wait_idle()
    assert seen == ["message"]


async def test_is_active_tells_the_body(runtime, start, gate):
    taken, paused, told = gate(), gate(), []

    async def worker(ctx):
        async for _ in ctx:
            told.append(ctx.is_active)
            taken.open()
            await paused.wait()
            told.append(ctx.is_active)

    await start(worker)
    await runtime.send("worker", 1)
    await taken.wait()
    await runtime.deactivate("worker")
    paused.open()
    await runtime.wait_idle()
    await runtime.reactivate("worker")
    await runtime.send("worker", 2)
    await runtime.wait_idle()
    assert told == [True, False, True, True]


async def test_pausing_twice_and_resuming_what_runs_name_the_state_and_the_way_out(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    with pytest.raises(KernelStateError, match=r"'worker'.*ACTIVE.*deactivate or terminate"):
        await runtime.reactivate("worker")
    await runtime.deactivate("worker")
    with pytest.raises(KernelStateError, match=r"'worker'.*DEACTIVATED.*reactivate or terminate"):
        await runtime.deactivate("worker")
    with pytest.raises(KernelStateError, match="DEACTIVATED"):
        await runtime.activate("worker")
    assert kernel.state is KernelState.DEACTIVATED


async def test_a_paused_kernel_says_what_it_waits_for(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    assert kernel.waiting_for == ""
    await runtime.deactivate("worker")
    assert "reactivate" in kernel.waiting_for
    assert "reactivate" in runtime.statistics()["worker"].waiting_for
    await runtime.reactivate("worker")
    assert kernel.waiting_for == ""


async def test_pausing_again_and_again_loses_nothing(runtime, start, turns):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)
            await asyncio.sleep(0)

    await start(worker, queue_size=3)

    async def send_all():
        for number in range(200):
            await runtime.send("worker", number)

    sending = asyncio.ensure_future(send_all())
    while not sending.done():
        await runtime.deactivate("worker")
        await turns(1)
        handled = len(seen)
        await turns(3)
        assert len(seen) == handled
        await runtime.reactivate("worker")
        await turns(2)
    await runtime.wait_idle()
    assert seen == list(range(200))
