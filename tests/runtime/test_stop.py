"""Stop is prompt and loses nothing silently."""

import asyncio
import logging
import time

import pytest

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.exceptions import KernelStateError, KernelStopped, QueueTimeoutError
from pydotcompute.runtime import KernelState

PROMPT = 0.5
"""Seconds. It should be well under 0.1; a machine that tests many things at once gets some more."""


async def receive_loop(ctx, seen, log):
    try:
        while not ctx.should_terminate:
            seen.append(await ctx.receive())
        log.append("after the loop")
    finally:
        log.append("finally")


async def receive_with_timeout(ctx, seen, log):
    try:
        while not ctx.should_terminate:
            try:
                seen.append(await ctx.receive(timeout=60))
            except TimeoutError:
                log.append("timeout")
        log.append("after the loop")
    finally:
        log.append("finally")


async def for_loop(ctx, seen, log):
    try:
        async for message in ctx:
            seen.append(message)
        log.append("after the loop")
    finally:
        log.append("finally")


async def swallow_exceptions(ctx, seen, log):
    try:
        while True:
            try:
                seen.append(await ctx.receive())
            except Exception:  # as people write it
                continue
    finally:
        log.append("finally")


async def receive_inside_a_timeout(ctx, seen, log):
    try:
        while not ctx.should_terminate:
            async with asyncio.timeout(60):
                seen.append(await ctx.receive())
        log.append("after the loop")
    finally:
        log.append("finally")


async def receive_by_wait_for(ctx, seen, log):
    try:
        while not ctx.should_terminate:
            seen.append(await asyncio.wait_for(ctx.receive(), 60))
        log.append("after the loop")
    finally:
        log.append("finally")


IDLE_LOGS = {
    receive_loop: ["finally"],
    receive_with_timeout: ["timeout", "after the loop", "finally"],
    for_loop: ["after the loop", "finally"],
    swallow_exceptions: ["finally"],
    receive_inside_a_timeout: ["finally"],
    receive_by_wait_for: ["finally"],
}
DRAINED_LOGS = {
    receive_loop: ["after the loop", "finally"],
    receive_with_timeout: ["after the loop", "finally"],
    for_loop: ["after the loop", "finally"],
    swallow_exceptions: ["finally"],
    receive_inside_a_timeout: ["after the loop", "finally"],
    receive_by_wait_for: ["after the loop", "finally"],
}


@pytest.fixture(params=list(IDLE_LOGS), ids=lambda body: body.__name__)
def style(request):
    """A body in each of the ways that people write one; bind what it writes to with `worker`."""
    return request.param


@pytest.fixture
def seen():
    return []


@pytest.fixture
def log():
    return []


@pytest.fixture
def worker(style, seen, log):
    async def worker(ctx):
        await style(ctx, seen, log)

    return worker


# -- idle ----------------------------------------------------------------------------------------------------------


async def test_an_idle_body_ends_at_once_and_its_last_words_are_heard(runtime, start, worker, style, log):
    kernel = await start(worker)
    await runtime.wait_idle()
    await runtime.send("worker", 1)
    await runtime.wait_idle()
    begun = time.monotonic()
    await runtime.terminate("worker", timeout=60)
    assert time.monotonic() - begun < PROMPT
    assert kernel.state is KernelState.TERMINATED
    assert log == IDLE_LOGS[style]
    assert len(runtime.dead_letters) == 0


async def test_a_kernel_that_has_not_begun_yet_ends_too(runtime, start, worker, log, on_loop):
    async def start_and_stop():
        kernel = await start(worker)
        await kernel.terminate(timeout=60)
        return kernel

    kernel = await on_loop(start_and_stop)
    assert kernel.state is KernelState.TERMINATED
    assert log[-1] == "finally"


async def test_a_hundred_idle_kernels_end_in_well_under_a_second(runtime, worker):
    definition = ring_kernel(worker)
    names = [f"worker {i}" for i in range(100)]
    for name in names:
        await (await runtime.launch(definition, kernel_id=name)).activate()
    await runtime.wait_idle()
    begun = time.monotonic()
    for name in names[:50]:
        await runtime.terminate(name)
    await asyncio.gather(*(runtime.terminate(name) for name in names[50:]))
    assert time.monotonic() - begun < 1
    assert {kernel.state for kernel in runtime.kernels.values()} == {KernelState.TERMINATED}


