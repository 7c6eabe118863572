"""Replies find their caller: the ask that waits, else the outbox, else a dead letter; never somebody else."""

import asyncio
import random
from dataclasses import FrozenInstanceError, dataclass

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import KernelStateError, QueueFullError, QueueTimeoutError
from pydotcompute.runtime import KernelState
from pydotcompute.testing import FakeClock


@message
class Ask:
    n: int


@message
class Answer:
    n: int


@dataclass(frozen=True)
class Tagged:
    """Duck-typed: no decorator, ids of its own."""

    n: int
    message_id: object = None
    correlation_id: object = None


class Plain:
    """A message without a priority; those with one take shorter ways."""

    def __init__(self, n):
        self.n = n


@pytest.fixture(params=[Ask, Plain])
def make(request):
    return request.param


async def echo(ctx):
    async for n in ctx:
        await ctx.send(n)


async def keep(ctx):
    """Puts every message aside; answers what it is told to."""
    ctx.state.kept = kept = []
    async for what in ctx:
        if isinstance(what, (Ask, Tagged)):
            kept.append(what)
        else:
            for reply in what(kept):
                await ctx.send(reply)


# -- each its own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [64, 5000])
@pytest.mark.parametrize("timeout", [None, 15.0])
async def test_each_of_a_thousand_asks_with_any_priority_gets_its_own_reply(runtime, start, queue_size, timeout):
    rng = random.Random(7)

    async def shuffle(ctx: KernelContext[Ask, Answer]):
        held = []
        async for ask in ctx:
            held.append(ask)
            if len(held) == 50:
                rng.shuffle(held)
                for one in held:
                    await ctx.send(Answer(one.n * 3, correlation_id=one.message_id))
                held.clear()
                await asyncio.sleep(0)

    kernel = await start(shuffle, queue_size=queue_size)
    asks = [runtime.ask("shuffle", Ask(n, priority=rng.randrange(256)), timeout) for n in range(1000)]
    replies = await asyncio.gather(*asks)
    assert [reply.n for reply in replies] == [3 * n for n in range(1000)]
    await runtime.wait_idle()
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.replied) == (1000, 1000, 1000)
    assert (statistics.replies_unread, statistics.dead_letters) == (0, 0)
    assert kernel.unanswered == 0


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_reply_belongs_to_the_message_in_hand(runtime, start, make, pauses):
    async def double(ctx):
        async for ask in ctx:
            if pauses:
                await asyncio.sleep(0)
            await ctx.send(2 * ask.n)

    await start(double)
    asks = (runtime.ask("double", make(n)) for n in range(100))
    assert await asyncio.gather(*asks) == [2 * n for n in range(100)]


async def test_a_reply_may_name_another_message_than_the_one_in_hand(runtime, start):
    await start(keep)
    first, second = Ask(1), Ask(2)
    asks = [asyncio.ensure_future(runtime.ask("keep", ask)) for ask in (first, second)]
    await asyncio.sleep(0)
    answered = await runtime.ask("keep", lambda kept: [Answer(9, correlation_id=first.message_id), "mine"])
    assert answered == "mine"
    assert (await asks[0]).n == 9
    assert not asks[1].done()
    await runtime.send("keep", lambda kept: [kept[1].reply(Answer, 8)])
    assert (await asks[1]).n == 8


async def test_a_reply_that_nobody_asked_for_goes_to_the_outbox_in_order(runtime, start):
    await start(echo)
    await runtime.send_many("echo", [1, 2, 3])
    assert [await runtime.receive("echo") for _ in range(3)] == [1, 2, 3]


async def test_a_reply_that_names_no_pending_ask_goes_to_the_outbox(runtime, start):
    await start(keep)
    stranger = Answer(1, correlation_id=Ask(1).message_id)
    await runtime.send("keep", lambda kept: [stranger])
    assert await runtime.receive("keep") is stranger


