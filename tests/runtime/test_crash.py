"""A crash is seen: by state, by everybody who wants something of the kernel, and once in the log."""

import asyncio
import logging

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import KernelFailedError, KernelStateError, MessageTypeError
from pydotcompute.runtime import KernelState


class Boom(Exception):
    pass


@message
class Note:
    """It has a priority, so that it takes the short ways, on which the kernel runs inside the step of its asker."""

    text: str = ""


async def explode(ctx):
    async for what in ctx:
        if what in ("boom", Note("boom")):
            raise Boom("as told")
        await ctx.send(what)


async def test_a_body_that_raises_fails_its_kernel_and_the_exception_is_kept(runtime, start):
    kernel = await start(explode)
    await runtime.send("explode", "boom")
    assert await runtime.wait_ended("explode") is KernelState.FAILED
    assert isinstance(kernel.exception, Boom)
    statistics = kernel.statistics()
    assert (statistics.state, statistics.errors) == ("FAILED", 1)


async def test_a_body_that_returns_is_terminated_without_an_error(runtime, start, caplog):
    async def once(ctx):
        await ctx.send(await ctx.receive())

    kernel = await start(once)
    assert await runtime.ask("once", 1) == 1
    assert await runtime.wait_ended("once") is KernelState.TERMINATED
    assert kernel.exception is None
    assert kernel.statistics().errors == 0
    assert kernel.statistics().processed == 1
    with pytest.raises(KernelStateError, match="'once' is TERMINATED"):
        await runtime.send("once", 2)
    assert caplog.records == []


async def test_what_was_pending_fails_from_the_original(runtime, start, gate):
    begun, go_on = gate(), gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            await go_on.wait()
            raise Boom("as told")

    await start(worker, queue_size=2)
    in_hand = asyncio.ensure_future(runtime.ask("worker", 0))
    await begun.wait()
    queued = [asyncio.ensure_future(runtime.ask("worker", n)) for n in (1, 2)]
    while runtime["worker"].queue_depth < 2:
        await asyncio.sleep(0)
    in_line = [asyncio.ensure_future(runtime.ask("worker", 3)), asyncio.ensure_future(runtime.send("worker", 4))]
    in_line.append(asyncio.ensure_future(runtime.send_many("worker", [5, 6])))
    receiving = [asyncio.ensure_future(runtime.receive("worker")) for _ in range(3)]
    while runtime["worker"]._box.blocked < 3:
        await asyncio.sleep(0)
    go_on.open()
    for pending in (in_hand, *queued, *in_line, *receiving):
        with pytest.raises(KernelFailedError, match="'worker' failed: Boom: as told") as info:
            await pending
        assert isinstance(info.value.__cause__, Boom)


async def test_what_comes_later_fails_from_the_original(runtime, start):
    kernel = await start(explode)
    await runtime.send("explode", "boom")
    await runtime.wait_ended("explode")
    for call in (
        lambda: runtime.ask("explode", 1),
        lambda: runtime.ask("explode", 1, timeout=1),
        lambda: runtime.send("explode", 1),
        lambda: runtime.send_many("explode", [1]),
        lambda: runtime.receive("explode"),
        lambda: runtime.receive("explode", timeout=1),
        lambda: kernel.ask(1),
        lambda: anext(runtime.map("explode", [1])),
    ):
        with pytest.raises(KernelFailedError, match="Boom: as told") as info:
            await call()
        assert info.value.__cause__ is kernel.exception


async def test_replies_from_before_can_still_be_taken(runtime, start):
    await start(explode)
    await runtime.send_many("explode", [1, 2, "boom"])
    await runtime.wait_ended("explode")
    assert [await runtime.receive("explode"), await runtime.receive("explode")] == [1, 2]
    with pytest.raises(KernelFailedError):
        await runtime.receive("explode")


