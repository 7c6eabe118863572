"""What users test with: a clock that jumps, settling, peers, probes, and chaos."""

import asyncio
import threading
import time
from contextlib import suppress

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import (
    DefinitionError,
    KernelFailedError,
    KernelKilledError,
    LoopError,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.runtime.supervision import Backoff
from pydotcompute.testing import Chaos, FakeClock, Peer, Probe, after, settle

HOUR = 3600.0


@message
class Ping:
    n: int


@message
class Louder(Ping):
    volume: int = 0


@message
class Pong:
    n: int


async def silent(ctx):
    async for _ in ctx:
        pass


async def ticking(ctx):
    """Counts the minutes in which nothing comes."""
    ctx.state.ticks = 0
    while not ctx.should_terminate:
        try:
            await ctx.receive(timeout=60.0)
        except QueueTimeoutError:
            ctx.state.ticks += 1


async def slow(ctx):
    """Echoes, an hour later."""
    async for ping in ctx:
        await asyncio.sleep(HOUR)
        await ctx.send(Pong(ping.n))


@pytest.fixture
def quickly():
    """The test takes no time, whatever its clock says."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 10


# -- the clock ---------------------------------------------------------------------------------------------------------


async def test_hours_pass_in_an_instant(runtime, start, quickly):
    await start(silent)
    await start(slow)
    with FakeClock(runtime) as clock:
        await asyncio.sleep(HOUR)
        assert clock.elapsed == HOUR
        with pytest.raises(QueueTimeoutError, match=r"within 3600 s; it is ACTIVE"):
            await runtime.receive("silent", timeout=HOUR)
        assert clock.elapsed == 2 * HOUR
        with pytest.raises(QueueTimeoutError):
            await runtime.ask("silent", Ping(1), timeout=HOUR)
        assert clock.elapsed == 3 * HOUR
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR):
                await asyncio.Event().wait()
        assert clock.elapsed == 4 * HOUR
        assert await runtime.ask("slow", Ping(3), timeout=HOUR + 1) == Pong(3)
        assert clock.elapsed == 5 * HOUR
        await runtime.send("slow", Ping(1))
        with pytest.raises(QueueTimeoutError, match="still busy after 3599"):
            await runtime.wait_idle("slow", timeout=HOUR - 1)
        with pytest.raises(QueueTimeoutError, match="has not ended"):
            await runtime.wait_ended("slow", timeout=HOUR)


async def test_whole_seconds_stay_whole_however_long_the_machine_has_been_on():
    for _ in range(100):
        with FakeClock() as clock:
            for _ in range(5):
                await asyncio.sleep(HOUR)
            assert clock.elapsed == 5 * HOUR


async def test_timers_of_the_loop_come_in_order_and_at_their_times(quickly):
    loop, came = asyncio.get_running_loop(), []
    begun = loop.time()

    def note(name):
        came.append((name, round(loop.time() - begun)))

    with FakeClock() as clock:
        loop.call_later(7200, note, "b")
        loop.call_later(3600, note, "a")
        loop.call_at(loop.time() + 9000, note, "c")
        loop.call_later(5000, note, "never").cancel()
        await asyncio.sleep(10_000)
        assert clock.elapsed == 10_000
    assert came == [("a", 3600), ("b", 7200), ("c", 9000)]


async def test_timers_from_before_go_by_it_too(runtime, start, quickly):
    await start(silent)
    waiting = asyncio.ensure_future(runtime.receive("silent", timeout=HOUR))
    await settle(runtime)
    with FakeClock(runtime) as clock, pytest.raises(QueueTimeoutError):
        await waiting
    assert HOUR - 60 < clock.elapsed <= HOUR


async def test_the_time_of_two_loops_is_one(runtime, start, quickly):
    await start(slow)
    order = []

    async def after_half_an_hour():
        await asyncio.sleep(HOUR / 2)
        order.append("half an hour")

    async def ask():
        await runtime.ask("slow", Ping(1))
        order.append("an hour")

    async def after_two():
        await asyncio.sleep(2 * HOUR)
        order.append("two hours")

    with FakeClock(runtime) as clock:
        await asyncio.gather(after_two(), ask(), after_half_an_hour())
        assert clock.elapsed == 2 * HOUR
    assert order == ["half an hour", "an hour", "two hours"]


async def test_without_autojump_time_moves_by_hand_from_timer_to_timer(runtime, start, quickly):
    kernel = await start(ticking)
    await settle(runtime)
    with FakeClock(runtime, autojump=False) as clock:
        await settle(runtime)
        assert clock.elapsed == 0
        assert kernel.user_state.ticks == 0
        await clock.advance(6000)
        assert clock.elapsed == 6000
        assert kernel.user_state.ticks == 100
        await clock.advance(0)
        await clock.advance(0.25)
        assert clock.elapsed == 6000.25
        assert kernel.user_state.ticks == 100


async def test_advance_returns_when_all_that_was_due_is_done(runtime, start):
    await start(slow)
    with FakeClock(runtime, autojump=False) as clock:
        reply = asyncio.ensure_future(runtime.ask("slow", Ping(1)))
        await clock.advance(HOUR - 1)
        assert not reply.done()
        await clock.advance(1)
        assert reply.done()


async def test_advance_with_autojump_stops_there_too(runtime, start, quickly):
    await start(slow)
    with FakeClock(runtime) as clock:
        reply = asyncio.ensure_future(runtime.ask("slow", Ping(1)))
        await clock.advance(10)
        assert clock.elapsed == 10
        assert not reply.done()
        await reply
        assert clock.elapsed == HOUR


@pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), (float("inf"), ValueError), ("1", TypeError)])
async def test_time_goes_on_by_seconds(seconds, error):
    with FakeClock() as clock, pytest.raises(error, match="seconds must be"):
        await clock.advance(seconds)


async def test_a_clock_that_does_not_run_cannot_be_advanced():
    clock = FakeClock()
    with pytest.raises(LoopError, match="with FakeClock"):
        await clock.advance(1)
    with clock:
        await clock.advance(1)
    assert clock.elapsed == 1
    with pytest.raises(LoopError, match="with FakeClock"):
        await clock.advance(1)
    with clock:
        assert clock.elapsed == 0


async def test_whoever_waits_for_it_when_it_ends_is_told():
    with FakeClock(autojump=False) as clock:
        waiting = asyncio.ensure_future(clock.advance(5))
        keeps_busy = asyncio.ensure_future(asyncio.to_thread(time.sleep, 0.05))
        await asyncio.sleep(0)
    with pytest.raises(LoopError, match="come to its end"):
        await waiting
    await keeps_busy


async def test_the_loop_is_as_it_was_afterwards(runtime, on_loop):
    async def attributes():
        loop = asyncio.get_running_loop()
        return dict(vars(loop)).keys(), dict(vars(loop._selector)).keys(), abs(loop.time() - time.monotonic()) < 5

    before = await on_loop(attributes)
    with FakeClock(runtime):
        await asyncio.sleep(HOUR)
        assert (await on_loop(attributes)) != before
    assert await on_loop(attributes) == before
    with suppress(ZeroDivisionError), FakeClock(runtime):
        await asyncio.sleep(HOUR)
        raise ZeroDivisionError
    assert await on_loop(attributes) == before
    await settle(runtime)
    assert await on_loop(attributes) == before


async def test_what_others_have_put_there_is_put_back():
    loop = asyncio.get_running_loop()
    theirs = loop.time = lambda: time.monotonic()
    with FakeClock():
        assert loop.time is not theirs
    assert vars(loop)["time"] is theirs
    del loop.time


async def test_a_second_clock_on_the_same_loop_is_refused_and_the_first_goes_on(runtime):
    with FakeClock(runtime) as clock:
        with pytest.raises(LoopError, match="rules the time of this event loop already"), FakeClock(runtime):
            pass
        with pytest.raises(LoopError), FakeClock():
            pass
        await asyncio.sleep(HOUR)
        assert clock.elapsed == HOUR
    with FakeClock(runtime) as clock:
        await asyncio.sleep(5)
        assert clock.elapsed == 5


async def test_what_waits_at_its_end_keeps_the_time_that_it_had_left(runtime, start):
    loop = asyncio.get_running_loop()
    await start(silent)
    with FakeClock(runtime, autojump=False) as clock:
        await clock.advance(HOUR)
        handle = loop.call_later(60, print)
        waiting = asyncio.ensure_future(runtime.receive("silent", timeout=0.01))
        await settle(runtime)
    assert 50 < handle.when() - time.monotonic() <= 60
    handle.cancel()
    with pytest.raises(QueueTimeoutError):
        await waiting


async def test_restarts_age_with_the_clock_that_they_were_counted_by(runtime, quickly):
    with FakeClock(runtime) as clock:
        peer = await Peer.launch(
            runtime, replies=[ZeroDivisionError(), ZeroDivisionError()], restart="on_failure", max_restarts=1, window=60
        )
        await clock.advance(HOUR)
        await runtime.send("peer", Ping(1))
        await settle(runtime)
        assert peer.kernel.restarts == 1
    with FakeClock(runtime) as clock:
        await clock.advance(61)
        await runtime.send("peer", Ping(2))
        await settle(runtime)
        assert peer.kernel.restarts == 2
        assert peer.kernel.state == "ACTIVE"


async def test_back_off_passes_at_once(runtime, quickly):
    with FakeClock(runtime) as clock:
        hours = Backoff(HOUR, limit=10 * HOUR, jitter=0)
        script = [OSError("it fails"), OSError("again"), OSError("and again"), Pong(1)]
        peer = await Peer.launch(
            runtime, replies=script, restart="on_failure", max_retries=5, window=10 * HOUR, backoff=hours
        )
        assert await runtime.ask("peer", Ping(1)) == Pong(1)
        assert peer.kernel.restarts == 3
        assert clock.elapsed == HOUR + 2 * HOUR
        assert peer.messages == [Ping(1)] * 4


class Foreign(asyncio.AbstractEventLoop):
    """A loop that shows nothing of itself, as uvloop's."""


def test_a_loop_of_another_kind_is_refused():
    asyncio._set_running_loop(Foreign())
    try:
        with pytest.raises(
            LoopError, match=r"Foreign does not show when its tasks wait: run the test on an event loop"
        ):
            FakeClock().__enter__()
    finally:
        asyncio._set_running_loop(None)


def test_outside_of_coroutines_it_needs_a_runtime_with_a_loop():
    with pytest.raises(LoopError, match="inside a coroutine, or give it a runtime"), FakeClock():
        pass
    with pytest.raises(LoopError, match="no event loop yet"), FakeClock(RingKernelRuntime("current")):
        pass


@pytest.mark.parametrize(("patience", "error"), [(-1, ValueError), (float("nan"), ValueError), (None, TypeError)])
def test_patience_is_a_number_of_seconds(patience, error):
    with pytest.raises(error, match="patience must be"):
        FakeClock(patience=patience)


# -- the clock and other threads ---------------------------------------------------------------------------------------


async def test_work_in_threads_is_not_overtaken(runtime):
    loop = asyncio.get_running_loop()
    before = asyncio.ensure_future(asyncio.to_thread(time.sleep, 0.03))
    await asyncio.sleep(0)
    with FakeClock(runtime) as clock:
        async with asyncio.timeout(0.001):
            await before
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(time.sleep, 0.03)
        await asyncio.wait_for(loop.run_in_executor(None, time.sleep, 0.03), 0.001)
        unawaited = loop.run_in_executor(None, time.sleep, 0.03)
        await asyncio.sleep(HOUR)
        assert unawaited.done()
        assert clock.elapsed == HOUR


async def test_a_body_that_works_in_a_thread_is_not_overtaken(runtime, start):
    async def busy(ctx):
        async for ping in ctx:
            await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.02) for _ in range(3)))
            await ctx.send(Pong(ping.n))

    await start(busy)
    with FakeClock(runtime) as clock:
        assert await runtime.ask("busy", Ping(1), timeout=0.001) == Pong(1)
        assert clock.elapsed == 0


