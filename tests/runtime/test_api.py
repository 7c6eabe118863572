"""The public names, word for word as they are promised, in scripts of their own; launching, finding and defining."""

import ast
import asyncio
import functools
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import (
    DefinitionError,
    KernelFailedError,
    KernelNotFoundError,
    KernelStateError,
    LoopError,
    MessageError,
    PriorityError,
    PyDotComputeError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from pydotcompute.runtime import TRANSITIONS, KernelState, definitions


def run_script(source: str, *options: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, every warning an error."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(source)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def printed_by(source: str) -> list[str]:
    """What a program prints that ends well and has nothing to say on stderr."""
    done = run_script(source)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# -- the promised text ---------------------------------------------------------------------------------------------


DEFINITIONS = """
import asyncio
from dataclasses import dataclass, field
from uuid import UUID, uuid4
import numpy as np

from pydotcompute import KernelContext, RingKernelRuntime, UnifiedBuffer, message, ring_kernel

@message
@dataclass
class Request:                                   # these three fields may be written out ...
    data: str
    message_id: UUID = field(default_factory=uuid4)
    priority: int = 128
    correlation_id: UUID | None = None

@message
class Response:                                  # ... or left to @message, which adds them
    data: str

@ring_kernel(kernel_id="processor")
async def processor(ctx: KernelContext[Request, Response]):
    while not ctx.should_terminate:
        request = await ctx.receive()
        await ctx.send(Response(data=request.data.upper()))
"""

USE = """
async with RingKernelRuntime() as runtime:
    await runtime.launch("processor")            # phase 1: allocate, compile; nothing runs
    await runtime.activate("processor")          # phase 2: start
    await runtime.send("processor", Request(data="hello"))
    response = await runtime.receive("processor")
"""

BUFFER = """
buf = UnifiedBuffer((1000,), dtype=np.float32)
buf.host[:] = np.random.randn(1000)
"""


@pytest.mark.parametrize("header", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("arguments", ["", "loop='current'", "loop='thread'"])
def test_the_first_program_works_word_for_word(header, arguments):
    use = textwrap.indent(USE.replace("RingKernelRuntime()", f"RingKernelRuntime({arguments})"), "    ")
    main = f"\nasync def main():{use}\n    print(response.data)\n\nasyncio.run(main())\n"
    assert printed_by(header + DEFINITIONS + main + BUFFER + "print(buf.host.shape)") == ["HELLO", "(1000,)"]


async def test_the_first_program_works_with_top_level_await(capfd):
    # As in a notebook: each block is a cell, compiled with the flag that IPython uses, in one namespace.
    namespace = {"__name__": __name__}
    for cell in (DEFINITIONS, USE, BUFFER):
        code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        coroutine = eval(code, namespace)
        if coroutine is not None:
            await coroutine
    assert namespace["response"].data == "HELLO"
    assert capfd.readouterr() == ("", "")


# -- importing changes nothing -------------------------------------------------------------------------------------

OPTIONAL = ("ipywidgets", "IPython", "numba", "bqplot", "anywidget", "pandas", "cupy", "tqdm", "traitlets")

CENSUS = f"""
import asyncio.events, sys, threading
def census():
    print([name for name in {OPTIONAL} if name in sys.modules], threading.active_count(),
          asyncio.events._event_loop_policy, sys.getrecursionlimit(), threading.excepthook is threading.__excepthook__,
          sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
"""


def test_importing_changes_nothing_and_loads_no_optional_package():
    before, after, *modules = printed_by(
        CENSUS
        + """
census()
import pydotcompute
census()
print("numpy" in sys.modules, "msgpack" in sys.modules)
"""
    )
    assert before == after
    assert modules == ["False False"]


def test_running_kernels_loads_no_optional_package_and_starts_no_thread():
    lines = printed_by(
        CENSUS
        + DEFINITIONS
        + """
async def main():
    census()
    async with RingKernelRuntime() as runtime:
        await runtime.launch("processor")
        await runtime.activate("processor")
        print((await runtime.ask("processor", Request(data="hello"))).data)
        runtime.statistics()
        print(asyncio.get_running_loop().get_task_factory())
        census()
    census()
asyncio.run(main())
"""
    )
    census = [line for line in lines if line.startswith("[")]
    assert lines[1:3] == ["HELLO", "None"]
    assert census[0].startswith("[] 1 ")
    assert len(census) == 3
    assert len(set(census)) == 1


def test_public_names_are_listed_and_others_are_not_made_up():
    import pydotcompute

    for name in ("KernelContext", "RingKernelRuntime", "ring_kernel", "message", "exceptions"):
        assert name in pydotcompute.__all__
        assert name in dir(pydotcompute)
        assert getattr(pydotcompute, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'RingKernelRuntimes'"):
        _ = pydotcompute.RingKernelRuntimes


def test_every_error_is_one_of_the_package_and_of_the_kind_that_python_has():
    assert issubclass(KernelNotFoundError, LookupError)
    assert issubclass(QueueTimeoutError, TimeoutError)
    assert issubclass(DefinitionError, TypeError)
    assert issubclass(PriorityError, ValueError)
    assert issubclass(PriorityError, MessageError)
    for error in (KernelFailedError, KernelStateError, RuntimeClosedError, LoopError, QueueTimeoutError):
        assert issubclass(error, PyDotComputeError)


# -- untyped bodies, any message -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    x: int


@pytest.mark.parametrize(
    "messages",
    [
        [1, 2, 3],
        ["a", "b"],
        [None, None],
        [Point(1), Point(2)],
        [{"a": 1}, {"b": 2}],
        [(1, 2), (3, 4)],
        [b"x"],
        [SimpleNamespace(priority=128, a=1), SimpleNamespace(priority=128, a=2)],
        [object()],
    ],
    ids=lambda messages: type(messages[0]).__name__,
)
async def test_an_unannotated_body_takes_any_message(runtime, start, messages):
    async def worker(ctx):
        while not ctx.should_terminate:
            await ctx.send(("got", await ctx.receive()))

    await start(worker)
    for message_ in messages:
        assert await runtime.ask("worker", message_) == ("got", message_)
    for message_ in messages:
        await runtime.send("worker", message_)
    assert [await runtime.receive("worker") for _ in messages] == [("got", message_) for message_ in messages]


async def test_messages_pass_by_reference(runtime, start):
    async def worker(ctx):
        async for thing in ctx:
            await ctx.send(thing)

    await start(worker)
    thing = [object()]
    assert await runtime.ask("worker", thing) is thing
    await runtime.send("worker", thing)
    assert await runtime.receive("worker") is thing


# -- definitions ---------------------------------------------------------------------------------------------------


async def test_the_id_is_the_name_of_the_function_unless_it_is_given(runtime):
    @ring_kernel
    async def bare(ctx): ...

    @ring_kernel()
    async def called(ctx): ...

    @ring_kernel("positional")
    async def a(ctx): ...

    @ring_kernel(kernel_id="keyword")
    async def b(ctx): ...

    assert [d.kernel_id for d in (bare, called, a, b)] == ["bare", "called", "positional", "keyword"]
    assert set(definitions()) == {"bare", "called", "positional", "keyword"}
    for name in definitions():
        assert (await runtime.launch(name)).id == name


async def test_a_definition_can_be_called_to_test_its_body():
    @ring_kernel
    async def worker(ctx):
        """Adds one."""
        return ctx + 1

    assert await worker(1) == 2
    assert worker.__doc__ == "Adds one."
    assert worker.__name__ == "worker"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"kernel_id": ""}, "not empty"),
        ({"kernel_id": 7}, "text"),
        ({"queue_size": 0}, "at least 1"),
        ({"queue_size": 1.5}, "integer"),
        ({"queue_size": True}, "integer"),
        ({"backpressure": "wait"}, "block, reject, drop_oldest, drop_newest"),
        ({"state": 3}, "class or function"),
        ({"input_type": "Request"}, "input_type.*class"),
        ({"output_type": Literal[1] | int}, "output_type.*class"),
        ({"input_type": ()}, "input_type.*class"),
    ],
)
def test_an_impossible_argument_is_refused_where_it_is_written(options, hint):
    async def worker(ctx): ...

    with pytest.raises(DefinitionError, match=f"(?s){hint}"):
        ring_kernel(**options)(worker)
    assert definitions() == {}


