"""Every coroutine may be awaited from any loop, every blocking twin called from any thread; nothing dead-locks."""

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import (
    KernelFailedError,
    KernelNotFoundError,
    KernelStateError,
    LoopError,
    MessageTypeError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from pydotcompute.runtime import KernelState


@message
class Ask:
    n: int


async def echo(ctx):
    async for one in ctx:
        await ctx.send(one)


async def silent(ctx):
    async for _ in ctx:
        pass


def run_script(source, timeout=30):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(source)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


# -- where it lives ------------------------------------------------------------------------------------------------


async def test_current_is_the_running_loop_and_thread_another(runtime, start):
    where = []

    async def worker(ctx):
        where.append((asyncio.get_running_loop(), threading.current_thread()))
        async for _ in ctx:
            pass

    await start(worker)
    await runtime.terminate("worker")
    ((loop, thread),) = where
    if runtime.loop_mode == "current":
        assert loop is asyncio.get_running_loop()
        assert thread is threading.current_thread()
    else:
        assert loop is not asyncio.get_running_loop()
        assert thread.name == "pydotcompute-runtime"
        assert thread.daemon


def test_auto_is_the_current_loop_in_a_script():
    assert RingKernelRuntime().loop_mode == "current"
    assert RingKernelRuntime("auto").loop_mode == "current"


@pytest.mark.parametrize(("shell", "mode"), [(None, "current"), ("terminal", "current"), ("notebook", "thread")])
def test_auto_is_a_thread_in_a_notebook_only(monkeypatch, shell, mode):
    shells = {None: None, "terminal": SimpleNamespace(), "notebook": SimpleNamespace(kernel=object())}
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shells[shell]))
    assert RingKernelRuntime().loop_mode == mode
    assert RingKernelRuntime("current").loop_mode == "current"


@pytest.mark.may_block
async def test_kernels_of_a_thread_go_on_while_the_caller_blocks():
    count = 0

    async def ticker(ctx):
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0.001)

    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(ticker))).activate()
        end = time.monotonic() + 10
        while count < 20:  # this loop is blocked all the while
            assert time.monotonic() < end
            time.sleep(0.001)
        await runtime.close(timeout=0)


async def test_making_a_runtime_starts_nothing():
    before = threading.active_count()
    runtime = RingKernelRuntime("thread")
    assert threading.active_count() == before
    await runtime.close()
    assert threading.active_count() == before


async def test_the_thread_ends_with_the_runtime():
    before = set(threading.enumerate())
    async with RingKernelRuntime("thread"):
        (thread,) = (t for t in set(threading.enumerate()) - before if t.name == "pydotcompute-runtime")
        assert thread.is_alive()
    assert not thread.is_alive()


async def test_a_runtime_need_not_be_entered(loop_mode):
    runtime = RingKernelRuntime(loop_mode)
    await (await runtime.launch(ring_kernel(echo))).activate()
    assert await runtime.ask("echo", 1) == 1
    await runtime.close()


async def test_two_runtimes_are_apart(loop_mode):
    async with RingKernelRuntime(loop_mode) as first, RingKernelRuntime(loop_mode) as second:
        definition = ring_kernel(echo)
        await (await first.launch(definition)).activate()
        with pytest.raises(KernelNotFoundError):
            await second.ask("echo", 1)
        await (await second.launch(definition)).activate()
        await first["echo"].terminate()
        assert await second.ask("echo", 1) == 1


if sys.version_info >= (3, 12):

    async def test_a_loop_whose_tasks_begin_eagerly():
        refused = []

        async def selfish(ctx):
            for call in (lambda: ctx.ask("selfish", 1), lambda: runtime.terminate("selfish")):
                try:
                    await call()
                except KernelStateError as error:
                    refused.append(str(error))

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with RingKernelRuntime("current") as runtime:
            for body in (selfish, echo):
                await (await runtime.launch(ring_kernel(body))).activate()
            assert await runtime.wait_ended("selfish") is KernelState.TERMINATED
            assert await asyncio.gather(*(runtime.ask("echo", Ask(n)) for n in range(3))) == [Ask(n) for n in range(3)]
        assert len(refused) == 2


# -- from another loop ---------------------------------------------------------------------------------------------


def on_another_loop(function):
    """Run a coroutine function on a loop of its own in a thread of its own; a future of this loop."""
    return asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(function()))


