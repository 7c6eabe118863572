"""Routers: one id for a pool of kernels."""

import asyncio
import dataclasses
import enum
import subprocess
import sys
import uuid
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import KernelContext, Record, message, ring_kernel
from pydotcompute.exceptions import (
    InstanceError,
    KernelFailedError,
    KernelNotFoundError,
    KernelRedefinedWarning,
    KernelStateError,
    MessageTypeError,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.runtime import KernelState
from pydotcompute.runtime.routing import _hashed, _mixed

STRATEGIES = ("round_robin", "least_queue", "hash", "broadcast")


@message
class Job:
    n: int
    customer: str = "one"


@message
class Number:
    n: np.int64


class Seen(Record):
    count: np.int64
    total: np.int64


def tally(state: Seen, msg: Number, out: Number) -> bool:
    state.count += 1
    state.total += msg.n
    out.n = 2 * msg.n
    return True


@pytest.fixture
def work(gate):
    """Notes who has handled what; waits for `work.gate` before each message if that is set."""

    @ring_kernel
    async def work(ctx: KernelContext[Job, Job]):
        async for job in ctx:
            if work.gate is not None:
                await work.gate.wait()
            work.seen.append((ctx.kernel_id, job.n))
            if job.n < 0:
                raise ValueError(f"{job.n}")
            work.keys.setdefault(job.customer, set()).add(ctx.kernel_id)
            await ctx.send(Job(10 * job.n))

    async def quiet(ctx: KernelContext[Job, None]):
        async for job in ctx:
            if work.gate is not None:
                await work.gate.wait()
            work.seen.append((ctx.kernel_id, job.n))

    work.gate, work.seen, work.keys = None, [], {}
    work.small = ring_kernel("small", queue_size=1)(quiet)
    return work


@pytest.fixture
def router(runtime, work):
    """``await router(3, "hash", key="customer")``: a pool of that many workers, whose replies are dropped."""

    async def router(size=4, strategy="round_robin", **options):
        pool = await runtime.router("pool", work, size=size, strategy=strategy, **options)
        for kernel in pool.kernels:
            kernel._out.strategy = "drop_oldest"
        return pool

    return router


def shares(work):
    return Counter(kernel_id for kernel_id, _ in work.seen)


def key_of(strategy):
    return {"key": "customer"} if strategy == "hash" else {}


# -- whose turn it is --------------------------------------------------------------------------------------------------


async def test_round_robin_goes_in_turn(runtime, work, router):
    pool = await router(3)
    assert [kernel.id for kernel in pool.kernels] == ["pool-0", "pool-1", "pool-2"]
    assert all(kernel.state is KernelState.ACTIVE for kernel in pool.kernels)
    for n in range(7):
        await pool.send(Job(n))
    await runtime.wait_idle()
    assert sorted(work.seen) == sorted((f"pool-{n % 3}", n) for n in range(7))


async def test_round_robin_waits_for_the_mailbox_whose_turn_it_is(runtime, work, gate, settle):
    work.gate = gate()
    pool = await runtime.router("pool", work.small, size=2)
    await settle()
    for n in range(4):  # one in hand and one queued, of each
        await pool.send(Job(n))
        await settle()
    waiting = asyncio.ensure_future(pool.send(Job(4)))
    await settle()
    assert not waiting.done()
    assert pool.kernels[0]._box.blocked == 1
    work.gate.open()
    await waiting
    await runtime.wait_idle()
    assert shares(work) == {"pool-0": 3, "pool-1": 2}


async def test_the_least_queue_is_the_shortest_with_what_is_in_hand(runtime, work, router, gate, settle):
    work.gate = gate()
    pool = await router(3, "least_queue")
    await settle()
    for n in range(3):  # each has one in hand: an empty mailbox does not make a kernel free
        await pool.send(Job(n))
        await settle()
    assert [kernel.busy for kernel in pool.kernels] == [True] * 3
    for n in range(6):
        await runtime.send("pool-0", Job(100 + n))
    for n in range(8):
        await pool.send(Job(n))
    await settle()
    assert sorted(kernel.queue_depth for kernel in pool.kernels) == [4, 4, 6]
    work.gate.open()
    await runtime.wait_idle()


async def test_the_least_queue_leaves_a_paused_kernel_alone_when_the_others_are_free(runtime, work, router):
    pool = await router(3, "least_queue")
    await runtime.deactivate("pool-1")
    for n in range(30):
        await pool.send(Job(n))
        await runtime.wait_idle("pool-0", "pool-2")
    assert pool.kernels[1].queue_depth <= 1


@pytest.mark.parametrize("key", ["customer", lambda job: (job.customer, 1)])
async def test_the_messages_of_one_key_go_to_one_kernel(runtime, work, router, key):
    pool = await router(4, "hash", key=key)
    for n in range(400):
        await pool.send(Job(n, customer=f"c{n % 100}"))
    await runtime.wait_idle()
    assert len(work.keys) == 100
    assert all(len(kernels) == 1 for kernels in work.keys.values())
    assert min(shares(work).values()) > 30  # about 100 each
    assert len(shares(work)) == 4


async def test_broadcast_goes_to_all(runtime, work, router):
    pool = await router(3, "broadcast")
    await pool.send(Job(1))
    assert [reply.n for reply in await pool.ask(Job(2))] == [20, 20, 20]
    await runtime.wait_idle()
    assert sorted(work.seen) == sorted((f"pool-{i}", n) for i in range(3) for n in (1, 2))


async def test_a_full_kernel_does_not_keep_a_broadcast_from_the_others(runtime, work, settle):
    pool = await runtime.router("pool", work.small, size=3, strategy="broadcast")
    await runtime.deactivate("pool-0")
    await pool.send(Job(1))
    waiting = asyncio.ensure_future(pool.send(Job(2)))
    await settle()
    assert not waiting.done()
    assert shares(work) == {"pool-1": 2, "pool-2": 2}
    await runtime.reactivate("pool-0")
    await waiting
    await runtime.wait_idle()
    assert shares(work)["pool-0"] == 2


async def test_an_error_of_one_kernel_is_raised_when_the_others_have_got_the_broadcast(runtime, work):
    @ring_kernel(backpressure="reject", queue_size=1)
    async def strict(ctx: KernelContext[Job, None]):
        async for job in ctx:
            work.seen.append((ctx.kernel_id, job.n))

    for name in ("a", "b", "c"):
        await runtime.launch(strict, kernel_id=name)
        await runtime.activate(name)
    await runtime.deactivate("a")
    pool = await runtime.router("pool", ["a", "b", "c"], strategy="broadcast")
    await pool.send(Job(1))
    await runtime.wait_idle("b", "c")
    with pytest.raises(QueueFullError, match="'a' is full") as caught:
        await pool.send(Job(2))
    assert caught.value.__notes__ == ["2 others have got the message"]
    await runtime.wait_idle("b", "c")
    assert shares(work) == {"b": 2, "c": 2}
    assert pool.statistics().failed == 1
    assert pool.statistics().routed == {"a": 1, "b": 2, "c": 2}


# -- addressed like a kernel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_router_is_addressed_like_a_kernel(runtime, work, router, start, in_thread, strategy):
    pool = await router(2, strategy, **key_of(strategy))
    told = []

    async def outsider(ctx):
        async for job in ctx:
            await ctx.tell("pool", job)
            told.append(await ctx.ask("pool", job))

    await start(outsider)
    await runtime.send("pool", Job(1))
    await runtime.send_many("pool", [Job(2), Job(3)])
    await runtime.send("outsider", Job(4))
    await runtime.wait_idle("outsider")
    reply = await runtime.ask("pool", Job(5), timeout=10)
    replies = [reply async for reply in runtime.map("pool", [Job(6), Job(7)])]
    one = [50, 50] if strategy == "broadcast" else 50
    numbers = [[r.n for r in reply] if isinstance(reply, list) else reply.n for reply in (reply, *replies)]
    assert numbers == ([one, [60, 60], [70, 70]] if strategy == "broadcast" else [50, 60, 70])
    if runtime.loop_mode == "thread":
        await in_thread(runtime.sync.send, "pool", Job(8))
        await in_thread(runtime.sync.ask, "pool", Job(9))
    await runtime.wait_idle()
    sent = Counter(n for _, n in work.seen)
    times = 2 if strategy == "broadcast" else 1
    assert {n: count // times for n, count in sent.items() if n < 8} == {1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1, 7: 1}
    assert sum(pool.statistics().routed.values()) == len(work.seen)


async def test_what_a_router_cannot_do_says_so(runtime, router, work):
    pool = await router(2)
    for method in (runtime.receive, runtime.terminate, runtime.activate):
        with pytest.raises(KernelNotFoundError, match="'pool' is a router and no ring kernel: name one of 'pool-0'"):
            await method("pool")
    with pytest.raises(InstanceError, match="'pool' is a router"):
        await runtime.send("pool", Job(1), instance=0)
    with pytest.raises(KernelNotFoundError, match="did you mean 'pool'"):
        await runtime.send("pol", Job(1))
    with pytest.raises(TypeError, match="its id, 'pool'"):
        await runtime.send(pool, Job(1))


async def test_errors_of_a_send_show_no_detour(runtime, router):
    await router(1)
    with pytest.raises(MessageTypeError, match="'pool-0' takes Job, not int") as caught:
        await runtime.send("pool", 1)
    assert caught.value.__suppress_context__
    with pytest.raises(KernelNotFoundError) as caught:
        await runtime.ask("nobody", 1)
    assert caught.value.__suppress_context__


async def test_ids_do_not_clash(runtime, work, router):
    await router(2)
    with pytest.raises(KernelStateError, match="'pool' is the id of a router already"):
        await runtime.router("pool", work, size=1)
    with pytest.raises(KernelStateError, match=r"'pool-0' is the id of a ring kernel \(ACTIVE\) already"):
        await runtime.router("pool-0", work, size=1)
    with pytest.raises(KernelStateError, match="'pool' is the id of a router: launch it under another"):
        await runtime.launch(work, kernel_id="pool")
    await runtime.launch(work, kernel_id="other-1")
    other = await runtime.router("other", work, size=3)
    assert [kernel.id for kernel in other.kernels] == ["other-0", "other-2", "other-3"]


async def test_what_cannot_be_a_router(runtime, work):
    await runtime.launch(work)
    for error, text, arguments in (
        (ValueError, "must be one of round_robin", {"size": 1, "strategy": "random"}),
        (ValueError, "strategy='hash' needs it", {"size": 1, "strategy": "hash"}),
        (ValueError, "no other strategy takes one", {"size": 1, "key": "customer"}),
        (TypeError, "name of a field or a function", {"size": 1, "strategy": "hash", "key": 3}),
        (ValueError, "how many", {}),
        (ValueError, "at least 1", {"size": 0}),
        (ValueError, "at least 1", {"size": True}),
    ):
        with pytest.raises(error, match=text):
            await runtime.router("pool", work, **arguments)
    with pytest.raises(KernelNotFoundError, match="did you mean 'work'"):
        await runtime.router("pool", "wrk", size=2)
    with pytest.raises(KernelNotFoundError, match="'nobody'"):
        await runtime.router("pool", ["work", "nobody"])
    with pytest.raises(ValueError, match="at least one ring kernel"):
        await runtime.router("pool", [])
    with pytest.raises(ValueError, match="launched already"):
        await runtime.router("pool", ["work"], size=2)
    assert not runtime.routers
    await runtime.router("pool", ["work"])
    assert list(runtime.routers) == ["pool"]


async def test_a_message_without_the_key_is_refused(runtime, router, start):
    async def anything(ctx):
        async for _ in ctx:
            pass

    await start(anything)
    pool = await runtime.router("loose", ["anything"], strategy="hash", key="customer")
    with pytest.raises(MessageTypeError, match="'loose' needs the key of each message, and int has none"):
        await pool.send(1)
    by_object = await runtime.router("objects", ["anything"], strategy="hash", key=lambda _: object)
    with pytest.raises(TypeError, match="a key must be a text"):
        await by_object.send(1)
    assert (pool.statistics().failed, by_object.statistics().failed) == (1, 1)


# -- kernels that fail, end and come back ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_kernels_that_have_failed_or_ended_are_passed_over(runtime, work, router, strategy):
    pool = await router(4, strategy, **key_of(strategy))
    await runtime.send("pool-0", Job(-1))
    await runtime.wait_ended("pool-0")
    await runtime.terminate("pool-2")
    work.seen.clear()
    for n in range(40):
        await pool.send(Job(n, customer=f"c{n}"))
        await runtime.ask("pool", Job(100 + n, customer=f"c{n}"))
    await runtime.wait_idle()
    assert set(shares(work)) == {"pool-1", "pool-3"}
    assert sum(shares(work).values()) == 80 * (2 if strategy == "broadcast" else 1)
    assert pool.statistics().skipped > 0
    assert all(len(kernels) == 1 for kernels in work.keys.values()) or strategy != "hash"


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_when_none_is_left_the_error_says_why(runtime, work, router, strategy):
    pool = await router(2, strategy, **key_of(strategy))
    await runtime.send("pool-0", Job(-1))
    await runtime.wait_ended("pool-0")
    await runtime.terminate("pool-1")
    for attempt in (pool.send, pool.ask):
        with pytest.raises(
            KernelStateError, match=r"pool-0 is FAILED, pool-1 is TERMINATED\): .*resize\(2\)"
        ) as caught:
            await attempt(Job(1))
        assert isinstance(caught.value.__cause__, ValueError)
    assert pool.statistics().failed == 2
    await pool.resize(2)  # as the error says
    assert (await runtime.wait_idle("pool-0", "pool-1")) is None
    await pool.send(Job(1))
    await runtime.wait_idle()
    assert (work.seen[-1][1], runtime["pool-0"].state) == (1, KernelState.ACTIVE)


async def test_a_kernel_that_was_launched_again_takes_part_again(runtime, work, router):
    pool = await router(2)
    await runtime.terminate("pool-0")
    await pool.send(Job(1))
    await pool.send(Job(2))
    await runtime.launch(work, kernel_id="pool-0")
    await runtime.activate("pool-0")
    await pool.send(Job(3))
    await pool.send(Job(4))
    await runtime.wait_idle()
    assert shares(work) == {"pool-1": 3, "pool-0": 1}
    assert pool.kernels[0] is runtime["pool-0"]


async def test_a_message_that_waits_for_a_kernel_that_ends_goes_to_another(runtime, work, settle):
    pool = await runtime.router("pool", work.small, size=2)
    await runtime.deactivate("pool-0")
    await pool.send(Job(0))
    await pool.send(Job(1))
    waiting = asyncio.ensure_future(pool.send(Job(2)))
    await settle()
    assert not waiting.done()
    await runtime.terminate("pool-0", drain=False)
    await waiting
    await runtime.wait_idle()
    assert work.seen == [("pool-1", 1), ("pool-1", 2)]
    assert [letter.message.n for letter in runtime.dead_letters] == [0]
    assert pool.statistics().skipped == 1


async def test_a_kernel_that_is_being_started_again_keeps_its_messages(runtime, work, gate):
    @ring_kernel(restart="on_failure", backoff=60.0)
    async def fragile(ctx: KernelContext[Job, None]):
        async for job in ctx:
            work.seen.append((ctx.kernel_id, job.n))
            if job.n < 0:
                raise ValueError("no")

    pool = await runtime.router("pool", fragile, size=2)
    for _ in range(2):  # the first restart comes at once
        await runtime.send("pool-0", Job(-1))
    await runtime.wait_idle("pool-0")
    while "restart" not in runtime["pool-0"].waiting_for:
        await asyncio.sleep(0)
    for n in range(4):
        await pool.send(Job(n))
    await runtime.wait_idle("pool-1")
    assert runtime["pool-0"].queue_depth == 2
    assert pool.statistics().skipped == 0


async def test_an_ask_raises_what_the_kernel_raised(runtime, work, router):
    pool = await router(2)
    with pytest.raises(KernelFailedError, match="ValueError: -1"):
        await pool.ask(Job(-1))
    assert pool.statistics().failed == 1
    with pytest.raises(ValueError, match="timeout"):
        await pool.ask(Job(1), timeout=-1)


async def test_asking_all_raises_the_error_of_one_when_the_others_have_replied(runtime, work, start):
    async def kind(ctx):
        async for job in ctx:
            replied.append(job.n)
            await ctx.send(job)

    async def bad(ctx):
        async for _ in ctx:
            raise ValueError("no")

    replied = []
    await start(bad)
    await start(kind)
    pool = await runtime.router("pool", ["bad", "kind"], strategy="broadcast")
    with pytest.raises(KernelFailedError, match="'bad' failed"):
        await pool.ask(Job(1))
    assert replied == [1]


# -- other sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round_robin", "least_queue", "hash"])
async def test_resizing_under_load_loses_nothing(runtime, strategy):
    seen = []

    @ring_kernel(queue_size=8)
    async def slow(ctx: KernelContext[Job, None]):
        async for job in ctx:
            await asyncio.sleep(0)
            seen.append(job.n)

    pool = await runtime.router("pool", slow, size=3, strategy=strategy, **key_of(strategy))
    count, senders = 200, 5

    async def send(sender):
        for n in range(count):
            await runtime.send("pool", Job(sender * count + n, customer=f"c{n % 17}"))

    sending = [asyncio.ensure_future(send(sender)) for sender in range(senders)]
    for size in (1, 6, 2, 5, 1, 4):
        await pool.resize(size, timeout=10)
        assert [kernel.id for kernel in pool.kernels] == [f"pool-{i}" for i in range(size)]
        await asyncio.sleep(0)
    await asyncio.gather(*sending)
    await runtime.wait_idle()
    assert sorted(seen) == list(range(count * senders))
    assert runtime.dead_letters.total == 0
    assert sum(pool.statistics().routed.values()) == count * senders
    assert [kernel.id for kernel in runtime.kernels.values() if not kernel.state.over] == [
        f"pool-{i}" for i in range(4)
    ]


async def test_those_that_are_taken_out_handle_what_they_have(runtime, work, router, gate, settle):
    work.gate = gate()
    pool = await router(3)
    for n in range(9):
        await pool.send(Job(n))
    await runtime.deactivate("pool-2")
    with pytest.raises(QueueTimeoutError, match=r"'pool-1' and 'pool-2' of the router 'pool' have not ended"):
        await pool.resize(1, timeout=0.01)
    assert [kernel.id for kernel in pool.kernels] == ["pool-0"]
    for n in range(9, 12):
        await pool.send(Job(n))
    assert runtime["pool-1"].state is KernelState.ACTIVE
    work.gate.open()
    await runtime.wait_ended("pool-1", timeout=10)
    await runtime.wait_ended("pool-2", timeout=10)
    await runtime.wait_idle()
    assert shares(work) == {"pool-0": 6, "pool-1": 3, "pool-2": 3}
    assert [(await runtime.receive("pool-1")).n for _ in range(3)] == [10, 40, 70]  # unread replies are not lost
    assert pool.statistics().routed == {"pool-0": 6, "pool-1": 3, "pool-2": 3}


async def test_one_that_is_taken_out_may_still_be_at_it_when_others_come(runtime, work, router, gate):
    work.gate = gate()
    pool = await router(2)
    for n in range(4):
        await pool.send(Job(n))
    shrinking = asyncio.ensure_future(pool.resize(1))
    while len(pool.kernels) != 1:
        await asyncio.sleep(0)
    await pool.resize(2)
    assert [kernel.id for kernel in pool.kernels] == ["pool-0", "pool-2"]
    work.gate.open()
    await shrinking
    assert runtime["pool-1"].state is KernelState.TERMINATED
    assert shares(work)["pool-1"] == 2


async def test_resizing_replaces_those_that_have_failed_first(runtime, work, router):
    pool = await router(3)
    await runtime.send("pool-1", Job(-1))
    await runtime.wait_ended("pool-1")
    await pool.resize(2)
    assert [kernel.id for kernel in pool.kernels] == ["pool-0", "pool-2"]
    await pool.resize(3)
    assert [kernel.id for kernel in pool.kernels] == ["pool-0", "pool-1", "pool-2"]
    assert runtime["pool-1"].state is KernelState.ACTIVE


async def test_new_kernels_run_the_latest_definition(runtime, work, router):
    pool = await router(1)

    async def work_2(ctx: KernelContext[Job, Job]):
        async for job in ctx:
            await ctx.send(Job(-job.n))

    with pytest.warns(KernelRedefinedWarning):
        work_2 = ring_kernel("work")(work_2)
    await pool.resize(2)
    assert {(await pool.ask(Job(n))).n for n in (1, 1)} == {-1}
    assert pool.kernels[1].definition is work_2


async def test_what_cannot_be_resized(runtime, work, router, start):
    pool = await router(1)
    for size in (0, 1.5, True):
        with pytest.raises(ValueError, match="at least 1"):
            await pool.resize(size)
    with pytest.raises(ValueError, match="timeout"):
        await pool.resize(1, timeout=-1)
    listed = await runtime.router("listed", ["pool-0"])
    with pytest.raises(KernelStateError, match="has not launched"):
        await listed.resize(2)
    await pool.close()
    with pytest.raises(KernelStateError, match="'pool' was closed"):
        await pool.resize(2)


async def test_a_closed_router_ends_what_it_has_launched(runtime, work, router, start):
    async def other(ctx):
        async for _ in ctx:
            pass

    await start(other)
    pool, listed = await router(2), await runtime.router("listed", ["other"])
    await pool.send_many(Job(n) for n in range(6))
    await pool.close()
    await pool.close()
    await listed.close()
    assert len(work.seen) == 6
    assert [runtime[name].state for name in ("pool-0", "pool-1")] == [KernelState.TERMINATED] * 2
    assert runtime["other"].state is KernelState.ACTIVE
    with pytest.raises(KernelStateError, match="'pool' was closed"):
        await pool.send(Job(1))
    with pytest.raises(KernelNotFoundError):
        await runtime.send("pool", Job(1))
    again = await router(1)
    await again.send(Job(7))
    await runtime.wait_idle()
    assert work.seen[-1] == ("pool-0", 7)


async def test_a_pool_that_cannot_be_launched_leaves_no_router(runtime, monkeypatch, work):
    launch = runtime._launch

    async def fail(kernel, kernel_id):
        if kernel_id == "pool-1":
            raise KernelStateError("no room")
        return await launch(kernel, kernel_id)

    monkeypatch.setattr(runtime, "_launch", fail)
    with pytest.raises(KernelStateError, match="no room"):
        await runtime.router("pool", work, size=2)
    assert not runtime.routers
    assert runtime["pool-0"].state is KernelState.TERMINATED


async def test_counters_are_frozen_and_shown(runtime, work, router):
    pool = await router(2)
    await pool.send(Job(1))
    statistics = pool.statistics()
    assert (statistics.router_id, statistics.strategy, statistics.routed) == (
        "pool",
        "round_robin",
        {"pool-0": 1, "pool-1": 0},
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.failed = 1
    assert repr(pool) == "<router 'pool' round_robin over 2 ring kernels, 1 routed>"
    page = pool._repr_html_()
    assert all(text in page for text in ("router &#x27;pool&#x27;", "pool-1", "active"))


async def test_the_blocking_twin_makes_a_router(runtime, work, in_thread):
    pool = await in_thread(lambda: runtime.sync.router("pool", work, size=2, strategy="hash", key="customer"))
    assert pool is runtime.routers["pool"]
    await in_thread(runtime.sync.call, pool.resize, 3)
    await in_thread(runtime.sync.call, pool.send, Job(1))
    assert len(pool.kernels) == 3


async def test_a_late_reply_of_a_router_is_a_dead_letter(runtime, work, router, gate, settle):
    work.gate = gate()
    pool = await router(1)
    with pytest.raises(QueueTimeoutError, match="no reply from 'pool-0'"):
        await pool.ask(Job(1), timeout=0.01)
    work.gate.open()
    await runtime.wait_idle()
    assert [letter.kind for letter in runtime.dead_letters] == ["late"]


async def test_dead_letters_can_be_sent_to_a_router(runtime, work, router, start):
    async def idle(ctx):
        async for _ in ctx:
            pass

    await start(idle, activate=False)
    await runtime.send_many("idle", [Job(n) for n in range(6)])
    await runtime.terminate("idle", drain=False)
    await router(3)
    assert (await runtime.dead_letters.replay(to="pool")).sent == 6
    await runtime.wait_idle()
    assert shares(work) == {"pool-0": 2, "pool-1": 2, "pool-2": 2}


# -- compiled kernels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_compiled_kernels(runtime, backend, strategy):
    definition = ring_kernel(kernel_id="tally", state=Seen, backend=backend, queue_size=512)(tally)
    options = {"key": "n"} if strategy == "hash" else {}
    pool = await runtime.router("pool", definition, size=3, strategy=strategy, **options)
    await runtime.send_many("pool", [Number(n) for n in range(90)])
    await runtime.wait_idle()
    counts = [int((await kernel.snapshot()).count) for kernel in pool.kernels]
    assert sum(counts) == (270 if strategy == "broadcast" else 90)
    assert min(counts) > 0
    reply = await runtime.ask("pool", Number(4))
    assert [r.n for r in (reply if strategy == "broadcast" else [reply])] == [8] * (3 if strategy == "broadcast" else 1)
    await pool.resize(1)
    assert len(runtime["pool-2"].history) == 5
    await pool.send(Number(1))
    await runtime.wait_idle()
    assert runtime.dead_letters.total == 0


# -- keys --------------------------------------------------------------------------------------------------------------


def place(key, size):
    return max(range(size), key=lambda i: _mixed(_hashed(key) ^ _hashed(f"pool-{i}")))


keys = st.one_of(
    st.text(), st.binary(), st.integers(), st.floats(allow_nan=False), st.uuids(), st.none(), st.booleans()
)


@given(key=st.one_of(keys, st.tuples(keys, keys)), size=st.integers(1, 20))
def test_a_key_moves_only_to_a_kernel_that_comes(key, size):
    assert place(key, size + 1) in (place(key, size), size)


def test_as_many_keys_move_as_have_to():
    count = 5000
    for size in (1, 4, 9):
        moved = sum(place(key, size) != place(key, size + 1) for key in range(count))
        assert abs(moved / count - 1 / (size + 1)) < 0.03
        shares = Counter(place(f"key {n}", size) for n in range(count))
        assert all(abs(share / count - 1 / size) < 0.03 for share in shares.values())


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 7


@pytest.mark.parametrize(
    "equal",
    [
        (1, True, 1.0, np.int32(1), np.float32(1.0), np.bool_(True)),
        (0.5, np.float16(0.5)),
        (7, Size.BIG),
        ("a", np.str_("a")),
        ((1, "a"), (1.0, "a")),
        (-0.0, 0),
    ],
)
def test_keys_that_are_equal_go_to_one_place(equal):
    assert len({_hashed(key) for key in equal}) == 1


def test_keys_that_differ_are_told_apart():
    different = ["1", 1, b"1", ("1",), ("1", ""), ("", "1"), None, 1.5, Colour.RED, "Colour.RED", uuid.UUID(int=1)]
    assert len({_hashed(key) for key in different}) == len(different)


def test_a_key_has_the_same_place_in_every_process():
    code = (
        "from pydotcompute.runtime.routing import _hashed; import uuid;"
        "print([_hashed(key) for key in ('a', b'a', 12, 0.5, None, ('a', 1), uuid.UUID(int=3))])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [_hashed(key) for key in ("a", b"a", 12, 0.5, None, ("a", 1), uuid.UUID(int=3))]
    assert run.stdout.strip() == str(here)