async def test_a_reply_that_matches_an_ask_goes_only_there(runtime, start):
    kernel = await start(echo)
    assert await runtime.ask("echo", 1) == 1
    assert kernel.statistics().replies_unread == 0
    with pytest.raises(QueueTimeoutError):
        await runtime.receive("echo", timeout=0)


@pytest.mark.parametrize("named", [False, True])
async def test_a_second_reply_goes_to_the_outbox(runtime, start, named):
    async def twice(ctx):
        async for ask in ctx:
            for n in (1, 2):
                await ctx.send(Answer(n, correlation_id=ask.message_id if named else None))

    await start(twice)
    assert (await runtime.ask("twice", Ask(0))).n == 1
    assert (await runtime.receive("twice")).n == 2
    assert runtime.dead_letters.total == 0


async def test_a_reply_of_a_message_that_was_only_sent_goes_to_the_outbox(runtime, start):
    async def worker(ctx):
        async for ask in ctx:
            await ctx.send(ask.reply(Answer, ask.n))

    await start(worker)
    await runtime.send("worker", Ask(5))
    assert (await runtime.receive("worker")).n == 5


async def test_a_task_of_the_body_may_answer_later(runtime, start, gate):
    go_on = gate()

    async def worker(ctx):
        async def answer(ask):
            await go_on.wait()
            await ctx.send(ask.reply(Answer, ask.n * 2))

        async with asyncio.TaskGroup() as group:
            async for ask in ctx:
                group.create_task(answer(ask))

    kernel = await start(worker)
    asks = [asyncio.ensure_future(runtime.ask("worker", Ask(n))) for n in range(10)]
    while kernel.unanswered < 9:
        await asyncio.sleep(0)
    go_on.open()
    assert [(await ask).n for ask in asks] == [2 * n for n in range(10)]


# -- the user's objects --------------------------------------------------------------------------------------------


async def test_the_same_reply_may_be_sent_again_and_again(runtime, start):
    cached = Answer(7)
    frozen = Tagged(7)

    async def worker(ctx):
        async for what in ctx:
            await ctx.send(cached if what == "cached" else frozen)

    await start(worker)
    for what, reply in (("cached", cached), ("frozen", frozen)):
        replies = await asyncio.gather(*(runtime.ask("worker", what) for _ in range(100)))
        assert all(got is reply for got in replies)
    assert cached.correlation_id is None
    assert vars(cached).get("message_id") is None
    with pytest.raises(FrozenInstanceError):
        frozen.n = 1


async def test_asking_writes_nothing_to_the_message_and_makes_no_id(runtime, start):
    await start(echo)
    ask = Ask(1)
    before = dict(vars(ask))
    assert await runtime.ask("echo", ask) is ask
    assert vars(ask) == before
    assert "message_id" not in before


async def test_duck_typed_ids_of_any_hashable_kind_correlate(runtime, start):
    await start(keep)
    ids = ["text", 0, 17, (1, "a"), 2.5, frozenset([1])]
    asks = [asyncio.ensure_future(runtime.ask("keep", Tagged(n, name))) for n, name in enumerate(ids)]
    await asyncio.sleep(0)
    await runtime.send(
        "keep", lambda kept: [Tagged(10 * ask.n, correlation_id=ask.message_id) for ask in reversed(kept)]
    )
    assert [(await ask).n for ask in asks] == [0, 10, 20, 30, 40, 50]


async def test_the_same_message_asked_twice_at_once_gets_two_replies(runtime, start):
    await start(keep)
    ask = Ask(1)
    asks = [asyncio.ensure_future(runtime.ask("keep", ask)) for _ in range(2)]
    await asyncio.sleep(0)
    await runtime.send("keep", lambda kept: [one.reply(Answer, n) for n, one in enumerate(kept)])
    assert sorted([(await one).n for one in asks]) == [0, 1]


