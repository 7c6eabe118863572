"""Defining a kernel again swaps its body between two messages; mailbox and `ctx.state` are kept."""

import asyncio
import threading
import warnings

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import (
    DefinitionError,
    KernelFailedError,
    KernelRedefinedWarning,
    KernelStopped,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.runtime import KernelState, definitions


@message
class Ask:
    n: int


@message
class Answer:
    n: int


def define(tag, **options):
    """The definition of a cell that is run again: the same module and qualified name each time."""

    @ring_kernel(kernel_id="worker", **options)
    async def worker(ctx):
        async for one in ctx:
            await ctx.send((tag, one))

    return worker


@pytest.fixture
def run(runtime):
    """Launch and activate the latest definition; its handle."""

    async def run(kernel_id="worker"):
        kernel = await runtime.launch(kernel_id)
        await kernel.activate()
        return kernel

    return run


@pytest.fixture
def swapped(eventually):
    """Wait until a kernel has reached a version."""

    async def swapped(kernel, version):
        await eventually(lambda: kernel.version == version)

    return swapped


# -- when ----------------------------------------------------------------------------------------------------------


async def test_an_idle_kernel_swaps_at_once(runtime, run, swapped):
    define("old")
    kernel = await run()
    assert await kernel.ask(1) == ("old", 1)
    assert kernel.version == 1
    define("new")
    await swapped(kernel, 2)
    assert await kernel.ask(2) == ("new", 2)
    assert kernel.state is KernelState.ACTIVE
    assert kernel is runtime["worker"]
    assert kernel.statistics().version == 2
    assert kernel.statistics().processed == 2
    assert "v2" in repr(kernel)


async def test_the_message_in_hand_is_finished_by_the_old_body_and_the_next_goes_to_the_new(run, gate, swapped):
    begun, go_on = gate(), gate()

    def define_slow(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                begun.open()
                await go_on.wait()
                await ctx.send((tag, one))

    define_slow("old")
    kernel = await run()
    asked = asyncio.ensure_future(kernel.ask("in hand"))
    await begun.wait()
    await kernel.send_many([1, 2, 3])
    define_slow("new")
    while "version 2" not in kernel.waiting_for:
        await asyncio.sleep(0)
    assert kernel.version == 1
    assert kernel.queue_depth == 3
    go_on.open()
    assert await asked == ("old", "in hand")
    assert [await kernel.receive() for _ in range(3)] == [("new", n) for n in (1, 2, 3)]
    assert kernel.version == 2
    assert kernel.waiting_for == ""


async def test_a_paused_kernel_swaps_and_stays_paused(runtime, run, settle, swapped):
    define("old")
    kernel = await run()
    await kernel.deactivate()
    await kernel.send_many([1, 2])
    define("new")
    await swapped(kernel, 2)
    await settle()
    assert kernel.state is KernelState.DEACTIVATED
    assert kernel.queue_depth == 2
    await kernel.reactivate()
    assert [await kernel.receive(), await kernel.receive()] == [("new", 1), ("new", 2)]


async def test_a_kernel_that_was_only_launched_starts_with_the_new_body(runtime, settle):
    define("old")
    kernel = await runtime.launch("worker")
    await kernel.send(1)
    define("new")
    await settle()
    await kernel.activate()
    assert await kernel.receive() == ("new", 1)


async def test_a_busy_mailbox_loses_nothing_through_many_swaps(run, runtime, eventually):
    define(0)
    kernel = await run()
    received = []

    async def take():
        while len(received) < 2000:
            received.append(await kernel.receive())

    async def feed():
        for n in range(2000):
            await kernel.send(n)
            if n % 20 == 0:
                await asyncio.sleep(0)

    taking, feeding = asyncio.ensure_future(take()), asyncio.ensure_future(feed())
    version = 0
    while not feeding.done():
        version += 1
        define(version)
        for _ in range(5):
            await asyncio.sleep(0)
    await asyncio.gather(taking, feeding)
    assert [n for _, n in received] == list(range(2000))
    tags = [tag for tag, _ in received]
    assert tags == sorted(tags)
    await eventually(lambda: kernel.version > 1)
    assert runtime.dead_letters.total == 0
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed) == (2000, 2000)


async def test_of_several_definitions_while_it_is_busy_the_last_takes_over(run, gate, swapped, settle):
    begun, go_on = gate(), gate()

    def define_slow(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                begun.open()
                await go_on.wait()
                await ctx.send((tag, one))

    define_slow("first")
    kernel = await run()
    await kernel.send_many([1, 2])
    await begun.wait()
    for tag in ("second", "third", "fourth"):
        define_slow(tag)
    await settle()
    go_on.open()
    assert [await kernel.receive(), await kernel.receive()] == [("first", 1), ("fourth", 2)]
    assert kernel.version == 2
    assert kernel.definition is definitions()["worker"]


@pytest.mark.parametrize("style", ["receive", "receive with a timeout", "async for", "swallow exceptions"])
async def test_a_body_of_any_style_is_replaced_and_its_finally_runs(run, swapped, style):
    log = []

    def define_old():
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            try:
                if style == "async for":
                    async for _ in ctx:
                        pass
                while True:
                    try:
                        await (ctx.receive(timeout=60) if "timeout" in style else ctx.receive())
                    except Exception:
                        if style != "swallow exceptions":
                            raise
            except asyncio.CancelledError as error:
                log.append(type(error))
                raise
            finally:
                log.append("finally")

    define_old()
    kernel = await run()
    await kernel.send(1)
    await kernel.runtime.wait_idle()

    def redefine():
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                await ctx.send(("new", one))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KernelRedefinedWarning)
        redefine()
    await swapped(kernel, 2)
    assert log == [KernelStopped, "finally"]
    assert await kernel.ask(1) == ("new", 1)


async def test_a_body_that_returns_as_it_is_replaced_is_replaced(run, gate, swapped, settle):
    begun, go_on = gate(), gate()

    def define_body(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            one = await ctx.receive()
            begun.open()
            await go_on.wait()
            await ctx.send((tag, one))

    define_body("old")
    kernel = await run()
    await kernel.send(1)
    await begun.wait()
    define_body("new")
    await settle()
    go_on.open()
    assert await kernel.receive() == ("old", 1)
    await swapped(kernel, 2)
    assert await kernel.ask(2) == ("new", 2)


async def test_a_body_that_fails_as_it_is_replaced_fails_the_kernel(run, runtime, gate, settle):
    begun, go_on = gate(), gate()

    def define_body():
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for _ in ctx:
                begun.open()
                await go_on.wait()
                raise ZeroDivisionError

    define_body()
    kernel = await run()
    await kernel.send(1)
    await begun.wait()
    define_body()
    await settle()
    go_on.open()
    assert await runtime.wait_ended("worker") is KernelState.FAILED
    assert isinstance(kernel.exception, ZeroDivisionError)
    with pytest.raises(KernelFailedError):
        await kernel.send(2)


async def test_a_kernel_that_stops_drains_with_the_body_it_has(run, runtime, gate):
    begun, go_on = gate(), gate()
    seen = []

    def define_slow(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                begun.open()
                await go_on.wait()
                seen.append((tag, one))

    define_slow("old")
    kernel = await run()
    await kernel.send_many([1, 2, 3])
    await begun.wait()
    define_slow("new")
    ending = asyncio.ensure_future(kernel.terminate())
    while kernel.state is not KernelState.TERMINATING:
        await asyncio.sleep(0)
    define_slow("newer")
    go_on.open()
    await ending
    assert seen == [("old", 1), ("old", 2), ("old", 3)]
    assert kernel.state is KernelState.TERMINATED


async def test_an_ended_kernel_is_left_alone_until_it_is_launched_again(run, settle):
    define("old")
    kernel = await run()
    await kernel.terminate()
    define("new")
    await settle()
    assert (kernel.state, kernel.version) == (KernelState.TERMINATED, 1)
    again = await run()
    assert again.version == 1
    assert await again.ask(1) == ("new", 1)


# -- what is kept --------------------------------------------------------------------------------------------------


async def test_state_is_kept_and_locals_are_not(run, swapped):
    def define_counter(step):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            mine = 0
            async for _ in ctx:
                mine += 1
                ctx.state.total = getattr(ctx.state, "total", 0) + step
                await ctx.send((mine, ctx.state.total))

    define_counter(1)
    kernel = await run()
    assert [await kernel.ask(0), await kernel.ask(0)] == [(1, 1), (2, 2)]
    define_counter(10)
    await swapped(kernel, 2)
    assert [await kernel.ask(0), await kernel.ask(0)] == [(1, 12), (2, 22)]


async def test_state_that_was_made_is_kept_although_the_new_definition_makes_another(run, swapped):
    def define_body(make):
        @ring_kernel(kernel_id="worker", state=make)
        async def worker(ctx):
            async for one in ctx:
                ctx.state.append(one)
                await ctx.send(list(ctx.state))

    define_body(list)
    kernel = await run()
    assert await kernel.ask(1) == [1]
    define_body(lambda: ["another"])
    await swapped(kernel, 2)
    assert await kernel.ask(2) == [1, 2]


async def test_an_ask_that_the_old_body_put_aside_can_be_answered_by_the_new(run, swapped):
    def define_body(tag):
        @ring_kernel(kernel_id="worker", state=list)
        async def worker(ctx):
            async for ask in ctx:
                if ask.n < 3:
                    ctx.state.append(ask)
                else:
                    for one in ctx.state:
                        await ctx.send(one.reply(Answer, one.n + tag))
                    ctx.state.clear()

    define_body(0)
    kernel = await run()
    asks = [asyncio.ensure_future(kernel.ask(Ask(n))) for n in range(3)]
    while kernel.unanswered < 2:
        await asyncio.sleep(0)
    await kernel.runtime.wait_idle()
    define_body(100)
    await swapped(kernel, 2)
    assert kernel.unanswered == 3
    await kernel.send(Ask(3))
    assert [(await asked).n for asked in asks] == [100, 101, 102]
    assert kernel.unanswered == 0


async def test_an_ask_in_hand_that_the_old_body_leaves_unanswered_can_be_answered_by_the_new(
    run, gate, swapped, settle
):
    begun, go_on = gate(), gate()

    def define_body(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            for kept in getattr(ctx.state, "kept", ()):
                await ctx.send(kept.reply(Answer, tag))
            ctx.state.kept = [await ctx.receive()]
            begun.open()
            await go_on.wait()

    define_body(1)
    kernel = await run()
    asked = asyncio.ensure_future(kernel.ask(Ask(0)))
    await begun.wait()
    define_body(2)
    await settle()
    go_on.open()
    assert (await asked).n == 2


async def test_counters_go_on(run, swapped):
    define("old")
    kernel = await run()
    for n in range(5):
        await kernel.ask(n)
    define("new")
    await swapped(kernel, 2)
    for n in range(5):
        await kernel.ask(n)
    await kernel.runtime.wait_idle()
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.replied) == (10, 10, 10)
    assert sum(statistics.handle_histogram) == sum(statistics.wait_histogram) == 10
    assert statistics.busy > 0


# -- what changes --------------------------------------------------------------------------------------------------


async def test_a_new_queue_size_and_strategy_apply(run, swapped):
    define("old", queue_size=2)
    kernel = await run()
    await kernel.deactivate()
    await kernel.send_many([1, 2])
    waiting = asyncio.ensure_future(kernel.send(3))
    while not kernel._box.blocked:
        await asyncio.sleep(0)
    define("new", queue_size=4)
    await swapped(kernel, 2)
    await waiting
    assert kernel.queue_depth == 3
    assert kernel.statistics().queue_size == 4
    await kernel.send(4)
    define("newer", queue_size=1, backpressure="reject")
    await swapped(kernel, 3)
    assert kernel.queue_depth == 4
    with pytest.raises(QueueFullError, match=r"\(1\)"):
        await kernel.send(5)
    await kernel.reactivate()
    assert [(await kernel.receive())[1] for _ in range(4)] == [1, 2, 3, 4]


async def test_the_size_of_the_outbox_changes_with_the_mailbox(run, swapped, eventually):
    define("old", queue_size=1)
    kernel = await run()
    await kernel.send_many([1, 2])
    await eventually(lambda: "unread" in kernel.waiting_for)
    define("new", queue_size=10)
    # The old body has a message in hand until its reply is taken.
    assert await kernel.receive() == ("old", 1)
    await swapped(kernel, 2)
    await kernel.send_many(range(9))
    await kernel.runtime.wait_idle()
    assert kernel.statistics().replies_unread == 10


async def test_new_types_apply(run, swapped):
    define("old", input_type=int)
    kernel = await run()
    assert await kernel.ask(1) == ("old", 1)
    define("new", input_type=str)
    await swapped(kernel, 2)
    assert await kernel.ask("a") == ("new", "a")
    with pytest.raises(TypeError, match="takes str, not int"):
        await kernel.ask(1)


async def test_every_kernel_of_the_definition_is_swapped_whatever_its_id(runtime, eventually):
    define("old")
    names = ("worker", "a", "b")
    for name in names:
        kernel = await runtime.launch("worker", kernel_id=name)
        await kernel.activate()
    define("new")
    await eventually(lambda: all(runtime[name].version == 2 for name in names))
    assert [(await runtime.ask(name, 1))[0] for name in names] == ["new"] * 3


async def test_kernels_of_other_ids_are_left_alone(runtime, run, swapped, start):
    async def other(ctx):
        async for _ in ctx:
            pass

    bystander = await start(other)
    define("old")
    kernel = await run()
    define("new")
    await swapped(kernel, 2)
    assert bystander.version == 1


async def test_every_runtime_gets_the_new_body(loop_mode, eventually):
    define("old")
    async with RingKernelRuntime(loop_mode) as first, RingKernelRuntime("thread") as second:
        for runtime in (first, second):
            await (await runtime.launch("worker")).activate()
        define("new")
        await eventually(lambda: first["worker"].version == second["worker"].version == 2)
        assert await first.ask("worker", 1) == await second.ask("worker", 1) == ("new", 1)


async def test_a_definition_from_another_thread_swaps_too(run, swapped, in_thread):
    define("old")
    kernel = await run()
    await in_thread(define, "new")
    await swapped(kernel, 2)
    assert await kernel.ask(1) == ("new", 1)


async def test_a_body_may_define_itself_again(run, swapped):
    def define_self(n):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                await ctx.send((n, one))
                if one == "again":
                    define_self(n + 1)

    define_self(0)
    kernel = await run()
    for n in range(5):
        assert await kernel.ask("again") == (n, "again")
        await swapped(kernel, n + 2)


# -- definitions that fail, or come from elsewhere -----------------------------------------------------------------


async def test_a_redefinition_that_fails_keeps_the_old_version(run, settle):
    define("old")
    kernel = await run()
    former = definitions()["worker"]
    with pytest.raises(DefinitionError):
        define("new", queue_size=0)
    with pytest.raises(DefinitionError):

        @ring_kernel(kernel_id="worker")
        def worker(ctx): ...

    await settle()
    assert definitions()["worker"] is former
    assert kernel.version == 1
    assert await kernel.ask(1) == ("old", 1)


@pytest.mark.parametrize("bare", [False, True])
def test_a_second_owner_of_an_id_is_warned_about_at_its_definition(bare):
    define("old")

    async def worker(ctx): ...

    with pytest.warns(KernelRedefinedWarning, match="'worker'.*another kernel_id") as caught:
        ring_kernel(worker) if bare else ring_kernel(kernel_id="worker")(worker)
    (warning,) = caught
    assert warning.filename == __file__


def test_the_same_place_may_define_again_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tag in range(3):
            define(tag)


def test_the_same_name_in_another_module_is_another_owner():
    define("old")
    former = definitions()["worker"].body
    namespace = {"__name__": "another_module", "ring_kernel": ring_kernel}
    source = "@ring_kernel\nasync def worker(ctx): ...\n"
    with pytest.warns(KernelRedefinedWarning, match=f"module {former.__module__}.*module another_module"):
        exec(source, namespace)


async def test_another_owner_takes_over_all_the_same(run, swapped):
    define("old")
    kernel = await run()

    def elsewhere():
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                await ctx.send(("elsewhere", one))

    with pytest.warns(KernelRedefinedWarning):
        elsewhere()
    await swapped(kernel, 2)
    assert await kernel.ask(1) == ("elsewhere", 1)


async def test_a_warning_that_is_an_error_keeps_the_old_version(run, settle):
    define("old")
    kernel = await run()

    async def worker(ctx): ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KernelRedefinedWarning):
            ring_kernel(worker)
    await settle()
    assert kernel.version == 1
    assert await kernel.ask(1) == ("old", 1)


# -- waiting while it happens --------------------------------------------------------------------------------------


async def test_wait_idle_and_asks_go_on_through_a_swap(run, runtime, gate, settle):
    begun, go_on = gate(), gate()

    def define_slow(tag):
        @ring_kernel(kernel_id="worker")
        async def worker(ctx):
            async for one in ctx:
                begun.open()
                await go_on.wait()
                await ctx.send((tag, one))

    define_slow("old")
    kernel = await run()
    asks = [asyncio.ensure_future(kernel.ask(n)) for n in range(3)]
    await begun.wait()
    idle = asyncio.ensure_future(runtime.wait_idle())
    define_slow("new")
    with pytest.raises(QueueTimeoutError):
        await runtime.wait_idle(timeout=0.01)
    await settle()
    go_on.open()
    assert [await asked for asked in asks] == [("old", 0), ("new", 1), ("new", 2)]
    await idle


def test_a_definition_while_the_loop_is_gone_changes_nothing():
    define("old")
    runtime = RingKernelRuntime("current")

    async def main():
        await (await runtime.launch("worker")).activate()

    asyncio.run(main())
    define("new")
    assert runtime["worker"].state.over
    assert threading.active_count() == 1