async def test_the_message_in_hand_and_those_queued_become_dead_letters(runtime, start):
    kernel = await start(explode)
    await runtime.deactivate("explode")
    await runtime.send_many("explode", ["boom", 1, 2])
    await runtime.reactivate("explode")
    await runtime.wait_ended("explode")
    letters = list(runtime.dead_letters)
    assert [letter.message for letter in letters] == ["boom", 1, 2]
    assert "in hand" in letters[0].reason
    assert all(letter.exception is kernel.exception for letter in letters)
    assert all(letter.kernel_id == "explode" for letter in letters)
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.dead_letters) == (3, 0, 3)
    assert statistics.queue_depth == 0


async def test_a_crash_with_nothing_in_hand_buries_nothing(runtime, start):
    async def worker(ctx):
        raise Boom

    kernel = await start(worker)
    assert await runtime.wait_ended("worker") is KernelState.FAILED
    assert runtime.dead_letters.total == 0
    assert kernel.statistics().errors == 1


async def test_an_ask_that_was_put_aside_fails_too(runtime, start):
    async def worker(ctx):
        await ctx.receive()
        await ctx.receive()
        raise Boom

    await start(worker)
    asks = [asyncio.ensure_future(runtime.ask("worker", n)) for n in (1, 2)]
    for ask in asks:
        with pytest.raises(KernelFailedError):
            await ask


async def test_it_is_logged_exactly_once_with_its_traceback(runtime, start, caplog):
    await start(explode)
    asks = [asyncio.ensure_future(runtime.ask("explode", what)) for what in (1, "boom", 2, 3)]
    await asyncio.gather(*asks, return_exceptions=True)
    for _ in range(3):
        with pytest.raises(KernelFailedError):
            await runtime.ask("explode", 1)
    await runtime.close()
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert record.name == "pydotcompute"
    assert record.levelno == logging.ERROR
    assert "'explode' failed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Boom)
    assert caplog.text.count("raise Boom") == 1


async def test_a_failed_kernel_can_be_launched_again(runtime, start):
    former = await start(explode)
    await runtime.send_many("explode", [1, "boom"])
    await runtime.wait_ended("explode")
    latter = await runtime.launch("explode")
    await latter.activate()
    assert await runtime.ask("explode", 2) == 2
    assert (former.state, latter.state) == (KernelState.FAILED, KernelState.ACTIVE)
    assert latter.exception is None
    assert latter.statistics().errors == 0
    assert former.statistics().errors == 1


async def test_other_kernels_go_on(runtime, start):
    async def echo(ctx):
        async for what in ctx:
            await ctx.send(what)

    await start(explode)
    await start(echo)
    await runtime.send("explode", "boom")
    await runtime.wait_ended("explode")
    assert await runtime.ask("echo", 1) == 1


@pytest.mark.parametrize("what", ["boom", Note("boom")])
async def test_a_kernel_that_asks_one_that_fails_learns_why(runtime, start, what):
    async def front(ctx):
        async for what_ in ctx:
            try:
                await ctx.send(await ctx.ask("explode", what_))
            except KernelFailedError as error:
                await ctx.send(error)

    await start(explode)
    await start(front)
    error = await runtime.ask("front", what)
    assert isinstance(error.__cause__, Boom)
    assert runtime["front"].state is KernelState.ACTIVE


async def test_failures_pass_on_along_a_chain(runtime, start):
    def link(after):
        async def body(ctx):
            async for what in ctx:
                await ctx.send(await ctx.ask(after, what))

        return body

    await start(explode)
    await start(link("explode"), "c")
    await start(link("c"), "b")
    await start(link("b"), "a")
    with pytest.raises(KernelFailedError) as info:
        await runtime.ask("a", "boom")
    causes = []
    error = info.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert causes == [KernelFailedError] * 4 + [Boom]
    for name in "abc":
        assert await runtime.wait_ended(name) is KernelState.FAILED


