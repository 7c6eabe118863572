"""`runtime.edges()`: who has sent how many messages to whom."""

import asyncio
from contextlib import suppress

import numpy as np
import pytest

from pydotcompute import KernelContext, message
from pydotcompute.exceptions import (
    KernelNotFoundError,
    KernelStateError,
    MessageTypeError,
    QueueFullError,
    QueueTimeoutError,
)


@message
class Number:
    n: np.int64


def echo(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return True


async def echo_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(number)


async def sink_body(ctx: KernelContext[Number, None]):
    async for _ in ctx:
        pass


STEPS = {
    "interpreted": {"backend": "interpreted"},
    "cpu": {"backend": "cpu"},
}


async def test_tells_asks_and_what_comes_from_outside(runtime, start):
    async def front(ctx: KernelContext[Number, Number]):
        async for number in ctx:
            await ctx.tell("log", number)
            await ctx.send(await ctx.ask("back", number))

    await start(sink_body, "log")
    await start(echo_body, "back")
    await start(front, "front")
    assert runtime.edges() == {}
    for n in range(5):
        await runtime.ask("front", Number(n))
    await runtime.send("back", Number(9))
    await runtime.wait_idle()
    expected = {("front", "log"): 5, ("front", "back"): 5, (None, "front"): 5, (None, "back"): 1}
    assert runtime.edges() == expected
    assert await asyncio.to_thread(runtime.edges) == expected


async def test_what_was_refused_is_no_edge(runtime, start):
    errors = []

    async def front(ctx: KernelContext[Number, None]):
        async for _ in ctx:
            for send, target, sent in (
                (ctx.tell, "nobody", Number(1)),
                (ctx.ask, "nobody", Number(1)),
                (ctx.tell, "back", "text"),
                (ctx.ask, "back", "text"),
                (ctx.ask, "front", Number(1)),
            ):
                try:
                    await send(target, sent)
                except Exception as error:
                    errors.append(type(error))

    await start(echo_body, "back")
    await start(front, "front")
    await runtime.send("front", Number(1))
    await runtime.wait_idle()
    assert errors == [KernelNotFoundError, KernelNotFoundError, MessageTypeError, MessageTypeError, KernelStateError]
    assert runtime.edges() == {(None, "front"): 1}


async def test_an_ask_counts_before_its_reply_and_not_without_room(runtime, start):
    errors = []

    async def front(ctx: KernelContext[Number, None]):
        async for _ in ctx:
            for _ in range(3):
                try:
                    await ctx.ask("back", Number(1), timeout=0.02)
                except QueueTimeoutError as error:
                    errors.append(str(error))

    await start(echo_body, "back", queue_size=2)
    await start(front, "front")
    await runtime.deactivate("back")
    await runtime.send("front", Number(1))
    await runtime.wait_idle("front")
    assert ["no reply" in error for error in errors] == [True, True, False]
    assert runtime.edges() == {(None, "front"): 1, ("front", "back"): 2}


async def test_publishing_counts_each_who_got_it(runtime, start):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            await ctx.publish("news.today", number)

    for name in ("a", "b", "c"):
        await start(sink_body, name)
    await start(front, "front")
    await runtime.subscribe("news.#", "a")
    await runtime.subscribe("news.today", "b")
    await runtime.subscribe("sports", "c")
    await runtime.send_many("front", [Number(n) for n in range(3)])
    await runtime.publish("news.today", Number(4))
    await runtime.wait_idle()
    assert runtime.edges() == {
        (None, "front"): 3,
        ("front", "a"): 3,
        ("front", "b"): 3,
        (None, "a"): 1,
        (None, "b"): 1,
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("async", "async"),
        pytest.param("interpreted", "async"),
        pytest.param("async", "interpreted"),
        pytest.param("interpreted", "interpreted"),
        pytest.param("cpu", "interpreted", marks=pytest.mark.needs_numba),
        pytest.param("cpu", "cpu", marks=pytest.mark.needs_numba),
    ],
)
async def test_connected_kernels_whoever_carries(runtime, start, first, second):
    for kind, name in ((first, "one"), (second, "two")):
        await start(echo if kind in STEPS else echo_body, name, **STEPS.get(kind, {}))
    await runtime.connect("one", "two")
    await runtime.send_many("one", [Number(n) for n in range(20)])
    for _ in range(20):
        await runtime.receive("two", timeout=10)
    await runtime.ask("one", Number(1))  # whose reply goes back
    assert runtime.edges() == {(None, "one"): 21, ("one", "two"): 20}
    await runtime.disconnect("one", "two")
    await runtime.ask("two", Number(1))
    assert runtime.edges() == {(None, "one"): 21, ("one", "two"): 20, (None, "two"): 1}


