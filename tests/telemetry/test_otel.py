"""Spans of OpenTelemetry: one for each handling, below the span in which the message was sent."""

import asyncio
import logging
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

import pydotcompute.runtime.kernel as kernel_module
from pydotcompute import Record, RingKernelRuntime, Shape, message, ring_kernel
from pydotcompute.exceptions import KernelFailedError, RuntimeClosedError
from pydotcompute.telemetry.clock import Stamp
from pydotcompute.telemetry.observer import delivery

# To begin to observe from another loop waits for that of the runtime.
pytestmark = [pytest.mark.needs_exporters, pytest.mark.may_block]


@message
@dataclass
class Order:
    city: str


@message
@dataclass
class Number:
    n: np.int64


class Some(Record):
    some: Annotated[NDArray[np.int64], Shape(4)]


class Spans:
    """A tracer provider of the test's own, and what was exported."""

    def __init__(self):
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def all(self):
        return self.exporter.get_finished_spans()

    @property
    def names(self):
        return Counter(span.name for span in self.all)

    def one(self, name):
        (span,) = (span for span in self.all if span.name == name)
        return span

    @property
    def tree(self):
        """``{(child, parent): how many}`` by names; all parents are there."""
        known = {span.context.span_id: span for span in self.all}
        pairs = Counter()
        for span in self.all:
            parent = known[span.parent.span_id] if span.parent is not None else None
            assert parent is None or parent.context.trace_id == span.context.trace_id
            pairs[span.name, parent and parent.name] += 1
        return pairs


@pytest.fixture
def spans():
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture(autouse=True)
def no_definitions_of_others(monkeypatch):
    monkeypatch.setattr(kernel_module, "_definitions", {})


@pytest.fixture(autouse=True)
def no_complaints(caplog):
    """OpenTelemetry logs what it does not raise."""
    yield
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.fixture(params=["current", "thread"])
async def runtime(request):
    async with RingKernelRuntime(loop=request.param) as runtime:
        yield runtime


async def start(runtime, body, kernel_id=None, **options):
    kernel = await runtime.launch(ring_kernel(kernel_id or body.__name__, **options)(body))
    await kernel.activate()
    return kernel


async def echo(ctx):
    async for m in ctx:
        await ctx.send(m)


async def test_a_span_for_each_message_with_the_attributes_of_messaging(runtime, spans):
    from opentelemetry.trace import SpanKind, StatusCode

    await start(runtime, echo)
    order = Order("Zürich", correlation_id=Order("Bern").message_id)
    with runtime.otel_spans(spans.provider):
        await runtime.send("echo", order)
        reply = await runtime.receive("echo")
        await runtime.ask("echo", 7)
        await runtime.wait_idle()
    assert reply is order
    told, asked = spans.all
    attributes = dict(told.attributes)
    assert 0 < attributes.pop("pydotcompute.wait") < 20
    assert attributes == {
        "messaging.system": "pydotcompute",
        "messaging.operation.name": "handle",
        "messaging.operation.type": "process",
        "messaging.destination.name": "echo",
        "messaging.message.id": str(order.message_id),
        "messaging.message.conversation_id": str(order.correlation_id),
        "pydotcompute.message.type": "Order",
        "pydotcompute.attempts": 0,
        "pydotcompute.is_ask": False,
    }
    assert (told.name, told.kind, told.parent) == ("kernel echo", SpanKind.CONSUMER, None)
    assert told.status.status_code is StatusCode.UNSET
    (event,) = told.events
    assert (event.name, dict(event.attributes)) == (
        "reply", {"pydotcompute.message.type": "Order", "pydotcompute.answers_ask": False},
    )  # fmt: skip
    assert asked.attributes["pydotcompute.is_ask"] is True
    assert asked.attributes["pydotcompute.message.type"] == "int"
    assert "messaging.message.id" not in asked.attributes
    assert asked.events[0].attributes["pydotcompute.answers_ask"] is True
    assert told.start_time <= told.end_time <= asked.start_time
    assert told.instrumentation_scope.name == "pydotcompute"