async def test_receive_with_a_timeout_raises_it_early_when_the_kernel_stops(runtime, start):
    caught = []

    async def worker(ctx):
        try:
            await ctx.receive(timeout=3600)
        except QueueTimeoutError as error:
            caught.append((str(error), ctx.should_terminate))

    await start(worker)
    await runtime.wait_idle()
    await runtime.terminate("worker")
    ((text, should_terminate),) = caught
    assert "should_terminate" in text
    assert should_terminate


async def test_receive_raises_kernel_stopped_which_is_a_cancelled_error(runtime, start):
    caught = []

    async def worker(ctx):
        try:
            await ctx.receive()
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    await start(worker)
    await runtime.wait_idle()
    await runtime.terminate("worker")
    assert [type(error) for error in caught] == [KernelStopped]
    assert not issubclass(KernelStopped, Exception)
    assert "'worker'" in str(caught[0])


async def test_should_terminate_is_false_until_termination_is_asked_and_the_queue_is_empty(runtime, start, gate):
    told, begun, go_on = [], gate(), gate()

    async def worker(ctx):
        while not ctx.should_terminate:
            number = await ctx.receive()
            begun.open()
            await go_on.wait()
            told.append((number, ctx.should_terminate))

    await start(worker)
    await runtime.send_many("worker", [1, 2, 3])
    await begun.wait()
    ending = asyncio.ensure_future(runtime.terminate("worker"))
    while runtime["worker"].state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    go_on.open()
    await ending
    assert told == [(1, False), (2, False), (3, True)]


# -- what is queued ------------------------------------------------------------------------------------------------


async def test_it_drains_what_is_queued_before_it_ends(runtime, start, worker, style, seen, log):
    await start(worker)
    await runtime.deactivate("worker")  # it resumes for the end
    await runtime.send_many("worker", range(20))
    await runtime.terminate("worker")
    assert seen == list(range(20))
    assert log == DRAINED_LOGS[style]
    assert len(runtime.dead_letters) == 0
    assert runtime.statistics()["worker"].processed == 20


async def test_without_drain_what_is_queued_becomes_dead_letters(runtime, start, worker, seen, settle):
    kernel = await start(worker)
    await runtime.deactivate("worker")
    await runtime.send_many("worker", range(20))
    asked = asyncio.ensure_future(runtime.ask("worker", "asked"))
    await settle()
    await runtime.terminate("worker", drain=False)
    assert seen == []
    assert [letter.message for letter in runtime.dead_letters] == [*range(20), "asked"]
    assert {letter.kernel_id for letter in runtime.dead_letters} == {"worker"}
    assert all("without draining" in letter.reason for letter in runtime.dead_letters)
    with pytest.raises(KernelStateError, match="'worker' is TERMINAT"):
        await asked
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.dead_letters) == (21, 0, 21)


async def test_intake_stops_at_once_also_for_those_that_wait_in_line(runtime, start, gate):
    begun, go_on, seen = gate(), gate(), []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)
            begun.open()
            await go_on.wait()

    await start(worker, queue_size=1)
    await runtime.send("worker", 1)
    await begun.wait()
    await runtime.send("worker", 2)
    in_line = asyncio.ensure_future(runtime.send("worker", 3))
    asker_in_line = asyncio.ensure_future(runtime.ask("worker", 4))
    while runtime["worker"]._box.blocked < 2:
        await asyncio.sleep(0)
    ending = asyncio.ensure_future(runtime.terminate("worker"))
    for late in (in_line, asker_in_line):
        with pytest.raises(KernelStateError, match="'worker' is TERMINATING"):
            await late
    for call in (runtime.send, runtime.ask):
        with pytest.raises(KernelStateError, match="takes no more messages"):
            await call("worker", 5)
    with pytest.raises(KernelStateError, match="takes no more messages"):
        await runtime.send_many("worker", [5])
    go_on.open()
    await ending
    assert seen == [1, 2]
    assert len(runtime.dead_letters) == 0