def test_a_body_must_be_an_async_function_of_one_parameter():
    def plain(ctx): ...

    async def generator(ctx):
        yield 1

    async def none(): ...

    async def two(ctx, other): ...

    async def keyword(*, ctx): ...

    for body, remedy in ((plain, "async def"), (generator, r"ctx\.send")):
        with pytest.raises(DefinitionError, match=remedy):
            ring_kernel(body)
    for body in (none, two, keyword):
        with pytest.raises(DefinitionError, match=r"one parameter.*\(ctx\)"):
            ring_kernel(body)
    assert definitions() == {}


async def test_a_body_may_have_further_parameters_with_defaults(runtime, start):
    async def scale(ctx, factor=3):
        async for number in ctx:
            await ctx.send(number * factor)

    await start(scale)
    assert await runtime.ask("scale", 2) == 6
    by_five = ring_kernel(kernel_id="by_five")(functools.partial(scale, factor=5))
    await (await runtime.launch(by_five)).activate()
    assert await runtime.ask("by_five", 2) == 10


def test_types_that_do_not_exist_yet_are_named_with_the_remedy():
    source = """
    from __future__ import annotations
    from pydotcompute import KernelContext, ring_kernel
    @ring_kernel
    async def early(ctx: KernelContext[Later, Later]): ...
    """
    done = run_script(source)
    assert done.returncode == 1
    assert "DefinitionError" in done.stderr
    assert "'Later'" in done.stderr
    assert "define them first, or pass input_type=" in done.stderr