def test_what_happened_elsewhere_has_the_times_of_there(spans):
    from pydotcompute.telemetry.otel import Spans as Observer  # needs the exporters

    observer = Observer(spans.provider)
    made = delivery(("message", 0, None), "far")
    observer.sent(made)
    now = time.time_ns()
    for what, at, *args in (
        ("started", 1, made),
        ("replied", 2, made, "far", "reply", None),
        ("failed", 4, "far", ValueError("there"), made),
    ):
        observer.elsewhere(Stamp(now + at * 10**6, 0, "node-1"), what, *args)
    span = spans.one("kernel far")
    assert (span.start_time, span.end_time) == (now + 10**6, now + 4 * 10**6)
    assert [event.timestamp for event in span.events] == [now + 2 * 10**6, now + 4 * 10**6]
    assert span.attributes["pydotcompute.wait"] == pytest.approx(1e-3, abs=1e-3)


async def test_spans_nest_as_messages_are_sent(runtime, spans):
    async def first(ctx):
        async for m in ctx:
            with spans.tracer.start_as_current_span("own work"):
                await ctx.tell("second", m)
            await ctx.send(await ctx.ask("third", m))

    async def second(ctx):
        async for _ in ctx:
            with spans.tracer.start_as_current_span("more work"):
                pass

    for body, kernel_id in ((first, None), (second, None), (echo, "third")):
        await start(runtime, body, kernel_id)
    with runtime.otel_spans(spans.provider):
        for i in range(3):
            with spans.tracer.start_as_current_span("cell"):
                await runtime.ask("first", i)
        await runtime.wait_idle()
    assert spans.tree == {
        ("cell", None): 3,
        ("kernel first", "cell"): 3,
        ("own work", "kernel first"): 3,
        ("kernel second", "own work"): 3,
        ("more work", "kernel second"): 3,
        ("kernel third", "kernel first"): 3,
    }
    assert len({span.context.trace_id for span in spans.all}) == 3


async def test_what_tasks_and_threads_of_a_body_send_belongs_to_its_message(runtime, spans):
    if runtime.loop_mode == "current":
        runtime = await RingKernelRuntime(loop="thread").__aenter__()

    async def spawns(ctx):
        async for m in ctx:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.tell("sink", m))
            await asyncio.to_thread(lambda m=m: runtime.sync.send("sink", m))

    async def sink(ctx):
        async for _ in ctx:
            ...

    await start(runtime, spawns)
    await start(runtime, sink)
    with runtime.otel_spans(spans.provider):
        await runtime.send("spawns", 1)
        await runtime.wait_idle()
    assert spans.tree == {("kernel spawns", None): 1, ("kernel sink", "kernel spawns"): 2}
    await runtime.close()


async def test_the_context_comes_along_from_another_thread(spans):
    async with RingKernelRuntime(loop="thread") as runtime:
        await start(runtime, echo)
        with runtime.otel_spans(spans.provider):
            with spans.tracer.start_as_current_span("cell"):
                await runtime.ask("echo", 1)
                await asyncio.to_thread(runtime.sync.ask, "echo", 2)
                await runtime.send_many("echo", [3, 4])
            await runtime.ask("echo", 5)
            await runtime.wait_idle()
    assert spans.tree == {("cell", None): 1, ("kernel echo", "cell"): 4, ("kernel echo", None): 1}


async def test_baggage_comes_along_too(runtime, spans):
    from opentelemetry import baggage
    from opentelemetry.context import attach, detach

    seen = []

    async def looks(ctx):
        async for m in ctx:
            seen.append((m, baggage.get_baggage("tenant")))

    await start(runtime, looks)
    with runtime.otel_spans(spans.provider):
        token = attach(baggage.set_baggage("tenant", "acme"))
        await runtime.send("looks", 1)
        detach(token)
        await runtime.send("looks", 2)
        await runtime.wait_idle()
    assert seen == [(1, "acme"), (2, None)]