async def test_the_same_message_asked_again_after_a_timeout_gets_its_reply(runtime, start):
    await start(keep)
    ask = Ask(1)
    with pytest.raises(QueueTimeoutError):
        await runtime.ask("keep", ask, timeout=0.01)
    again = asyncio.ensure_future(runtime.ask("keep", ask))
    await asyncio.sleep(0)
    await runtime.send("keep", lambda kept: [one.reply(Answer, n) for n, one in enumerate(kept)])
    assert (await again).n in (0, 1)
    await runtime.wait_idle()
    assert runtime.dead_letters.total == 1
    assert runtime.statistics()["keep"].replies_unread == 0


# -- too late ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
async def test_a_late_reply_is_a_dead_letter_and_not_the_next_callers(runtime, start, gate, named):
    gates = [gate(), gate()]

    async def slow(ctx):
        async for ask in ctx:
            await gates[ask.n].wait()
            await ctx.send(Answer(ask.n, correlation_id=ask.message_id if named else None))

    await start(slow)
    with pytest.raises(QueueTimeoutError, match="no reply from 'slow'"):
        await runtime.ask("slow", Ask(0), timeout=0.01)
    following = asyncio.ensure_future(runtime.ask("slow", Ask(1)))
    gates[0].open()
    gates[1].open()
    assert (await following).n == 1
    (letter,) = runtime.dead_letters
    assert letter.message.n == 0
    assert "late reply" in letter.reason
    assert runtime.statistics()["slow"].replies_unread == 0


async def test_a_late_reply_to_what_was_put_aside_is_a_dead_letter(runtime, start):
    await start(keep)
    with pytest.raises(QueueTimeoutError):
        await runtime.ask("keep", Ask(1), timeout=0.01)
    await runtime.send("keep", lambda kept: [kept[0].reply(Answer, 1)])
    await runtime.wait_idle()
    assert "late reply" in runtime.dead_letters[0].reason
    assert runtime.statistics()["keep"].replies_unread == 0


@pytest.mark.parametrize("named", [False, True])
async def test_the_reply_to_an_asker_that_was_cancelled_is_a_dead_letter(runtime, start, gate, settle, named):
    taken, go_on = gate(), gate()

    async def worker(ctx):
        async for ask in ctx:
            taken.open()
            await go_on.wait()
            await ctx.send(Answer(ask.n, correlation_id=ask.message_id if named else None))

    await start(worker)
    asked = asyncio.ensure_future(runtime.ask("worker", Ask(1)))
    await taken.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await settle()
    go_on.open()
    await runtime.wait_idle()
    (letter,) = runtime.dead_letters
    assert letter.message.n == 1
    assert await runtime.ask("worker", Ask(2)) is not None
    assert runtime["worker"].state is KernelState.ACTIVE