async def test_every_coroutine_works_from_another_loop(runtime):
    async def use():
        definition = ring_kernel(echo)
        kernel = await runtime.launch(definition)
        other = await runtime.launch("echo", kernel_id="other")
        await runtime.activate("echo")
        await other.activate()
        await runtime.send("echo", 1)
        assert await runtime.receive("echo") == 1
        await runtime.send_many("echo", iter([2, 3]))
        assert [await kernel.receive(timeout=5), await runtime.receive("echo", timeout=5)] == [2, 3]
        assert await runtime.ask("echo", Ask(4)) == Ask(4)
        assert await runtime.send_and_receive("echo", 5, timeout=5) == 5
        assert await asyncio.gather(*(runtime.ask("echo", n) for n in range(100))) == list(range(100))
        assert [reply async for reply in runtime.map("echo", range(20), window=3, timeout=5)] == list(range(20))
        await runtime.deactivate("echo")
        await runtime.send("echo", 6)
        with pytest.raises(QueueTimeoutError):
            await runtime.wait_idle("echo", timeout=0.01)
        await runtime.reactivate("echo")
        await runtime.wait_idle("echo", timeout=5)
        assert await runtime.receive("echo") == 6
        with pytest.raises(QueueTimeoutError):
            await runtime.wait_ended("echo", timeout=0.01)
        await runtime.terminate("echo", drain=False, timeout=1)
        assert await runtime.wait_ended("echo") is KernelState.TERMINATED
        assert runtime.statistics()["echo"].processed == 126
        assert other.state is KernelState.ACTIVE
        await runtime.close()
        assert other.state is KernelState.TERMINATED

    await on_another_loop(use)


async def test_errors_cross_loops_as_they_are(runtime):
    async def use():
        with pytest.raises(KernelNotFoundError):
            await runtime.ask("none", 1)
        kernel = await runtime.launch(ring_kernel(input_type=int)(silent))
        with pytest.raises(MessageTypeError, match="takes int, not str"):
            await kernel.send("text")
        with pytest.raises(KernelStateError):
            await kernel.deactivate()

        async def worker(ctx):
            await ctx.receive()
            raise ZeroDivisionError("as told")

        kernel = await runtime.launch(ring_kernel(worker))
        await kernel.activate()
        for _ in range(2):
            with pytest.raises(KernelFailedError, match="as told") as info:
                await kernel.ask(1)
            assert isinstance(info.value.__cause__, ZeroDivisionError)

    await on_another_loop(use)


async def test_a_runtime_may_be_entered_and_left_on_another_loop():
    async def use():
        async with RingKernelRuntime("thread") as runtime:
            await (await runtime.launch(ring_kernel(echo))).activate()
            return await runtime.ask("echo", 1)

    assert await on_another_loop(use) == 1


async def test_many_loops_use_one_runtime_at_once():
    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(echo))).activate()

        async def use():
            return await asyncio.gather(*(runtime.ask("echo", Ask(n)) for n in range(200)))

        for replies in await asyncio.gather(use(), *(on_another_loop(use) for _ in range(4))):
            assert [reply.n for reply in replies] == list(range(200))
        assert runtime.statistics()["echo"].processed >= 999


@pytest.mark.parametrize("method", ["ask", "receive", "send", "wait_idle", "wait_ended"])
async def test_cancelling_a_call_from_another_loop_cancels_the_request_and_no_kernel(runtime, start, method):
    kernel = await start(silent, queue_size=1)
    if method in ("send", "wait_idle"):
        await kernel.deactivate()
        await kernel.send(0)

    def is_waited_for():
        return kernel._out.getter or kernel._box.blocked or kernel._watchers

    async def use():
        call = getattr(runtime, method)
        task = asyncio.ensure_future(call("silent", 1) if method in ("ask", "send") else call("silent"))
        while not (kernel.unanswered or kernel._ctx._sink or is_waited_for()):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await on_another_loop(use)
    while kernel._out.getter or kernel._box.blocked:
        await asyncio.sleep(0)
    if kernel.state is KernelState.DEACTIVATED:
        await kernel.reactivate()
    await runtime.wait_idle()
    assert kernel.state is KernelState.ACTIVE
    await kernel.send(2)
    await runtime.wait_idle()
    assert kernel.statistics().processed == {"ask": 2, "wait_idle": 2, "send": 2}.get(method, 1)


