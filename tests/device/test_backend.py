"""Which backend is taken, and what is said when one cannot be."""

import subprocess
import sys

import pytest

from pydotcompute.device import accelerator, cuda_compiler, toolkit
from pydotcompute.device.backend import choose, why_not
from pydotcompute.exceptions import BackendUnavailableError, DefinitionError

from .fake_cuda import GTX, H200, install
from .test_accelerator import in_a_new_process

NO_DRIVER = (
    "no NVIDIA driver is installed here (libcuda.so.1: no such file): an NVIDIA GPU needs driver 580 or newer, and a "
    "container must be started with `--gpus all`"
)
NO_NUMBA_CUDA = f"numba-cuda is not installed: `{toolkit.PACKAGES}`, and restart the notebook's kernel"


@pytest.fixture
def machine(monkeypatch):
    """``machine(H200)``: one with these GPUs, and with all packages."""

    def machine(*gpus, compiler=None, **options):
        monkeypatch.setattr(cuda_compiler, "compiler_missing", lambda: compiler)
        return install(monkeypatch, *gpus, **options)

    monkeypatch.setattr(accelerator, "amd_is_here", lambda: False)
    return machine


def refusal(name="cuda"):
    with pytest.raises(BackendUnavailableError) as caught:
        choose(name)
    return str(caught.value)


def test_the_names():
    with pytest.raises(DefinitionError, match="no backend 'abacus': use one of 'auto', 'cpu', 'cuda', 'interpreted'"):
        choose("abacus")


def test_interpreted_needs_nothing(machine):
    machine(library=None, compiler="nothing is here")
    assert choose("interpreted").name == "interpreted"
    assert why_not("interpreted") is None


@pytest.mark.needs_numba
def test_a_gpu_that_can_be_used_is_taken(machine):
    machine(H200)
    assert why_not("cuda") is None
    assert choose("cuda").name == "cuda"
    assert choose("auto").name == "cuda"
    assert choose("cpu").name == "cpu"
    assert sys.modules["cuda.bindings.driver"].calls == []  # and no context was made


@pytest.mark.needs_numba
@pytest.mark.parametrize(
    ("gpus", "options"),
    [([], {"library": None}), ([], {}), ([GTX], {}), ([H200], {"version": 12040}), ([H200], {"compiler": "none"})],
    ids=["no driver", "no GPU", "old GPU", "old driver", "no compiler"],
)
def test_auto_takes_the_processor_where_the_gpu_cannot_be_used(machine, gpus, options):
    machine(*gpus, **options)
    assert choose("auto").name == "cpu"


@pytest.mark.parametrize(
    ("gpus", "options", "why"),
    [
        ([], {"library": None}, NO_DRIVER),
        ([], {}, "an NVIDIA driver is installed, and finds no GPU: look at `nvidia-smi`"),
        (
            [H200],
            {"version": 12080},
            "the NVIDIA driver is too old: it supports CUDA 12.8, and what compiles for the GPU is of CUDA 13.0: "
            "update the driver to 580 or newer",
        ),
        (
            [GTX],
            {},
            "GPU 0 (NVIDIA GeForce GTX 1080) has compute capability 6.1, and ring kernels need 7.5 or newer, such as "
            "Turing, Ampere or Hopper",
        ),
        ([H200], {"compiler": NO_NUMBA_CUDA}, NO_NUMBA_CUDA),
    ],
    ids=["no driver", "no GPU", "old driver", "old GPU", "no numba-cuda"],
)
def test_why_a_gpu_cannot_be_used(machine, gpus, options, why):
    machine(*gpus, **options)
    assert refusal() == f"ring kernels cannot run on a GPU here: {why}; or pass backend='cpu' or 'auto'"
    assert why_not("cuda") == why


def test_all_gpus_are_hidden(machine, monkeypatch):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is '', which hides all GPUs: unset it" in refusal()


def test_amds_gpus_run_no_ring_kernels(machine, monkeypatch):
    machine(library=None)
    monkeypatch.setattr(accelerator, "amd_is_here", lambda: True)
    assert refusal() == (
        "ring kernels cannot run on a GPU here: they need CUDA, and the GPU is AMD's, where arrays alone work "
        "(UnifiedBuffer, through CuPy's build for ROCm); or pass backend='cpu' or 'auto'"
    )