async def test_at_the_timeout_the_body_is_cancelled_and_the_rest_are_dead_letters(runtime, start, gate):
    begun, log = gate(), []

    async def worker(ctx):
        try:
            async for _ in ctx:
                begun.open()
                await asyncio.get_running_loop().create_future()
        finally:
            log.append("finally")

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2, 3])
    await begun.wait()
    await runtime.terminate("worker", timeout=0.01)
    assert log == ["finally"]
    assert kernel.state is KernelState.TERMINATED
    assert kernel.exception is None
    reasons = {letter.message: letter.reason for letter in runtime.dead_letters}
    assert sorted(reasons) == [1, 2, 3]
    assert "cancelled" in reasons[1]
    assert "not handled" in reasons[2]
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.dead_letters) == (3, 0, 3)


async def test_a_longer_timeout_lets_it_finish(runtime, start, gate):
    begun, go_on, seen = gate(), gate(), []

    async def worker(ctx):
        async for number in ctx:
            begun.open()
            await go_on.wait()
            seen.append(number)

    await start(worker)
    await runtime.send("worker", 1)
    await begun.wait()
    ending = asyncio.ensure_future(runtime.terminate("worker", timeout=60))
    while runtime["worker"].state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    go_on.open()
    await ending
    assert seen == [1]


async def test_a_timeout_of_zero_still_ends_an_idle_body_as_it_should(runtime, start, worker, style, log, settle):
    await start(worker)
    await settle()
    await runtime.terminate("worker", timeout=0)
    assert log == IDLE_LOGS[style]


async def test_a_body_that_never_looks_at_its_mailbox_is_cancelled(runtime, start):
    async def worker(ctx):
        await asyncio.sleep(3600)

    kernel = await start(worker)
    await runtime.send("worker", 1)
    await runtime.terminate("worker", timeout=0.01)
    assert kernel.state is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1]


async def test_a_body_that_ignores_should_terminate_is_cancelled_and_does_not_burn_the_loop(runtime, start, clock):
    stops = []

    async def worker(ctx):
        while True:
            try:
                await ctx.receive(timeout=60)
            except TimeoutError:
                stops.append(ctx.should_terminate)

    kernel = await start(worker)
    await runtime.wait_idle()
    await runtime.terminate("worker", timeout=0.2)
    assert kernel.state is KernelState.TERMINATED
    assert 1 <= len(stops) < 50
    assert all(stops)


# -- bodies that will not end --------------------------------------------------------------------------------------


@pytest.fixture
async def released(runtime, on_loop, eventually):
    """A list: what is in it lets stubborn bodies go; at the end of the test they do."""
    released, tasks = [], []

    async def note_tasks():
        tasks.extend(asyncio.all_tasks() - {asyncio.current_task()})

    released_by_test = released
    yield released_by_test, lambda: on_loop(note_tasks)
    released.append(True)
    stubborn = [task for task in tasks if not task.done() and task.get_name().startswith("stubborn")]

    async def poke():
        for task in stubborn:
            task.cancel()
        await asyncio.gather(*stubborn, return_exceptions=True)

    await on_loop(poke)


async def test_a_body_that_swallows_everything_is_given_up_without_harm_to_others(
    runtime, start, released, caplog, settle, clock
):
    released, note_tasks = released
    swallowed = []

    async def stubborn(ctx):
        while not released:
            try:
                await ctx.receive()
            except BaseException as error:
                swallowed.append(error)

    async def other(ctx):
        async for number in ctx:
            await ctx.send(number + 1)

    kernel = await start(stubborn)
    await start(other)
    await runtime.wait_idle()
    await note_tasks()
    ending = asyncio.ensure_future(runtime.terminate("stubborn", timeout=0.1))
    while not ending.done():
        assert await runtime.ask("other", 1, timeout=5) == 2
        await asyncio.sleep(0.01)
    await ending
    assert kernel.state is KernelState.TERMINATED
    assert isinstance(swallowed[0], KernelStopped)
    await settle()
    count = len(swallowed)
    assert count < 200
    await asyncio.sleep(3600)  # it would go on in this time
    assert len(swallowed) <= count + 1
    assert await runtime.ask("other", 2) == 3
    assert "'stubborn'" in caplog.text
    assert "CancelledError" in caplog.text
    again = await runtime.launch("other", kernel_id="stubborn")
    await again.activate()
    assert await again.ask(3) == 4