async def test_a_crash_while_draining_buries_the_rest(runtime, start):
    kernel = await start(explode)
    await runtime.deactivate("explode")
    await runtime.send_many("explode", [1, "boom", 2])
    await runtime.terminate("explode")
    assert kernel.state is KernelState.FAILED
    assert [letter.message for letter in runtime.dead_letters] == ["boom", 2]
    assert isinstance(kernel.exception, Boom)


async def test_a_crash_in_finally_while_it_stops_is_a_failure(runtime, start):
    async def worker(ctx):
        try:
            await ctx.receive()
        finally:
            raise Boom

    kernel = await start(worker)
    await runtime.wait_idle()
    await runtime.terminate("worker")
    assert kernel.state is KernelState.FAILED
    assert isinstance(kernel.exception, Boom)


async def test_a_reply_of_a_wrong_type_fails_the_body_that_sends_it(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            await ctx.send("text")

    kernel = await start(worker, output_type=int)
    with pytest.raises(KernelFailedError, match="MessageTypeError") as info:
        await runtime.ask("worker", 1)
    assert isinstance(info.value.__cause__, MessageTypeError)
    assert kernel.state is KernelState.FAILED


async def test_a_body_that_is_cancelled_from_elsewhere_is_terminated(runtime, start, gate):
    begun = gate()

    async def worker(ctx):
        async for _ in ctx:
            begun.open()
            asyncio.current_task().cancel()
            await asyncio.sleep(3600)

    kernel = await start(worker)
    await runtime.send_many("worker", [1, 2])
    assert await runtime.wait_ended("worker") is KernelState.TERMINATED
    assert kernel.exception is None
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]
    assert "cancelled" in runtime.dead_letters[0].reason


async def test_an_exception_group_is_kept_as_it_is(runtime, start):
    async def fails():
        raise Boom

    async def worker(ctx):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await ctx.receive()

    kernel = await start(worker)
    assert await runtime.wait_ended("worker") is KernelState.FAILED
    assert isinstance(kernel.exception, ExceptionGroup)


# -- what asyncio lets out of the loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("asked", [False, True])
async def test_an_exit_inside_a_body_ends_that_kernel_alone(kind, asked):
    async def leaving(ctx):
        async for _ in ctx:
            raise kind("as told")

    async def front(ctx):
        async for note in ctx:
            try:
                await ctx.ask("leaving", note)
            except KernelFailedError as error:
                await ctx.send(error)

    async def echo(ctx):
        async for note in ctx:
            await ctx.send(note)

    async with RingKernelRuntime("thread") as runtime:
        for body in (leaving, front, echo):
            await (await runtime.launch(ring_kernel(body))).activate()
        await runtime.wait_idle()
        if asked:
            error = await runtime.ask("front", Note())
            assert isinstance(error, KernelFailedError)
            assert isinstance(error.__cause__, kind)
        else:
            await runtime.send("leaving", Note())
        assert await runtime.wait_ended("leaving") is KernelState.FAILED
        assert isinstance(runtime["leaving"].exception, kind)
        with pytest.raises(KernelFailedError) as info:
            await runtime.ask("leaving", Note())
        assert isinstance(info.value.__cause__, kind)
        assert await runtime.ask("echo", Note("x")) == Note("x")
        assert runtime["front"].state is KernelState.ACTIVE


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_the_asker_of_a_body_that_exits_gets_an_error_not_the_exit(kind):
    async def leaving(ctx):
        async for _ in ctx:
            raise kind

    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(leaving))).activate()
        await runtime.wait_idle()
        with pytest.raises(KernelFailedError) as info:
            await runtime.ask("leaving", Note())
        assert isinstance(info.value.__cause__, kind)


def test_an_exit_on_the_current_loop_ends_the_program_as_it_does_in_asyncio():
    async def leaving(ctx):
        async for _ in ctx:
            raise SystemExit(3)

    async def main():
        async with RingKernelRuntime("current") as runtime:
            await (await runtime.launch(ring_kernel(leaving))).activate()
            await runtime.ask("leaving", Note())

    with pytest.raises(SystemExit) as info:
        asyncio.run(main())
    assert info.value.code == 3