async def test_each_of_several_targets_counts(runtime, start):
    for name in ("one", "two", "three"):
        await start(echo_body, name)
    await runtime.connect("one", "two", "three")
    await runtime.send_many("one", [Number(n) for n in range(7)])
    for name in ("two", "three"):
        for _ in range(7):
            await runtime.receive(name, timeout=10)
    assert runtime.edges() == {(None, "one"): 7, ("one", "two"): 7, ("one", "three"): 7}


@pytest.mark.parametrize("strategy", ["round_robin", "broadcast"])
async def test_a_router_stands_between(runtime, start, strategy):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            await ctx.tell("pool", number)
            await ctx.ask("pool", number)

    for name in ("a", "b"):
        await start(echo_body, name)
    await start(front, "front")
    await runtime.router("pool", ["a", "b"], strategy=strategy)
    await runtime.send_many("front", [Number(n) for n in range(4)])
    await runtime.send("pool", Number(5))
    await runtime.send("pool", Number(6))
    await runtime.wait_idle()
    each = 5 if strategy == "round_robin" else 10
    assert runtime.edges() == {
        (None, "front"): 4,
        ("front", "pool"): 8,
        (None, "pool"): 2,
        ("pool", "a"): each,
        ("pool", "b"): each,
    }


@pytest.mark.parametrize("strategy", ["round_robin", "broadcast"])
@pytest.mark.parametrize("how", ["tell", "ask"])
async def test_what_no_kernel_of_a_router_took_was_not_sent(runtime, start, how, strategy):
    errors = []

    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            try:
                async with asyncio.timeout(0.02):
                    await getattr(ctx, how)("pool", "text" if number.n == 1 else number)
            except Exception as error:
                errors.append(type(error))

    full = await start(echo_body, "full", queue_size=1, backpressure="reject")
    await start(front, "front")
    pool = await runtime.router("pool", ["full"], strategy=strategy)
    await full.deactivate()
    await full.send(Number(0))
    await runtime.send("front", Number(1))
    await runtime.send("front", Number(2))
    await runtime.wait_idle("front")
    await runtime.terminate("full", drain=False)
    await runtime.send("front", Number(3))
    await runtime.wait_idle("front")
    assert errors == [MessageTypeError, QueueFullError, KernelStateError]
    assert runtime.edges() == {(None, "front"): 3, (None, "full"): 1}
    assert pool.statistics().routed == {"full": 0}


@pytest.mark.parametrize("how", ["tell", "ask"])
async def test_of_a_message_to_all_that_one_refused_those_are_counted_who_took_it(runtime, start, how):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            with suppress(QueueFullError):
                await getattr(ctx, how)("pool", number)

    await start(echo_body, "free")
    full = await start(echo_body, "full", queue_size=1, backpressure="reject")
    await start(front, "front")
    await runtime.router("pool", ["free", "full"], strategy="broadcast")
    await full.deactivate()
    await full.send(Number(0))
    await runtime.send("front", Number(1))
    await runtime.wait_idle("front", "free")
    assert runtime.edges() == {(None, "front"): 1, ("pool", "free"): 1, (None, "full"): 1}


async def test_who_gives_an_ask_of_a_router_up_before_there_was_room_has_not_sent_it(runtime, start):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            for _ in range(2):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await ctx.ask("pool", number)

    full = await start(echo_body, "full", queue_size=1)
    await start(front, "front")
    await runtime.router("pool", ["full"])
    await full.deactivate()
    await runtime.send("front", Number(1))
    await runtime.wait_idle("front")
    assert runtime.edges() == {(None, "front"): 1, ("front", "pool"): 1, ("pool", "full"): 1}


