"""In continuous integration only a missing GPU excuses a skipped test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

EXCUSED = """
import pytest

@pytest.mark.needs_gpu
def test_on_a_gpu():
    pytest.skip("no GPU")

@pytest.mark.xfail
def test_known_to_fail():
    assert False
"""

NOT_EXCUSED = """
import pytest

def test_that_gives_up():
    pytest.skip("too lazy")

@pytest.mark.skip(reason="out of fashion")
def test_switched_off():
    pass
"""

WHOLE_FILE = """
import pytest

pytest.importorskip("no_such_package_anywhere")
"""


@pytest.fixture(params=["one process", "workers"])
def run_tests(request, tmp_path):
    options = ["-p", "no:cacheprovider"]
    if request.param == "workers":
        pytest.importorskip("xdist")
        options += ["-p", "xdist", "-n", "2"]

    def run(ci: str, **files: str) -> subprocess.CompletedProcess[str]:
        shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    needs_gpu\n    may_block\n")
        for name, source in {**files, "test_fine": "def test_fine():\n    pass\n"}.items():
            (tmp_path / f"{name}.py").write_text(source)
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=tmp_path,
            env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_a_missing_gpu_and_an_expected_failure_are_excused(run_tests):
    run = run_tests(ci="true", test_excused=EXCUSED)
    assert run.returncode == 0, run.stdout
    assert "may skip" not in run.stdout


def test_any_other_skip_fails_the_run_and_is_named(run_tests):
    run = run_tests(ci="true", test_not_excused=NOT_EXCUSED, test_whole_file=WHOLE_FILE)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    _, _, listed = run.stdout.partition("only tests marked needs_gpu may skip")
    for says in (
        "test_not_excused.py::test_that_gives_up: Skipped: too lazy",
        "test_not_excused.py::test_switched_off: Skipped: out of fashion",
        "test_whole_file.py: Skipped: could not import 'no_such_package_anywhere'",
    ):
        assert listed.count(says) == 1


def test_elsewhere_a_skip_is_just_that(run_tests):
    run = run_tests(ci="", test_not_excused=NOT_EXCUSED)
    assert run.returncode == 0, run.stdout