# -- launching -----------------------------------------------------------------------------------------------------


async def test_launch_takes_an_id_or_a_definition_and_returns_the_handle(runtime):
    @ring_kernel
    async def worker(ctx):
        async for _ in ctx:
            pass

    handle = await runtime.launch("worker")
    assert runtime["worker"] is handle is runtime.kernels["worker"]
    assert handle.state is KernelState.LAUNCHED
    other = await runtime.launch(worker, kernel_id="other")
    assert other.id == "other"
    assert list(runtime.kernels) == ["worker", "other"]
    with pytest.raises(TypeError):
        runtime.kernels["mine"] = handle


async def test_one_definition_runs_under_many_ids_each_with_its_own_mailbox_and_state(runtime):
    @ring_kernel(state=list)
    async def worker(ctx):
        async for number in ctx:
            ctx.state.append(number)
            await ctx.send((ctx.kernel_id, list(ctx.state)))

    for name in ("a", "b"):
        await runtime.launch("worker", kernel_id=name)
        await runtime.activate(name)
    assert await runtime.ask("a", 1) == ("a", [1])
    assert await runtime.ask("b", 2) == ("b", [2])
    assert await runtime.ask("a", 3) == ("a", [1, 3])


async def test_nothing_runs_before_activate_and_messages_wait(runtime, start, settle):
    seen = []

    async def worker(ctx):
        seen.append("started")
        async for number in ctx:
            seen.append(number)

    kernel = await start(worker, activate=False)
    await runtime.send_many("worker", [1, 2])
    await settle()
    assert seen == []
    assert kernel.queue_depth == 2
    assert "activate" in kernel.waiting_for
    await kernel.activate()
    await runtime.wait_idle()
    assert seen == ["started", 1, 2]
    with pytest.raises(KernelStateError, match="cannot activate 'worker': it is ACTIVE"):
        await kernel.activate()