async def test_a_body_that_swallows_its_cancellation_elsewhere_is_given_up_with_what_it_has(
    runtime, start, released, gate, clock
):
    released, note_tasks = released
    begun, unread = gate(), []

    async def stubborn(ctx):
        message = await ctx.receive()
        begun.open()
        while not released:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                try:
                    await ctx.send(message)
                except KernelStateError as error:
                    unread.append(error)

    kernel = await start(stubborn)
    asked = asyncio.ensure_future(runtime.ask("stubborn", 1))
    await begun.wait()
    await runtime.send("stubborn", 2)
    await note_tasks()
    await runtime.terminate("stubborn", timeout=0.01)
    assert kernel.state is KernelState.TERMINATED
    # The first cancellation made it answer, so the ask is content; the message in hand was never finished.
    assert await asked == 1
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]
    assert "given up" in runtime.dead_letters[0].reason


# -- who may ask for it, and when ----------------------------------------------------------------------------------


async def test_a_kernel_that_was_only_launched_ends_and_buries_what_it_got(runtime, start, settle):
    async def worker(ctx):
        raise AssertionError("it was never activated")

    kernel = await start(worker, activate=False)
    await runtime.send("worker", 1)
    asked = asyncio.ensure_future(runtime.ask("worker", 2))
    receiving = asyncio.ensure_future(runtime.receive("worker"))
    await settle()
    await runtime.terminate("worker")
    assert kernel.state is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]
    assert all("before the kernel was activated" in letter.reason for letter in runtime.dead_letters)
    for waiting in (asked, receiving):
        with pytest.raises(KernelStateError):
            await waiting


async def test_a_second_terminate_says_that_it_has_ended(runtime, start, worker):
    await start(worker)
    await runtime.terminate("worker")
    with pytest.raises(KernelStateError, match="cannot terminate 'worker': it is TERMINATED; possible now: launch"):
        await runtime.terminate("worker")


async def test_a_second_terminate_while_the_first_is_at_work_says_so(runtime, start, gate):
    begun, go_on = gate(), gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await go_on.wait()

    await start(worker)
    await runtime.send("worker", 1)
    await begun.wait()
    first = asyncio.ensure_future(runtime.terminate("worker"))
    while runtime["worker"].state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    with pytest.raises(KernelStateError, match=r"it is TERMINATING.*wait until it has ended"):
        await runtime.terminate("worker")
    go_on.open()
    await first


async def test_a_body_cannot_wait_for_its_own_end(runtime, start):
    refused = []

    async def worker(ctx):
        async for _ in ctx:
            try:
                await runtime.terminate("worker")
            except KernelStateError as error:
                refused.append(str(error))
            await ctx.send(ctx.is_active)

    kernel = await start(worker)
    assert await runtime.ask("worker", 1) is True
    assert "return from the body" in refused[0]
    assert kernel.state is KernelState.ACTIVE


async def test_a_body_may_end_another_kernel(runtime, start):
    async def victim(ctx):
        async for _ in ctx:
            pass

    async def boss(ctx):
        async for name in ctx:
            await runtime.terminate(name)
            await ctx.send("done")

    kernel = await start(victim)
    await start(boss)
    assert await runtime.ask("boss", "victim") == "done"
    assert kernel.state is KernelState.TERMINATED


@pytest.mark.parametrize("after", [0, 1])
async def test_giving_up_the_wait_for_an_end_does_not_call_the_end_off(runtime, start, gate, after, clock):
    """The time limit holds although nobody waits any more: a cell that is interrupted leaves no kernel half stopped."""
    begun = gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await asyncio.get_running_loop().create_future()

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2])
    await begun.wait()
    ending = asyncio.ensure_future(runtime.terminate("worker", timeout=60))
    while kernel.state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    for _ in range(after):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert await runtime.wait_ended("worker", timeout=61) is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]


