"""Where pytest-asyncio is missing, as on many a machine with a GPU, coroutine tests run all the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ONE_LOOP = """
import asyncio
import contextvars

import pytest

told = []
variable = contextvars.ContextVar("variable", default="not set")


@pytest.fixture
async def opened():
    variable.set("by the fixture")
    told.append("opened")
    yield asyncio.get_running_loop()
    await asyncio.sleep(0)
    told.append("closed")


@pytest.fixture
async def on_top(opened):
    assert asyncio.get_running_loop() is opened
    return "on top"


@pytest.fixture
def plain(on_top):
    yield on_top
    told.append("plain is over")


class TestInAClass:
    @pytest.fixture
    async def own(self, opened):
        yield self

    @pytest.mark.parametrize("n", [1, 2])
    async def test_a_test_and_its_fixtures_share_a_loop(self, own, plain, opened, n):
        assert asyncio.get_running_loop() is opened
        assert (plain, variable.get(), type(own)) == ("on top", "by the fixture", TestInAClass)


def test_fixtures_end_in_their_order_and_each_test_has_its_own():
    assert told == ["opened", "plain is over", "closed"] * 2
    assert variable.get() == "not set"


def test_one_that_is_no_coroutine_may_use_them(plain, opened):
    assert plain == "on top"
    assert not opened.is_running() and not opened.is_closed()


async def test_tasks_that_are_left_are_cancelled_with_the_loop():
    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    told.append(task)


def test_and_they_were():
    assert told[-1] == "cancelled" and told[-2].cancelled()
"""

FAILS = """
import asyncio

import pytest


@pytest.fixture
async def broken():
    await asyncio.sleep(0)
    raise ValueError("the fixture is broken")


@pytest.fixture
async def ends_badly():
    yield
    await asyncio.sleep(0)
    raise ValueError("its end is broken")


async def test_that_fails():
    await asyncio.sleep(0)
    assert 1 == 2


async def test_whose_fixture_fails(broken):
    pass


async def test_whose_fixture_ends_badly(ends_badly):
    pass


@pytest.mark.xfail(raises=KeyError)
async def test_that_is_expected_to_fail():
    await asyncio.sleep(0)
    raise KeyError
"""


@pytest.fixture
def run_tests(tmp_path):
    def run(source: str) -> subprocess.CompletedProcess[str]:
        shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nmarkers =\n    may_block\n    needs_gpu\nfilterwarnings =\n    error\n"
            "    ignore:Unknown config option. asyncio_:pytest.PytestConfigWarning\n"
        )
        (tmp_path / "test_it.py").write_text(source)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-rA"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_a_test_and_its_fixtures_run_on_a_loop_of_their_own(run_tests):
    ran = run_tests(ONE_LOOP)
    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout


def test_what_fails_is_told(run_tests):
    ran = run_tests(FAILS)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout
    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in ran.stdout
    for line in ("assert 1 == 2", "ValueError: the fixture is broken", "ValueError: its end is broken"):
        assert line in ran.stdout
