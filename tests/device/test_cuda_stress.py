"""Many actors of the CUDA backend, with native threads in place of its launches."""

import pytest

from pydotcompute import ring_kernel
from tests.device import stand_in, steps
from tests.device.stress import Stress

pytestmark = [pytest.mark.needs_numba, pytest.mark.needs_cuda_compiler]


@pytest.fixture(scope="module", autouse=True)
def machinery(own_cache):
    """What all kernels share is compiled here, for some seconds, and not in the time of a test."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in.install(patch)
        ring_kernel("first", backend="cuda")(steps.echo).build()


@pytest.fixture(autouse=True)
def threads_for_a_gpu(monkeypatch, machinery):
    stand_in.install(monkeypatch)


class TestCudaStress(Stress):
    backend = "cuda"
    scale = 0.005