async def test_what_cannot_be_launched_is_refused_with_a_hint(runtime, start):
    async def stats(ctx):
        async for _ in ctx:
            pass

    await start(stats)
    with pytest.raises(KernelNotFoundError, match="no ring kernel 'stat' is defined; did you mean 'stats'"):
        await runtime.launch("stat")
    with pytest.raises(KernelNotFoundError, match="@ring_kernel first"):
        await runtime.launch("something else")
    with pytest.raises(KernelStateError, match=r"'stats' was launched already and is ACTIVE.*kernel_id="):
        await runtime.launch("stats")
    with pytest.raises(DefinitionError, match="kernel id or what @ring_kernel made"):
        await runtime.launch(lambda ctx: None)
    for wrong in ("", 3):
        with pytest.raises(DefinitionError, match="text that is not empty"):
            await runtime.launch("stats", kernel_id=wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda runtime, name: runtime.activate(name),
        lambda runtime, name: runtime.deactivate(name),
        lambda runtime, name: runtime.reactivate(name),
        lambda runtime, name: runtime.terminate(name),
        lambda runtime, name: runtime.send(name, 1),
        lambda runtime, name: runtime.send_many(name, [1]),
        lambda runtime, name: runtime.ask(name, 1),
        lambda runtime, name: runtime.send_and_receive(name, 1),
        lambda runtime, name: runtime.receive(name),
        lambda runtime, name: runtime.wait_idle(name),
        lambda runtime, name: runtime.wait_ended(name),
        lambda runtime, name: anext(runtime.map(name, [1])),
    ],
    ids=lambda call: call.__code__.co_names[0],
)
async def test_an_unknown_id_is_answered_with_what_there_is(runtime, start, call):
    async def stats(ctx):
        async for _ in ctx:
            pass

    async def alarm(ctx): ...

    await start(stats)
    ring_kernel(alarm)
    with pytest.raises(KernelNotFoundError, match=r"no ring kernel 'stat' \(launched: 'stats'\).*did you mean 'stats'"):
        await call(runtime, "stat")
    with pytest.raises(KernelNotFoundError, match=r"'alarm'.*it is defined: await runtime.launch\('alarm'\) first"):
        await call(runtime, "alarm")
    with pytest.raises(KernelNotFoundError, match="check the spelling"):
        await call(runtime, "something else")
    with pytest.raises(TypeError, match="its id, 'stats'"):
        await call(runtime, runtime["stats"])
    with pytest.raises(TypeError, match="its id"):
        await call(runtime, 3)


def test_an_unknown_id_of_a_runtime_without_kernels():
    with pytest.raises(KernelNotFoundError, match="launched: none"):
        RingKernelRuntime()["stats"]


@pytest.mark.parametrize("loop", ["Thread", None, "auto "])
def test_an_unknown_kind_of_loop_is_refused(loop):
    with pytest.raises(ValueError, match="'auto', 'current' or 'thread'"):
        RingKernelRuntime(loop=loop)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_an_impossible_limit_of_dead_letters_is_refused(limit):
    with pytest.raises(ValueError, match="dead_letter_limit must be an integer of at least 1"):
        RingKernelRuntime(dead_letter_limit=limit)


async def test_the_latest_dead_letters_are_kept_and_all_are_counted(loop_mode):
    async def worker(ctx): ...

    async with RingKernelRuntime(loop_mode, dead_letter_limit=3) as runtime:
        kernel = await runtime.launch(ring_kernel(worker))
        await runtime.send_many("worker", range(10))
        await kernel.terminate()
        letters = runtime.dead_letters
        assert [letter.message for letter in letters] == [7, 8, 9]
        assert (len(letters), letters.total, letters.limit) == (3, 10, 3)
        assert letters[0].message == 7
        assert letters[-1].message == 9
        assert [letter.message for letter in letters[1:]] == [8, 9]
        assert "10 dead letters" in repr(letters)
        assert runtime.statistics().dead_letters == 10


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
async def test_an_impossible_timeout_is_refused(runtime, start, timeout):
    async def worker(ctx):
        async for _ in ctx:
            pass

    await start(worker)
    for call in (
        runtime.ask("worker", 1, timeout=timeout),
        runtime.receive("worker", timeout=timeout),
        runtime.terminate("worker", timeout=timeout),
        runtime.wait_idle(timeout=timeout),
        runtime.wait_ended("worker", timeout=timeout),
        runtime.close(timeout=timeout),
        anext(runtime.map("worker", [1], timeout=timeout)),
    ):
        with pytest.raises(ValueError, match="timeout must be 0 or more and finite"):
            await call
    for call in (runtime.ask("worker", 1, timeout="1"), runtime.receive("worker", timeout=True)):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            await call
    assert runtime["worker"].state is KernelState.ACTIVE
    assert runtime.statistics()["worker"].received == 0