async def test_a_timeout_around_a_call_from_another_loop(runtime, start):
    await start(silent)

    async def use():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await runtime.ask("silent", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runtime.receive("silent"), 0.01)

    await on_another_loop(use)
    assert runtime["silent"].state is KernelState.ACTIVE


async def test_a_reply_that_arrives_as_its_caller_on_another_loop_gives_up_is_not_lost():
    """It is returned, or a dead letter, or still in the outbox, whenever the caller was cancelled."""
    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(queue_size=100_000)(echo))).activate()
        got, turns = [], 0
        for n in range(300):
            await runtime.send("echo", n)
            task = asyncio.ensure_future(runtime.receive("echo"))
            turns = (turns + 1) % 40
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                got.append(await task)
        await runtime.wait_idle()
        letters = [letter.message for letter in runtime.dead_letters]
        unread = [await runtime.receive("echo", timeout=1) for _ in range(runtime.statistics()["echo"].replies_unread)]
        assert sorted(got + letters + unread) == list(range(300))


# -- blocking twins ------------------------------------------------------------------------------------------------


async def test_every_blocking_twin_works_from_a_thread(runtime, in_thread):
    def use():
        sync = runtime.sync
        kernel = sync.launch(ring_kernel(echo))
        other = sync.launch("echo", kernel_id="other")
        sync.activate("echo")
        sync.activate("other")
        sync.send("echo", 1)
        assert sync.receive("echo") == 1
        sync.send_many("echo", iter([2, 3]))
        assert [sync.receive("echo", timeout=5), sync.receive("echo", 5)] == [2, 3]
        assert sync.ask("echo", Ask(4)) == Ask(4)
        assert sync.send_and_receive("echo", 5, timeout=5) == 5
        assert sync.map("echo", range(20), window=3, timeout=5) == list(range(20))
        sync.deactivate("echo")
        sync.send("echo", 6)
        with pytest.raises(QueueTimeoutError):
            sync.wait_idle("echo", timeout=0.01)
        with pytest.raises(QueueTimeoutError):
            sync.ask("echo", 7, timeout=0.01)
        sync.reactivate("echo")
        sync.wait_idle(timeout=5)
        assert sync.receive("echo") == 6
        with pytest.raises(QueueTimeoutError):
            sync.receive("echo", timeout=0)
        with pytest.raises(QueueTimeoutError):
            sync.wait_ended("echo", timeout=0.01)
        sync.terminate("echo", drain=False, timeout=1)
        assert sync.wait_ended("echo") is KernelState.TERMINATED
        assert kernel.state is KernelState.TERMINATED
        with pytest.raises(ValueError, match="window"):
            sync.map("other", [1], window=0)
        with pytest.raises(KernelNotFoundError):
            sync.ask("none", 1)
        sync.close(drain=True, timeout=1)
        sync.close()
        assert other.state is KernelState.TERMINATED

    await in_thread(use)


def test_blocking_twins_need_no_loop_when_the_runtime_has_a_thread():
    runtime = RingKernelRuntime("thread")
    runtime.sync.launch(ring_kernel(echo))
    runtime.sync.activate("echo")
    assert runtime.sync.ask("echo", 1) == 1
    runtime.sync.close()
    assert "pydotcompute-runtime" not in {thread.name for thread in threading.enumerate()}


def test_a_blocking_twin_starts_the_thread_once_for_all_threads():
    runtime = RingKernelRuntime("thread")
    ring_kernel(echo)
    barrier = threading.Barrier(8)
    errors = []

    def use(n):
        barrier.wait()
        try:
            runtime.sync.launch("echo", kernel_id=f"echo {n}")
            runtime.sync.activate(f"echo {n}")
            assert runtime.sync.ask(f"echo {n}", n) == n
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(runtime.kernels) == 8
    runtime.sync.close()


@pytest.mark.parametrize("close", [{}, {"drain": False}, {"timeout": 0.0}])
def test_a_blocking_close_of_a_runtime_that_never_started(close):
    for mode in ("current", "thread"):
        runtime = RingKernelRuntime(mode)
        runtime.sync.close(**close)
        with pytest.raises(RuntimeClosedError):
            runtime.sync.ask("echo", 1)


