"""Queues are bounded and honest: no bound is exceeded, nobody is stuck, and every message can be accounted for."""

import asyncio
import random
import time

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import KernelStateError, QueueFullError
from pydotcompute.runtime import KernelState

STRATEGIES = ("block", "reject", "drop_oldest", "drop_newest")


@message
class Job:
    n: int


class Plain:
    """A message without a priority; those with one take shorter ways."""

    def __init__(self, n, priority=None):
        self.n = n


@pytest.fixture(params=[Job, Plain])
def make(request):
    return request.param


# -- many senders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("priorities", [False, True])
async def test_a_thousand_senders_at_once(runtime, start, make, strategy, size, priorities):
    rng = random.Random(size)
    seen, depths = [], []

    async def worker(ctx):
        async for job in ctx:
            depths.append(kernel.queue_depth)
            seen.append(job.n)
            if job.n % 7 == 0:
                await asyncio.sleep(0)

    kernel = await start(worker, queue_size=size, backpressure=strategy)
    jobs = [make(n, priority=rng.randrange(256) if priorities else 128) for n in range(1000)]
    outcomes = await asyncio.gather(*(runtime.send("worker", job) for job in jobs), return_exceptions=True)
    await runtime.wait_idle()

    refused = {n for n, outcome in enumerate(outcomes) if isinstance(outcome, QueueFullError)}
    assert all(outcome is None for n, outcome in enumerate(outcomes) if n not in refused)
    dropped = {letter.message.n for letter in runtime.dead_letters}
    assert sorted([*seen, *refused, *dropped]) == list(range(1000))
    assert max(depths) <= size

    statistics = kernel.statistics()
    assert statistics.queue_peak <= size
    assert statistics.queue_depth == 0
    assert statistics.processed == len(seen)
    assert statistics.dropped == statistics.dead_letters == len(dropped) == runtime.dead_letters.total
    if strategy == "block":
        assert not refused
        assert not dropped
        if not priorities:
            assert seen == list(range(1000))
    elif strategy == "reject":
        assert not dropped
    else:
        assert not refused
        assert {letter.reason for letter in runtime.dead_letters} <= {strategy}
    assert statistics.received == len(seen) + (len(dropped) if strategy == "drop_oldest" and not priorities else 0) or (
        strategy == "drop_oldest" and len(seen) <= statistics.received <= 1000
    )


@pytest.mark.parametrize("size", [1, 100])
async def test_a_thousand_senders_and_a_kernel_that_pauses(runtime, start, make, size, turns):
    seen = []

    async def worker(ctx):
        async for job in ctx:
            seen.append(job.n)
            await asyncio.sleep(0)

    kernel = await start(worker, queue_size=size)
    senders = [asyncio.ensure_future(runtime.send("worker", make(n))) for n in range(1000)]
    for _ in range(20):
        await kernel.deactivate()
        await turns(2)
        assert kernel.queue_depth <= size
        await kernel.reactivate()
        await turns(2)
    await asyncio.gather(*senders)
    await runtime.wait_idle()
    assert seen == list(range(1000))
    assert kernel.statistics().queue_peak == size


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_senders_from_many_threads(strategy, make):
    seen = []

    async def worker(ctx):
        async for job in ctx:
            seen.append(job.n)

    async with RingKernelRuntime("thread") as runtime:
        definition = ring_kernel(queue_size=3, backpressure=strategy)(worker)
        await (await runtime.launch(definition)).activate()
        refused = []

        def send(first):
            for n in range(first, first + 100):
                try:
                    runtime.sync.send("worker", make(n))
                except QueueFullError:
                    refused.append(n)

        await asyncio.gather(*(asyncio.to_thread(send, 100 * i) for i in range(8)))
        await runtime.wait_idle()
        dropped = [letter.message.n for letter in runtime.dead_letters]
        assert sorted([*seen, *refused, *dropped]) == list(range(800))
        assert runtime.statistics()["worker"].queue_peak <= 3
        if strategy == "block":
            assert len(seen) == 800


