"""What can compute here: GPUs of both makers, and the processor as the last one."""

import dataclasses
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace

import pytest

from pydotcompute import Accelerator
from pydotcompute.device import accelerator

from .fake_cuda import GTX, H200, install

ROOT = Path(__file__).parents[2]


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(accelerator, "_nvml", lambda: None)
    monkeypatch.setattr(accelerator, "amd_is_here", lambda: False)
    return partial(install, monkeypatch)


@pytest.fixture
def nvml(monkeypatch, library):
    """NVIDIA's management library, as far as it is asked."""

    class NVMLError(Exception):
        pass

    def handle(uuid):
        if uuid not in made.known:
            raise NVMLError("Not Found")
        return uuid

    def only_for_whole(answer):
        def ask(handle, *sensor):
            if handle.startswith("MIG-"):
                raise NVMLError("Not Supported")
            return answer

        return ask

    made = ModuleType("pynvml")
    made.known = ["GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"]
    made.NVMLError, made.NVML_TEMPERATURE_GPU = NVMLError, 0
    made.nvmlInit = lambda: None
    made.nvmlSystemGetDriverVersion = lambda: "580.95.05"
    made.nvmlDeviceGetHandleByUUID = handle
    made.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(free=7 << 30)
    made.nvmlDeviceGetUtilizationRates = only_for_whole(SimpleNamespace(gpu=25))
    made.nvmlDeviceGetTemperature = only_for_whole(41)
    made.nvmlDeviceGetPowerUsage = only_for_whole(123_400)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(accelerator, "_nvml", cache(REAL_NVML.__wrapped__))
    return made


REAL_NVML = accelerator._nvml


# -- the processor -----------------------------------------------------------------------------------------------------


def test_without_a_gpu_there_is_the_processor(library):
    library(library=None)
    (found,) = Accelerator.all()
    assert (found.kind, found.index, found.capability, found.uuid) == ("cpu", 0, None, None)
    assert 1 <= found.multiprocessors <= os.cpu_count()
    assert found.memory > 1 << 28
    assert found.name
    assert found.runs_ring_kernels
    assert found.temperature() is None
    assert found.power() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_processor_says_how_busy_it_is():
    processor = Accelerator.all()[-1]
    assert 0 < processor.memory_free() <= processor.memory
    assert 0 <= processor.utilisation() <= 1


def test_the_memory_of_a_container_counts(library, monkeypatch):
    library(library=None)
    monkeypatch.setattr(accelerator, "_memory_limit", lambda: 1 << 20)
    (found,) = Accelerator.all()
    assert found.memory == 1 << 20
    assert found.memory_free() in (None, 1 << 20)


# -- NVIDIA ------------------------------------------------------------------------------------------------------------


def test_gpus_come_first(library, monkeypatch):
    library(H200, GTX)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # no package is needed to find them
    first, second, processor = Accelerator.all()
    assert first == Accelerator(
        kind="cuda",
        index=0,
        name="NVIDIA H200",
        multiprocessors=132,
        memory=141 << 30,
        arch="sm_90",
        capability=(9, 0),
        uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
        driver_version="CUDA 13.0",
        runtime_version="13.0.96",
    )
    assert (second.index, second.arch, second.runs_ring_kernels) == (1, "sm_61", False)
    assert first.runs_ring_kernels
    assert processor.kind == "cpu"


def test_a_gpu_that_fails_hides_no_other(library):
    made = library(H200, GTX)
    name = made.cuDeviceGetName
    made.cuDeviceGetName = lambda *args: 999 if args[2].value == 0 else name(*args)
    assert [found.name for found in Accelerator.all()][:-1] == [GTX[0]]


def test_a_driver_that_does_not_start_leaves_the_processor(library):
    library(H200).init_code = 999
    assert [found.kind for found in Accelerator.all()] == ["cpu"]


def test_without_nvml_nobody_tells(library):
    library(H200)
    gpu = Accelerator.all()[0]
    assert [gpu.memory_free(), gpu.utilisation(), gpu.temperature(), gpu.power()] == [None] * 4


def test_nvml_tells(library, nvml):
    library(H200)
    gpu = Accelerator.all()[0]
    assert gpu.driver_version == "580.95.05, CUDA 13.0"
    assert [gpu.memory_free(), gpu.utilisation(), gpu.temperature(), gpu.power()] == [7 << 30, 0.25, 41.0, 123.4]


def test_nvml_knows_parts_of_a_gpu_by_another_name_and_tells_less(library, nvml):
    nvml.known = ["MIG-00010203-0405-0607-0809-0a0b0c0d0e0f"]
    library(H200)
    gpu = Accelerator.all()[0]
    assert [gpu.memory_free(), gpu.utilisation(), gpu.temperature(), gpu.power()] == [7 << 30, None, None, None]