CALLS = {
    "launch": lambda sync: sync.launch("echo"),
    "activate": lambda sync: sync.activate("echo"),
    "deactivate": lambda sync: sync.deactivate("echo"),
    "reactivate": lambda sync: sync.reactivate("echo"),
    "terminate": lambda sync: sync.terminate("echo"),
    "send": lambda sync: sync.send("echo", 1),
    "send_many": lambda sync: sync.send_many("echo", [1]),
    "ask": lambda sync: sync.ask("echo", 1),
    "receive": lambda sync: sync.receive("echo"),
    "wait_idle": lambda sync: sync.wait_idle(),
    "wait_ended": lambda sync: sync.wait_ended("echo"),
    "close": lambda sync: sync.close(),
    "map": lambda sync: sync.map("echo", [1]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_blocking_twin_on_the_runtimes_own_loop_says_what_to_write(runtime, start, on_loop, name):
    await start(echo)

    async def call():
        with pytest.raises(LoopError, match="would wait for the loop that it runs on") as info:
            CALLS[name](runtime.sync)
        assert name in str(info.value) or name == "map"
        assert "loop='thread'" in str(info.value)

    await on_loop(call)
    assert await runtime.ask("echo", 1) == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_blocking_twin_without_any_loop_says_what_to_do(name):
    if name == "close":
        return
    with pytest.raises(LoopError, match=r"no event loop yet.*async with.*loop='thread'"):
        CALLS[name](RingKernelRuntime("current").sync)


async def test_a_body_that_uses_a_blocking_twin_is_told_so(runtime, start):
    async def worker(ctx):
        async for _ in ctx:
            runtime.sync.ask("worker", 1)

    await start(worker)
    with pytest.raises(KernelFailedError, match=r"LoopError.*await runtime.ask"):
        await runtime.ask("worker", 1)


@pytest.mark.may_block
async def test_a_blocking_twin_on_another_loop_works_and_blocks_only_that(start_thread_runtime):
    runtime = start_thread_runtime
    assert runtime.sync.ask("echo", 1, timeout=5) == 1


@pytest.fixture
async def start_thread_runtime():
    async with RingKernelRuntime("thread") as runtime:
        await (await runtime.launch(ring_kernel(echo))).activate()
        yield runtime


def test_interrupting_a_blocking_twin_gives_the_request_up_and_the_kernels_go_on():
    """As Ctrl-C does to a synchronous cell of a notebook."""
    import signal

    runtime = RingKernelRuntime("thread")
    for body in (silent, echo):
        runtime.sync.launch(ring_kernel(body))
        runtime.sync.activate(body.__name__)

    def interrupt(*_):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGUSR1, interrupt)
    try:
        main = threading.main_thread().ident
        threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            runtime.sync.ask("silent", 1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert runtime.sync.ask("echo", 1, timeout=5) == 1
    assert {kernel.state for kernel in runtime.kernels.values()} == {KernelState.ACTIVE}
    runtime.sync.wait_idle(timeout=5)
    runtime.sync.close()


# -- closed, or gone -----------------------------------------------------------------------------------------------


def assert_closed_for_twins(runtime):
    for name, call in CALLS.items():
        if name != "close":
            with pytest.raises(RuntimeClosedError, match=r"RingKernelRuntime|loop"):
                call(runtime.sync)


async def test_a_closed_runtime_says_so_to_everybody(runtime, start, in_thread):
    kernel = await start(echo)
    assert not runtime.closed
    await runtime.close()
    assert runtime.closed
    for call in (
        lambda: runtime.launch("echo"),
        lambda: runtime.activate("echo"),
        lambda: runtime.deactivate("echo"),
        lambda: runtime.reactivate("echo"),
        lambda: runtime.terminate("echo"),
        lambda: runtime.send("echo", 1),
        lambda: runtime.send_many("echo", [1]),
        lambda: runtime.ask("echo", 1),
        lambda: runtime.receive("echo"),
        lambda: runtime.wait_idle(),
        lambda: runtime.wait_ended("echo"),
        lambda: anext(runtime.map("echo", [1])),
        lambda: kernel.ask(1),
        lambda: runtime.__aenter__(),
    ):
        with pytest.raises(RuntimeClosedError, match="the runtime is closed: make a new RingKernelRuntime"):
            await call()
    await in_thread(assert_closed_for_twins, runtime)
    assert kernel.state is KernelState.TERMINATED
    assert runtime.statistics()["echo"].state == "TERMINATED"


async def test_close_may_be_called_again(runtime, start, in_thread):
    await start(echo)
    await runtime.close()
    await runtime.close(drain=False)
    await in_thread(runtime.sync.close)
    async with asyncio.timeout(1):
        await runtime.close()


async def test_what_waits_in_other_threads_ends_when_the_runtime_closes(runtime, start, in_thread):
    kernel = await start(silent)

    def expect(call):
        with pytest.raises((KernelStateError, RuntimeClosedError)):
            call()

    waiting = [
        asyncio.ensure_future(in_thread(expect, lambda: runtime.sync.ask("silent", 1))),
        asyncio.ensure_future(in_thread(expect, lambda: runtime.sync.receive("silent"))),
    ]
    ended = asyncio.ensure_future(in_thread(lambda: runtime.sync.wait_ended("silent")))
    while not (kernel._out.getter and kernel._watchers and (kernel.unanswered or kernel._ctx._sink)):
        await asyncio.sleep(0.001)
    await runtime.close()
    await asyncio.gather(*waiting)
    assert await ended is KernelState.TERMINATED


def test_whoever_calls_as_the_runtime_closes_gets_an_answer_or_an_error():
    for n in range(20):
        runtime = RingKernelRuntime("thread")
        runtime.sync.launch(ring_kernel(echo))
        runtime.sync.activate("echo")
        outcomes = []

        def use(runtime=runtime, outcomes=outcomes):
            try:
                for i in itertools.count():
                    runtime.sync.ask("echo", i)
                    runtime.sync.wait_idle()
                    asyncio.run(runtime.ask("echo", Ask(i)))
            except Exception as error:
                outcomes.append(type(error))

        threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        while runtime["echo"].statistics().processed < n:
            pass
        runtime.sync.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        assert len(outcomes) == 4
        assert set(outcomes) <= {RuntimeClosedError, KernelStateError}


@pytest.mark.parametrize("call", ["ask", "receive", "wait_ended", "terminate"])
def test_whoever_waits_for_a_loop_that_ends_gets_an_error_and_is_not_cancelled(call):
    runtime = RingKernelRuntime("current")
    waiting = [threading.Event(), threading.Event()]
    outcomes = []

    async def worker(ctx):
        async for _ in ctx:
            await asyncio.get_running_loop().create_future()

    def arguments():
        return ("worker", 1) if call == "ask" else ("worker",)

    async def hop():
        return await getattr(runtime, call)(*arguments())

    def use(n):
        try:
            waiting[n].set()
            outcomes.append(getattr(runtime.sync, call)(*arguments()) if n else asyncio.run(hop()))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=use, args=(n,), daemon=True) for n in range(2)]

    async def main():
        kernel = await runtime.launch(ring_kernel(worker))
        await kernel.activate()
        await kernel.send(0)
        while not kernel.busy:
            await asyncio.sleep(0)
        for thread in threads[: 1 if call == "terminate" else 2]:
            thread.start()
        while not (kernel._watchers or kernel._out.getter or kernel.queue_depth or kernel.state == "TERMINATING"):
            await asyncio.sleep(0.001)

    asyncio.run(main())
    for thread in threads[: 1 if call == "terminate" else 2]:
        thread.join(5)
        assert not thread.is_alive()
    for outcome in outcomes:
        assert outcome is KernelState.TERMINATED or isinstance(outcome, RuntimeClosedError | KernelStateError), outcome