async def test_what_a_connected_kernel_gets_belongs_to_the_message_that_it_came_of(runtime, spans):
    async def sink(ctx):
        async for _ in ctx:
            ...

    await start(runtime, echo)
    await start(runtime, sink)
    with spans.tracer.start_as_current_span("setup"):
        await runtime.connect("echo", "sink")
    with runtime.otel_spans(spans.provider):
        for i in range(2):
            with spans.tracer.start_as_current_span("cell"):
                await runtime.send("echo", i)
        await runtime.wait_idle()
    assert spans.tree == {
        ("setup", None): 1,
        ("cell", None): 2,
        ("kernel echo", "cell"): 2,
        ("kernel sink", "kernel echo"): 2,
    }


async def test_the_span_of_a_message_is_current_until_the_next_is_asked_for_and_then_the_bodys_own(runtime, spans):
    from opentelemetry.trace import get_current_span

    current = []

    async def looks(ctx):
        with spans.tracer.start_as_current_span("session"):
            async for _ in ctx:
                current.append(get_current_span().name)
            current.append(get_current_span().name)
        current.append(get_current_span())

    kernel = await start(runtime, looks)
    with runtime.otel_spans(spans.provider):
        with spans.tracer.start_as_current_span("cell"):
            await kernel.send_many([1, 2])
        await runtime.wait_idle()
        await kernel.terminate()
    assert current[:3] == ["kernel looks", "kernel looks", "session"]
    assert not current[3].get_span_context().is_valid
    assert spans.tree == {("cell", None): 1, ("session", None): 1, ("kernel looks", "cell"): 2}


async def test_a_body_that_leaves_a_span_open_across_receive_does_no_harm(runtime, spans):
    async def careless(ctx):
        while not ctx.should_terminate:
            await ctx.receive()
            manager = spans.tracer.start_as_current_span("open")
            manager.__enter__()
            try:
                await ctx.receive()
            finally:
                manager.__exit__(None, None, None)

    kernel = await start(runtime, careless)
    with runtime.otel_spans(spans.provider):
        await kernel.send_many([1, 2, 3, 4])
        await runtime.wait_idle()
    assert spans.names == {"kernel careless": 4, "open": 2}
    assert spans.tree["kernel careless", None] == 4


async def test_child_tasks_that_receive_in_turn_do_no_harm(runtime, spans):
    async def many(ctx):
        async def one():
            return await ctx.receive()

        while not ctx.should_terminate:
            await asyncio.create_task(one())

    kernel = await start(runtime, many)
    with runtime.otel_spans(spans.provider):
        await kernel.send_many([1, 2, 3])
        await runtime.wait_idle()
    assert spans.tree == {("kernel many", None): 3}


# -- failures ------------------------------------------------------------------------------------------------------


async def fails(ctx):
    async for m in ctx:
        raise ValueError(f"no such city: {m}")


async def test_a_failure_is_a_span_with_the_status_error_and_the_exception(runtime, spans):
    from opentelemetry.trace import StatusCode

    await start(runtime, fails)
    watched, cell = runtime.otel_spans(spans.provider), spans.tracer.start_as_current_span("cell")
    with watched, cell, pytest.raises(KernelFailedError):
        await runtime.ask("fails", "Ys")
    span = spans.one("kernel fails")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: no such city: Ys"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "no such city: Ys"
    assert "raise ValueError" in event.attributes["exception.stacktrace"]
    assert spans.tree == {("cell", None): 1, ("kernel fails", "cell"): 1}


async def test_each_attempt_is_a_span_of_its_own_below_the_same_parent(runtime, spans):
    from opentelemetry.trace import StatusCode

    left = [2]

    async def shaky(ctx):
        async for m in ctx:
            if left[0]:
                left[0] -= 1
                raise ValueError(m)
            await ctx.send(m)

    await start(runtime, shaky, restart="on_failure", max_retries=2, backoff=None)
    with runtime.otel_spans(spans.provider):
        with spans.tracer.start_as_current_span("cell"):
            assert await runtime.ask("shaky", 1) == 1
        assert await runtime.ask("shaky", 2) == 2  # which the first failure has nothing to do with
        await runtime.wait_idle()
    attempts = [span for span in spans.all if span.name == "kernel shaky"]
    assert [span.attributes["pydotcompute.attempts"] for span in attempts] == [0, 1, 2, 0]
    assert [span.status.status_code is StatusCode.ERROR for span in attempts] == [True, True, False, False]
    assert spans.tree == {("cell", None): 1, ("kernel shaky", "cell"): 3, ("kernel shaky", None): 1}


