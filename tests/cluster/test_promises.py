"""What holds for a ring kernel in this process holds for one on another node."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import KernelContext, Record, RingKernelRuntime, Shape, message, ring_kernel
from pydotcompute.exceptions import (
    ClusterError,
    KernelFailedError,
    KernelNotFoundError,
    KernelStateError,
    MessageTypeError,
    QueueFullError,
    QueueTimeoutError,
)

Launch = Callable[..., Awaitable[Any]]


@message
class Job:
    n: int


@message
class Done:
    n: int
    pid: int


@message
class Sample:
    sensor: np.int32
    value: np.float64


@message
class Mean:
    sensor: np.int32
    mean: np.float64


class Sums(Record):
    count: Annotated[NDArray[np.int64], Shape(8)]
    total: Annotated[NDArray[np.float64], Shape(8)]


class Steps:
    taken = 0


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    """What is defined here goes to other nodes with its code, as from the cells of a notebook."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def square() -> Any:
    @ring_kernel("square")
    async def square(ctx: KernelContext[Job, Done]) -> None:
        async for job in ctx:
            if job.n < 0:
                raise ValueError(f"{job.n} is negative")
            await ctx.send(Done(n=job.n**2, pid=os.getpid()))

    return square


@pytest.fixture
def keeper() -> Any:
    """Keeps what it gets, and tells it when it is asked for."""

    @ring_kernel("keeper", queue_size=8)
    async def keeper(ctx: KernelContext[Any, Any]) -> None:
        kept: list[Any] = []
        async for one in ctx:
            if one == "tell":
                await ctx.send(kept)
            else:
                kept.append(one if isinstance(one, int) else one.n)

    return keeper


async def test_it_runs_where_it_was_placed(cluster: RingKernelRuntime, square: Any) -> None:
    for node in cluster.nodes.values():
        kernel = await cluster.launch(square, kernel_id=f"square of {node.name}", node=node.name)
        await kernel.activate()
        reply = await kernel.ask(Job(n=3))
        assert (reply.n, reply.pid) == (9, node.pid)
        assert type(reply) is Done
        assert kernel.node == node.name
        assert kernel.id in node.kernels


async def test_a_thousand_asks_get_their_own_replies(launch: Launch, square: Any) -> None:
    kernel = await launch(square)
    replies = await asyncio.gather(*(kernel.ask(Job(n=n, priority=n % 256)) for n in range(1000)))
    assert [reply.n for reply in replies] == [n**2 for n in range(1000)]


async def test_the_order_of_a_sender_is_kept(launch: Launch, keeper: Any) -> None:
    kernel = await launch(keeper)
    for n in range(100):
        await kernel.send(n)
    await kernel.send_many(range(100, 5000))
    assert await kernel.ask("tell") == list(range(5000))


async def test_priorities_are_exact_in_the_mailbox(launch: Launch, keeper: Any) -> None:
    kernel = await launch(keeper)
    await kernel.deactivate()
    for n, priority in enumerate([10, 200, 128, 200, 0]):
        await kernel.send(Job(n=n, priority=priority))
    await kernel.reactivate()
    assert await kernel.ask("tell") == [1, 3, 2, 0, 4] or await kernel.ask("tell") == [1, 3, 2, 0, 4]


async def test_a_pause_keeps_messages_and_the_bound_holds(launch: Launch, keeper: Any) -> None:
    kernel = await launch(keeper)
    await kernel.deactivate()
    await kernel.send_many(range(8))
    ninth = asyncio.ensure_future(kernel.send(8))
    await asyncio.sleep(0.1)
    assert not ninth.done()
    assert kernel.queue_depth == 8
    await kernel.reactivate()
    await ninth
    assert await kernel.ask("tell") == list(range(9))
    assert kernel.statistics().queue_peak == 8


async def test_a_full_mailbox_refuses_or_drops(launch: Launch, cluster: RingKernelRuntime) -> None:
    async def body(ctx: KernelContext[Any, Any]) -> None:
        kept: list[Any] = []
        async for one in ctx:
            if one == "tell":
                await ctx.send(kept)
            else:
                kept.append(one)

    expected = {"reject": [0, 1, 2, 3], "drop_newest": [0, 1, 2, 3], "drop_oldest": [2, 3, 4, 5]}
    for strategy, kept in expected.items():
        kernel = await launch(ring_kernel(strategy, queue_size=4, backpressure=strategy)(body))
        await kernel.deactivate()
        refused = 0
        for n in range(6):
            try:
                await kernel.send(n)
            except QueueFullError:
                refused += 1
        await kernel.reactivate()
        await cluster.wait_idle(strategy, timeout=10)
        assert await kernel.ask("tell") == kept
        assert refused == (2 if strategy == "reject" else 0)
        dropped = [letter.message for letter in cluster.dead_letters.of(strategy, "dropped")][-2:]
        assert dropped == {"reject": [], "drop_newest": [4, 5], "drop_oldest": [0, 1]}[strategy]