@pytest.fixture
def left_behind():
    """A runtime of a loop that has ended, with a kernel that was active then."""
    runtime = RingKernelRuntime("current")

    async def main():
        await (await runtime.launch(ring_kernel(echo))).activate()
        assert await runtime.ask("echo", 1) == 1

    asyncio.run(main())
    return runtime


def test_a_runtime_whose_loop_has_ended_says_so_to_blocking_twins(left_behind):
    assert_closed_for_twins(left_behind)
    errors = []

    def use():
        try:
            assert_closed_for_twins(left_behind)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == []


def test_a_runtime_whose_loop_has_ended_says_so_on_the_next_loop(left_behind):
    runtime = left_behind

    async def use():
        for call in (
            lambda: runtime.launch("echo", kernel_id="another"),
            lambda: runtime.send("echo", 1),
            lambda: runtime.send("echo", Ask(1)),
            lambda: runtime.send_many("echo", [1]),
            lambda: runtime.ask("echo", 1),
            lambda: runtime.ask("echo", Ask(1)),
            lambda: runtime.ask("echo", Ask(1), timeout=1),
            lambda: runtime.receive("echo"),
            lambda: runtime.activate("echo"),
            lambda: runtime.terminate("echo"),
            lambda: runtime.wait_idle(),
            lambda: runtime.wait_ended("echo"),
        ):
            with pytest.raises(RuntimeClosedError):
                await call()

    asyncio.run(use())