def test_an_amd_gpu_beside_nvidias_driver_is_not_to_blame(machine, monkeypatch):
    machine()
    monkeypatch.setattr(accelerator, "amd_is_here", lambda: True)
    assert "AMD" not in refusal()


@pytest.mark.parametrize("nvvm", ["13.1.4", "13.5.12", "14.0.1"])
def test_parts_of_the_toolkit_that_do_not_fit(machine, monkeypatch, nvvm):
    machine(H200, version=14000)
    monkeypatch.setattr(toolkit, "versions", lambda: {"nvvm": nvvm, "nvjitlink": "13.0.88"})
    assert why_not("cuda") == (
        f"the parts of the CUDA toolkit do not fit: NVVM {nvvm} writes code that nvJitLink 13.0.88 cannot read: "
        f"`{toolkit.PACKAGES}`, and restart the notebook's kernel"
    )


@pytest.mark.parametrize(
    "found",
    [
        {"nvvm": "13.0.88", "nvjitlink": "13.5.3"},
        {"nvvm": "13.0.12", "nvjitlink": "13.0.88"},
        {"nvvm": "13.0.88", "nvjitlink": "13.0.12"},
        {"nvvm": "13.0.88"},
        {},
    ],
)
def test_parts_of_the_toolkit_that_fit(machine, monkeypatch, found):
    machine(H200)
    monkeypatch.setattr(toolkit, "versions", lambda: found)
    assert why_not("cuda") is None


def test_the_driver_must_be_of_the_toolkits_major_version(machine, monkeypatch):
    machine(H200, version=13000)
    monkeypatch.setattr(toolkit, "versions", lambda: {"nvvm": "14.2.1", "nvjitlink": "14.2.1"})
    assert "supports CUDA 13.0, and what compiles for the GPU is of CUDA 14.0: update the driver" in refusal()
    monkeypatch.setattr(toolkit, "versions", lambda: {"nvvm": "12.9.1", "nvjitlink": "12.9.1"})
    assert toolkit.oldest_driver() == (12, 0)


@pytest.mark.needs_cuda_compiler
def test_the_parts_that_are_installed_are_found_and_fit():
    found = toolkit.versions()
    assert {"nvvm", "nvjitlink"} <= set(found)
    assert toolkit.mismatch() is None
    assert toolkit.installed("no-such-package") is None


def test_windows_is_told_of_wsl(machine, monkeypatch):
    machine(H200)
    monkeypatch.setattr("pydotcompute.device.backend.os.name", "nt")
    expected = "compiled ring kernels need Linux or macOS (on Windows: WSL)"
    assert why_not("cuda") == why_not("cpu") == expected
    monkeypatch.undo()


@pytest.mark.needs_numba
def test_numba_that_is_switched_off():
    script = """
        from pydotcompute.device.backend import choose

        for name in ("cpu", "auto"):
            try:
                print(choose(name))
            except Exception as error:
                print(type(error).__name__, error)
    """
    found = in_a_new_process(script, NUMBA_DISABLE_JIT="1", CUDA_VISIBLE_DEVICES="")
    assert found.splitlines() == [
        "BackendUnavailableError Numba is switched off: unset the environment variable NUMBA_DISABLE_JIT; or pass "
        "backend='interpreted', which is slow and needs nothing"
    ] * 2  # fmt: skip


def test_choosing_imports_no_compiler_where_there_is_no_gpu():
    found = in_a_new_process(
        """
        import sys
        from pydotcompute.device.backend import why_not

        assert why_not("cuda")
        print(sorted({"cuda", "cupy", "numba", "numba_cuda"} & set(sys.modules)))
        """,
        CUDA_VISIBLE_DEVICES="",
    )
    assert found == "[]"


@pytest.mark.needs_gpu
def test_a_real_gpu_is_taken_without_a_context():
    found = in_a_new_process("""
        from pydotcompute.device.backend import choose

        assert choose("auto").name == choose("cuda").name == "cuda"
        from cuda.bindings import driver
        code, flags, active = driver.cuDevicePrimaryCtxGetState(driver.cuDeviceGet(0)[1])
        print(int(code), active)
    """)
    assert found == "0 0"


@pytest.mark.needs_gpu
def test_a_hidden_real_gpu_is_not_taken():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        in_a_new_process("from pydotcompute.device.backend import choose; choose('cuda')", CUDA_VISIBLE_DEVICES="")
    assert "CUDA_VISIBLE_DEVICES is '', which hides all GPUs" in caught.value.stderr
