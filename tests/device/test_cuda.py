"""The CUDA backend, with native threads in place of its launches."""

import asyncio

import pytest

from tests.device import stand_in
from tests.device.conformance import ParallelConformance, everything_at_once

pytestmark = [pytest.mark.needs_numba, pytest.mark.needs_cuda_compiler]


@pytest.fixture(scope="module", autouse=True)
def machinery(own_cache):
    """What all kernels share is compiled here, for some seconds, and not in the time of a test."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in.install(patch)
        asyncio.run(everything_at_once("cuda", 100))


@pytest.fixture(autouse=True)
def threads_for_a_gpu(monkeypatch, machinery):
    stand_in.install(monkeypatch)


class TestCuda(ParallelConformance):
    backend = "cuda"
    scale = 0.02
    shares_memory = False
    prelude = "from tests.device import stand_in; stand_in.install()"
