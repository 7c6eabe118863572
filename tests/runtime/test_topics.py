"""Topics: who gets what is published."""

import asyncio
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import KernelContext, Record, message
from pydotcompute.exceptions import KernelNotFoundError, KernelStateError, MessageTypeError, QueueFullError
from pydotcompute.runtime.topics import Patterns


@message
class Reading:
    n: int


@message
class Number:
    n: np.int64


class Seen(Record):
    total: np.int64


def add(state: Seen, msg: Number, out: None) -> None:
    state.total += msg.n


@pytest.fixture
def subscriber(runtime, start):
    """``await subscriber("id", "pattern", ...)``: a kernel that has subscribed; the list of what it gets."""

    async def subscriber(kernel_id, *patterns, **options):
        seen = []

        async def body(ctx: KernelContext[Reading, None]):
            async for reading in ctx:
                seen.append(reading.n)

        await start(body, kernel_id, **options)
        for pattern in patterns:
            await runtime.subscribe(pattern, kernel_id)
        return seen

    return subscriber


# -- who gets it -------------------------------------------------------------------------------------------------------


async def test_patterns_choose_who_gets_what(runtime, subscriber):
    exact = await subscriber("exact", "sensors.berlin.temperature")
    star = await subscriber("star", "sensors.*.temperature")
    hash_ = await subscriber("hash", "sensors.#")
    everything = await subscriber("everything", "#")
    counts = [
        await runtime.publish(topic, Reading(n))
        for n, topic in enumerate(
            ["sensors.berlin.temperature", "sensors.rome.temperature", "sensors", "sensors.a.b.c", "else"]
        )
    ]
    await runtime.wait_idle()
    assert counts == [4, 3, 2, 2, 1]
    assert (exact, star, hash_, everything) == ([0], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4])


async def test_who_has_subscribed_to_several_that_match_gets_it_once(runtime, subscriber):
    seen = await subscriber("a", "x.*", "x.#", "#", "x.y", "x.y")
    assert await runtime.publish("x.y", Reading(1)) == 1
    await runtime.unsubscribe("x.*", "a")
    assert await runtime.publish("x.y", Reading(2)) == 1
    for pattern in ("x.#", "#", "x.y"):
        await runtime.unsubscribe(pattern, "a")
    assert await runtime.publish("x.y", Reading(3)) == 0
    await runtime.wait_idle()
    assert seen == [1, 2]
    with pytest.raises(KernelStateError, match=r"'a' has not subscribed to 'x\.y', but to nothing"):
        await runtime.unsubscribe("x.y", "a")
    await runtime.subscribe("x.y.z", "a")
    with pytest.raises(KernelStateError, match=re.escape("to 'x.*', but to 'x.y.z'")):
        await runtime.unsubscribe("x.*", "a")


async def test_a_subscription_counts_from_the_next_message_on(runtime, subscriber):
    early = await subscriber("early", "t")
    await runtime.publish("t", Reading(1))
    late = await subscriber("late", "#")
    await runtime.publish("t", Reading(2))
    await runtime.wait_idle()
    assert (early, late) == ([1, 2], [2])


async def test_bodies_publish_and_subscribers_may_be_routers(runtime, subscriber, start):
    async def source(ctx):
        async for reading in ctx:
            assert await ctx.publish("t", reading) == 2

    shares = [await subscriber(name) for name in ("a", "b")]
    alone = await subscriber("alone", "t")
    await runtime.router("pool", ["a", "b"])
    await runtime.subscribe("t", "pool")
    await start(source)
    await runtime.send_many("source", [Reading(n) for n in range(4)])
    await runtime.wait_idle()
    assert (shares, alone) == ([[0, 2], [1, 3]], [0, 1, 2, 3])
    await runtime.routers["pool"].close()
    assert await runtime.publish("t", Reading(4)) == 1
    assert runtime.topics.subscriptions == (("t", "alone"),)


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_compiled_kernels_subscribe(runtime, start, backend):
    for name in ("one", "two"):
        await start(add, name, state=Seen, backend=backend)
        await runtime.subscribe("numbers.*", name)
    for n in range(100):
        assert await runtime.publish("numbers.new", Number(n)) == 2
    await runtime.wait_idle()
    assert [int((await runtime.snapshot(name)).total) for name in ("one", "two")] == [4950, 4950]