async def test_a_crash_is_seen(launch: Launch, square: Any, cluster: RingKernelRuntime) -> None:
    kernel = await launch(square)
    with pytest.raises(KernelFailedError, match="-1 is negative") as caught:
        await kernel.ask(Job(n=-1))
    assert type(caught.value.__cause__) is ValueError
    assert await cluster.wait_ended("square", timeout=10) == "FAILED"
    assert str(kernel.exception) == "-1 is negative"
    with pytest.raises(KernelFailedError):
        await kernel.send(Job(n=1))
    assert [letter.message.n for letter in cluster.dead_letters.of("square", "failed")][-1] == -1
    assert kernel.statistics().errors == 1


async def test_a_policy_starts_it_again(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("again", restart="on_failure", backoff=None, keep_state=True, state=Steps, max_retries=1)
    async def again(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            ctx.state.taken += 1
            if ctx.state.taken == 2:
                raise OSError("busy")
            await ctx.send((n, ctx.state.taken))

    kernel = await launch(again)
    assert await asyncio.gather(*(kernel.ask(n) for n in range(3))) == [(0, 1), (1, 3), (2, 4)]
    await cluster.wait_idle("again", timeout=10)
    for _ in range(100):
        if kernel.statistics().restarts:
            break
        await asyncio.sleep(0.05)
    statistics = kernel.statistics()
    assert (statistics.restarts, statistics.retried, statistics.dead_letters) == (1, 1, 0)
    assert kernel.state == "ACTIVE"


async def test_it_drains_before_it_ends(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("slow")
    async def slow(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await asyncio.sleep(0.01)
            await ctx.send(n)

    kernel = await launch(slow)
    await kernel.send_many(range(20))
    await kernel.terminate()
    assert kernel.state == "TERMINATED"
    assert [await kernel.receive(timeout=1) for _ in range(20)] == list(range(20))
    with pytest.raises(KernelStateError, match="TERMINATED"):
        await kernel.send(1)


async def test_what_is_not_handled_is_a_dead_letter(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("stuck")
    async def stuck(ctx: KernelContext[Any, Any]) -> None:
        async for _ in ctx:
            await asyncio.sleep(60)

    kernel = await launch(stuck)
    await kernel.send_many(range(5))
    asked = asyncio.ensure_future(kernel.ask(5))
    await asyncio.sleep(0.1)
    await kernel.terminate(drain=False, timeout=0.2)
    with pytest.raises((KernelStateError, QueueFullError)):
        await asked
    lost = [letter.message for letter in cluster.dead_letters.of("stuck")]
    assert sorted(lost[-6:]) == [0, 1, 2, 3, 4, 5]
    assert kernel.statistics().dead_letters == 6


async def test_a_body_that_returns_has_ended(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("once")
    async def once(ctx: KernelContext[Any, Any]) -> None:
        await ctx.send(await ctx.receive())

    kernel = await launch(once)
    assert await kernel.ask("hello") == "hello"
    assert await cluster.wait_ended("once", timeout=10) == "TERMINATED"


async def test_replies_unread_stop_it(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("chatty", queue_size=4)
    async def chatty(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            for i in range(n):
                await ctx.send(i)

    kernel = await launch(chatty)
    await kernel.send(100)
    for _ in range(100):
        if "unread" in kernel.waiting_for:
            break
        await asyncio.sleep(0.05)
    assert "replies unread" in kernel.waiting_for
    assert len(kernel._out) <= 4
    assert [await kernel.receive(timeout=5) for _ in range(100)] == list(range(100))
    with pytest.raises(QueueTimeoutError):
        await kernel.receive(timeout=0.01)


async def test_types_are_checked_in_the_sender(launch: Launch, square: Any) -> None:
    kernel = await launch(square)
    with pytest.raises(MessageTypeError, match="takes Job, not str"):
        await kernel.send("text")


async def test_an_ask_that_gives_up_takes_no_later_reply(launch: Launch, cluster: RingKernelRuntime) -> None:
    @ring_kernel("late")
    async def late(ctx: KernelContext[Any, Any]) -> None:
        async for seconds in ctx:
            await asyncio.sleep(seconds)
            await ctx.send(seconds)

    kernel = await launch(late)
    with pytest.raises(QueueTimeoutError):
        await kernel.ask(0.3, timeout=0.1)
    assert await kernel.ask(0.0) == 0.0
    for _ in range(100):
        if letters := cluster.dead_letters.of("late", "late"):
            break
        await asyncio.sleep(0.05)
    assert letters[-1].message == 0.3


async def test_it_steps(launch: Launch, keeper: Any) -> None:
    kernel = await launch(keeper)
    await kernel.deactivate()
    await kernel.send_many(range(4))
    assert await kernel.step(2) == [0, 1]
    assert kernel.queue_depth == 2
    await kernel.reactivate()
    assert await kernel.ask("tell") == [0, 1, 2, 3]


async def test_a_new_definition_takes_over(launch: Launch, cluster: RingKernelRuntime) -> None:
    def define(factor: int) -> Any:
        @ring_kernel("changing", state=Steps)
        async def changing(ctx: KernelContext[Any, Any]) -> None:
            async for n in ctx:
                ctx.state.taken += 1
                await ctx.send((n * factor, ctx.state.taken))

        return changing

    kernel = await launch(define(2))
    assert await kernel.ask(1) == (2, 1)
    define(10)
    for _ in range(100):
        reply = await kernel.ask(1)
        if reply[0] == 10:
            break
        await asyncio.sleep(0.02)
    assert reply[0] == 10
    assert reply[1] > 1  # the state was kept
    assert kernel.version == 2


async def test_bodies_send_and_ask_across_nodes(cluster: RingKernelRuntime, launch: Launch, keeper: Any) -> None:
    @ring_kernel("front")
    async def front(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            if n == "ask":
                await ctx.send(await ctx.ask("keeper", "tell"))
            elif n == "nobody":
                try:
                    await ctx.tell("nobody", 1)
                except KernelNotFoundError as error:
                    await ctx.send(str(error))
            else:
                await ctx.tell("keeper", n)

    kernel = await launch(front)
    sink = await cluster.launch(keeper, node="node-1")
    await sink.activate()
    await kernel.send_many(range(3000))
    assert await kernel.ask("ask") == list(range(3000))
    assert "no ring kernel 'nobody'" in await kernel.ask("nobody")
    for _ in range(100):
        if cluster.edges().get(("front", "keeper")) == 3001:
            break
        await asyncio.sleep(0.05)
    assert cluster.edges()["front", "keeper"] == 3001  # the ask, too


async def test_a_router_spreads_over_nodes(cluster: RingKernelRuntime, square: Any) -> None:
    for node in cluster.nodes:
        await (await cluster.launch(square, kernel_id=f"worker {node}", node=node)).activate()
    workers = [f"worker {node}" for node in cluster.nodes]
    router = await cluster.router("squares", workers, strategy="round_robin")
    try:
        replies = await asyncio.gather(*(cluster.ask("squares", Job(n=n)) for n in range(20)))
        assert [reply.n for reply in replies] == [n**2 for n in range(20)]
        assert {reply.pid for reply in replies} == {node.pid for node in cluster.nodes.values()}
    finally:
        await router.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_router_launches_on_all_nodes(
    hosts: RingKernelRuntime, cluster: RingKernelRuntime, square: Any, blocking: bool
) -> None:
    how: dict[str, Any] = {"size": 4, "spread": True, "delivery": "at_least_once"}
    if blocking:
        router = await asyncio.to_thread(lambda: hosts.sync.router("many squares", square, **how))
    else:
        router = await cluster.router("many squares", square, **how)
    try:
        await asyncio.gather(*(kernel.ask(Job(n=1)) for kernel in router.kernels))
        assert Counter(kernel.node for kernel in router.kernels) == dict.fromkeys(cluster.nodes, 2)
        assert {kernel.placement.delivery for kernel in router.kernels} == {"at_least_once"}  # type: ignore[attr-defined]
        await router.resize(6)
        await asyncio.gather(*(kernel.ask(Job(n=1)) for kernel in router.kernels))
        assert Counter(kernel.node for kernel in router.kernels) == dict.fromkeys(cluster.nodes, 3)
    finally:
        await router.close()


async def test_a_router_launches_where_it_is_told(cluster: RingKernelRuntime, square: Any) -> None:
    router = await cluster.router("near", square, size=2, node="node-2")
    try:
        replies = await asyncio.gather(*(cluster.ask("near", Job(n=n)) for n in range(4)))
        assert {reply.pid for reply in replies} == {cluster.nodes["node-2"].pid}
        with pytest.raises(ValueError, match=r"node= and spread= say where to launch.*launched already"):
            await cluster.router("other", ["near-0"], node="node-1", spread=True)
    finally:
        await router.close()
    with pytest.raises(ClusterError, match="no node offers 1 GPU"):
        await cluster.router("on GPUs", square, size=2, num_gpus=1)


async def test_what_it_prints_appears_here(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    @ring_kernel("printing")
    async def printing(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            print("it is", n)
            await ctx.send(n)

    kernel = await launch(printing)
    await kernel.ask(7)
    out = ""
    for _ in range(100):
        out += capsys.readouterr().out
        if "it is 7\n" in out:
            break
        await asyncio.sleep(0.05)
    assert "it is 7\n" in out


# -- compiled ring kernels ---------------------------------------------------------------------------------------------


@pytest.fixture
def stats() -> Any:
    @ring_kernel("stats", state=Sums, instances=2, key="sensor")
    def stats(state: Sums, msg: Sample, out: Mean) -> bool:
        i = msg.sensor % 8
        state.count[i] += 1
        state.total[i] += msg.value
        out.sensor, out.mean = i, state.total[i] / state.count[i]
        return msg.value >= 0.0

    return stats


def samples(n: int) -> NDArray[np.void]:
    records = np.zeros(n, Sample.dtype)
    records["sensor"], records["value"] = np.arange(n) % 4, np.arange(n)
    return records


async def test_a_compiled_one_takes_batches_and_asks(cluster: RingKernelRuntime, launch: Launch, stats: Any) -> None:
    kernel = await launch(stats)
    await kernel.send_batch(samples(400))
    replies = []
    while sum(map(len, replies)) < 400:
        replies.append(await kernel.receive_batch(timeout=10))
    means = np.concatenate(replies)
    assert means.dtype == Mean.dtype
    assert means["mean"][means["sensor"] == 3][-1] == pytest.approx(np.arange(3, 400, 4).mean())
    assert (await kernel.ask(Sample(sensor=5, value=2.0))).mean == 2.0
    assert await kernel.ask(Sample(sensor=5, value=-1.0)) is None
    state = await kernel[1].snapshot()
    assert type(state) is Sums
    assert state.count.tolist() == [0, 100, 0, 100, 0, 2, 0, 0]
    both = await kernel.snapshot()
    assert both["count"].sum() == 402


async def test_its_instances_are_addressed(launch: Launch) -> None:
    @ring_kernel("counting", state=Sums, instances=3)
    def counting(state: Sums, msg: Sample, out: Mean) -> bool:
        state.count[0] += 1
        out.mean = state.count[0]
        return True

    kernel = await launch(counting)
    one = Sample(sensor=0, value=0.0)
    assert [(await kernel[i].ask(one)).mean for i in (0, 2, 2)] == [1.0, 1.0, 2.0]
    with pytest.raises(LookupError, match="instance"):
        await kernel.send(one)
    with pytest.raises(LookupError, match="instances 0 to 2"):
        await kernel[3].send(one)
    await kernel[1].send_batch(samples(10))
    assert (await kernel[1].ask(one)).mean == 11.0


async def test_a_step_that_fails_is_seen(cluster: RingKernelRuntime, launch: Launch) -> None:
    @ring_kernel("outside", state=Sums, boundscheck=True)
    def outside(state: Sums, msg: Sample, out: None) -> bool:
        state.count[msg.sensor] += 1
        return False

    kernel = await launch(outside)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Sample(sensor=9, value=0.0))
    assert await cluster.wait_ended("outside", timeout=10) == "FAILED"
    assert type(kernel.exception) is IndexError


def test_blocking_twins_place_it_too(hosts: RingKernelRuntime, square: Any) -> None:
    runtime = hosts
    runtime.sync.join()
    kernel = runtime.sync.launch(square, kernel_id="square, blocking", node="node-2", delivery="at_least_once")
    runtime.sync.activate(kernel.id)
    assert runtime.sync.ask(kernel.id, Job(n=4)).pid == runtime.nodes["node-2"].pid
    runtime.sync.terminate(kernel.id)


@pytest.mark.may_block  # what it observes is on another loop, and it waits for that
async def test_a_trace_sees_its_messages(launch: Launch, square: Any, cluster: RingKernelRuntime) -> None:
    kernel = await launch(square)
    with cluster.trace(kernels=["square"]) as trace:
        await kernel.ask(Job(n=2))
        await kernel.send(Job(n=3))
        assert (await kernel.receive(timeout=10)).n == 9
        await cluster.wait_idle("square", timeout=10)
        for _ in range(100):
            if trace.of(kind="end")[1:]:
                break
            await asyncio.sleep(0.02)
    asked = [event.kind for event in trace if event.number == trace[0].number]
    assert sorted(asked) == ["end", "enqueue", "reply", "send", "start"]
    assert [event.message.n for event in trace.of(kind="end")] == [2, 3]
    assert [event.message.n for event in trace.of(kind="reply")] == [4, 9]


@pytest.mark.may_block  # what it observes is on another loop, and it waits for that
async def test_a_breakpoint_stops_it(launch: Launch, keeper: Any, cluster: RingKernelRuntime) -> None:
    kernel = await launch(keeper)
    kernel.break_when(lambda n: n == 2)
    await kernel.send_many(range(4))
    await kernel.wait_paused(timeout=10)
    assert kernel.peek() == 2
    kernel.break_when(None)
    await kernel.reactivate()
    assert await kernel.ask("tell") == [0, 1, 2, 3]
