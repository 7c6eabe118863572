"""What the doctor says of machines that are well, that lack something, and that are broken."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import pydotcompute
from pydotcompute.cli import main
from pydotcompute.device import cache, doctor, toolkit
from pydotcompute.device.accelerator import Accelerator
from pydotcompute.device.doctor import Findings

from .test_accelerator import ROOT, in_a_new_process

PROCESSOR = Accelerator("cpu", 0, "A processor", 8, 32 << 30, "x86_64")
H200 = Accelerator("cuda", 0, "NVIDIA <H200>", 132, 141 << 30, "sm_90", (9, 0), driver_version="580.95.05, CUDA 13.0")
NO_NUMBA = "Numba is not installed: `pip install numba`, and restart the notebook's kernel"
NO_NUMBA_CUDA = f"numba-cuda is not installed: `{toolkit.PACKAGES}`, and restart the notebook's kernel"
NO_DRIVER = "no NVIDIA driver is installed here"


def findings(cuda=None, cpu=None, compiler=None, accelerators=(H200, PROCESSOR)):
    backends = {"cuda": cuda, "cpu": cpu, "interpreted": None}
    return Findings(backends, compiler, accelerators, {"Python": "3.12.1"}, "/home/a/.cache/pydotcompute/steps")


# -- what it makes of what it has found --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "healthy", "conclusion", "remedies"),
    [
        (findings(), True, "All is well: ring kernels run on the GPU here (NVIDIA <H200>).", ()),
        (
            findings(cuda=NO_NUMBA_CUDA, compiler=NO_NUMBA_CUDA),
            True,
            "Ring kernels run here, compiled for the processor; the GPU cannot be used yet.",
            (toolkit.PACKAGES,),
        ),
        (
            findings(cuda=NO_DRIVER, compiler=NO_NUMBA_CUDA, accelerators=(PROCESSOR,)),
            True,
            "Ring kernels run here, compiled for the processor; no GPU can be used.",
            (toolkit.PACKAGES,),
        ),
        (
            findings(cuda=NO_DRIVER, cpu=NO_NUMBA, compiler=NO_NUMBA, accelerators=(PROCESSOR,)),
            False,
            "Ring kernels run here as plain Python alone, which is slow: the compiler is missing or broken.",
            ("pip install numba",),
        ),
        (
            findings(cuda=NO_NUMBA, cpu=NO_NUMBA, compiler=NO_NUMBA),
            False,
            "Ring kernels run here as plain Python alone, which is slow: the compiler is missing or broken.",
            ("pip install numba",),
        ),
    ],
    ids=["well", "a GPU without its compiler", "no GPU", "no GPU, no compiler", "no compiler at all"],
)
def test_the_conclusion_comes_first_and_then_what_helps(found, healthy, conclusion, remedies):
    assert found.healthy is healthy
    assert found.remedies == remedies
    lines = str(found).splitlines()
    first = () if found.accelerators == (PROCESSOR,) and found.healthy else remedies  # those of use on this machine
    assert lines[: len(first) + 2] == [conclusion, *(f"  {command}" for command in first), ""]
    assert {line.strip() for line in lines} >= set(remedies)  # none is broken into several lines
    data = json.loads(json.dumps(found.as_dict()))
    assert (data["healthy"], data["conclusion"], data["remedies"]) == (healthy, conclusion, list(remedies))


def test_it_says_all_that_it_knows():
    text = str(findings(cuda=NO_DRIVER, compiler=NO_NUMBA_CUDA, accelerators=(PROCESSOR,)))
    flat = " ".join(text.split())
    assert f"cuda no: {NO_DRIVER}" in flat
    assert "cpu yes" in flat
    assert f"compiling for a GPU no: {NO_NUMBA_CUDA.replace('`, and', ' and').replace('`', '')}" in flat
    assert "cpu 0 A processor, x86_64, 8 cores, 32.0 GiB" in flat
    assert "kept in /home/a/.cache/pydotcompute/steps" in flat
    assert max(len(line) for line in text.splitlines() if "pip install" not in line) <= 100


def test_it_shows_itself_in_a_notebook():
    html = findings(cuda=NO_NUMBA_CUDA)._repr_html_()
    assert "<H200>" not in html
    assert "NVIDIA &lt;H200&gt;" in html
    assert "<pre>pip install &#x27;numba-cuda[cu13]&#x27;" in html
    assert html.count("<table") == html.count("<caption") == 4


def test_what_programs_read():
    data = findings(cuda=NO_DRIVER).as_dict()
    assert data["backends"]["cuda"] == {"usable": False, "why_not": NO_DRIVER}
    assert data["backends"]["cpu"] == {"usable": True, "why_not": None}
    assert data["gpu_compiler"] == {"usable": True, "why_not": None}
    assert data["accelerators"][0]["capability"] == (9, 0)
    assert data["versions"] == {"Python": "3.12.1"}


# -- this machine ------------------------------------------------------------------------------------------------------


@pytest.mark.needs_numba
def test_a_machine_with_numba_is_healthy(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "Ring kernels run" in text.splitlines()[0] or text.startswith("All is well")
    flat = " ".join(text.split())
    assert "cpu yes" in flat
    assert f"numpy {np.__version__}" in flat
    assert f"pydotcompute {pydotcompute.__version__}" in flat
    assert f"kept in {cache.folder()}" in flat


@pytest.mark.needs_numba
def test_for_programs(capsys):
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["healthy"] is True
    assert data["backends"]["cpu"] == {"usable": True, "why_not": None}
    assert data["accelerators"][-1]["kind"] == "cpu"
    assert data["versions"]["numpy"] == np.__version__


@pytest.mark.needs_cuda_compiler
def test_steps_can_be_compiled_for_a_gpu_without_one():
    assert pydotcompute.doctor().gpu_compiler is None


@pytest.mark.needs_gpu
def test_a_machine_with_a_gpu():
    found = pydotcompute.doctor()
    assert found.backends["cuda"] is None
    assert found.conclusion.startswith("All is well: ring kernels run on the GPU here (")
    assert "CUDA" in found.versions["NVIDIA driver"]


def test_this_process_is_left_as_it_was():
    found = in_a_new_process("""
        import os, sys
        import pydotcompute

        before = dict(os.environ)
        pydotcompute.doctor()
        print(sorted({"cuda", "cupy", "numba", "numba_cuda", "pynvml"} & set(sys.modules)), before == os.environ)
    """)
    assert found == "[] True"


# -- machines that lack something --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An environment with NumPy and msgpack alone."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for package in ("numpy", "msgpack"):
        given = Path(__import__(package).__file__).parent
        for path in (given, given.parent / f"{package}.libs", *given.parent.glob(f"{package}-*.dist-info")):
            if path.exists():
                (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


@pytest.mark.skipif(os.name != "posix", reason="a folder of links")
def test_a_machine_without_numba(bare_python):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [bare_python, "-m", "pydotcompute", "doctor"], env=environment, cwd="/", capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert ended.returncode == 1
    first, second, *others = ended.stdout.splitlines()
    assert first == "Ring kernels run here as plain Python alone, which is slow: the compiler is missing or broken."
    assert second == "  pip install numba"
    flat = " ".join(" ".join(others).split())
    assert "cpu no: Numba is not installed: pip install numba and restart" in flat
    assert "interpreted yes" in flat
    assert "numba " not in flat.partition("Versions")[2]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """``packages(numba="text")``: a package of that name and text stands before those that are installed."""

    def packages(**sources):
        for name, source in sources.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(dedent(source))

    monkeypatch.syspath_prepend(str(tmp_path))
    return packages


def test_a_numba_that_cannot_be_imported(packages):
    packages(numba="raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.9.')")
    found = doctor.doctor()
    assert found.backends["cpu"].startswith("Numba cannot be imported (ImportError: Numba needs NumPy 2.2 or less. Got")
    assert found.remedies == ("pip install --upgrade numba",)
    assert not found.healthy


def test_a_numba_that_crashes(packages):
    packages(numba="import ctypes, faulthandler; faulthandler.disable(); ctypes.string_at(0)")
    found = doctor.doctor()
    assert found.backends["cpu"] == "looking for it crashes Python (SIGSEGV): install its packages again"
    assert not found.healthy
    assert found.accelerators[-1].kind == "cpu"


def test_a_numba_that_hangs(packages, monkeypatch):
    packages(numba="import threading; threading.Event().wait()")
    monkeypatch.setattr(doctor, "TIMEOUT", 1.0)
    assert doctor.doctor().backends["cpu"] == "looking for it did not come to an end within 1 s"


def test_a_package_that_prints(packages):
    packages(pynvml="print('{')", numba="print('hello from numba'); raise ImportError('no')")
    found = doctor.doctor()
    assert "Numba cannot be imported (ImportError: no)" in found.backends["cpu"]
    assert found.accelerators


def test_a_python_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    found = doctor.doctor()
    assert found.backends["cpu"].startswith("Python cannot be started to look for it (")
    assert found.accelerators == ()
    assert found.conclusion.startswith("Ring kernels run here as plain Python")


def test_a_trial_that_fails(monkeypatch):
    monkeypatch.setitem(doctor._TRIALS, "of another process", None)
    assert doctor._tried("of another process") == "looking for it fails: KeyError: 'of another process'"


def test_no_folder_for_compiled_steps(monkeypatch):
    monkeypatch.setattr(cache, "_places", lambda: iter([Path("/dev/null/nowhere")]))
    monkeypatch.setattr(doctor, "_tried", lambda name: None)
    found = doctor.doctor()
    assert found.cache is None
    assert "no folder can be written: every process compiles anew. Set PYDOTCOMPUTE_CACHE_DIR" in " ".join(
        str(found).split()
    )


def test_a_folder_for_compiled_steps_that_cannot_be_used(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_tried", lambda name: None)
    monkeypatch.setenv("PYDOTCOMPUTE_CACHE_DIR", "/dev/null/nowhere")
    found = doctor.doctor()
    assert found.cache is None or "/dev/null" not in found.cache
    assert found.as_dict()["cache_refused"] == "/dev/null/nowhere"
    assert "not in /dev/null/nowhere: PYDOTCOMPUTE_CACHE_DIR must name a folder" in " ".join(str(found).split())
    monkeypatch.setenv("PYDOTCOMPUTE_CACHE_DIR", str(tmp_path))
    found = doctor.doctor()
    assert (found.cache, found.cache_refused) == (str(tmp_path / "steps"), None)
    assert "not in" not in str(found)


def test_several_builds_of_cupy_get_into_each_others_way(monkeypatch):
    known = {"cupy-cuda13x": "14.2.0", "cupy-cuda12x": "13.6.0"}
    monkeypatch.setattr(toolkit, "installed", known.get)
    monkeypatch.setattr(doctor, "cupy_for_rocm", lambda: None)
    monkeypatch.setattr(doctor, "_tried", lambda name: None)
    assert doctor.doctor().versions["cupy"] == (
        "cupy-cuda13x 14.2.0 and cupy-cuda12x 13.6.0: they overwrite each other, uninstall all and install one"
    )


def test_the_driver_is_among_the_versions(monkeypatch):
    answers = {"accelerators": json.loads(json.dumps(findings().as_dict()["accelerators"]))}
    monkeypatch.setattr(doctor, "_tried", answers.get)
    found = doctor.doctor()
    assert found.accelerators == (H200, PROCESSOR)
    assert found.versions["NVIDIA driver"] == "580.95.05, CUDA 13.0"
