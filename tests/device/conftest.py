"""What tests of compiled ring kernels share: a runtime on each kind of loop, a load, and a cache of their own."""

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pydotcompute import RingKernelRuntime, ring_kernel
from tests.runtime.conftest import (  # noqa: F401 - fixtures
    eventually,
    in_thread,
    loop_mode,
    no_definitions_of_others,
    no_hang,
    on_loop,
    runtime,
    settle,
)

pytest.register_assert_rewrite("tests.device.conformance", "tests.device.stress")

HERE = Path(__file__).parent
PATIENCE = 20.0
"""Seconds that a test may take."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A coroutine that hangs is cancelled, and its test fails."""
    for item in items:
        if item.path.is_relative_to(HERE) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.obj = _impatient(item.obj)


def _impatient(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            await test(*args, **kwargs)

    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Steps are compiled into a folder of this run, which processes that tests start use too, and all its workers.

    TEST_CACHE_DIR names one that several runs share, so that none compiles what another has.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = os.environ.get("TEST_CACHE_DIR")
        if folder is None and "PYTEST_XDIST_WORKER" in os.environ:
            folder = str(tmp_path_factory.getbasetemp().parent / "steps")
        folder = folder or tmp_path_factory.mktemp("steps")
        patch.setenv("PYDOTCOMPUTE_CACHE_DIR", str(folder))
        yield


@pytest.fixture
def define(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``define(step, "id", queue_size=3)``: a ring kernel on the backend of the suite, or on the one that is named."""

    def define(step: Any, kernel_id: str | None = None, **options: Any) -> Any:
        if not inspect.iscoroutinefunction(step):
            options.setdefault("backend", request.cls.backend)
        return ring_kernel(kernel_id or step.__name__, **options)(step)

    return define


@pytest.fixture
def start(runtime: RingKernelRuntime, define: Callable[..., Any]) -> Callable[..., Any]:  # noqa: F811
    """``await start(step, "id", queue_size=3)``: define, launch and activate; the handle."""

    async def start(step: Any, kernel_id: str | None = None, *, activate: bool = True, **options: Any) -> Any:
        # On a thread: to show a faulty line, or to know a step again, a definition reads the source.
        definition = await asyncio.to_thread(define, step, kernel_id, **options)
        kernel = await runtime.launch(definition)
        if activate:
            await kernel.activate()
        return kernel

    return start


@pytest.fixture
def hog() -> Callable[..., Any]:
    """``with hog():`` another thread never gives the interpreter up of its own accord."""

    @contextmanager
    def hog() -> Iterator[None]:
        stop = False

        def spin() -> None:
            while not stop:
                pass

        thread = threading.Thread(target=spin)
        thread.start()
        try:
            yield
        finally:
            stop = True
            thread.join()

    return hog