async def test_an_asker_that_is_cancelled_as_its_reply_comes_leaves_a_dead_letter(start_on_current):
    runtime, start = start_on_current
    go_on = asyncio.Event()
    ask_task = None

    async def worker(ctx):
        async for n in ctx:
            await go_on.wait()
            await ctx.send(n)
            ask_task.cancel()  # the reply is there, but its asker has not run yet

    await start(worker)
    ask_task = asyncio.ensure_future(runtime.ask("worker", "reply"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await ask_task
    assert [letter.message for letter in runtime.dead_letters] == ["reply"]


@pytest.fixture
async def start_on_current():
    async with RingKernelRuntime("current") as runtime:

        async def start(body, **options):
            kernel = await runtime.launch(ring_kernel(**options)(body))
            await kernel.activate()
            return kernel

        yield runtime, start


async def test_an_ask_whose_message_was_not_taken_yet_can_be_cancelled(runtime, start, settle):
    await start(echo)
    await runtime.deactivate("echo")
    asked = asyncio.ensure_future(runtime.ask("echo", 1))
    await settle()
    asked.cancel()
    await settle()
    await runtime.reactivate("echo")
    assert await runtime.ask("echo", 2) == 2
    assert [letter.message for letter in runtime.dead_letters] == [1]


# -- timeouts ------------------------------------------------------------------------------------------------------


async def test_no_reply_within_the_timeout(runtime, start):
    async def silent(ctx):
        async for _ in ctx:
            pass

    await start(silent)
    with pytest.raises(QueueTimeoutError, match=r"no reply from 'silent' within 0.01 s"):
        await runtime.ask("silent", 1, timeout=0.01)
    with pytest.raises(TimeoutError):
        await runtime.send_and_receive("silent", 1, timeout=0)


async def test_no_room_within_the_timeout(runtime, start):
    kernel = await start(echo, queue_size=1)
    await runtime.deactivate("echo")
    await runtime.send("echo", 1)
    with pytest.raises(QueueTimeoutError, match=r"no room in the mailbox of 'echo' within 0.01 s.*DEACTIVATED"):
        await runtime.ask("echo", 2, timeout=0.01)
    assert kernel._box.blocked == 0
    assert kernel.statistics().received == 1
    await runtime.reactivate("echo")
    assert await runtime.receive("echo") == 1
    assert runtime.dead_letters.total == 0


async def test_the_timeout_covers_the_room_and_the_reply_together(runtime, start, gate, clock):
    loop = asyncio.get_running_loop()

    async def silent(ctx):
        async for _ in ctx:
            pass

    await start(silent, queue_size=1)
    await runtime.deactivate("silent")
    await runtime.send("silent", 1)
    begin = loop.time()
    asked = asyncio.ensure_future(runtime.ask("silent", 2, timeout=3600))
    while runtime["silent"]._box.blocked < 1:
        await asyncio.sleep(0)
    loop.call_later(1800, lambda: asyncio.ensure_future(runtime.reactivate("silent")))
    with pytest.raises(QueueTimeoutError, match=r"no reply from 'silent' within 3600 s"):
        await asked
    assert loop.time() - begin == pytest.approx(3600)


async def test_an_ask_in_time_is_not_timed_out(runtime, start):
    await start(echo)
    assert await asyncio.gather(*(runtime.ask("echo", n, timeout=10) for n in range(500))) == list(range(500))


async def test_receive_gives_up_at_its_timeout(runtime, start):
    await start(echo)
    with pytest.raises(QueueTimeoutError, match=r"no reply from 'echo' within 0.01 s; it is ACTIVE"):
        await runtime.receive("echo", timeout=0.01)
    await runtime.send("echo", 1)
    assert await runtime.receive("echo", timeout=10) == 1


async def test_the_timeout_of_a_receive_holds_although_others_take_the_replies(start_on_current):
    runtime, start = start_on_current

    async def tease(ctx):
        await ctx.receive()
        while not gone:
            await ctx.send("bait")
            await runtime.receive("tease")  # the one in line was woken, but has not run yet
            await asyncio.sleep(60)

    await start(tease)
    gone = False
    with FakeClock(runtime) as clock:
        await runtime.send("tease", "begin")
        with pytest.raises(QueueTimeoutError, match=r"within 3600 s"):
            await runtime.receive("tease", timeout=3600)
        gone = True
        assert clock.elapsed == pytest.approx(3600)
        await runtime.wait_ended("tease")


# -- the kernel ends -----------------------------------------------------------------------------------------------


async def test_an_ask_that_is_never_answered_fails_when_the_kernel_ends(runtime, start, settle):
    async def silent(ctx):
        async for _ in ctx:
            pass

    await start(silent)
    asks = [asyncio.ensure_future(runtime.ask("silent", what)) for what in (1, None, Ask(1), Tagged(1, "id"))]
    await settle()
    await runtime.terminate("silent")
    for asked in asks:
        with pytest.raises(KernelStateError, match="'silent' is TERMINATED"):
            await asked


async def test_a_message_that_is_dropped_fails_its_ask(runtime, start, settle):
    for strategy, dropped in (("drop_oldest", 0), ("drop_newest", 1)):
        await start(echo, strategy, queue_size=1, backpressure=strategy)
        await runtime.deactivate(strategy)
        asks = []
        for n in range(2):
            asks.append(asyncio.ensure_future(runtime.ask(strategy, n)))
            await settle()
        with pytest.raises(QueueFullError, match=f"'{strategy}'.*{strategy}"):
            await asks[dropped]
        await runtime.reactivate(strategy)
        assert await asks[1 - dropped] == 1 - dropped


# -- the outbox ----------------------------------------------------------------------------------------------------


async def test_a_full_outbox_blocks_the_body_and_its_status_says_so(runtime, start, eventually, settle):
    begun = []

    async def worker(ctx):
        async for n in ctx:
            begun.append(n)
            await ctx.send(n)

    kernel = await start(worker, queue_size=3)
    await runtime.send_many("worker", [0, 1, 2])
    await runtime.wait_idle()
    assert kernel.waiting_for == ""
    await runtime.send_many("worker", [3, 4])
    await eventually(lambda: kernel.waiting_for)
    await settle()
    assert "replies unread" in kernel.waiting_for
    assert "receive()" in kernel.waiting_for
    assert "replies unread" in runtime.statistics()["worker"].waiting_for
    assert begun == [0, 1, 2, 3]
    assert kernel.statistics().replies_unread == 3
    with pytest.raises(QueueTimeoutError, match="replies unread"):
        await runtime.ask("worker", 5, timeout=0.01)
    with pytest.raises(QueueTimeoutError, match="replies unread"):
        await runtime.wait_idle(timeout=0.01)
    assert [await runtime.receive("worker") for _ in range(5)] == [0, 1, 2, 3, 4]
    await runtime.wait_idle()
    assert kernel.waiting_for == ""


@pytest.mark.parametrize("taken", [False, True])
async def test_a_body_that_is_cancelled_at_a_full_outbox(start_on_current, taken):
    runtime, start = start_on_current
    tasks = []

    async def worker(ctx):
        tasks.append(asyncio.current_task())
        async for n in ctx:
            await ctx.send(n)

    kernel = await start(worker, queue_size=1)
    await kernel.send_many([0])
    await runtime.wait_idle()
    await kernel.send_many([1])
    while not kernel.waiting_for:
        await asyncio.sleep(0)
    received = [await kernel.receive()] if taken else []  # then there is room, but the body has not run yet
    tasks[0].cancel()
    await runtime.wait_ended("worker")
    while kernel.statistics().replies_unread:
        received.append(await kernel.receive())
    replies = [letter.message for letter in runtime.dead_letters if "unread" in letter.reason]
    assert (received, replies) == (([0, 1], []) if taken else ([0], [1]))


async def test_a_full_outbox_does_not_hold_up_the_reply_to_an_ask(runtime, start):
    await start(echo, queue_size=2)
    await runtime.send_many("echo", [1, 2])
    await runtime.wait_idle()
    assert await runtime.ask("echo", 3, timeout=10) == 3
    assert [await runtime.receive("echo"), await runtime.receive("echo")] == [1, 2]


async def test_receivers_stand_in_line(runtime, start, settle):
    await start(echo)
    receivers = []
    for _ in range(4):
        receivers.append(asyncio.ensure_future(runtime.receive("echo")))
        await settle()
    receivers[1].cancel()
    await settle()
    await runtime.send_many("echo", ["first", "second", "third"])
    assert [await receivers[n] for n in (0, 2, 3)] == ["first", "second", "third"]


async def test_a_receiver_that_gives_up_as_a_reply_comes_leaves_it_to_the_next(start_on_current):
    runtime, start = start_on_current
    receivers = []

    async def worker(ctx):
        async for reply in ctx:
            await ctx.send(reply)
            receivers[0].cancel()  # it was woken, but has not run yet

    await start(worker)
    receivers += [asyncio.ensure_future(runtime.receive("worker")) for _ in range(3)]
    await asyncio.sleep(0)
    await runtime.send("worker", "reply")
    assert await receivers[1] == "reply"
    assert receivers[0].cancelled()
    assert not receivers[2].done()
    await runtime.send("worker", "another")
    assert await receivers[2] == "another"


async def test_a_thousand_receivers_each_get_one_reply(runtime, start):
    await start(echo, queue_size=10)
    receivers = [asyncio.ensure_future(runtime.receive("echo")) for _ in range(1000)]
    await runtime.send_many("echo", range(1000))
    assert sorted(await asyncio.gather(*receivers)) == list(range(1000))


# -- kernels that ask ----------------------------------------------------------------------------------------------


async def test_a_kernel_that_asks_itself_is_refused(runtime, start):
    async def selfish(ctx):
        async for n in ctx:
            try:
                await ctx.ask("selfish", n, timeout=5)
            except KernelStateError as error:
                await ctx.send(str(error))

    await start(selfish)
    assert "'selfish' asks itself" in await runtime.ask("selfish", 1, timeout=5)
    assert "ctx.tell" in await runtime.ask("selfish", 1, timeout=5)
    assert runtime.statistics()["selfish"].received == 2


@pytest.mark.parametrize("timeout", [None, 10])
async def test_a_chain_of_kernels_that_ask_one_another(runtime, start, make, timeout):
    def link(after):
        async def body(ctx):
            async for ask in ctx:
                await ctx.send(ask if after is None else await ctx.ask(after, make(ask.n + 1), timeout))

        return body

    for n in range(30):
        await start(link(f"link {n + 1}" if n < 29 else None), f"link {n}")
    for _ in range(50):
        assert (await runtime.ask("link 0", make(0))).n == 29
    replies = await asyncio.gather(*(runtime.ask("link 0", make(n)) for n in range(100)))
    assert [reply.n for reply in replies] == [29 + n for n in range(100)]


async def test_kernels_that_tell_one_another_in_a_ring(runtime, start, make):
    def node(after):
        async def body(ctx):
            async for ball in ctx:
                if ball.n:
                    await ctx.tell(after, make(ball.n - 1))
                else:
                    await ctx.send("done")

        return body

    for n in range(5):
        await start(node(f"node {(n + 1) % 5}"), f"node {n}")
    await runtime.send("node 0", make(1003))
    assert await runtime.receive("node 3") == "done"


async def test_kernels_that_ask_one_another_in_a_circle_time_out_and_live(runtime, start, make):
    def node(after):
        async def body(ctx):
            async for ask in ctx:
                try:
                    await ctx.send(await ctx.ask(after, make(ask.n - 1), timeout=0.05) if ask.n else "done")
                except QueueTimeoutError:
                    await ctx.send("timed out")

        return body

    for n in range(3):
        await start(node(f"node {(n + 1) % 3}"), f"node {n}")
    assert await runtime.ask("node 0", make(2)) == "done"
    assert await runtime.ask("node 0", make(5)) == "timed out"
    await runtime.wait_idle()
    assert {runtime[f"node {n}"].state for n in range(3)} == {KernelState.ACTIVE}
    assert await runtime.ask("node 0", make(2)) == "done"


async def test_an_ask_is_always_in_its_own_task_and_context(runtime, start, on_loop, make):
    from contextvars import ContextVar

    who = ContextVar("who", default="nobody")
    names = set()

    async def worker(ctx):
        who.set("worker")
        async for ask in ctx:
            names.add((who.get(), asyncio.current_task().get_name()))
            await ctx.send(ask.n)

    await start(worker)

    async def ask_often():
        who.set("caller")
        me = asyncio.current_task()
        for n in range(100):
            assert await runtime.ask("worker", make(n)) == n
            assert asyncio.current_task() is me
            assert who.get() == "caller"

    await on_loop(ask_often)
    assert names == {("worker", "worker")}