async def test_messages_that_are_lost_are_spans_without_handling(runtime, spans):
    from opentelemetry.trace import StatusCode

    kernel = await runtime.launch(ring_kernel(queue_size=1, backpressure="drop_oldest")(echo))
    with runtime.otel_spans(spans.provider):
        for city in ("old", "new"):
            with spans.tracer.start_as_current_span(city):
                await kernel.send(Order(city))
        await kernel.terminate()
    assert spans.tree == {("old", None): 1, ("new", None): 1, ("kernel echo", "old"): 1, ("kernel echo", "new"): 1}
    dropped, unhandled = (span for span in spans.all if span.name == "kernel echo")
    for span, kind, reason in (
        (dropped, "dropped", "drop_oldest"),
        (unhandled, "unhandled", "terminated before the kernel was activated"),
    ):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == reason
        assert span.attributes["pydotcompute.dead_letter.kind"] == kind


async def test_a_body_that_is_cancelled_ends_its_span(runtime, spans):
    from opentelemetry.trace import StatusCode

    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hangs(ctx):
        async for _ in ctx:
            loop.call_soon_threadsafe(begun.set)
            await asyncio.Event().wait()

    kernel = await start(runtime, hangs)
    with runtime.otel_spans(spans.provider):
        await kernel.send(1)
        await begun.wait()
        await kernel.terminate(timeout=0.01)
    (span,) = spans.all
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "the body was cancelled while it had it in hand"


async def test_a_body_that_is_replaced_goes_on_below_the_right_parents(runtime, spans):
    kernel = await start(runtime, echo)
    with runtime.otel_spans(spans.provider):
        with spans.tracer.start_as_current_span("one"):
            await kernel.ask(1)
        ring_kernel("echo")(echo)  # again
        await runtime.wait_idle()
        with spans.tracer.start_as_current_span("two"):
            await kernel.ask(2)
        await runtime.wait_idle()
    assert kernel.version == 2
    assert spans.tree == {("one", None): 1, ("two", None): 1, ("kernel echo", "one"): 1, ("kernel echo", "two"): 1}


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no")


class Hostile:
    @property
    def message_id(self):
        raise RuntimeError("no")


async def test_hostile_messages_and_errors_take_nothing_off(runtime, spans, caplog):
    async def hostile(ctx):
        async for m in ctx:
            if isinstance(m, Exception):
                raise m

    await start(runtime, hostile, "\udc80 id", restart="on_failure", backoff=None)
    with runtime.otel_spans(spans.provider), caplog.at_level(logging.CRITICAL, "pydotcompute"):
        for m in (Hostile(), HostileError("x"), Order("\udc80")):
            await runtime.send("\udc80 id", m)
        await runtime.wait_idle()
    assert spans.names == {"kernel \\udc80 id": 3}
    assert [span.status.description for span in spans.all] == [None, "HostileError", None]


# -- on and off ----------------------------------------------------------------------------------------------------


async def test_only_those_kernels_that_are_named(runtime, spans):
    for kernel_id in ("a", "b"):
        await start(runtime, echo, kernel_id)
    with runtime.otel_spans(spans.provider, kernels=["b"]):
        for kernel_id in ("a", "b"):
            await runtime.ask(kernel_id, 1)
        await runtime.wait_idle()
    assert spans.names == {"kernel b": 1}
    with pytest.raises(TypeError, match=r"write \['b'\]"), runtime.otel_spans(spans.provider, kernels="b"):
        ...


async def test_nothing_is_made_before_and_after_and_what_is_in_hand_ends_with_it(runtime, spans):
    begun, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(ctx):
        async for _ in ctx:
            loop.call_soon_threadsafe(begun.set)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(go.wait(), loop))

    kernel = await start(runtime, slow)
    await kernel.send(0)
    await begun.wait()
    begun.clear()
    with runtime.otel_spans(spans.provider):
        go.set()
        await runtime.wait_idle()
        go.clear()
        begun.clear()
        await kernel.send(1)
        await begun.wait()
        assert not spans.all
    assert spans.names == {"kernel slow": 1}
    go.set()
    await runtime.wait_idle()
    await kernel.send(2)
    await runtime.wait_idle()
    assert spans.names == {"kernel slow": 1}


