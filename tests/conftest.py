"""Fixtures for all tests. It imports nothing beyond pytest at the top: the core-only run reads it too."""

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

IN_CI = bool(os.environ.get("CI"))

_wrongly_skipped: list[str] = []


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    excused = hasattr(report, "wasxfail") or "needs_gpu" in getattr(report, "keywords", ())
    if IN_CI and report.skipped and not excused:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _wrongly_skipped.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Log messages may have half a surrogate pair in them, which the pipe of a worker of pytest-xdist does not take."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _wrongly_skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _wrongly_skipped:
        terminalreporter.section("in CI only tests marked needs_gpu may skip", red=True)
        for line in _wrongly_skipped:
            terminalreporter.write_line(line)


class Coroutines:
    """Runs coroutine tests and function-scoped async fixtures where pytest-asyncio is missing, as its auto mode does.

    A machine with a GPU may have no more than pytest and hypothesis. A test and its fixtures share one event loop, in
    one context, which ends with the test.
    """

    _runner = pytest.StashKey[asyncio.Runner]()

    def _driven(self, function: Callable[..., Any], item: pytest.Item) -> Callable[..., Any]:
        """A function that runs what `function` begins on the loop of a test; `function` itself if it is not async."""
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            return function
        runner = item.stash.setdefault(self._runner, asyncio.Runner())

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            return runner.run(function(*args, **kwargs))

        @functools.wraps(function)
        def run_in_two_parts(*args: Any, **kwargs: Any) -> Iterator[Any]:
            async def go_on() -> Any:
                return await anext(parts, None)

            parts = function(*args, **kwargs)
            yield runner.run(go_on())
            runner.run(go_on())

        return run_in_two_parts if inspect.isasyncgenfunction(function) else run

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
        if request.scope != "function":
            return (yield)
        function = fixturedef.func
        fixturedef.func = self._driven(function, request.node)
        try:
            return (yield)
        finally:
            fixturedef.func = function

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        pyfuncitem.obj = self._driven(pyfuncitem.obj, pyfuncitem)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        try:
            return (yield)
        finally:
            if self._runner in item.stash:
                item.stash[self._runner].close()
                del item.stash[self._runner]


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.register(Coroutines())


@functools.cache
def _no_gpu() -> str | None:
    """Why ring kernels cannot run on a GPU here."""
    from pydotcompute.exceptions import BackendUnavailableError
    from pydotcompute.runtime.executor import backend

    try:
        backend("cuda")
    except BackendUnavailableError as error:
        return str(error)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_gpu") and (why := _no_gpu()):
        pytest.skip(why)


@pytest.fixture(scope="session", autouse=True)
def cupy_is_loaded() -> None:
    """The first buffer of a process imports CuPy, where that is installed; here it is often made on a loop."""
    if find_spec("cupy") is not None:
        from pydotcompute.device.memory import cupy

        cupy()


@pytest.fixture(autouse=True)
def no_blocking_in_a_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Code of the package that blocks an event loop (sleeps, reads a file, waits for a held lock) raises.

    A test that blocks a loop on purpose is marked `may_block`.
    """
    # The core-only run goes without blockbuster.
    if find_spec("blockbuster") is None or request.node.get_closest_marker("may_block"):
        yield
        return
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx(scanned_modules=["pydotcompute"]):
        yield