async def test_threads_that_wait_for_the_runtime_do_not_hold_it_up(runtime, start, in_thread, quickly):
    await start(silent)
    await start(slow)
    with FakeClock(runtime) as clock:
        with pytest.raises(QueueTimeoutError):
            await in_thread(runtime.sync.receive, "silent", HOUR)
        assert await in_thread(runtime.sync.ask, "slow", Ping(2)) == Pong(2)
        assert clock.elapsed == 2 * HOUR


@pytest.mark.may_block
async def test_a_test_that_blocks_its_own_loop_does_not_hold_it_up(quickly):
    async with RingKernelRuntime("thread") as runtime:
        await Peer.launch(runtime, replies=[after(HOUR, Pong(1))])
        with FakeClock(runtime) as clock:
            assert runtime.sync.ask("peer", Ping(1)) == Pong(1)
            assert clock.elapsed == HOUR


@pytest.mark.parametrize("patience", [0.0, 10.0])
async def test_patience_leaves_time_to_threads_that_the_clock_does_not_know(patience, quickly):
    loop, come = asyncio.get_running_loop(), asyncio.Event()
    with FakeClock(patience=patience):
        thread = threading.Timer(0.03, loop.call_soon_threadsafe, [come.set])
        thread.start()
        try:
            async with asyncio.timeout(0.001):
                await come.wait()
        except TimeoutError:
            assert not patience
        else:
            assert patience
        await come.wait()
        thread.join()