async def test_replies_can_be_taken_after_the_end(runtime, start):
    async def worker(ctx):
        async for number in ctx:
            await ctx.send(number)

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2])
    await kernel.terminate()
    assert await runtime.receive("worker") == 1
    assert await runtime.receive("worker", timeout=1) == 2
    with pytest.raises(KernelStateError, match=r"TERMINATED.*no more replies"):
        await runtime.receive("worker")


async def test_a_body_that_waits_for_room_in_its_outbox_is_cancelled_and_the_reply_is_a_dead_letter(
    runtime, start, eventually
):
    async def worker(ctx):
        async for number in ctx:
            await ctx.send(number * 10)

    kernel = await start(worker, queue_size=1)
    await runtime.send_many("worker", [1, 2])
    await eventually(lambda: kernel.waiting_for)
    await kernel.terminate(timeout=0.01)
    assert {letter.message for letter in runtime.dead_letters} == {2, 20}
    assert await runtime.receive("worker") == 10


async def test_an_end_while_a_body_asks_another_kernel(runtime, start, gate):
    asked = gate()

    async def silent(ctx):
        async for _ in ctx:
            asked.open()

    async def worker(ctx):
        async for _ in ctx:
            await ctx.ask("silent", "?")

    await start(silent)
    kernel = await start(worker)
    await runtime.send("worker", 1)
    await asked.wait()
    await kernel.terminate(timeout=0.01)
    assert kernel.state is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1]
    assert runtime["silent"].state is KernelState.ACTIVE


# -- close ---------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_drains_a_pipeline(loop_mode):
    seen = []

    def stage(after):
        async def body(ctx):
            async for number in ctx:
                await asyncio.sleep(0)
                if after:
                    await ctx.tell(after, number + 1)
                else:
                    seen.append(number)

        return body

    async with RingKernelRuntime(loop_mode) as runtime:
        for name, after in (("first", "second"), ("second", "third"), ("third", None)):
            definition = ring_kernel(kernel_id=name, queue_size=3)(stage(after))
            await (await runtime.launch(definition)).activate()
        await runtime.send_many("first", range(0, 1000, 10))
    assert seen == list(range(2, 1000, 10))
    assert runtime.dead_letters.total == 0


async def test_a_block_left_by_an_error_does_not_drain(loop_mode):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    runtime = RingKernelRuntime(loop_mode)

    async def fail_inside():
        async with runtime:
            kernel = await runtime.launch(ring_kernel(worker))
            await kernel.activate()
            await kernel.deactivate()
            await runtime.send_many("worker", [1, 2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    assert seen == []
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]


@pytest.mark.parametrize("drain", [True, False])
async def test_close_resumes_paused_kernels_to_drain_them(runtime, start, drain):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    await start(worker)
    await runtime.deactivate("worker")
    await runtime.send_many("worker", [1, 2])
    await runtime.close(drain=drain)
    assert seen == ([1, 2] if drain else [])
    assert [letter.message for letter in runtime.dead_letters] == ([] if drain else [1, 2])


async def test_close_cancels_at_its_timeout(runtime, start, gate, clock):
    begun = gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await asyncio.get_running_loop().create_future()

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2])
    await begun.wait()
    await runtime.close(timeout=60)
    assert 60 <= clock.elapsed < 61
    assert kernel.state is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]


async def test_unread_replies_at_close_are_dead_letters_and_hold_nobody_up(runtime, start):
    async def worker(ctx):
        async for number in ctx:
            await ctx.send(number * 10)

    await start(worker, queue_size=2)
    await runtime.send_many("worker", [1, 2, 3, 4])
    begin = time.monotonic()
    await runtime.close(timeout=60)
    assert time.monotonic() - begin < PROMPT
    assert [letter.message for letter in runtime.dead_letters] == [10, 20, 30, 40]
    assert all("unread when the runtime closed" in letter.reason for letter in runtime.dead_letters)


async def test_close_does_not_wait_for_a_kernel_that_was_never_activated(runtime, start):
    async def worker(ctx): ...

    await start(worker, activate=False)
    await runtime.send("worker", 1)
    begin = time.monotonic()
    await runtime.close(timeout=60)
    assert time.monotonic() - begin < PROMPT
    assert [letter.message for letter in runtime.dead_letters] == [1]


