"""A plugin of pytest that writes each test's outcome to a file at once, and leaves out those that stand there already.

    python -m pytest -p _recorder --outcomes FILE ...

A run that was cut short, by a crash or by whoever waited for it, is so continued by the next.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _outcomes import append, read, stack

STUCK = 120
"""Seconds after which a test is taken for one that does not come back: it ends the process."""
IN_A_ROW = 5
"""Tests that fail one after the other, until a fresh process is to run the others: a device may be lost to this one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Outcomes(config.getoption("--outcomes")))


class _Outcomes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {entry["test"] for entry in read(path)}
        self._entry: dict[str, Any] = {}
        self._failed_in_a_row = 0
        self._stack = stack(path).open("w")

    def pytest_unconfigure(self) -> None:
        self._stack.close()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and report.nodeid not in self._known:
            entry = {"test": report.nodeid, "seconds": 0.0, "outcome": "failed", "text": report.longreprtext[-3000:]}
            append(self._path, entry)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = [item for item in items if item.nodeid in self._known]
        if known:
            config.hook.pytest_deselected(items=known)
            items[:] = [item for item in items if item.nodeid not in self._known]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._entry = {"test": nodeid, "seconds": 0.0}
        append(self._path, self._entry)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        entry = self._entry
        entry["seconds"] = round(entry["seconds"] + report.duration, 3)
        if report.failed:
            entry["outcome"] = "failed"
            entry["text"] = "\n\n".join(filter(None, (entry.get("text"), report.longreprtext[-3000:])))
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            entry |= {"outcome": "xfailed" if hasattr(report, "wasxfail") else "skipped", "text": str(reason)}
        elif report.when == "call":
            entry.setdefault("outcome", "passed")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        faulthandler.dump_traceback_later(STUCK, exit=True, file=self._stack)
        try:
            result = yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        append(self._path, self._entry)
        self._failed_in_a_row = self._failed_in_a_row + 1 if self._entry.get("outcome") == "failed" else 0
        if self._failed_in_a_row == IN_A_ROW:
            item.session.shouldstop = f"{IN_A_ROW} tests have failed one after the other"
        return result
