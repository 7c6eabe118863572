"""`make gpu` where there is none to be had, and what it makes of tests that crash or hang."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MIXED = """
import os
import signal

import pytest

pytestmark = pytest.mark.needs_numba


def test_one():
    pass


def test_two():
    assert 1 == 2


def test_three():
    os.kill(os.getpid(), signal.SIGKILL)


def test_four():
    pass


@pytest.mark.skip(reason="there is one GPU")
def test_five():
    pass


@pytest.mark.parametrize("n", range(6))
def test_six(n):
    assert n > 10


def test_seven():
    pass
"""

HANGS = """
import time

import pytest


@pytest.mark.needs_numba
def test_one():
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


@pytest.fixture
def gpu_run(tmp_path):
    def run(*args: str, **files: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
        for name, source in files.items():
            (tmp_path / f"{name}.py").write_text(source)
        written = tmp_path / "result.json"
        command = [sys.executable, "benchmarks/gpu_run.py", "--json", str(written), *args]
        if files:
            command += ["--marker", "needs_numba", "--tests", *(str(tmp_path / f"{name}.py") for name in files)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True), written

    return run


def test_where_there_is_no_gpu_it_says_so_and_is_no_success(gpu_run):
    ran, written = gpu_run()
    assert ran.returncode == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Nothing was tested or measured: ")
    assert "backend=" not in line
    assert not written.exists()


@pytest.mark.parametrize("lacks", [["pytest"], ["hypothesis", "msgpack"]])
def test_where_packages_are_missing_it_says_how_to_install_them(lacks):
    code = "import runpy, sys; sys.modules |= dict.fromkeys(sys.argv[2:]); sys.argv[1:] = []; runpy.run_path"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}('benchmarks/gpu_run.py', run_name='__main__')", "-", *lacks],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"Nothing was tested or measured: {sys.executable} lacks ")
    assert f"`pip install {' '.join(sorted(lacks, reverse=True))}`" in line


def test_what_fails_or_crashes_keeps_nothing_else_from_being_run(gpu_run):
    ran, written = gpu_run("--backend", "cpu", "--benchmark", "quick", "only=enqueue", test_mixed=MIXED)
    assert ran.returncode == 1, ran.stdout
    found = json.loads(written.read_text())
    assert found["tests"]["counts"] == {"passed": 3, "failed": 7, "crashed": 1, "skipped": 1}
    assert found["tests"]["stopped"] == ""
    outcomes = {entry["test"].rpartition("::")[2]: entry for entry in found["tests"]["failed"]}
    assert outcomes.keys() == {"test_two", "test_three", *(f"test_six[{n}]" for n in range(6))}
    assert "assert 1 == 2" in outcomes["test_two"]["text"]
    assert "SIGKILL" in outcomes["test_three"]["text"]
    assert "there is one GPU" in found["tests"]["skipped"][0]["text"]
    assert found["benchmark"]["finished"]
    assert found["benchmark"]["failed"] == {}
    assert found["benchmark"]["figures"].keys() == {"enqueue, native: ns", "enqueue from Python: ns"}
    assert found["python"] == found["benchmark"]["python"]
    assert found["packages"]["numpy"]
    for line in ("CRASHED", "test_three", "1 skipped", "NOT everything passed"):
        assert line in ran.stdout


def test_what_hangs_is_stopped_in_time_and_named(gpu_run):
    arguments = ("--backend", "cpu", "--seconds", "15", "--benchmark", "quick", "only=nothing is called like this")
    ran, written = gpu_run(*arguments, test_hangs=HANGS)
    assert ran.returncode == 1, ran.stdout
    found = json.loads(written.read_text())
    assert found["tests"]["counts"] == {"crashed": 1}
    assert "time was over" in found["tests"]["stopped"]
    assert found["seconds"] < 40
    assert found["benchmark"].keys() >= {"finished"}
    assert "test_hangs.py::test_one" in ran.stdout