@pytest.mark.parametrize("size", [1, 3])
async def test_senders_that_give_up_leave_the_line_and_the_others_get_in(runtime, start, make, size, settle):
    rng = random.Random(3)
    seen = []

    async def worker(ctx):
        async for job in ctx:
            seen.append(job.n)
            await asyncio.sleep(0)

    kernel = await start(worker, queue_size=size)
    await kernel.deactivate()
    senders = [asyncio.ensure_future(runtime.send("worker", make(n))) for n in range(300)]
    await settle()
    given_up = set(rng.sample(range(300), 50))
    for n in given_up:
        senders[n].cancel()
    await settle()
    assert kernel._box.blocked == sum(not sender.done() for sender in senders)
    await kernel.reactivate()
    later = set(rng.sample(range(300), 50)) - given_up
    for n in later:
        senders[n].cancel()
    outcomes = await asyncio.gather(*senders, return_exceptions=True)
    await runtime.wait_idle()
    cancelled = {n for n, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)}
    sent = [n for n in range(300) if n not in cancelled]
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen))
    assert set(sent) <= set(seen)
    assert given_up - set(range(size)) <= cancelled
    assert not (given_up - set(range(size))) & set(seen)
    assert kernel._box.blocked == 0


async def test_senders_stand_in_line_whatever_their_priority(runtime, start, settle):
    """A sender that came later does not overtake those that wait for room; priorities count once in the mailbox."""
    seen = []

    async def worker(ctx):
        async for job in ctx:
            seen.append(job.n)

    kernel = await start(worker, queue_size=1)
    await kernel.deactivate()
    senders = []
    for n, priority in enumerate([128, 1, 255, 7]):
        senders.append(asyncio.ensure_future(runtime.send("worker", Job(n, priority=priority))))
        await settle()
    await kernel.reactivate()
    await asyncio.gather(*senders)
    await runtime.wait_idle()
    assert seen == [0, 1, 2, 3]


async def test_a_sender_that_is_cancelled_as_it_gets_in_either_raises_or_is_in():
    for turns in range(6):
        seen = []

        async def worker(ctx, seen=seen):
            async for job in ctx:
                seen.append(job.n)

        async with RingKernelRuntime("current") as runtime:
            definition = ring_kernel(f"worker {turns}", queue_size=1)(worker)
            kernel = await runtime.launch(definition)
            await kernel.activate()
            await kernel.deactivate()
            await kernel.send(Job(0))
            sender = asyncio.ensure_future(kernel.send(Job(1)))
            await asyncio.sleep(0)
            await kernel.reactivate()
            for _ in range(turns):
                await asyncio.sleep(0)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await kernel.send(Job(2))
            await runtime.wait_idle()
        assert seen in ([0, 1, 2], [0, 2])
        assert 1 in seen or sender.cancelled()


# -- each strategy -------------------------------------------------------------------------------------------------


@pytest.fixture
def fill(runtime, start):
    """A paused kernel of three, then these jobs; what it handles afterwards."""

    async def fill(strategy, jobs, size=3):
        seen = []

        async def worker(ctx):
            async for job in ctx:
                seen.append(job.n)

        kernel = await start(worker, queue_size=size, backpressure=strategy)
        await kernel.deactivate()
        for job in jobs:
            await runtime.send("worker", job)
        assert kernel.queue_depth <= size
        buried = [letter.message.n for letter in runtime.dead_letters]
        await kernel.reactivate()
        await runtime.wait_idle()
        return seen, buried

    return fill


async def test_drop_oldest_keeps_the_latest(fill, make, runtime):
    assert await fill("drop_oldest", [make(n) for n in range(10)]) == ([7, 8, 9], [0, 1, 2, 3, 4, 5, 6])
    statistics = runtime.statistics()["worker"]
    assert (statistics.received, statistics.processed, statistics.dropped) == (10, 3, 7)


async def test_drop_newest_keeps_the_first(fill, make, runtime):
    assert await fill("drop_newest", [make(n) for n in range(10)]) == ([0, 1, 2], [3, 4, 5, 6, 7, 8, 9])
    statistics = runtime.statistics()["worker"]
    assert (statistics.received, statistics.processed, statistics.dropped) == (3, 3, 7)


async def test_drop_oldest_drops_the_lowest_priority_and_the_oldest_of_it(fill):
    priorities = [200, 5, 128, 5, 128, 200]
    jobs = [Job(n, priority=priority) for n, priority in enumerate(priorities)]
    # 0:200 1:5 2:128 are in; 3:5 pushes 1 out, 4:128 pushes 3 out, 5:200 pushes 2 out.
    assert await fill("drop_oldest", jobs) == ([0, 5, 4], [1, 3, 2])