async def test_two_observers_at_a_time_do_not_mix(runtime, spans):
    others = Spans()

    async def first(ctx):
        async for m in ctx:
            await ctx.tell("second", m)

    await start(runtime, first)
    await start(runtime, echo, "second")
    with runtime.otel_spans(spans.provider), runtime.otel_spans(others.provider):
        await runtime.send("first", 1)
        await runtime.receive("second")
        await runtime.wait_idle()
    assert spans.names == others.names == {"kernel first": 1, "kernel second": 1}
    others.provider.shutdown()


async def test_a_closed_runtime_cannot_be_observed_but_may_be_closed_meanwhile(spans):
    async with RingKernelRuntime(loop="thread") as runtime:
        await start(runtime, echo)
        with runtime.otel_spans(spans.provider):
            await runtime.ask("echo", 1)
            await runtime.close()
    assert spans.names == {"kernel echo": 1}
    with pytest.raises(RuntimeClosedError), runtime.otel_spans(spans.provider):
        ...


async def test_without_a_provider_the_global_one_is_taken():
    code = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import pydotcompute.runtime.kernel as kernel_module
from pydotcompute import RingKernelRuntime, ring_kernel
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
@ring_kernel
async def echo(ctx):
    async for m in ctx:
        await ctx.send(m)
async def main():
    async with RingKernelRuntime() as runtime:
        await (await runtime.launch("echo")).activate()
        with runtime.otel_spans():
            await runtime.ask("echo", 1)
            await runtime.wait_idle()
asyncio.run(main())
print(*(span.name for span in exporter.get_finished_spans()))
"""
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout == "kernel echo\n"


def test_without_the_api_the_error_names_it():
    code = """
import sys
sys.modules["opentelemetry"] = None
import pydotcompute.runtime.kernel as kernel_module
from pydotcompute import RingKernelRuntime
runtime = RingKernelRuntime(loop="thread")
try:
    with runtime.otel_spans():
        pass
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "OpenTelemetry spans need its API: pip install opentelemetry-api\n"


# -- compiled ring kernels -----------------------------------------------------------------------------------------


def double(state: None, msg: Number, out: Number):
    out.n = 2 * msg.n
    return True


async def test_compiled_kernels_have_spans_and_pass_the_context_on(runtime, spans):
    from opentelemetry.trace import get_current_span

    async def sink(ctx):
        async for _ in ctx:
            ...

    kernel = await runtime.launch(ring_kernel("double", backend="interpreted")(double))
    await kernel.activate()
    await start(runtime, sink)
    await runtime.connect("double", "sink")
    with runtime.otel_spans(spans.provider):
        with spans.tracer.start_as_current_span("cell") as cell:
            assert (await runtime.ask("double", Number(1))).n == 2
            assert get_current_span() is cell
            await runtime.send("double", Number(2))
            assert get_current_span() is cell
        await runtime.wait_idle()
    assert spans.tree == {("cell", None): 1, ("kernel double", "cell"): 2, ("kernel sink", "kernel double"): 1}
    assert {event.name for span in spans.all if span.name == "kernel double" for event in span.events} == {"reply"}


async def test_a_step_that_fails_has_a_span_that_says_so(runtime, spans):
    from opentelemetry.trace import StatusCode

    def bad(state: Some, msg: Number, out: Number):
        out.n = state.some[msg.n]
        return True

    kernel = await runtime.launch(ring_kernel("bad", backend="interpreted", boundscheck=True, state=Some)(bad))
    await kernel.activate()
    with runtime.otel_spans(spans.provider), pytest.raises(KernelFailedError):
        await runtime.ask("bad", Number(7), timeout=10)
    span = spans.one("kernel bad")
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].attributes["exception.type"] == "IndexError"
