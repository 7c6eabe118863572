"""Compiled steps on worker threads."""

import pytest

from tests.device.conformance import ParallelConformance

pytestmark = pytest.mark.needs_numba


class TestCpu(ParallelConformance):
    backend = "cpu"