def test_in_a_synchronous_test_time_passes_only_while_that_waits():
    runtime = RingKernelRuntime("thread")
    try:
        runtime.sync.launch(ring_kernel("ticking", state=None)(ticking))
        runtime.sync.activate("ticking")
        with FakeClock(runtime) as clock:
            time.sleep(0.02)  # the work of the test
            assert clock.elapsed == 0
            with pytest.raises(QueueTimeoutError):
                runtime.sync.receive("ticking", timeout=HOUR)
            assert clock.elapsed == HOUR
            time.sleep(0.02)
            assert clock.elapsed == HOUR
            ticks = runtime["ticking"].user_state.ticks
            runtime.sync.call(clock.advance, 600)
            assert runtime["ticking"].user_state.ticks - ticks == 10
            probe = runtime.sync.call(Probe.launch, runtime)
            runtime.sync.send("probe", Ping(1))
            assert runtime.sync.call(probe.expect, Ping) == Ping(1)
            runtime.sync.call(settle, runtime)
            runtime.sync.call(probe.expect_nothing, HOUR)
        assert clock.elapsed == 2 * HOUR + 600
    finally:
        runtime.sync.close()


@pytest.mark.parametrize("held_up", ["before", "after"])
def test_a_synchronous_test_that_is_held_up_on_its_way_to_the_loop_has_no_time_pass(held_up, monkeypatch):
    runtime = RingKernelRuntime("thread")
    try:
        runtime.sync.launch(ring_kernel("ticking", state=None)(ticking))
        runtime.sync.activate("ticking")
        with FakeClock(runtime) as clock:
            main, post = threading.get_ident(), runtime._loop.call_soon_threadsafe

            def slowly(*args):
                here = threading.get_ident() == main
                if here and held_up == "before":
                    time.sleep(0.02)
                handle = post(*args)
                if here and held_up == "after":
                    time.sleep(0.02)
                return handle

            monkeypatch.setattr(runtime._loop, "call_soon_threadsafe", slowly)
            runtime.sync.send("ticking", Ping(1))
            assert clock.elapsed == 0
            monkeypatch.undo()
    finally:
        runtime.sync.close()