async def test_close_waits_for_kernels_that_are_ending_already(runtime, start, gate):
    begun, go_on, seen = gate(), gate(), []

    async def worker(ctx):
        async for number in ctx:
            begun.open()
            await go_on.wait()
            seen.append(number)

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2, 3])
    await begun.wait()
    ending = asyncio.ensure_future(kernel.terminate(timeout=60))
    while kernel.state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(runtime.close(timeout=60))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    go_on.open()
    await closing
    assert seen == [1, 2, 3]
    assert kernel.state is KernelState.TERMINATED
    await ending


async def test_the_timeout_of_close_holds_for_kernels_that_are_ending_already(runtime, start, gate, clock):
    begun = gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await asyncio.get_running_loop().create_future()

    kernel = await start(worker)
    await runtime.send("worker", 1)
    await begun.wait()
    ending = asyncio.ensure_future(kernel.terminate(timeout=3600))
    while kernel.state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    await runtime.close(timeout=60)
    assert 60 <= clock.elapsed < 62
    assert kernel.state is KernelState.TERMINATED
    assert [letter.message for letter in runtime.dead_letters] == [1]
    await ending


async def test_close_by_two_at_once_ends_for_both_when_all_has_ended(runtime, start, gate):
    begun, go_on, seen = gate(), gate(), []

    async def worker(ctx):
        async for number in ctx:
            begun.open()
            await go_on.wait()
            seen.append(number)

    await start(worker)
    await runtime.send_many("worker", [1, 2])
    await begun.wait()
    closers = [asyncio.ensure_future(runtime.close()) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(closer.done() for closer in closers)
    go_on.open()
    await asyncio.gather(*closers)
    assert seen == [1, 2]
    await runtime.close()


async def test_a_kernel_that_fails_as_the_runtime_closes_does_not_stop_that(runtime, start, gate, on_loop):
    go_on = gate()

    async def worker(ctx):
        await go_on.wait()
        raise ZeroDivisionError

    async def other(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    await start(other)

    async def fail_now():
        go_on.open()
        for _ in range(2):  # its task is done, but nobody has been told
            await asyncio.sleep(0)

    for turns in range(4):
        name = f"worker {turns}"
        await (await runtime.launch("worker", kernel_id=name)).activate()
    await on_loop(fail_now)
    await runtime.close(drain=False)
    assert kernel.state is KernelState.FAILED
    assert runtime["other"].state is KernelState.TERMINATED
    assert runtime.closed


@pytest.mark.parametrize("turns", range(5))
async def test_close_at_any_moment_of_a_failure(turns):
    """Turn by turn of one loop: there is no moment at which a kernel is neither running nor ended."""
    runtime = RingKernelRuntime("current")
    go_on = asyncio.Event()

    async def worker(ctx):
        await go_on.wait()
        raise ZeroDivisionError

    kernel = await runtime.launch(ring_kernel(worker))
    await kernel.activate()
    await asyncio.sleep(0)
    go_on.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await runtime.close(drain=False)
    assert kernel.state.over


async def test_a_body_cannot_close_the_runtime_it_runs_on(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            try:
                await runtime.close()
            except KernelStateError as error:
                await ctx.send(str(error))

    await start(worker)
    assert "'worker' cannot close the runtime" in await runtime.ask("worker", 1)
    assert await runtime.ask("worker", 2)


async def test_what_is_launched_while_the_runtime_closes_is_refused_or_ended(runtime, start):
    outcome = []

    async def late(ctx):
        async for _ in ctx:
            pass

    definition = ring_kernel(late)

    async def worker(ctx):
        try:
            async for _ in ctx:
                pass
        finally:
            try:
                kernel = await runtime.launch(definition)
                await kernel.activate()
                outcome.append(kernel)
            except Exception as error:
                outcome.append(error)

    await start(worker)
    await runtime.wait_idle()
    await runtime.close()
    (what,) = outcome
    assert isinstance(what, Exception) or what.state.over


async def test_close_logs_nothing(runtime, start, worker, caplog):
    await start(worker)
    await runtime.send_many("worker", [1, 2])
    await runtime.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