async def test_an_impossible_timeout_in_a_body_is_refused(runtime, start):
    errors = []

    async def worker(ctx):
        for timeout in (-1, "1"):
            try:
                await ctx.receive(timeout=timeout)
            except (TypeError, ValueError) as error:
                errors.append(error)

    await start(worker)
    await runtime.wait_ended("worker")
    assert [type(error) for error in errors] == [ValueError, TypeError]


# -- handles -------------------------------------------------------------------------------------------------------


async def test_a_handle_does_what_the_runtime_does_with_its_id(runtime):
    @ring_kernel(kernel_id="double")
    async def double(ctx):
        async for number in ctx:
            await ctx.send(2 * number)

    handle = await runtime.launch("double")
    await handle.activate()
    assert await handle.ask(1) == 2
    assert await handle.send_and_receive(2, timeout=5) == 4
    await handle.send(3)
    assert await handle.receive() == 6
    await handle.send_many([4, 5])
    assert [await handle.receive(timeout=5), await handle.receive()] == [8, 10]
    assert [reply async for reply in handle.map([6, 7], window=1, timeout=5)] == [12, 14]
    await handle.deactivate()
    assert handle.state is KernelState.DEACTIVATED
    await handle.reactivate()
    assert handle.state == "ACTIVE"
    assert handle.statistics().processed == 7
    await handle.terminate()
    assert handle.state is KernelState.TERMINATED
    assert handle.exception is None