async def test_a_runtime_that_is_closed_meanwhile_does_no_harm(loop_mode, quickly):
    runtime = RingKernelRuntime(loop_mode)
    with FakeClock(runtime) as clock:
        await runtime.launch(ring_kernel("slow")(slow))
        await runtime.activate("slow")
        await runtime.send("slow", Ping(1))
        await runtime.close(timeout=60)
        assert clock.elapsed >= 60
    assert abs(asyncio.get_running_loop().time() - time.monotonic()) < 5


def long_step():
    """A definition of a compiled ring kernel whose step takes some hundredths of a second."""

    @ring_kernel("long", queue_size=4, backend="cpu")
    def long(state: None, msg: Ping, out: Pong) -> bool:
        x = 0.0
        for i in range(20_000_000):
            x += i % 7
        out.n = msg.n + int(x < 0)
        return True

    return long


@pytest.mark.needs_numba
async def test_compiled_kernels_are_not_overtaken(runtime):
    await runtime.launch(long_step())
    await runtime.activate("long")
    with FakeClock(runtime) as clock:
        assert await runtime.ask("long", Ping(1), timeout=0.001) == Pong(1)
        await runtime.send("long", Ping(2))
        assert await runtime.receive("long", timeout=0.001) == Pong(2)
        await runtime.send("long", Ping(3))
        await settle(runtime)
        assert runtime.statistics().kernels["long"].processed == 3
        assert clock.elapsed < 0.001
        await runtime.receive("long")
        await runtime.send("long", Ping(3))
        await runtime.deactivate("long")
        await runtime.send("long", Ping(4))
        await asyncio.sleep(HOUR)  # what is paused does not hold it up
        assert clock.elapsed >= HOUR