async def test_synchronous_code_publishes(runtime, subscriber, in_thread):
    seen = await subscriber("a")
    await in_thread(runtime.sync.subscribe, "t.#", "a")
    assert await in_thread(runtime.sync.publish, "t", Reading(1)) == 1
    await in_thread(runtime.sync.unsubscribe, "t.#", "a")
    assert await in_thread(runtime.sync.publish, "t", Reading(2)) == 0
    await runtime.wait_idle()
    assert seen == [1]


# -- back-pressure and errors ------------------------------------------------------------------------------------------


async def test_a_full_subscriber_is_waited_for_when_the_others_have_got_it(runtime, subscriber, settle):
    slow = await subscriber("slow", "t", queue_size=2)
    quick = await subscriber("quick", "t")
    await runtime.deactivate("slow")
    published = []

    async def publish(publisher):
        for n in range(4):
            published.append(await runtime.publish("t", Reading(100 * publisher + n)))

    publishing = [asyncio.ensure_future(publish(publisher)) for publisher in (0, 1)]
    await settle()
    assert len(published) == 2
    assert len(quick) == 4  # what the publishers wait with has not been kept from it
    assert runtime["slow"].queue_depth == 2
    await runtime.reactivate("slow")
    await asyncio.gather(*publishing)
    await runtime.wait_idle()
    for seen in (slow, quick):
        assert len(seen) == 8
        for publisher in (0, 1):  # in the order in which each has published
            assert [n % 100 for n in seen if n // 100 == publisher] == [0, 1, 2, 3]


async def test_a_subscriber_that_refuses_is_the_publishers_error_once_the_others_have_got_it(
    runtime, subscriber, start
):
    async def words(ctx: KernelContext[str, None]):
        async for _ in ctx:
            pass

    await start(words)
    await runtime.subscribe("t", "words")
    await subscriber("strict", "t", queue_size=1, backpressure="reject")
    seen = await subscriber("a", "t")
    await runtime.deactivate("strict")
    with pytest.raises(MessageTypeError, match="'words' takes str, not Reading") as caught:
        await runtime.publish("t", Reading(1))
    assert caught.value.__notes__ == ["2 others have got the message"]
    with pytest.raises(MessageTypeError) as caught:
        await runtime.publish("t", Reading(2))
    assert len(caught.value.__notes__) == 2
    assert "'strict' has not either: QueueFullError" in caught.value.__notes__[1]
    await runtime.unsubscribe("t", "words")
    with pytest.raises(QueueFullError):
        await runtime.publish("t", Reading(3))
    await runtime.wait_idle("a")
    assert seen == [1, 2, 3]
    assert (runtime.topics.published, runtime.topics.delivered, runtime.topics.undelivered) == (3, 4, 0)


async def test_a_body_that_publishes_to_itself_does_not_wait_for_ever(runtime, start):
    async def loop(ctx):
        async for _ in ctx:
            await ctx.publish("t", Reading(1))
            await ctx.publish("t", Reading(2))

    await start(loop, queue_size=1)
    await runtime.subscribe("t", "loop")
    await runtime.send("loop", Reading(0))
    await runtime.wait_ended("loop")
    assert isinstance(runtime["loop"].exception, QueueFullError)


async def test_what_nobody_has_subscribed_to_is_a_dead_letter(runtime, subscriber):
    await subscriber("a", "x.*")
    assert await runtime.publish("y.z", Reading(1)) == 0
    [letter] = runtime.dead_letters
    assert (letter.kernel_id, letter.message.n, letter.kind) == ("y.z", 1, "undeliverable")
    assert "nobody has subscribed" in letter.reason
    assert runtime.topics.undelivered == 1


async def test_a_subscriber_that_has_ended_is_dropped(runtime, subscriber, caplog):
    caplog.set_level("INFO", "pydotcompute")
    await subscriber("a", "t", "x")
    seen = await subscriber("b", "t")
    await runtime.terminate("a")
    assert await runtime.publish("t", Reading(1)) == 1
    assert runtime.topics.subscriptions == (("t", "b"),)
    assert "'a' has ended and is subscribed to 't' no longer" in caplog.text
    await runtime.wait_idle()
    assert seen == [1]
    await runtime.terminate("b")
    assert await runtime.publish("t", Reading(2)) == 0
    assert "all who had subscribed to it have ended" in runtime.dead_letters[0].reason
    assert runtime.topics.subscriptions == ()


async def test_a_subscriber_that_was_launched_again_goes_on(runtime, subscriber):
    seen = await subscriber("a", "t")
    await runtime.publish("t", Reading(1))
    await runtime.terminate("a")
    await runtime.restart("a")
    assert await runtime.publish("t", Reading(2)) == 1
    await runtime.wait_idle()
    assert seen == [1, 2]


async def test_a_subscriber_that_ends_while_it_is_waited_for(runtime, subscriber, settle):
    await subscriber("a", "t", queue_size=1)
    await runtime.deactivate("a")
    await runtime.publish("t", Reading(1))
    publishing = asyncio.ensure_future(runtime.publish("t", Reading(2)))
    await settle()
    await runtime.terminate("a", drain=False)
    assert await publishing == 0
    assert [(letter.kernel_id, letter.message.n) for letter in runtime.dead_letters] == [("a", 1), ("t", 2)]


async def test_what_is_no_pattern_or_topic(runtime, subscriber):
    await subscriber("a")
    for pattern in ("", ".", "a.", "a..b", "sens*.x", "a.##"):
        with pytest.raises(ValueError, match=r"empty|whole words"):
            await runtime.subscribe(pattern, "a")
    for topic in ("", "a..b", "a.*", "#", "a.b#"):
        with pytest.raises(ValueError, match=r"empty|is a pattern, to subscribe to"):
            await runtime.publish(topic, Reading(1))
    for wrong in (None, 3, ["a"]):
        with pytest.raises(TypeError, match="is a text such as"):
            await runtime.subscribe(wrong, "a")
    await subscriber("subscriber")
    with pytest.raises(KernelNotFoundError, match="did you mean 'subscriber'"):
        await runtime.subscribe("t", "subscribr")
    await runtime.terminate("a")
    with pytest.raises(KernelStateError, match="'a' is TERMINATED"):
        await runtime.subscribe("t", "a")
    assert len(runtime.topics.subscriptions) == 0


async def test_topics_show_what_there_is(runtime, subscriber):
    await subscriber("a", "x.*", "<b>")
    await runtime.publish("x.y", Reading(1))
    assert repr(runtime.topics) == "<topics: 2 subscriptions, 1 published, 1 delivered, 0 undelivered>"
    assert runtime.topics.matching("x.y") == ("a",)
    page = runtime.topics._repr_html_()
    assert "x.*" in page
    assert "&lt;b&gt;" in page
    assert "<b>&lt;" not in page


# -- matching ----------------------------------------------------------------------------------------------------------


def matches(pattern, topic):
    """What a pattern means, word by word."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(matches(pattern[1:], topic[i:]) for i in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and matches(pattern[1:], topic[1:])


words = st.sampled_from(["a", "b", "c"])
some_patterns = st.lists(st.lists(st.one_of(words, st.sampled_from(["*", "#"])), min_size=1, max_size=5), max_size=12)
some_topics = st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=6)


@given(some_patterns, some_topics, st.data())
def test_the_tree_of_patterns_finds_those_that_match(chosen, topics, data):
    table = Patterns()
    added = {}
    for i, pattern in enumerate(chosen):
        added.setdefault((".".join(pattern), f"k{i % 4}"), pattern)
        table.add(".".join(pattern), f"k{i % 4}")
    for entry in list(added):
        if data.draw(st.booleans()):
            assert table.remove(*entry)
            assert not table.remove(*entry)
            del added[entry]
    assert list(table) == list(added)
    assert len(table) == len(added)
    for topic in topics:
        wanted = [kernel_id for (_, kernel_id), pattern in added.items() if matches(pattern, topic)]
        assert table.matching(".".join(topic)) == list(dict.fromkeys(wanted))


def test_nothing_is_left_of_patterns_that_were_removed():
    table = Patterns()
    entries = [(pattern, name) for pattern in ("a.b.c", "a.#", "a.b", "*.b.#") for name in ("k", "l")]
    for entry in entries:
        table.add(*entry)
    for entry in entries:
        table.remove(*entry)
    assert not table._root.following
    assert not len(table)


def test_few_places_are_looked_at_among_many_patterns():
    table = Patterns()
    looked = 0

    class Counted(dict):
        def get(self, *args):
            nonlocal looked
            looked += 1
            return super().get(*args)

    for i in range(5000):
        table.add(f"sensors.city{i}.temperature", f"k{i}")
        table.add(f"sensors.*.kind{i}", f"k{i}")
    places = [table._root]
    for node in places:
        node.following = Counted(node.following)
        places.extend(node.following.values())
    assert table.matching("sensors.city7.temperature") == ["k7"]
    assert looked < 30


async def test_what_is_no_topic_says_so(runtime):
    with pytest.raises(TypeError, match="a topic"):
        await runtime.publish([1], "message")