def test_a_runtime_whose_loop_has_ended_can_be_closed(left_behind):
    left_behind.sync.close()
    left_behind.sync.close()
    asyncio.run(left_behind.close())
    assert left_behind.closed


def test_a_runtime_whose_loop_has_ended_can_be_closed_on_the_next_loop(left_behind):
    asyncio.run(left_behind.close())
    assert left_behind.closed
    with pytest.raises(RuntimeClosedError):
        left_behind.sync.ask("echo", 1)


def test_a_runtime_whose_loop_stands_still_says_so():
    loop = asyncio.new_event_loop()
    runtime = RingKernelRuntime("current")
    try:

        async def begin():
            await (await runtime.launch(ring_kernel(echo))).activate()

        loop.run_until_complete(begin())
        outcome = []

        def use():
            for call in (lambda: runtime.sync.ask("echo", 1), lambda: asyncio.run(runtime.ask("echo", Ask(1)))):
                try:
                    outcome.append(call())
                except RuntimeClosedError as error:
                    outcome.append(str(error))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert len(outcome) == 2
        assert all("not running" in text for text in outcome)
        assert loop.run_until_complete(runtime.ask("echo", 2)) == 2  # and it goes on when its loop does
        loop.run_until_complete(runtime.close())
    finally:
        loop.close()


# -- processes -----------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from pydotcompute import RingKernelRuntime, ring_kernel

@ring_kernel
async def echo(ctx):
    async for one in ctx:
        await ctx.send(one)

@ring_kernel
async def ticker(ctx):
    while True:
        await asyncio.sleep(0.001)

@ring_kernel
async def stuck(ctx):
    await ctx.receive()
    await asyncio.Future()
"""


def test_a_process_ends_cleanly_without_close():
    done = run_script(
        PROGRAM
        + """
runtime = RingKernelRuntime("thread")
for name in ("echo", "ticker", "stuck"):
    runtime.sync.launch(name)
    runtime.sync.activate(name)