@pytest.mark.needs_numba
async def test_a_compiled_kernel_without_room_for_its_replies_does_not_hold_time_up(runtime):
    @ring_kernel("quick", queue_size=4, backend="cpu")
    def quick(state: None, msg: Ping, out: Pong) -> bool:
        out.n = msg.n
        return True

    await runtime.launch(quick)
    await runtime.activate("quick")
    with FakeClock(runtime) as clock:
        for n in range(8):
            await runtime.send("quick", Ping(n))
        blocked = asyncio.ensure_future(runtime.send("quick", Ping(8)))
        await settle(runtime)
        assert not blocked.done()
        await asyncio.sleep(HOUR)
        assert clock.elapsed == HOUR
        assert [(await runtime.receive("quick", timeout=0.001)).n for _ in range(9)] == list(range(9))
        await blocked


# -- settling ----------------------------------------------------------------------------------------------------------


async def test_settled_means_that_all_have_done_what_they_can(runtime, start):
    async def pass_on(ctx):
        async for ping in ctx:
            await asyncio.sleep(0)
            await ctx.tell(f"stage {int(ctx.kernel_id.split()[1]) + 1}", ping)

    for n in range(30):
        await start(pass_on, f"stage {n}", queue_size=2)
    end = await Probe.launch(runtime, "stage 30")
    await runtime.send_many("stage 0", [Ping(n) for n in range(20)])
    await settle(runtime)
    assert end.messages == [Ping(n) for n in range(20)]


async def test_settled_goes_back_and_forth_between_two_loops(runtime, start):
    async def echo(ctx):
        async for ping in ctx:
            await ctx.send(ping)

    async def ask():
        for n in range(50):
            await runtime.ask("echo", Ping(n))

    await start(echo)
    asking = [asyncio.ensure_future(ask()) for _ in range(3)]
    await settle(runtime)
    assert all(one.done() for one in asking)


async def test_settled_is_not_idle(runtime, start, gate):
    opened = gate()

    async def held(ctx):
        async for _ in ctx:
            await opened.wait()

    await start(held, queue_size=1)
    paused = await start(silent)
    await paused.deactivate()
    await paused.send(Ping(1))
    sending = asyncio.ensure_future(runtime.send_many("held", [Ping(n) for n in range(5)]))
    sleeping = asyncio.ensure_future(asyncio.sleep(HOUR))
    await settle(runtime)
    assert not sending.done()
    assert paused.queue_depth == 1
    opened.open()
    await settle(runtime)
    assert sending.done()
    assert not sleeping.done()
    sleeping.cancel()


async def test_settled_includes_what_was_begun_in_threads(runtime, start):
    done = []

    async def busy(ctx):
        async for ping in ctx:
            await asyncio.to_thread(time.sleep, 0.05)
            done.append(ping.n)

    await start(busy)
    await runtime.send_many("busy", [Ping(1), Ping(2)])
    await asyncio.sleep(0.01)  # it is in that thread by now, mostly
    await settle(runtime)
    assert done == [1, 2]