async def test_drop_oldest_drops_the_new_one_when_it_is_the_lowest(fill):
    jobs = [Job(0, priority=9), Job(1, priority=9), Job(2), Job(3, priority=8), Job(4, priority=9)]
    assert await fill("drop_oldest", jobs) == ([2, 1, 4], [3, 0])


async def test_reject_refuses_in_the_sender_and_says_what_to_do(runtime, start, make):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker, queue_size=2, backpressure="reject")
    await kernel.deactivate()
    await runtime.send_many("worker", [make(0), make(1)])
    for call in (runtime.send, runtime.ask):
        with pytest.raises(QueueFullError, match=r"'worker' is full \(2\).*queue_size.*backpressure='block'"):
            await call("worker", make(2))
    with pytest.raises(QueueFullError):
        await runtime.send_many("worker", [make(2)])
    statistics = kernel.statistics()
    assert (statistics.received, statistics.dropped, statistics.dead_letters) == (2, 0, 0)
    await kernel.reactivate()
    await runtime.wait_idle()
    await runtime.send("worker", make(3))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [1, 2, 1024])
async def test_the_mailbox_holds_exactly_its_size(runtime, start, make, strategy, size, settle):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker, queue_size=size, backpressure=strategy)
    await kernel.deactivate()
    await runtime.send_many("worker", [make(n) for n in range(size)])
    assert kernel.queue_depth == size
    assert runtime.dead_letters.total == 0
    over = asyncio.ensure_future(runtime.send("worker", make(size)))
    await settle()
    assert kernel.queue_depth == size
    assert kernel.statistics().queue_peak == size
    assert over.done() == (strategy != "block")
    await kernel.reactivate()
    await asyncio.gather(over, return_exceptions=True)
    await runtime.wait_idle()


async def test_a_mailbox_of_mixed_priorities_holds_exactly_its_size(runtime, start, settle):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker, queue_size=4, backpressure="reject")
    await kernel.deactivate()
    await runtime.send_many("worker", [Job(0, priority=3), Job(1), Job(2, priority=200), Job(3)])
    for job in (Job(4), Job(4, priority=255), Job(4, priority=0)):
        with pytest.raises(QueueFullError):
            await runtime.send("worker", job)
        with pytest.raises(QueueFullError):
            await runtime.ask("worker", job)
    assert kernel.queue_depth == kernel.statistics().queue_peak == 4


async def test_every_drop_is_a_dead_letter_that_says_why(fill, runtime):
    await fill("drop_oldest", [Job(n) for n in range(5)])
    for letter in runtime.dead_letters:
        assert (letter.kernel_id, letter.reason, letter.exception) == ("worker", "drop_oldest", None)
        assert letter.time > 1.7e9


# -- bodies that send ----------------------------------------------------------------------------------------------


async def test_a_body_that_sends_to_its_own_full_mailbox_is_refused_instead_of_waiting_for_ever(runtime, start, make):
    outcome = []

    async def worker(ctx):
        async for job in ctx:
            if job.n == 0:
                try:
                    for n in range(1, 10):
                        await ctx.tell("worker", make(n))
                except QueueFullError as error:
                    outcome.append(str(error))
            else:
                outcome.append(job.n)

    await start(worker, queue_size=3)
    await runtime.send("worker", make(0))
    await runtime.wait_idle()
    assert outcome[1:] == [1, 2, 3]
    assert "'worker' would wait for ever" in outcome[0]


async def test_a_body_may_send_many_to_itself_as_long_as_there_is_room(runtime, start):
    seen, outcome = [], []

    async def worker(ctx):
        async for n in ctx:
            seen.append(n)
            if n == 0:
                await runtime.send_many("worker", [1, 2])
                try:
                    await runtime.send_many("worker", [3, 4, 5])
                except QueueFullError as error:
                    outcome.append(str(error))

    await start(worker, queue_size=3)
    await runtime.send("worker", 0)
    await runtime.wait_idle()
    assert seen == [0, 1, 2, 3]
    assert "wait for ever" in outcome[0]