runtime.sync.send("stuck", 1)
runtime.sampler.listen(lambda frame: None, 100)
print(runtime.sync.ask("echo", "done"))
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_process_ends_cleanly_when_its_main_fails():
    done = run_script(
        PROGRAM
        + """
async def main():
    runtime = RingKernelRuntime("thread")
    for name in ("echo", "ticker"):
        await runtime.launch(name)
        await runtime.activate(name)
    sys.exit(3)
asyncio.run(main())
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_program_on_one_loop_ends_cleanly_without_close():
    done = run_script(
        PROGRAM
        + """
async def main():
    runtime = RingKernelRuntime("current")
    for name in ("echo", "ticker", "stuck"):
        await runtime.launch(name)
        await runtime.activate(name)
    print(await runtime.ask("echo", "done"))
asyncio.run(main())
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("mode", ["current", "thread"])
def test_a_body_that_swallows_everything_does_not_keep_the_process(mode):
    done = run_script(
        f"""
import asyncio
from pydotcompute import RingKernelRuntime, ring_kernel

@ring_kernel
async def stubborn(ctx):
    while True:
        try:
            await ctx.receive()
        except BaseException:
            pass

async def main():
    runtime = RingKernelRuntime({mode!r})
    await runtime.launch("stubborn")
    await runtime.activate("stubborn")
    await runtime.wait_idle()
    await runtime.close(timeout=0.05)
    print(runtime["stubborn"].state)
asyncio.run(main())
"""
    )
    assert (done.returncode, done.stdout) == (0, "TERMINATED\n")


def test_a_body_that_blocks_its_thread_does_not_keep_the_process():
    done = run_script(
        """
import threading, time
from pydotcompute import RingKernelRuntime, ring_kernel

begun = threading.Event()

@ring_kernel
async def blocking(ctx):
    await ctx.receive()
    begun.set()
    time.sleep(60)

runtime = RingKernelRuntime("thread")
runtime.sync.launch("blocking")
runtime.sync.activate("blocking")
threading.Thread(target=runtime.sync.send, args=("blocking", 1), daemon=True).start()
begun.wait()
print("begun")
""",
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")


# -- memory --------------------------------------------------------------------------------------------------------


def sizes(runtime):
    scheduler = runtime._scheduler
    return {
        "deadlines": sum(len(waits) + 1 for waits in scheduler._deadlines.values()),
        "woken": len(scheduler.woken),
        "aside": sum(len(kernel._aside or ()) for kernel in runtime.kernels.values()),
        "timers": len(scheduler._timers),
        "watchers": sum(len(kernel._watchers or ()) for kernel in runtime.kernels.values()),
        "types": len(runtime["echo"]._input_types),
    }


async def slow_echo(ctx):
    async for one in ctx:
        await asyncio.sleep(0)  # so that its asker has to wait
        await ctx.send(one)


@pytest.mark.parametrize(("body", "count"), [(echo, 100_000), (slow_echo, 20_000)])
@pytest.mark.parametrize("timeout", [None, 3600.0, "distinct"])
async def test_a_hundred_thousand_asks_leave_nothing_behind(timeout, body, count):
    async with RingKernelRuntime("current") as runtime:
        await (await runtime.launch(ring_kernel("echo")(body))).activate()
        one = Ask(1)
        await runtime.ask("echo", one, 3600.0)
        before = sizes(runtime)
        for n in range(count):
            await runtime.ask("echo", one, 1000 + n / 7 if timeout == "distinct" else timeout)
        after = sizes(runtime)
        assert all(after[name] <= before[name] + 200 for name in before), (before, after)


async def test_asks_that_time_out_leave_little_behind():
    async with RingKernelRuntime("current") as runtime:
        for body in (echo, silent):
            await (await runtime.launch(ring_kernel(queue_size=100_000)(body))).activate()
        same = Ask(0)
        for n in range(20):
            asks = [runtime.ask("silent", same if n % 2 else Ask(n), timeout=0) for _ in range(500)]
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {QueueTimeoutError}
        await runtime.wait_idle()
        kept = sum(len(sinks) for sinks in runtime["silent"]._aside.values())
        assert kept <= 3000
        assert sizes(runtime)["deadlines"] <= 2
        assert runtime["silent"].unanswered == 0


async def test_waits_that_time_out_leave_nothing_behind():
    async with RingKernelRuntime("current") as runtime:
        for body in (echo, silent):
            await (await runtime.launch(ring_kernel(body))).activate()
        kernel = runtime["silent"]
        await kernel.deactivate()
        await kernel.send(1)
        for _ in range(500):
            for call in (runtime.wait_idle("silent", timeout=0), runtime.wait_ended("silent", timeout=0)):
                with pytest.raises(QueueTimeoutError):
                    await call
        assert len(kernel._watchers or ()) <= 10


async def test_a_dropped_runtime_is_collected():
    async def use():
        async with RingKernelRuntime("current") as runtime:
            await (await runtime.launch(ring_kernel(echo))).activate()
            await runtime.ask("echo", Ask(1))
            runtime.statistics()
            return weakref.ref(runtime), weakref.ref(runtime["echo"])

    runtime, kernel = await use()
    gc.collect()
    assert runtime() is None
    assert kernel() is None


async def test_a_runtime_that_was_never_closed_is_collected_too(caplog):
    async def use():
        runtime = RingKernelRuntime("current")
        await runtime.launch(ring_kernel(echo))
        return weakref.ref(runtime)

    runtime = await use()
    gc.collect()
    assert runtime() is None
    assert caplog.records == []


async def test_an_idle_kernel_keeps_no_message_alive(runtime, start):
    class Big:
        pass

    async def forget(ctx):
        while not ctx.should_terminate:
            await ctx.receive()
            await ctx.send("taken")

    await start(forget)
    big = Big()
    reference = weakref.ref(big)
    assert await runtime.ask("forget", big) == "taken"
    await runtime.wait_idle()
    del big
    gc.collect()
    assert reference() is None