async def test_several_may_settle_at_once(runtime, start):
    await start(silent)
    await runtime.send("silent", Ping(1))
    await asyncio.gather(*(settle(runtime) for _ in range(5)))
    assert runtime["silent"].queue_depth == 0
    await settle(runtime)


async def test_what_does_not_settle_is_named(runtime, start):
    stop = False

    async def restless(ctx):
        async for _ in ctx:
            while not stop:
                await asyncio.sleep(0)

    await start(restless)
    await runtime.send("restless", Ping(1))
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not settled within 0\.05 s: .*restless"):
        await settle(runtime, limit=0.05)
    assert time.monotonic() - begun < 4
    stop = True


async def test_threads_that_do_not_come_to_an_end_are_named(runtime):
    event = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(event.wait))
    try:
        with pytest.raises(TimeoutError, match=r"1 calls in threads"):
            await settle(runtime, limit=0.05)
    finally:
        event.set()
    await working


async def test_settling_takes_no_time_of_a_fake_clock(runtime, start, clock):
    await start(slow)
    await runtime.send("slow", Ping(1))
    await settle(runtime)
    assert clock.elapsed == 0
    assert runtime["slow"].busy
    await runtime.wait_idle(timeout=2 * HOUR)


# -- peers -------------------------------------------------------------------------------------------------------------


async def test_a_peer_replies_from_a_list(runtime):
    peer = await Peer.launch(runtime, "service", [Pong(1), Pong(2), ValueError("no more")])
    assert await runtime.ask("service", Ping(1)) == Pong(1)
    assert await runtime.ask("service", Ping(5)) == Pong(2)
    with pytest.raises(KernelFailedError, match="no more"):
        await runtime.ask("service", Ping(6))
    assert peer.messages == [Ping(1), Ping(5), Ping(6)]
    assert peer.id == "service"
    assert peer.kernel is runtime["service"]


async def test_a_peer_replies_by_a_function(runtime):
    await Peer.launch(runtime, replies=lambda ping: Pong(2 * ping.n) if ping.n else None)
    assert await runtime.ask("peer", Ping(4)) == Pong(8)
    with pytest.raises(QueueTimeoutError):
        await runtime.ask("peer", Ping(0), timeout=0.01)


async def test_a_peer_replies_by_a_coroutine_function_that_may_ask_others(runtime):
    await Peer.launch(runtime, "other", lambda ping: Pong(ping.n + 1))

    async def ask_other(ping):
        return await runtime.ask("other", ping)

    await Peer.launch(runtime, "peer", ask_other)
    assert await runtime.ask("peer", Ping(4)) == Pong(5)


async def test_a_peer_replies_by_the_class_of_the_message(runtime):
    await Peer.launch(runtime, replies={Ping: Pong(0), Louder: lambda ping: Pong(ping.volume)})
    assert await runtime.ask("peer", Ping(4)) == Pong(0)
    assert await runtime.ask("peer", Louder(4, volume=11)) == Pong(11)
    with pytest.raises(KernelFailedError, match=r"script of 'peer' has nothing for its message 3: Pong\(n=1\)"):
        await runtime.ask("peer", Pong(1))


async def test_a_script_that_is_over_fails(runtime):
    await Peer.launch(runtime, replies=iter([Pong(1)]))
    await runtime.ask("peer", Ping(1))
    with pytest.raises(KernelFailedError, match="AssertionError: the script of 'peer' has nothing for its message 2"):
        await runtime.ask("peer", Ping(1))


async def test_a_peer_without_replies_is_silent(runtime, clock):
    peer = await Peer.launch(runtime)
    with pytest.raises(QueueTimeoutError):
        await runtime.ask("peer", Ping(1), timeout=HOUR)
    assert peer.messages == [Ping(1)]