async def test_a_handle_keeps_the_history_of_its_states(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    await kernel.deactivate()
    await kernel.reactivate()
    await kernel.terminate()
    states = [state for state, _ in kernel.history]
    assert states == ["CREATED", "LAUNCHED", "ACTIVE", "DEACTIVATED", "ACTIVE", "TERMINATING", "TERMINATED"]
    times = [time for _, time in kernel.history]
    assert times == sorted(times)


async def test_representations_are_stable_and_tell_the_state(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    mode = runtime.loop_mode
    assert repr(runtime) == f"<RingKernelRuntime loop='{mode}', kernels: none>"
    kernel = await start(worker)
    await kernel.deactivate()
    await kernel.send(1)
    assert repr(kernel) == "<ring kernel 'worker' DEACTIVATED, 1 queued>"
    assert repr(runtime) == f"<RingKernelRuntime loop='{mode}', kernels: 1 DEACTIVATED>"
    await runtime.close()
    assert repr(runtime) == f"<RingKernelRuntime loop='{mode}', kernels: 1 TERMINATED, closed>"


async def test_ids_complete_in_a_notebook(runtime, start):
    async def worker(ctx): ...

    await start(worker, activate=False)
    assert runtime._ipython_key_completions_() == ["worker"]


async def test_an_ended_kernel_can_be_launched_again_and_starts_afresh(runtime, start):
    async def worker(ctx):
        ctx.state.count = getattr(ctx.state, "count", 0) + 1
        async for _ in ctx:
            await ctx.send(ctx.state.count)

    former = await start(worker)
    assert await runtime.ask("worker", 1) == 1
    await runtime.send("worker", 1)
    await runtime.wait_idle()
    await former.terminate()
    assert runtime["worker"] is former
    latter = await runtime.launch("worker")
    assert latter is not former
    assert (former.state, latter.state) == (KernelState.TERMINATED, KernelState.LAUNCHED)
    await latter.activate()
    assert await runtime.ask("worker", 1) == 1
    (letter,) = runtime.dead_letters
    assert "unread" in letter.reason


# -- state ---------------------------------------------------------------------------------------------------------


async def test_state_is_what_the_definition_makes_or_a_namespace(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            await ctx.send(ctx.state)

    made = []

    def make():
        made.append(1)
        return {"count": 0}

    await start(worker, "given", state=make)
    await start(worker, "none")
    assert made == []
    first = await runtime.ask("given", 1)
    assert first == {"count": 0}
    assert await runtime.ask("given", 1) is first
    assert made == [1]
    assert await runtime.ask("none", 1) == SimpleNamespace()


@pytest.mark.parametrize("value", [None, 0, [], "text"])
async def test_state_is_what_the_body_sets(runtime, start, value):
    async def worker(ctx):
        async for new in ctx:
            ctx.state = new
            await ctx.send(("state", ctx.state))

    kernel = await start(worker)
    assert await runtime.ask("worker", value) == ("state", value)
    assert kernel.user_state == value


async def test_a_state_that_cannot_be_made_fails_the_kernel(runtime, start):
    async def worker(ctx):
        ctx.state.count = 1

    kernel = await start(worker, state=lambda: 1 / 0)
    assert await runtime.wait_ended("worker") is KernelState.FAILED
    assert isinstance(kernel.exception, ZeroDivisionError)


# -- talking to other kernels --------------------------------------------------------------------------------------


async def test_a_body_tells_and_asks_other_kernels(runtime, start):
    seen = []

    async def double(ctx):
        async for number in ctx:
            await ctx.send(2 * number)

    async def log(ctx):
        async for entry in ctx:
            seen.append(entry)

    async def front(ctx):
        async for number in ctx:
            answer = await ctx.ask("double", number, timeout=5)
            await ctx.tell("log", answer)
            await ctx.send(answer)

    for body in (double, log, front):
        await start(body)
    assert await runtime.ask("front", 21) == 42
    await runtime.wait_idle()
    assert seen == [42]


async def test_ctx_ask_gives_up_at_its_timeout(runtime, start):
    async def silent(ctx):
        async for _ in ctx:
            pass

    async def front(ctx):
        async for _ in ctx:
            try:
                await ctx.ask("silent", 1, timeout=0.01)
            except QueueTimeoutError as error:
                await ctx.send(str(error))

    await start(silent)
    await start(front)
    assert "'silent'" in await runtime.ask("front", 1)


async def test_a_context_says_whose_it_is(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            await ctx.send((ctx.kernel_id, repr(ctx)))

    await start(worker)
    name, text = await runtime.ask("worker", 1)
    assert name == "worker"
    assert "'worker'" in text


async def test_only_one_task_of_a_body_may_wait_for_a_message(runtime, start, gate):
    outcome, refused = [], gate()

    async def worker(ctx):
        first = asyncio.ensure_future(ctx.receive())
        await asyncio.sleep(0)
        try:
            await ctx.receive()
        except KernelStateError as error:
            outcome.append(str(error))
        refused.open()
        outcome.append(await first)

    await start(worker)
    await refused.wait()
    await runtime.send("worker", "message")
    assert await runtime.wait_ended("worker") is KernelState.TERMINATED
    assert "'worker'" in outcome[0]
    assert "one task" in outcome[0]
    assert outcome[1] == "message"


# -- the table of transitions --------------------------------------------------------------------------------------

VERBS = ("activate", "deactivate", "reactivate", "terminate")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", ["LAUNCHED", "ACTIVE", "DEACTIVATED", "TERMINATING", "TERMINATED", "FAILED"])
async def test_every_verb_in_every_state_does_what_the_table_says(runtime, start, gate, state, verb):
    go_on = gate()

    async def worker(ctx):
        async for number in ctx:
            if number is None:
                raise RuntimeError("as told")
            await go_on.wait()

    kernel = await start(worker, activate=state != "LAUNCHED")
    ending = None
    if state == "DEACTIVATED":
        await kernel.deactivate()
    elif state == "FAILED":
        await kernel.send(None)
        await runtime.wait_ended("worker")
    elif state == "TERMINATED":
        await kernel.terminate()
    elif state == "TERMINATING":
        await kernel.send(1)
        ending = asyncio.ensure_future(kernel.terminate())
        while kernel.state is not KernelState.TERMINATING:
            await asyncio.sleep(0)
    assert kernel.state == state
    if KernelState(state) in TRANSITIONS[verb]:
        await getattr(kernel, verb)()
        expected = TRANSITIONS[verb][KernelState(state)]
        assert kernel.state is (KernelState.TERMINATED if verb == "terminate" else expected)
    else:
        with pytest.raises(KernelStateError, match=f"cannot {verb} 'worker': it is {state}; possible now: ."):
            await getattr(kernel, verb)()
        assert kernel.state == state
    go_on.open()
    if ending is not None:
        await ending


# -- wait_idle, wait_ended -----------------------------------------------------------------------------------------


async def test_wait_idle_waits_for_the_kernels_that_are_named_or_for_all(runtime, start, gate):
    go_on, begun = gate(), gate()

    async def slow(ctx):
        async for _ in ctx:
            begun.open()
            await go_on.wait()

    async def quick(ctx):
        async for _ in ctx:
            pass

    await start(slow)
    await start(quick)
    await runtime.send("slow", 1)
    await runtime.send("quick", 1)
    await begun.wait()
    await runtime.wait_idle("quick")
    for names in ((), ("slow",), ("quick", "slow")):
        with pytest.raises(QueueTimeoutError, match=r"still busy after 0.01 s.*'slow'"):
            await runtime.wait_idle(*names, timeout=0.01)
    go_on.open()
    await runtime.wait_idle("slow")
    await runtime.wait_idle(timeout=5)


async def test_wait_idle_means_all_at_the_same_time(runtime, start):
    # A ball is thrown 50 times between two kernels: either is idle while the other has it.
    throws = []

    def player(other):
        async def body(ctx):
            async for left in ctx:
                throws.append(left)
                await asyncio.sleep(0)
                if left:
                    await ctx.tell(other, left - 1)

        return body

    await start(player("pong"), "ping")
    await start(player("ping"), "pong")
    await runtime.send("ping", 50)
    await runtime.wait_idle()
    assert throws == list(range(50, -1, -1))


async def test_wait_idle_does_not_wait_for_what_has_ended(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    await kernel.terminate()
    await runtime.wait_idle(timeout=0)
    await runtime.wait_idle("worker", timeout=0)


async def test_wait_ended_tells_how_and_gives_up_at_its_timeout(runtime, start):
    async def worker(ctx):
        async for number in ctx:
            return 1 / number

    await start(worker, "a")
    await start(worker, "b")
    with pytest.raises(QueueTimeoutError, match=r"'a'.*not ended within 0.01 s"):
        await runtime.wait_ended("a", timeout=0.01)
    await runtime.send("a", 1)
    await runtime.send("b", 0)
    assert await runtime.wait_ended("a", timeout=5) is KernelState.TERMINATED
    assert await runtime.wait_ended("b") is KernelState.FAILED


# -- send_many, map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [list, tuple, iter, lambda numbers: (number for number in numbers)])
async def test_send_many_sends_any_iterable_in_order(runtime, start, make):
    seen = []

    async def worker(ctx):
        async for number in ctx:
            seen.append(number)

    await start(worker, queue_size=7)
    await runtime.send_many("worker", make(range(100)))
    await runtime.send_many("worker", [])
    await runtime.wait_idle()
    assert seen == list(range(100))


@message
class Job:
    n: int


async def test_send_many_sends_by_priority_too(runtime, start):
    seen = []

    async def worker(ctx: KernelContext[Job, object]):
        async for job in ctx:
            seen.append(job.n)

    await start(worker)
    await runtime.deactivate("worker")
    await runtime.send_many("worker", [Job(0), Job(1, priority=200), Job(2), Job(3, priority=1)])
    await runtime.reactivate("worker")
    await runtime.wait_idle()
    assert seen == [1, 0, 2, 3]


@pytest.mark.parametrize("bad", [SimpleNamespace(priority=256), SimpleNamespace(priority="high")])
async def test_send_many_sends_nothing_when_one_of_them_is_wrong(runtime, start, bad):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    good = SimpleNamespace(priority=128)
    with pytest.raises(PriorityError):
        await runtime.send_many("worker", [good, good, bad, good])
    assert kernel.statistics().received == 0


async def test_send_many_of_many_through_a_small_mailbox_takes_linear_time(runtime, start):
    count = 0

    async def worker(ctx):
        nonlocal count
        async for _ in ctx:
            count += 1

    await start(worker, queue_size=2)
    await runtime.send_many("worker", [None] * 60_000)
    await runtime.wait_idle()
    assert count == 60_000


async def test_map_yields_the_replies_in_the_order_of_the_messages(runtime, start):
    async def shuffle(ctx):
        held = []
        async for job in ctx:
            held.append(job)
            if len(held) == 4:
                for one in reversed(held):
                    await ctx.send(one.reply(Job, one.n * 10))
                held.clear()

    await start(shuffle)

    async def source():
        for n in range(40):
            yield Job(n)

    for messages in ([Job(n) for n in range(40)], (Job(n) for n in range(40)), source()):
        replies = [reply.n async for reply in runtime.map("shuffle", messages, window=8)]
        assert replies == [10 * n for n in range(40)]


@pytest.mark.parametrize("window", [1, 3, 64])
async def test_map_has_at_most_a_window_in_flight(runtime, start, window):
    drawn, seen = [], []

    async def worker(ctx):
        async for n in ctx:
            await ctx.send(n)

    def source():
        for n in range(100):
            drawn.append(n)
            yield n

    await start(worker)
    async for n in runtime.map("worker", source(), window=window):
        seen.append(n)
        assert len(drawn) - len(seen) < window
    assert seen == list(range(100))


async def test_map_raises_at_the_place_of_the_message_and_goes_no_further(runtime, start, clock):
    asked = []

    async def worker(ctx):
        async for n in ctx:
            asked.append(n)
            if n != 3:
                await ctx.send(n)

    await start(worker)
    replies = runtime.map("worker", range(1000), window=2, timeout=3600)
    assert [await anext(replies) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(QueueTimeoutError):
        await anext(replies)
    with pytest.raises(StopAsyncIteration):
        await anext(replies)
    assert len(asked) < 10


async def test_map_ends_with_its_source(runtime, start):
    async def worker(ctx):
        async for n in ctx:
            await ctx.send(n)

    def source():
        yield from range(5)
        raise ZeroDivisionError

    kernel = await start(worker)
    replies = runtime.map("worker", source(), window=2)
    assert [await anext(replies) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        await anext(replies)
    await runtime.wait_idle()
    assert kernel.unanswered == 0
    with pytest.raises(TypeError):
        await anext(runtime.map("worker", 5))
    assert [reply async for reply in runtime.map("worker", [])] == []


@pytest.mark.parametrize("window", [0, -1, 1.5, True, None])
async def test_an_impossible_window_is_refused(runtime, start, window):
    async def worker(ctx): ...

    await start(worker, activate=False)
    with pytest.raises(ValueError, match="window must be an integer of at least 1"):
        await anext(runtime.map("worker", [1], window=window))


async def test_leaving_a_map_early_leaves_nothing_in_flight(runtime, start, gate, settle):
    go_on = gate()

    async def worker(ctx):
        async for n in ctx:
            if n == 1:
                await go_on.wait()
            await ctx.send(n)

    await start(worker)
    replies = runtime.map("worker", range(100), window=4)
    assert await anext(replies) == 0
    await replies.aclose()
    go_on.open()
    await runtime.wait_idle()
    assert await runtime.ask("worker", "still there") == "still there"
    assert runtime.statistics()["worker"].replies_unread == 0
