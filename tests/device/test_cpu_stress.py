"""Many actors on worker threads."""

import pytest

from tests.device.stress import Stress

pytestmark = pytest.mark.needs_numba


class TestStress(Stress):
    backend = "cpu"
    scale = 0.05