async def test_a_peer_takes_its_time(runtime, clock):
    await Peer.launch(runtime, replies=[Pong(1), after(60.0, Pong(2)), after(30.0, lambda ping: Pong(ping.n))], delay=5)
    for n, (pong, elapsed) in enumerate([(Pong(1), 5), (Pong(2), 70), (Pong(2), 105)]):
        assert await runtime.ask("peer", Ping(n)) == pong
        assert clock.elapsed == pytest.approx(elapsed)


async def test_a_peer_fails_on_request(runtime):
    peer = await Peer.launch(
        runtime, replies=lambda ping: Pong(ping.n), fail_at={3: OSError("third")}, restart="on_failure", max_retries=1
    )
    assert [await runtime.ask("peer", Ping(n)) for n in range(4)] == [Pong(n) for n in range(4)]
    assert peer.kernel.restarts == 1
    assert isinstance(peer.kernel.last_exception, OSError)
    assert peer.messages == [Ping(0), Ping(1), Ping(2), Ping(2), Ping(3)]


async def test_a_peer_that_is_written_wrongly_is_refused(runtime):
    for replies in (7, "text", Pong(1)):
        with pytest.raises(TypeError, match="replies are a list, a mapping of classes"):
            await Peer.launch(runtime, replies=replies)
    with pytest.raises(ValueError, match="delay must be"):
        await Peer.launch(runtime, delay=-1)
    with pytest.raises(ValueError, match="seconds must be"):
        after(-1, Pong(1))
    with pytest.raises(DefinitionError, match="queue_size"):
        await Peer.launch(runtime, queue_size=0)
    assert not runtime.kernels


async def test_options_are_those_of_ring_kernels(runtime):
    probe = await Probe.launch(runtime, queue_size=1, backpressure="reject")
    await probe.kernel.deactivate()
    await runtime.send("probe", Ping(1))
    with pytest.raises(QueueFullError):
        await runtime.send("probe", Ping(2))


# -- probes ------------------------------------------------------------------------------------------------------------


async def test_a_probe_says_what_it_got(runtime):
    probe = await Probe.launch(runtime, "end")
    await Peer.launch(runtime, "begin", lambda ping: Pong(ping.n))
    await runtime.connect("begin", "end")
    await runtime.send_many("begin", [Ping(n) for n in range(5)])
    assert await probe.expect() == Pong(0)
    assert (await probe.expect(Pong)).n == 1
    assert (await probe.expect(lambda pong: pong.n % 2 == 0)).n == 2
    assert await probe.expect(Pong(3)) == Pong(3)
    assert await probe.expect(Pong, timeout=None) == Pong(4)
    await probe.expect_nothing()
    assert probe.messages == [Pong(n) for n in range(5)]
    assert repr(probe) == "<Probe 'end', 5 messages>"


async def test_a_probe_says_what_came_instead(runtime):
    probe = await Probe.launch(runtime)
    await runtime.send_many("probe", [Ping(n) for n in range(7)])
    await settle(runtime)
    with pytest.raises(
        AssertionError, match=r"'probe' got Ping\(n=0\), .*Ping\(n=4\) and 2 more, instead of one of Pong"
    ):
        await probe.expect(Pong)
    with pytest.raises(AssertionError, match=r"instead of Ping\(n=1\)"):
        await probe.expect(Ping(1))
    with pytest.raises(AssertionError, match=r"instead of one for which .*lambda"):
        await probe.expect(lambda ping: ping.n > 3)
    with pytest.raises(AssertionError, match="instead of nothing"):
        await probe.expect_nothing()
    assert await probe.expect(Ping(0)) == Ping(0)  # it is still the next


async def test_a_message_of_another_class_is_not_equal(runtime):
    probe = await Probe.launch(runtime)
    await runtime.send("probe", Louder(1))
    with pytest.raises(AssertionError):
        await probe.expect(Ping(1))