async def test_another_task_of_the_body_may_wait_for_room(runtime, start, make):
    seen = []

    async def worker(ctx):
        async def feed():
            for n in range(20):
                await ctx.tell("worker", make(n))

        feeding = asyncio.ensure_future(feed())
        async for job in ctx:
            seen.append(job.n)
        await feeding

    await start(worker, queue_size=1)
    while len(seen) < 20:
        await asyncio.sleep(0)
    assert seen == list(range(20))


async def test_a_body_that_tells_itself_for_ever_does_not_starve_the_loop(runtime, start, make, turns):
    count, stop = 0, False

    async def perpetual(ctx):
        nonlocal count
        async for job in ctx:
            count += 1
            if not stop:
                await ctx.tell("perpetual", job)

    async def echo(ctx):
        async for job in ctx:
            await ctx.send(job)

    await start(perpetual)
    await start(echo)
    await runtime.send("perpetual", make(0))
    for n in range(20):
        assert (await runtime.ask("echo", make(n), timeout=5)).n == n
    before = count
    await turns(20)
    assert count > before
    stop = True
    await runtime.wait_idle()


@pytest.mark.parametrize("kind", ["one that tells itself", "two"])
async def test_busy_kernels_do_not_starve_other_threads(runtime, start, in_thread, eventually, kind):
    """As of a notebook whose kernels have more to do than they can: cells run and the dashboard is drawn."""
    stop, frames = False, []

    async def perpetual(ctx):
        async for job in ctx:
            while not stop:
                await ctx.tell("perpetual" if kind != "two" else "sink", job)
                if kind != "two":
                    break

    async def sink(ctx):
        async for _ in ctx:
            pass

    await start(perpetual)
    await start(sink)
    await runtime.send("perpetual", Job(0))

    def doze():
        begun = time.monotonic()
        for _ in range(50):
            time.sleep(0.001)
        return time.monotonic() - begun

    runtime.sampler.listen(frames.append, 50)
    try:
        assert await in_thread(doze) < 3
        await eventually(lambda: len(frames) > 20, seconds=3)
    finally:
        stop = True
    await runtime.wait_idle()


async def test_two_kernels_that_ask_all_the_time_do_not_starve_the_loop(runtime, start, make, on_loop):
    asked = 0
    stop = False

    async def echo(ctx):
        async for job in ctx:
            await ctx.send(job)

    async def busy(ctx):
        nonlocal asked
        await ctx.receive()
        while not stop:
            await ctx.ask("echo", make(0))
            asked += 1

    await start(echo)
    await start(busy)
    await runtime.send("busy", make(0))

    async def loop_turns():
        for _ in range(20):
            before = asked
            await asyncio.sleep(0.001)
            assert asked > before

    await on_loop(loop_turns)
    stop = True
    await runtime.wait_idle()


async def test_a_slow_stage_holds_its_sender_back(runtime, start, make, settle, gate):
    go_on = gate()

    async def fast(ctx):
        async for job in ctx:
            await ctx.tell("slow", job)

    async def slow(ctx):
        async for _ in ctx:
            await go_on.wait()

    first = await start(fast, queue_size=2)
    second = await start(slow, queue_size=2)
    sending = asyncio.ensure_future(runtime.send_many("fast", [make(n) for n in range(20)]))
    await settle()
    assert not sending.done()
    # One in hand and two queued in each stage, the rest with its sender.
    assert first.queue_depth == second.queue_depth == 2
    assert first.statistics().processed + first.queue_depth + 1 < 20
    go_on.open()
    await sending
    await runtime.wait_idle()
    assert second.statistics().processed == 20


# -- a queue that ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_senders_in_line_learn_that_the_kernel_ended(runtime, start, make, strategy, settle):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker, queue_size=1, backpressure=strategy)
    await kernel.deactivate()
    senders = [asyncio.ensure_future(runtime.send("worker", make(n))) for n in range(5)]
    await settle()
    await kernel.terminate()
    outcomes = await asyncio.gather(*senders, return_exceptions=True)
    expected = {"block": KernelStateError, "reject": QueueFullError}.get(strategy)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [expected] * (4 if expected else 0)
    assert kernel.state is KernelState.TERMINATED
    statistics = kernel.statistics()
    assert statistics.received == (1 if strategy == "drop_newest" else outcomes.count(None))
    assert statistics.processed == 1
    assert statistics.dropped == statistics.dead_letters == (4 if strategy.startswith("drop") else 0)