def test_nvml_that_does_not_start(library, nvml):
    def fail():
        raise nvml.NVMLError("Driver/library version mismatch")

    nvml.nvmlInit = fail
    library(H200)
    gpu = Accelerator.all()[0]
    assert gpu.driver_version == "CUDA 13.0"
    assert gpu.power() is None


# -- AMD ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rocm(monkeypatch, library):
    library(library=None)
    properties = {"name": b"AMD Instinct MI300X", "multiProcessorCount": 304, "totalGlobalMem": 192 << 30}
    properties["gcnArchName"] = b"gfx942"
    runtime = SimpleNamespace(
        is_hip=True,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda index: properties,
        runtimeGetVersion=lambda: 70000000,
        memGetInfo=lambda: (100 << 30, 192 << 30),
    )

    class Device:
        def __init__(self, index):
            assert index == 0

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(runtime=runtime, Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(accelerator, "amd_is_here", lambda: True)
    return runtime


def test_amds_gpus_are_for_arrays(rocm):
    gpu, processor = Accelerator.all()
    assert (gpu.kind, gpu.name, gpu.arch, gpu.capability) == ("rocm", "AMD Instinct MI300X", "gfx942", None)
    assert not gpu.runs_ring_kernels
    assert gpu.memory_free() == 100 << 30
    assert (gpu.utilisation(), gpu.temperature()) == (None, None)
    assert repr(gpu) == (
        "<Accelerator rocm 0: AMD Instinct MI300X, gfx942, 304 multiprocessors, 192.0 GiB "
        "(for arrays alone: ring kernels need CUDA)>"
    )
    assert processor.kind == "cpu"


def test_cupy_for_cuda_finds_no_gpu_of_amds(rocm):
    rocm.is_hip = False
    assert [found.kind for found in Accelerator.all()] == ["cpu"]


def test_cupy_that_is_broken_hides_the_gpu_alone(rocm):
    def fail():
        raise RuntimeError("libamdhip64.so is missing")

    rocm.getDeviceCount = fail
    assert [found.kind for found in Accelerator.all()] == ["cpu"]


def test_amds_build_of_cupy_is_known_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise RuntimeError('it is not imported to be found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert accelerator.cupy_for_rocm() is None
    (tmp_path / "cupy_rocm_7_0-14.2.0.dist-info").mkdir()
    assert accelerator.cupy_for_rocm() == "14.2.0"


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_it_shows_itself(library):
    library(("<H&200>", *H200[1:]), GTX)
    first, second, _ = Accelerator.all()
    assert repr(first) == "<Accelerator cuda 0: <H&200>, sm_90, 132 multiprocessors, 141.0 GiB>"
    assert str(second).endswith("8.0 GiB (for arrays alone: ring kernels need compute capability 7.5)")
    html = first._repr_html_()
    assert "<H&200>" not in html
    assert html.count("&lt;H&amp;200&gt;") == 2
    assert "141.0 GiB" in html


def test_nothing_of_it_can_be_changed():
    processor = Accelerator.all()[-1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        processor.name = "another"
    assert processor == Accelerator.all()[-1]


def in_a_new_process(script: str, **variables: str) -> str:
    """What it prints; `variables` are added to those of the environment."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    ended = subprocess.run(
        [sys.executable, "-c", dedent(script)], env=environment, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def test_looking_imports_neither_compilers_nor_array_libraries():
    found = in_a_new_process("""
        import sys
        from pydotcompute import Accelerator

        Accelerator.all()
        print(sorted({"cuda", "numba", "numba_cuda", "torch"} & set(sys.modules)))
    """)
    assert found == "[]"


@pytest.mark.needs_gpu
def test_a_gpu_is_found_without_a_context():
    found = in_a_new_process("""
        from pydotcompute import Accelerator

        first, *_, last = Accelerator.all()
        first.memory_free(), first.utilisation(), first.temperature(), first.power()
        assert first.kind == "cuda" and first.runs_ring_kernels and last.kind == "cpu", first
        assert first.memory > 1 << 30 and first.multiprocessors > 0, first

        from cuda.bindings import driver
        code, flags, active = driver.cuDevicePrimaryCtxGetState(driver.cuDeviceGet(0)[1])
        assert code == 0
        print(active)
    """)
    assert found == "0"


@pytest.mark.needs_gpu
def test_it_is_the_gpu_that_cupy_sees():
    cupy = pytest.importorskip("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    found = Accelerator.all()[0]
    assert found.name == properties["name"].decode()
    assert found.multiprocessors == properties["multiProcessorCount"]
    assert found.capability == (properties["major"], properties["minor"])
    assert found.memory == properties["totalGlobalMem"]


@pytest.mark.needs_gpu
def test_nvml_tells_of_a_real_gpu():
    pytest.importorskip("pynvml")
    found = Accelerator.all()[0]
    assert 0 < found.memory_free() <= found.memory
    assert found.utilisation() is None or 0 <= found.utilisation() <= 1
    assert found.temperature() is None or 0 < found.temperature() < 120
    assert found.power() is None or 0 < found.power() < 5000