async def test_a_probe_waits_so_long_and_no_longer(runtime, clock):
    probe = await Probe.launch(runtime)
    with pytest.raises(AssertionError, match="got nothing within 3600 s, instead of a message; it is ACTIVE, 0 queued"):
        await probe.expect(timeout=HOUR)
    assert clock.elapsed == HOUR
    await Peer.launch(runtime, replies=[after(HOUR, Pong(1)), after(HOUR, Pong(2))])
    await runtime.connect("peer", "probe")
    await runtime.send_many("peer", [Ping(1), Ping(2)])
    await probe.expect_nothing()
    await probe.expect_nothing(within=HOUR - 1)
    await probe.expect(Pong(1), timeout=2)
    with pytest.raises(AssertionError, match=r"got Pong\(n=2\), instead of nothing"):
        await probe.expect_nothing(within=HOUR + 1)
    await probe.expect(Pong(2))
    with pytest.raises(AssertionError, match=r"within 5 s, .*only Pong\(n=1\), Pong\(n=2\) before"):
        await probe.expect(Pong(3))
    with pytest.raises(TypeError, match="within must be"):
        await probe.expect_nothing(within=None)


# -- chaos -------------------------------------------------------------------------------------------------------------


async def run_chaos(runtime, count=300, **options):
    """What was killed as `count` messages went to two kernels, and what each has handled."""
    handled = {}

    async def note(ctx):
        async for ping in ctx:
            handled.setdefault(ctx.kernel_id, []).append(ping.n)

    for name in ("a", "b"):
        definition = ring_kernel(name, restart="on_failure", max_restarts=10**6, backoff=None)(note)
        await runtime.launch(definition)
        await runtime.activate(name)
    with Chaos(runtime, **options) as chaos:
        for name in ("a", "b"):
            await runtime.send_many(name, [Ping(n) for n in range(count)])
        await settle(runtime)
    return chaos, handled


@pytest.mark.may_block  # observers wait for the other loop
async def test_chaos_kills_with_the_very_message_in_hand(runtime):
    chaos, handled = await run_chaos(runtime, at={"a": (1, 5), "b": (300,), "c": (1,)})
    assert sorted(chaos.kills) == [("a", 1), ("a", 5), ("b", 300)]
    assert set(range(300)) - set(handled["a"]) == {0, 4}
    assert set(range(300)) - set(handled["b"]) == {299}
    letters = sorted((letter.kernel_id, letter.message.n, letter.kind) for letter in runtime.dead_letters)
    assert letters == [("a", 0, "failed"), ("a", 4, "failed"), ("b", 299, "failed")]
    assert isinstance(runtime.dead_letters[0].exception, KernelKilledError)
    await runtime.send("a", Ping(7))  # it is over
    await settle(runtime)
    assert len(chaos.kills) == 3


@pytest.mark.may_block  # observers wait for the other loop
async def test_chaos_is_the_same_again_with_the_same_seed(loop_mode):
    async def kills(**options):
        async with RingKernelRuntime(loop_mode) as runtime:
            return sorted((await run_chaos(runtime, **options))[0].kills)

    first = await kills(seed=1, rate=0.05)
    assert 5 < len(first) < 100
    assert {name for name, _ in first} == {"a", "b"}
    assert await kills(seed=1, rate=0.05) == first
    assert await kills(seed=2, rate=0.05) != first
    assert await kills(seed=1, rate=0.0) == []
    assert len(await kills(seed=1, rate=0.5)) > 200
    only = await kills(seed=1, rate=0.05, kernels=["b"])
    assert only == [kill for kill in first if kill[0] == "b"]
    assert await kills(seed=1, rate=0.05, limit=2) == [
        kill for name in "ab" for kill in [kill for kill in first if kill[0] == name][:2]
    ]


@pytest.mark.may_block  # observers wait for the other loop
async def test_chaos_with_an_error_of_ones_own(runtime):
    await run_chaos(runtime, at={"a": [2]}, error=lambda name: OSError(f"{name} burns"))
    assert str(runtime["a"].last_exception) == "a burns"
    assert isinstance(runtime["a"].last_exception, OSError)


def test_chaos_that_cannot_be_is_refused():
    runtime = RingKernelRuntime("thread")
    for options in ({}, {"rate": 0.1, "at": {}}, {"rate": 2}, {"rate": 0.1, "limit": 0}):
        with pytest.raises(ValueError, match=r"rate|limit"):
            Chaos(runtime, **options)