async def test_counts_begin_anew_with_a_kernel_that_is_launched_again(runtime, start):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            await ctx.tell("back", number)
            await ctx.tell("pool", number)

    await start(sink_body, "back")
    await start(sink_body, "a")
    await start(front, "front")
    await runtime.router("pool", ["a"])
    await runtime.send_many("front", [Number(n) for n in range(3)])
    await runtime.wait_idle()
    for name in ("back", "a"):
        await runtime.terminate(name)
        await runtime.launch(runtime[name].definition, kernel_id=name)
        await runtime.activate(name)
    assert runtime.edges() == {(None, "front"): 3, ("front", "pool"): 3}
    await runtime.send("front", Number(1))
    await runtime.wait_idle()
    assert runtime.edges() == {
        (None, "front"): 4,
        ("front", "pool"): 4,
        ("front", "back"): 1,
        ("pool", "a"): 1,
    }
    await runtime.terminate("front")
    await runtime.launch(runtime["front"].definition, kernel_id="front")
    edges = runtime.edges()
    assert not any("front" in edge for edge in edges)
    assert edges == {("pool", "a"): 1}  # what the former one has sent to "back" has not come from outside


async def test_what_a_closed_router_gave_is_counted_no_more(runtime, start):
    async def front(ctx: KernelContext[Number, None]):
        async for number in ctx:
            await ctx.tell("pool", number)

    await start(sink_body, "a")
    await start(front, "front")
    for n in range(2):
        pool = await runtime.router("pool", ["a"])
        await runtime.send("front", Number(n))
        await runtime.wait_idle()
        assert runtime.edges() == {(None, "front"): n + 1, ("front", "pool"): 1, ("pool", "a"): 1}
        await pool.close()
    await runtime.send("a", Number(2))
    assert runtime.edges() == {(None, "front"): 2, (None, "a"): 1}


async def test_nothing_seems_to_come_from_outside_while_kernels_talk(runtime, start):
    stop = asyncio.Event()

    async def ping(ctx: KernelContext[Number, None]):
        async for _ in ctx:
            while not stop.is_set():
                await ctx.tell("pong", Number(1))
                await ctx.ask("back", Number(1))

    await start(sink_body, "pong")
    await start(echo_body, "back")
    await start(ping, "ping")
    await runtime.send("ping", Number(1))
    seen = []

    def look():
        while len(seen) < 200 or seen[-1].get(("ping", "back"), 0) < 1000:
            seen.append(runtime.edges())

    try:
        await asyncio.to_thread(look)
    finally:
        stop.set()
    await runtime.wait_idle()
    assert not any((None, name) in edges for edges in seen for name in ("pong", "back"))
    edges = runtime.edges()
    assert edges["ping", "back"] == edges["ping", "pong"] >= 1000


async def test_who_has_ended_is_not_counted_as_reached(runtime, start, settle):
    await start(sink_body, "sink")

    async def source(ctx):
        async for n in ctx:
            await ctx.publish("numbers", Number(n))

    await start(source, "source")
    await runtime.subscribe("numbers", "sink")
    await runtime.send("source", 1)
    await runtime.wait_idle()
    await runtime.terminate("sink")
    await runtime.send("source", 2)
    await runtime.wait_idle()
    assert runtime.edges()["source", "sink"] == 1


async def test_who_was_reached_counts_though_publishing_is_given_up(runtime, start, settle):
    await start(sink_body, "free")
    full = await start(sink_body, "full", queue_size=1)
    await full.deactivate()
    await full.send(Number(0))

    async def source(ctx):
        async for n in ctx:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await ctx.publish("numbers", Number(n))

    await start(source, "source")
    for kernel_id in ("free", "full"):
        await runtime.subscribe("numbers", kernel_id)
    await runtime.send("source", 1)
    await runtime.wait_idle("source")
    await runtime.wait_idle("free")
    assert runtime.edges() == {(None, "source"): 1, ("source", "free"): 1, (None, "full"): 1}


async def test_what_is_no_id_is_told_and_leaves_nothing(runtime, start):
    seen = []

    async def source(ctx):
        async for kernel_id in ctx:
            with pytest.raises((KernelNotFoundError, TypeError)) as told:
                await ctx.tell(kernel_id, Number(1))
            seen.append(str(told.value))

    kernel = await start(source, "source")
    for kernel_id in ("nobody", ["x"]):
        await kernel.send(kernel_id)
    await runtime.wait_idle()
    assert "no ring kernel 'nobody'" in seen[0]
    assert seen[1] == "name a ring kernel by its id, a text, not by ['x']"
    assert kernel._sent == {}
