"""What the benchmark for GPUs can be held to without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))
    command = [sys.executable, script, *args]
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_its_rows_run_on_worker_threads_and_judge_nothing(tmp_path):
    ran = run("benchmarks/gpu.py", "--backend", "cpu", "--quick", "--json", str(tmp_path / "figures.json"))
    assert ran.returncode == 0, ran.stderr
    assert "nothing of this is a figure of a GPU" in ran.stdout
    assert "≤" not in ran.stdout
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["finished"], found["failed"], found["running"], found["backend"]) == (True, {}, None, "cpu")
    assert {claim["met"] for claim in found["claims"]} == {None}
    assert all(figure > 0 for figure in found["figures"].values())
    assert found["figures"].keys() >= {
        "floor, bare ping-pong p50: µs",
        "native host loop p50: µs",
        "Python thread p99: µs",
        "asyncio p50: µs",
        "enqueue, native: ns",
        "one actor, batches: M/s",
        "132 actors, batches: M/s",
        "1,056 actors, batches: M/s",
        "actor to actor: µs",
    }


def test_where_there_is_no_gpu_it_says_so_in_a_line():
    ran = run("benchmarks/gpu.py", CUDA_VISIBLE_DEVICES="")
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("nothing was measured: ")


def test_a_row_that_fails_is_named_and_the_others_are_measured(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(
        "import gpu\n"
        "rows = gpu.rows_for\n"
        "gpu.rows_for = lambda *args: {'broken: ns': lambda: 1 / 0, **rows(*args)}\n"
        "gpu.main()\n"
    )
    written = tmp_path / "figures.json"
    ran = run(str(script), "--backend", "cpu", "--quick", "--only", ": ns", "--json", str(written))
    assert ran.returncode == 1
    assert "FAILED  broken: ns: ZeroDivisionError" in ran.stdout
    found = json.loads(written.read_text())
    assert found["figures"].keys() == {"enqueue, native: ns", "enqueue from Python: ns"}
    assert found["failed"].keys() == {"broken: ns"}


def test_a_row_that_does_not_come_back_is_known_from_the_file(tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(
        "import time, gpu\n"
        "gpu.STUCK = 0.5\n"
        "gpu.rows_for = lambda *args: {'quick': lambda: 1.0, 'stuck': lambda: time.sleep(100)}\n"
        "gpu.main()\n"
    )
    written = tmp_path / "figures.json"
    ran = run(str(script), "--backend", "cpu", "--quick", "--json", str(written))
    assert ran.returncode == 1
    found = json.loads(written.read_text())
    assert (found["finished"], found["running"], found["figures"]) == (False, "stuck", {"quick": 1.0})


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_what_it_measures_against_compiles_for_a_gpu(arch):
    """Bare exchanges, and a launch for each message: with the loads and stores that they claim, and no spill."""
    script = (
        "import json, sys\n"
        "from _launches import compiled\n"
        "from compiled import echo_small\n"
        "print(json.dumps([(one.ptx, one.spilled, one.local) for one in compiled(echo_small, sys.argv[1])]))\n"
    )
    paths = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))
    command = [sys.executable, "-c", script, arch]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    bounce, answer, blocks = json.loads(ran.stdout)
    assert [part[1:] for part in (bounce, answer, blocks)] == [[0, 0]] * 3
    for (ptx, *_), forms in (
        (bounce, ("ld.acquire.sys", "st.release.sys")),
        (answer, ("ld.relaxed.sys", "st.release.sys")),
        (blocks, ("ld.acquire.gpu", "st.release.gpu")),
    ):
        assert all(form in ptx for form in forms)
