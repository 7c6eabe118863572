"""Fixtures for all tests. It imports nothing beyond pytest at the top: the core-only run reads it too."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

IN_CI = bool(os.environ.get("CI"))

_wrongly_skipped: list[str] = []


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    excused = hasattr(report, "wasxfail") or "needs_gpu" in getattr(report, "keywords", ())
    if IN_CI and report.skipped and not excused:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _wrongly_skipped.append(f"{report.nodeid}: {reason}")


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


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser that Playwright can drive; CHROMIUM names one that is not on the PATH."""
    names = (
        os.environ.get("CHROMIUM", "chromium"),
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    )
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM to its path")
    return path
