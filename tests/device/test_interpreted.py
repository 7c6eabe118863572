"""Steps in plain Python on the event loop: the debugger's backend, and that of machines without a compiler."""

import subprocess
import sys
import threading
import traceback

import pytest

from pydotcompute.exceptions import KernelFailedError, StepError
from tests.device import steps
from tests.device.conformance import ROOT, Conformance
from tests.device.steps import Number


def halts(state: None, msg: Number, out: Number) -> bool:
    doubled = 2 * msg.n
    breakpoint()
    out.n = doubled
    return True


class TestInterpreted(Conformance):
    backend = "interpreted"
    scale = 0.002
    positions = None

    async def test_a_failure_points_to_the_line_of_the_step(self, runtime, start):
        kernel = await start(steps.pick)
        with pytest.raises(KernelFailedError):
            await kernel.ask(Number(1000))
        assert isinstance(kernel.exception, IndexError)
        frames = traceback.extract_tb(kernel.exception.__traceback__)
        assert (frames[-1].name, frames[-1].line) == ("pick", "out.n = state.count[msg.n]")
        assert frames[0].name == "pick", "the frames of the package tell the user nothing"

    async def test_a_step_may_halt_in_the_debugger(self, runtime, start, monkeypatch):
        halted = []

        def hook():
            halted.append((sys._getframe(1).f_locals["doubled"], threading.get_ident()))

        monkeypatch.setattr(sys, "breakpointhook", hook)
        kernel = await start(halts)
        assert (await kernel.ask(Number(4))).n == 8
        assert halted == [(8, runtime._home)]

    @pytest.mark.needs_numba
    def test_only_here(self, define):
        with pytest.raises(StepError, match="breakpoint"):
            define(halts, backend="cpu")


@pytest.mark.parametrize("how", ["absent", "broken"])
def test_where_there_is_no_compiler_it_says_so_and_the_rest_works(how, tmp_path):
    """In a process of its own, for which Numba is missing or does not fit."""
    fault = (
        "ModuleNotFoundError(\"No module named 'numba'\", name='numba')" if how == "absent" else "ImportError('old')"
    )
    (tmp_path / "numba.py").write_text(f"raise {fault}\n")
    script = f"""
import asyncio, sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.exceptions import BackendUnavailableError
from tests.device import steps
from tests.device.steps import Number

for backend in ("auto", "cpu"):
    try:
        ring_kernel("refused", backend=backend)(steps.echo)
    except BackendUnavailableError as error:
        text = str(error)
        assert "numba" in text and "pip install" in text and "interpreted" in text, text
    else:
        raise AssertionError(backend)

async def main():
    ring_kernel("body")(steps.double_body)
    ring_kernel("step", backend="interpreted")(steps.double)
    async with RingKernelRuntime() as runtime:
        for name in ("body", "step"):
            await (await runtime.launch(name)).activate()
            assert (await runtime.ask(name, Number(2))).n == 4

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25)
    assert ran.stderr == ""
    assert (ran.returncode, ran.stdout) == (0, "")
