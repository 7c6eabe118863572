"""How busy the process and its GPUs are."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pydotcompute import RingKernelRuntime
from pydotcompute.device.accelerator import Accelerator
from pydotcompute.jupyter import meters as module
from pydotcompute.jupyter.meters import Gpu, Meters

GIB = 1 << 30


class Card(SimpleNamespace):
    """An `Accelerator` as far as it is asked."""

    kind = "cuda"

    def memory_free(self):
        return self.free

    def utilisation(self):
        return self.busy


@pytest.fixture
def runtime():
    return RingKernelRuntime(loop="current")


@pytest.fixture
def cards(monkeypatch):
    """Two cards, of which kernels use those in the list that is returned."""
    cards = (
        Card(index=0, name="small", memory=8 * GIB, free=GIB, busy=0.3),
        Card(index=1, name="large", memory=80 * GIB, free=None, busy=None),
    )
    monkeypatch.setattr(Accelerator, "all", classmethod(lambda cls: cards))
    return cards


def test_cpu_is_the_share_of_a_core_since_the_last_look(runtime, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.05)
    meters = Meters(runtime)
    assert meters.cpu is None
    begin = time.monotonic()
    while time.monotonic() - begin < 0.2:
        pass
    meters.read()
    busy = meters.cpu
    assert busy > 0.05
    meters.read()
    assert meters.cpu == busy  # not looked at again so soon


def test_cpu_of_a_process_that_does_nothing_is_small(runtime, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: 0.01 * now[0])
    monkeypatch.setattr(module, "time", clock)
    meters = Meters(runtime)
    now[0] = 2.0
    meters.read()
    assert meters.cpu == pytest.approx(0.01)


def test_gpus_are_those_with_kernels_of_the_runtime(runtime, cards, monkeypatch):
    meters = Meters(runtime)
    meters.read()
    assert meters.gpus == ()
    engine = runtime._engines["cuda"] = SimpleNamespace(in_use=[0], close=lambda: None)
    monkeypatch.setattr(module, "EVERY", 0.0)
    meters.read()
    assert meters.gpus == (Gpu("small", 0.3, 7 * GIB, 8 * GIB),)
    engine.in_use = [1]
    meters.read()
    assert meters.gpus == (Gpu("large", None, None, 80 * GIB),)
    engine.in_use = []
    meters.read()
    assert meters.gpus == ()


def test_a_gpu_that_fails_to_answer_is_left_out(runtime, cards, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    runtime._engines["cuda"] = SimpleNamespace(in_use=[0], close=lambda: None)
    meters = Meters(runtime)
    meters.read()
    assert meters.gpus

    def fails(card):
        raise OSError("the driver is gone")

    monkeypatch.setattr(Card, "utilisation", fails)
    meters.read()
    assert meters.gpus == ()


def test_without_kernels_on_a_gpu_nothing_of_one_is_imported():
    code = """
import sys
from pydotcompute import RingKernelRuntime
from pydotcompute.jupyter.meters import Meters
meters = Meters(RingKernelRuntime(loop="current"))
meters.read()
print({"pynvml", "cupy", "pydotcompute.device.libcuda", "pydotcompute.device.cuda"} & {*sys.modules})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("set()\n", "")
