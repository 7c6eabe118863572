"""One runtime on each kind of loop, and what lets a test wait for a thing instead of a while."""

import asyncio
import functools
import inspect
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pydotcompute.runtime.kernel as kernel_module
from pydotcompute import RingKernelRuntime, ring_kernel, testing

HERE = Path(__file__).parent
PATIENCE = 20.0
"""Seconds that a test may take."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A coroutine that hangs is cancelled, and its test fails."""
    for item in items:
        if item.path.is_relative_to(HERE) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.obj = _impatient(item.obj, _patience(item))


def _patience(item: pytest.Item) -> float:
    marker = item.get_closest_marker("patience")
    return PATIENCE if marker is None else marker.args[0]


def _impatient(test: Callable[..., Any], patience: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        loop, task, late = asyncio.get_running_loop(), asyncio.current_task(), False

        def interrupt() -> None:
            nonlocal late
            late = task is not None and task.cancel()

        # Not a timer of the loop, whose time the test may put on by hours.
        guard = threading.Timer(patience, loop.call_soon_threadsafe, [interrupt])
        guard.daemon = True
        guard.start()
        try:
            await test(*args, **kwargs)
        except asyncio.CancelledError:
            if late:
                raise TimeoutError(f"the test hangs: it took more than {patience:g} s") from None
            raise
        finally:
            guard.cancel()

    return run


@pytest.fixture(autouse=True)
def no_hang(request: pytest.FixtureRequest) -> Iterator[None]:
    """What blocks the main thread, where no loop can cancel it, is interrupted; again each second if swallowed."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    patience = _patience(request.node) + 10

    def interrupt(*_: Any) -> None:
        raise TimeoutError(f"the test hangs: it took more than {patience:g} s")

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, patience, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture(autouse=True)
def no_definitions_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may use the same kernel ids without replacing one another's kernels."""
    monkeypatch.setattr(kernel_module, "_definitions", {})


@pytest.fixture(params=["current", "thread"])
def loop_mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def runtime(loop_mode: str) -> AsyncIterator[RingKernelRuntime]:
    async with asyncio.timeout(PATIENCE):
        runtime = await RingKernelRuntime(loop=loop_mode).__aenter__()
    yield runtime
    async with asyncio.timeout(PATIENCE):
        await runtime.close(drain=False, timeout=1)


@pytest.fixture(params=["async", "interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
def kind(request: pytest.FixtureRequest) -> str:
    """What runs a ring kernel: the event loop, or the backend of a compiled one."""
    return request.param


@pytest.fixture
def start(runtime: RingKernelRuntime) -> Callable[..., Any]:
    """``await start(body, "id", queue_size=3)``: define, launch and activate; the handle."""

    async def start(body: Any, kernel_id: str | None = None, *, activate: bool = True, **options: Any) -> Any:
        kernel = await runtime.launch(ring_kernel(kernel_id or body.__name__, **options)(body))
        if activate:
            await kernel.activate()
        return kernel

    return start


@pytest.fixture
def on_loop(runtime: RingKernelRuntime) -> Callable[..., Any]:
    """``await on_loop(function)``: run a coroutine function on the runtime's own loop."""

    async def on_loop(function: Callable[[], Any]) -> Any:
        if runtime.loop_mode == "current":
            return await function()
        home = runtime._loop
        assert home is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(), home))

    return on_loop


@pytest.fixture
def settle(runtime: RingKernelRuntime) -> Callable[..., Any]:
    """``await settle()``: let everything happen that can happen now."""
    return functools.partial(testing.settle, runtime)


@pytest.fixture
def turns(on_loop: Callable[..., Any]) -> Callable[..., Any]:
    """``await turns(3)``: give the runtime's loop so many, for who wants to meet it in the midst of its work."""

    async def turns(count: int) -> None:
        async def pass_turns() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        await asyncio.sleep(0)  # what the test has begun shall reach the runtime's loop first
        await on_loop(pass_turns)

    return turns


@pytest.fixture
async def clock(runtime: RingKernelRuntime) -> AsyncIterator[testing.FakeClock]:
    """Time that jumps to the next timer when everything waits, on the loop of the runtime and on that of the test."""
    with testing.FakeClock(runtime) as clock:
        yield clock


class Gate:
    """An event that a test and a body may share although they run on different loops."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def open(self) -> None:
        self.is_open = True
        while self._waiting:
            loop, future = self._waiting.pop()
            loop.call_soon_threadsafe(lambda future=future: future.done() or future.set_result(None))

    async def wait(self) -> None:
        if not self.is_open:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((asyncio.get_running_loop(), future))
            if self.is_open:
                self.open()
            await future


@pytest.fixture
def gate() -> type[Gate]:
    """Makes gates: ``opened = gate()``; ``await opened.wait()`` here, ``opened.open()`` there."""
    return Gate


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """``await eventually(condition)``: for what nothing announces; fails when it does not come true in time."""

    async def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come true in time"
            await asyncio.sleep(0.001)

    return eventually


@pytest.fixture
def in_thread() -> Callable[..., Any]:
    """``await in_thread(function)``: run a blocking function in another thread; what it returns or raises."""

    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    return in_thread
