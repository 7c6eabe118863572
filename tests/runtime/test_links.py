"""`connect`: chains, and several targets of one kernel, whoever carries the replies."""

import asyncio

import numpy as np
import pytest

from pydotcompute import KernelContext, Record, message
from pydotcompute.exceptions import KernelNotFoundError, KernelStateError, MessageTypeError
from pydotcompute.telemetry.observer import Observer


@message
class Number:
    n: np.int64


@message
class Text:
    text: str


class Tally(Record):
    handled: np.int64


def echo(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return True


async def echo_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(number)


NAMES = ("one", "two", "three", "four")


def kinds(*wanted):
    """Of the kernels in turn: async (a), interpreted (i), or compiled for the CPU (c)."""
    return [pytest.param(kind, marks=[pytest.mark.needs_numba] * ("c" in kind)) for kind in wanted]


@pytest.fixture
def echoes(start):
    """``await echoes("aic")``: kernels of these kinds, that reply with what they get."""

    async def echoes(wanted, **options):
        made = []
        for kind, name in zip(wanted, NAMES, strict=False):
            step = {"i": {"backend": "interpreted"}, "c": {"backend": "cpu"}}.get(kind)
            made.append(await start(echo if step else echo_body, name, **(step or {}), **options))
        return made

    return echoes


async def received(runtime, kernel_id, count):
    return [int((await runtime.receive(kernel_id, timeout=10)).n) for _ in range(count)]


async def native_again(runtime, one):
    """Until the source hands its replies to "two" itself, for which it waits for a quiet moment after one of them."""
    while one._link.task is not None:
        await runtime.send("one", Number(0))
        await received(runtime, "two", 1)
        await asyncio.sleep(0.01)


class Log(Observer):
    def __init__(self):
        self.came = []

    def sent(self, delivery):
        self.came.append((delivery.cause.kernel_id if delivery.cause else None, delivery.kernel_id, delivery.message.n))


# -- several targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", kinds("aaa", "aia", "iai", "iii", "ccc", "cac"))
@pytest.mark.parametrize("at_once", [True, False])
async def test_each_target_gets_every_reply_in_order(runtime, echoes, wanted, at_once):
    await echoes(wanted, queue_size=16)
    if at_once:
        await runtime.connect("one", "two", "three")
    else:
        await runtime.connect("one", "two")
        await runtime["one"].connect("three")
    sending = asyncio.ensure_future(runtime.send_many("one", [Number(n) for n in range(200)]))
    both = await asyncio.gather(received(runtime, "two", 200), received(runtime, "three", 200))
    assert both == [list(range(200))] * 2
    await sending
    assert runtime.dead_letters.total == 0


@pytest.mark.parametrize("wanted", kinds("aaa", "iii", "ccc"))
async def test_a_full_target_holds_the_kernel_up_and_the_others_lose_nothing(runtime, echoes, eventually, wanted):
    _, two, three = await echoes(wanted, queue_size=4)
    await runtime.connect("one", "two", "three")
    await two.deactivate()
    sending = asyncio.ensure_future(runtime.send_many("one", [Number(n) for n in range(60)]))
    await eventually(lambda: two.queue_depth == 4 and runtime["one"].queue_depth == 4)
    assert not sending.done()
    # One reply waits in front of the full mailbox; the other target was not kept waiting for it.
    assert await received(runtime, "three", 5) == [0, 1, 2, 3, 4]
    assert three.statistics().received == 5
    await two.reactivate()
    assert await asyncio.gather(received(runtime, "two", 60), received(runtime, "three", 55)) == [
        list(range(60)),
        list(range(5, 60)),
    ]
    await sending


@pytest.mark.parametrize("wanted", kinds("aaa", "iii", "ccc"))
async def test_when_a_target_ends_the_others_go_on(runtime, echoes, wanted):
    await echoes(wanted)
    await runtime.connect("one", "two", "three")
    await runtime.send("one", Number(1))
    assert await received(runtime, "two", 1) == await received(runtime, "three", 1) == [1]
    await runtime.terminate("two")
    await runtime.send("one", Number(2))
    assert await received(runtime, "three", 1) == [2]
    await runtime.terminate("three")
    await runtime.send("one", Number(3))
    assert await received(runtime, "one", 1) == [3]
    assert runtime.dead_letters.total == 0


async def test_a_target_that_ends_while_it_is_waited_for(runtime, echoes, eventually):
    _, two, _ = await echoes("aaa", queue_size=1)
    await runtime.connect("one", "two", "three")
    await two.deactivate()
    await runtime.send_many("one", [Number(n) for n in range(3)])
    await eventually(lambda: two._box.blocked)
    await two.terminate(drain=False)
    assert await received(runtime, "three", 3) == [0, 1, 2]
    assert [(letter.kernel_id, letter.message.n) for letter in runtime.dead_letters] == [("two", 0)]


async def test_a_target_that_refuses_a_reply_costs_the_others_nothing(runtime, start, echoes):
    await echoes("aa")
    strict = await start(echo_body, "strict", queue_size=1, backpressure="reject")
    await strict.deactivate()
    await runtime.connect("one", "strict", "two")
    await runtime.send_many("one", [Number(n) for n in range(3)])
    assert await received(runtime, "two", 3) == [0, 1, 2]
    letters = [(letter.kernel_id, letter.message.n, letter.kind, letter.is_reply) for letter in runtime.dead_letters]
    assert letters == [("one", 1, "undeliverable", True), ("one", 2, "undeliverable", True)]
    assert "'strict', to which it is connected" in runtime.dead_letters[0].reason


@pytest.mark.parametrize("wanted", kinds("aaa", "iii", "ccc"))
async def test_one_target_or_all_of_them_can_be_disconnected(runtime, echoes, wanted):
    await echoes(wanted)
    await runtime.connect("one", "two", "three")
    with pytest.raises(KernelStateError, match="go to 'two' and 'three': to receive them"):
        await runtime.receive("one")
    await runtime.disconnect("one", "two")
    with pytest.raises(KernelStateError, match="do not go to 'two', but to 'three'"):
        await runtime.disconnect("one", "two")
    await runtime.send("one", Number(1))
    assert await received(runtime, "three", 1) == [1]
    await runtime["one"].connect("two")
    await runtime["one"].disconnect()
    with pytest.raises(KernelStateError, match="go to no other kernel"):
        await runtime.disconnect("one")
    await runtime.send("one", Number(2))
    assert await received(runtime, "one", 1) == [2]
    assert runtime["two"].statistics().received == 0


async def test_what_cannot_be_connected(runtime, start, echoes):
    async def reader(ctx: KernelContext[Text, None]):
        async for _ in ctx:
            pass

    await echoes("aaa")
    await start(reader)
    await runtime.connect("one", "two")
    with pytest.raises(KernelStateError, match=r"'one' go to 'two' already: disconnect\('one', 'two'\)"):
        await runtime.connect("one", "two")
    with pytest.raises(KernelStateError, match="'three' already"):
        await runtime.connect("one", "three", "three")
    with pytest.raises(KernelStateError, match="to itself"):
        await runtime.connect("one", "one")
    with pytest.raises(MessageTypeError, match="sends Number, but 'reader' takes Text"):
        await runtime.connect("one", "reader")
    with pytest.raises(KernelNotFoundError, match="did you mean 'three'"):
        await runtime.connect("one", "thre")
    with pytest.raises(TypeError, match="name whom"):
        await runtime.connect("one")
    await runtime.send("one", Number(1))  # and none of this has changed anything
    assert await received(runtime, "two", 1) == [1]
    assert runtime["three"].statistics().received == 0


async def test_an_ask_is_answered_to_the_asker_alone(runtime, echoes):
    await echoes("aaa")
    await runtime.connect("one", "two", "three")
    assert (await runtime.ask("one", Number(7))).n == 7
    await runtime.wait_idle()
    assert runtime["two"].statistics().received == runtime["three"].statistics().received == 0


async def test_chains_and_circles(runtime, start, echoes):
    async def countdown(ctx: KernelContext[Number, Number]):
        async for number in ctx:
            if number.n:
                await ctx.send(Number(number.n - 1))

    await echoes("aaa")
    await start(countdown, "down")
    await runtime.connect("one", "down")
    await runtime.connect("down", "one", "two")
    await runtime.connect("two", "three")
    await runtime.send("one", Number(50))
    assert await received(runtime, "three", 50) == list(range(49, -1, -1))
    await runtime.wait_idle()


@pytest.mark.parametrize("loop_mode", ["thread"])
async def test_synchronous_code_can_connect_several(runtime, echoes, in_thread):
    await echoes("aaa")
    await in_thread(runtime.sync.connect, "one", "two", "three")
    await in_thread(runtime.sync.disconnect, "one", "three")
    await runtime.send("one", Number(1))
    assert await received(runtime, "two", 1) == [1]


# -- natively and over the host ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", kinds("iii", "ccc"))
async def test_a_second_target_comes_and_goes_while_messages_flow(runtime, echoes, eventually, wanted):
    one, *_ = await echoes(wanted, queue_size=32)
    await runtime.connect("one", "two")
    link = one._link
    assert link.task is None
    count = 1000
    reading = asyncio.ensure_future(received(runtime, "two", count))
    extra = []

    async def read_extra():
        while True:
            extra.append(int((await runtime.receive("three")).n))

    reading_extra = asyncio.ensure_future(read_extra())

    async def send():
        for n in range(count):
            await runtime.send("one", Number(n))
            if n % 50 == 0:
                await asyncio.sleep(0)

    sending = asyncio.ensure_future(send())
    for _ in range(3):
        await runtime.connect("one", "three")
        assert link.task is not None
        got = len(extra)
        await eventually(lambda got=got: len(extra) > got or sending.done())
        await runtime.disconnect("one", "three")
    await sending
    assert await reading == list(range(count))
    assert extra == sorted(set(extra))
    reading_extra.cancel()
    await native_again(runtime, one)
    await runtime.send("one", Number(5))
    assert await received(runtime, "two", 1) == [5]


@pytest.mark.parametrize("wanted", kinds("ii", "cc"))
@pytest.mark.parametrize("seen", ["one", "two"])
async def test_an_observer_comes_and_goes_while_messages_flow(runtime, echoes, eventually, wanted, seen, in_thread):
    one, *_ = await echoes(wanted, queue_size=32)
    await runtime.connect("one", "two")
    log, sent, got, enough, is_last = Log(), 0, [], False, False
    log.kernels = frozenset({seen})

    async def read():
        while not (is_last and len(got) == sent):
            got.extend(await received(runtime, "two", 1))

    async def send():
        nonlocal sent
        while not enough:
            await runtime.send("one", Number(sent))
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(0)

    reading, sending = asyncio.ensure_future(read()), asyncio.ensure_future(send())
    await in_thread(runtime.observe, log)
    await eventually(lambda: one._link.task is not None)
    await eventually(lambda: len(log.came) > 10)
    await in_thread(runtime.unobserve, log)
    end = sent + 100
    await eventually(lambda: sent > end)
    enough = True
    await sending
    sent, is_last = sent + 1, True
    await runtime.send("one", Number(sent - 1))
    await reading
    assert got == list(range(sent))
    assert {target for _, target, _ in log.came} == {seen}


@pytest.mark.parametrize("wanted", kinds("aaa", "iii", "cac"))
async def test_what_is_handed_over_is_caused_by_what_was_in_hand(runtime, echoes, wanted, in_thread):
    await echoes(wanted)
    await runtime.connect("one", "two", "three")
    log = Log()
    await in_thread(runtime.observe, log)
    for n in range(5):
        await runtime.send("one", Number(n))
    assert await received(runtime, "two", 5) == await received(runtime, "three", 5) == list(range(5))
    causes = sorted(log.came, key=lambda event: (event[2], event[1]))
    assert causes == [
        (cause, to, n) for n in range(5) for cause, to in ((None, "one"), ("one", "three"), ("one", "two"))
    ]


@pytest.mark.parametrize("wanted", kinds("ii", "cc"))
async def test_a_native_link_is_observed_as_well(runtime, echoes, eventually, wanted, in_thread):
    one, *_ = await echoes(wanted)
    await runtime.connect("one", "two")
    log = Log()
    await in_thread(runtime.observe, log)
    await eventually(lambda: one._link.task is not None)
    await runtime.send("one", Number(3))
    assert await received(runtime, "two", 1) == [3]
    assert log.came == [(None, "one", 3), ("one", "two", 3)]
    await in_thread(runtime.unobserve, log)
    await native_again(runtime, one)
    await runtime.send("one", Number(5))
    assert await received(runtime, "two", 1) == [5]
    assert len(log.came) == 2


@pytest.mark.parametrize("wanted", kinds("ii", "cc"))
async def test_a_target_is_stepped_while_messages_flow(runtime, echoes, wanted):
    one, two = await echoes(wanted, queue_size=8)
    await runtime.connect("one", "two")
    sending = asyncio.ensure_future(runtime.send_many("one", [Number(n) for n in range(60)]))
    assert await received(runtime, "two", 4) == [0, 1, 2, 3]
    await two.deactivate()
    await two.wait_paused()
    begun = two.statistics().processed
    assert await received(runtime, "two", begun - 4) == list(range(4, begun))
    for n in range(begun, begun + 20):
        assert [message.n for message in await two.step(timeout=10)] == [n]
        assert two.statistics().processed == n + 1
        assert await received(runtime, "two", 1) == [n]
    await two.reactivate()
    assert await received(runtime, "two", 40 - begun) == list(range(begun + 20, 60))
    await sending
    await native_again(runtime, one)


@pytest.mark.parametrize("wanted", kinds("ii", "cc"))
async def test_a_breakpoint_of_a_target_is_seen(runtime, echoes, wanted, in_thread):
    one, two = await echoes(wanted)
    await runtime.connect("one", "two")
    assert one._link.task is None
    await in_thread(two.break_when, lambda message: message.n == 5)
    while one._link.task is None:
        await asyncio.sleep(0)
    await runtime.send_many("one", [Number(n) for n in range(8)])
    assert (await two.wait_paused(timeout=10)).n == 5
    assert await received(runtime, "two", 5) == [0, 1, 2, 3, 4]
    await two.reactivate()
    assert await received(runtime, "two", 3) == [5, 6, 7]


async def test_a_connection_made_by_a_body_is_not_caused_by_its_message(runtime, start, echoes, in_thread):
    async def maker(ctx):
        async for _ in ctx:
            await runtime.connect("one", "two")

    await echoes("aa")
    await start(maker)
    log = Log()
    await in_thread(runtime.observe, log)
    await runtime.send("maker", Number(9))
    await runtime.wait_idle()
    await runtime.send("one", Number(1))
    assert await received(runtime, "two", 1) == [1]
    assert log.came == [(None, "maker", 9), (None, "one", 1), ("one", "two", 1)]


# -- to routers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round_robin", "broadcast"])
async def test_replies_can_go_to_a_router(runtime, echoes, strategy):
    await echoes("aaaa")
    await runtime.router("pool", ["two", "three"], strategy=strategy)
    await runtime.connect("one", "pool", "four")
    for n in range(6):
        await runtime.send("one", Number(n))
    assert await received(runtime, "four", 6) == list(range(6))
    await runtime.wait_idle()
    shares = [list(range(6))] * 2 if strategy == "broadcast" else [[0, 2, 4], [1, 3, 5]]
    assert [await received(runtime, name, len(shares[0])) for name in ("two", "three")] == shares
    with pytest.raises(KernelStateError, match="'one' go to 'pool' already"):
        await runtime.connect("one", "pool")
    await runtime.routers["pool"].close()
    await runtime.send("one", Number(6))
    assert await received(runtime, "four", 1) == [6]
    assert runtime.dead_letters.total == 0


async def test_a_kernel_cannot_be_connected_to_a_router_over_itself(runtime, echoes):
    await echoes("aa")
    await runtime.router("pool", ["one", "two"])
    with pytest.raises(KernelStateError, match="to itself"):
        await runtime.connect("one", "pool")


async def test_the_replies_of_a_pool_can_be_connected(runtime, echoes, start):
    await echoes("aa")
    pool = await runtime.router("pool", "one", size=2)
    await runtime.connect("pool", "two")
    with pytest.raises(KernelStateError, match="replies of 'pool' go to 'two' already"):
        await pool.connect("two")
    await pool.resize(3)
    await pool.send_many(Number(n) for n in range(9))
    assert sorted(await received(runtime, "two", 9)) == list(range(9))
    assert pool.statistics().routed == {"pool-0": 3, "pool-1": 3, "pool-2": 3}
    await start(echo_body, "three")
    await pool.connect("three")
    with pytest.raises(KernelStateError, match="do not go to 'one', but to 'two' and 'three'"):
        await pool.disconnect("one")
    await pool.disconnect("two")
    await pool.send(Number(7))
    assert await received(runtime, "three", 1) == [7]
    await pool.disconnect()
    with pytest.raises(KernelStateError, match="'pool' go to no other kernel"):
        await pool.disconnect()
    await runtime.terminate("three")
    await pool.resize(4)
    for _ in range(4):
        await pool.send(Number(8))
    assert [await received(runtime, kernel.id, 1) for kernel in pool.kernels] == [[8]] * 4
    assert runtime["two"].statistics().received == 9


async def test_a_pool_goes_on_without_a_target_that_has_ended(runtime, echoes, start):
    await echoes("aaa")
    pool = await runtime.router("pool", "one", size=1)
    await pool.connect("two", "three")
    await runtime.terminate("two")
    await pool.resize(2)
    await pool.send_many([Number(1), Number(2)])
    assert sorted(await received(runtime, "three", 2)) == [1, 2]
    await start(echo_body, "four")
    await runtime.connect("pool-0", "four")  # of one of them alone
    await runtime.terminate("three")
    await pool.disconnect()
    await runtime.send("pool-0", Number(3))
    assert await received(runtime, "four", 1) == [3]
    with pytest.raises(TypeError, match="name whom"):
        await pool.connect()


@pytest.mark.parametrize("wanted", kinds("aa", "ii", "cc", "aaa", "iii", "ccc"))
@pytest.mark.parametrize("killed", ["one", "two"])
async def test_a_kernel_that_begins_again_stays_connected(runtime, echoes, eventually, wanted, killed):
    await echoes(wanted, queue_size=8, restart="on_failure", backoff=None, max_restarts=100)
    names = NAMES[1 : len(wanted)]
    await runtime.connect("one", *names)
    count = 300
    reading = [asyncio.ensure_future(received(runtime, name, count)) for name in names]
    for n in range(count):
        await runtime.send("one", Number(n))
        if n % 60 == 59:
            if "a" in wanted:  # what such a body has in hand is lost with it
                await runtime.wait_idle()
            await runtime.kill(killed)
    assert await asyncio.gather(*reading) == [list(range(count))] * len(names)
    assert runtime.dead_letters.total == 0
    await eventually(lambda: runtime[killed].restarts == 5)
