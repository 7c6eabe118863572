"""What traces show of ring kernels on nodes: when it happened there, and what has caused it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.cluster.driver import Link
from pydotcompute.telemetry.observer import Observer
from pydotcompute.telemetry.trace import Trace

pytestmark = pytest.mark.may_block  # what it observes is on another loop, and it waits for that


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


def forward(name: str, to: str | None, pause: float = 0.0, unlucky: int | None = None) -> Any:
    """A ring kernel that takes its time over each number, and passes on the next one."""

    @ring_kernel(name, restart="on_failure", max_retries=1, backoff=None, keep_state=True)
    async def forward(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await asyncio.sleep(pause)
            if n == unlucky and not hasattr(ctx.state, "warned"):
                ctx.state.warned = True
                raise ValueError("thirteen")
            if to is None:
                await ctx.send(n + 1)
            else:
                await ctx.tell(to, n + 1)

    return forward


async def start(cluster: RingKernelRuntime, definition: Any, node: str | None) -> Any:
    kernel = await cluster.launch(definition, node=node)
    await kernel.activate()
    return kernel


async def chain(cluster: RingKernelRuntime, nodes: tuple[str | None, ...], pause: float = 0.0) -> list[Any]:
    """Ring kernels that pass on to each other."""
    names = [f"link {i}" for i in range(len(nodes))]
    kernels = []
    for name, following, node in zip(names, [*names[1:], None], nodes, strict=True):
        kernels.append(await start(cluster, forward(name, following, pause), node))
    return kernels


def in_order_of_cause(trace: Trace) -> None:
    """Whether each message was sent before it was queued, then taken, handled to the end; and after its cause began."""
    place: dict[tuple[int | None, str], int] = {}
    for i, e in enumerate(trace):
        place.setdefault((e.number, e.kind), i)
    for (number, kind), i in place.items():
        before = {"enqueue": "send", "start": "enqueue", "end": "start"}.get(kind)
        if before is not None:
            assert place[number, before] < i
        if kind == "send" and trace[i].cause is not None:
            assert place[trace[i].cause, "start"] < i
    stamps = [e.stamp for e in trace]
    assert stamps == sorted(stamps)


async def test_what_happens_on_a_node_is_stamped_there(cluster: RingKernelRuntime) -> None:
    first, last = await chain(cluster, ("node-1", "node-2"), 0.05)
    with cluster.trace(kernels=[first.id, last.id]) as trace:
        await first.send(1)
        assert await last.receive(timeout=20) == 3
        await until(lambda: len(trace.of(kind="end")) == 2)
    for kernel, node in ((first, "node-1"), (last, "node-2")):
        by_kind = {e.kind: e for e in trace.of(kernel.id)}
        assert {by_kind[kind].node for kind in ("start", "end")} == {node}
        assert {by_kind[kind].node for kind in ("send", "enqueue")} == {trace.clock.node}
        assert {e.home for e in trace} == {trace.clock.node}
    # The pause is all in the handling: the way to the node and back is not.
    one, other = trace.deliveries
    assert one.handled is not None
    assert other.handled is not None
    assert 0.05 <= one.handled < 0.15
    assert 0.05 <= other.handled < 0.15
    assert (one.cause, one.source) == (None, None)
    assert (other.cause, other.source) == (one.number, first.id)
    assert one.waited is not None
    assert one.waited >= 0
    in_order_of_cause(trace)
    (reply,) = trace.of(kind="reply")
    assert (reply.number, reply.node, reply.message) == (other.number, "node-2", 3)
    assert trace.tree().splitlines()[1].startswith(f"   └─ {first.id} → {last.id}")


async def test_causes_come_before_what_they_cause_across_nodes(cluster: RingKernelRuntime) -> None:
    kernels = await chain(cluster, ("node-1", "node-2", None, "node-1", "node-2"))
    names = [kernel.id for kernel in kernels]
    with cluster.trace(kernels=names) as trace:
        await asyncio.gather(*(cluster.send_many(names[0], range(100 * i, 100 * i + 20)) for i in range(3)))
        for _ in range(60):
            await kernels[-1].receive(timeout=20)
        await until(lambda: len(trace.of(kind="end")) == 300)
    in_order_of_cause(trace)
    assert len(trace.of(kind="send")) == 300
    roots = [d for d in trace.deliveries if d.cause is None]
    assert [d.kernel_id for d in roots] == [names[0]] * 60
    whole = trace.chain(roots[7].number)
    assert [e.kernel_id for e in whole if e.kind == "send"] == names


async def test_messages_between_kernels_of_one_node_are_seen(cluster: RingKernelRuntime) -> None:
    first, last = await chain(cluster, ("node-1", "node-1"))
    await first.send(1)
    assert await last.receive(timeout=20) == 3
    with cluster.trace(kernels=[first.id, last.id]) as trace:
        await first.send(5)
        assert await last.receive(timeout=20) == 7
        await until(lambda: len(trace.of(kind="end")) == 2)
        asked = await last.ask(8, timeout=20)
    assert asked == 9
    sent = trace.of(kind="send")
    assert [(e.kernel_id, e.source, e.message) for e in sent] == [
        (first.id, None, 5),
        (last.id, first.id, 6),
        (last.id, None, 8),
    ]
    answer = trace.of(kind="reply")[-1]
    assert (answer.answers, answer.message) == (sent[2].number, 9)
    await first.send(20)  # nobody looks any more
    assert await last.receive(timeout=20) == 22
    link = cluster.nodes["node-1"]._link
    assert isinstance(link, Link)
    assert [lane._seen for lane in link.lanes.values() if lane.kernel in (first, last)] == [{}, {}]


async def test_failures_retries_and_letters_are_seen(cluster: RingKernelRuntime) -> None:
    kernel = await start(cluster, forward("unlucky", None, unlucky=13), "node-2")
    with cluster.trace(kernels=["unlucky"]) as trace:
        await cluster.send_many("unlucky", [12, 13, 14])
        assert [await kernel.receive(timeout=20) for _ in range(3)] == [13, 14, 15]
        await until(lambda: trace.of(kind="restart") and len(trace.of(kind="end")) == 3)
    (crash,) = trace.of(kind="crash")
    assert (crash.node, crash.message, crash.detail) == ("node-2", 13, "ValueError: thirteen")
    kinds = [e.kind for e in trace if e.number == crash.number]
    assert kinds == ["send", "enqueue", "start", "crash", "start", "reply", "end"]
    unlucky = next(d for d in trace.deliveries if d.number == crash.number)
    assert unlucky.fate == "handled"


async def test_a_message_that_is_lost_there_is_seen(cluster: RingKernelRuntime) -> None:
    @ring_kernel("clumsy", restart="on_failure", backoff=None)
    async def clumsy(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            if n == 2:
                raise ValueError("two")
            await ctx.send(n)

    await start(cluster, clumsy, "node-1")
    with cluster.trace(kernels=["clumsy"]) as trace:
        await cluster.send_many("clumsy", [1, 2, 3])
        await until(lambda: trace.of(kind="drop"))
    (drop,) = trace.of(kind="drop")
    assert (drop.node, drop.message) == ("node-1", 2)
    assert drop.detail.startswith("failed: ")
    (letter,) = cluster.dead_letters.of("clumsy")
    assert letter.message == 2


async def test_asks_that_are_put_aside_have_their_replies(cluster: RingKernelRuntime) -> None:
    @ring_kernel("patient")
    async def patient(ctx: KernelContext[Any, Any]) -> None:
        held: list[Any] = []
        async for n in ctx:
            held.append(n)
            if n == "now":
                await ctx.send("done")

    kernel = await start(cluster, patient, "node-2")
    with cluster.trace(kernels=["patient"]) as trace:
        assert await kernel.ask("now", timeout=20) == "done"
        await until(lambda: trace.of(kind="end"))
    assert [e.kind for e in trace] == ["send", "enqueue", "start", "reply", "end"]
    link = cluster.nodes["node-2"]._link
    assert isinstance(link, Link)
    await until(lambda: all(not lane._over for lane in link.lanes.values()))


@message
class Word:
    text: str


async def test_a_reply_is_the_object_that_was_traced(cluster: RingKernelRuntime) -> None:
    @ring_kernel("speaker")
    async def speaker(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(Word(text=str(n)))

    kernel = await start(cluster, speaker, "node-1")
    with cluster.trace(kernels=["speaker"]) as trace:
        asked = await kernel.ask(1, timeout=20)
        await kernel.send(2)
        fetched = await kernel.receive(timeout=20)
        await until(lambda: len(trace.of(kind="end")) == 2)
    for reply in (asked, fetched):
        assert [e.kind for e in trace.chain(reply)] == ["send", "enqueue", "start", "reply", "end"]
    link = cluster.nodes["node-1"]._link
    assert isinstance(link, Link)
    assert all(lane._replies_seen == {} for lane in link.lanes.values())


async def test_diagrams_name_the_node_of_each_kernel(cluster: RingKernelRuntime) -> None:
    first, last = await chain(cluster, ("node-1", "node-2"))
    with cluster.trace(kernels=[first.id, last.id]) as trace:
        await first.send(1)
        assert await last.receive(timeout=20) == 3
        await until(lambda: len(trace.of(kind="end")) == 2)
    svg = trace.to_svg()
    assert "<title>node-1/link 0</title>" in svg
    assert "<title>node-2/link 1</title>" in svg
    assert "participant k1 as node-1/link 0" in trace.to_mermaid()
    rows = json.loads(trace.to_chrome())["traceEvents"]
    names = [row["args"]["name"] for row in rows if row["name"] == "thread_name"]
    assert names == ["outside", "link 0 on node-1", "link 1 on node-2"]
    assert {"home", "node"} <= set(trace.to_pandas().columns)


async def test_observers_are_told_when_it_was_or_else_as_of_any_kernel(cluster: RingKernelRuntime) -> None:
    class Plain(Observer):
        def __init__(self) -> None:
            self.told: list[str] = []

        def started(self, delivery: Any) -> None:
            self.told.append("started")

        def replied(self, delivery: Any, kernel_id: str, reply: Any, answers: Any) -> None:
            self.told.append("replied")

        def ended(self, delivery: Any) -> None:
            self.told.append("ended")

    class Exact(Plain):
        def elsewhere(self, stamp: Any, what: str, *args: Any) -> None:
            self.told.append(f"{what} on {stamp.node}")

    await start(cluster, forward("told", None), "node-1")
    plain, exact = Plain(), Exact()
    cluster.observe(plain)
    cluster.observe(exact)
    try:
        assert await cluster.ask("told", 1, timeout=20) == 2
        await until(lambda: len(plain.told) == 3)
    finally:
        cluster.unobserve(plain)
        cluster.unobserve(exact)
    assert plain.told == ["started", "replied", "ended"]
    assert exact.told == ["started on node-1", "replied on node-1", "ended on node-1"]


async def test_a_node_with_a_wrong_clock_is_named_and_its_stamps_are_not_used(
    ray: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with RingKernelRuntime("current", cluster="ray", nodes=1) as runtime:
        kernel = await start(runtime, forward("with a wrong clock", None), "node-1")
        await kernel.ask(1, timeout=20)
        link = runtime.nodes["node-1"]._link
        assert isinstance(link, Link)
        link._hear(link._clock.tick().wall + 120 * 10**9, 1)
        assert "traces show what happens on node-1 when word of it comes: the clock of 'node-1' is 120" in caplog.text
        with runtime.trace(kernels=["with a wrong clock"]) as trace:
            await kernel.ask(2, timeout=20)
            await until(lambda: trace.of(kind="end"))
        assert {e.node for e in trace} == {trace.clock.node}


async def test_a_host_that_is_lost_ends_what_was_seen(ray: Any) -> None:
    async with RingKernelRuntime("current", cluster="ray", nodes=2) as runtime:
        await start(runtime, forward("short-lived", None, 30.0), "node-1")
        with runtime.trace(kernels=["short-lived"]) as trace:
            await runtime.send_many("short-lived", [1, 2])
            await until(lambda: trace.of(kind="start"))
            pid = runtime.nodes["node-1"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: len(trace.of(kind="drop")) == 2)
        assert [e.number for e in trace.of(kind="drop")] == [e.number for e in trace.of(kind="send")]
        assert [d.fate for d in trace.deliveries] == ["failed", "failed"]
