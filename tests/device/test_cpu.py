"""Compiled steps on worker threads."""

import pytest

from pydotcompute import ring_kernel
from tests.device import steps
from tests.device.conformance import ParallelConformance

pytestmark = pytest.mark.needs_numba


@pytest.fixture(scope="module", autouse=True)
def machinery(own_cache):
    """What all kernels share is compiled here, for some seconds, and not in the time of a test."""
    ring_kernel("first", backend="cpu")(steps.echo).build()


class TestCpu(ParallelConformance):
    backend = "cpu"
