"""Ring kernels in a notebook: alive while cells block, unharmed by interrupts, gone with the kernel process."""

from __future__ import annotations

import re

import pytest

from tests.jupyter.kernel import NotebookKernel

pytestmark = pytest.mark.needs_kernel

THREADS = """[t.name for t in __import__('threading').enumerate()
              if 'pydotcompute' in t.name and t.name != 'pydotcompute-watch']"""
"""That one ends a little after the runtimes of all widgets have."""

# -- the public API, word for word -------------------------------------------------------------------------------------

IMPORTS = """
from dataclasses import dataclass, field
from uuid import UUID, uuid4
import numpy as np
"""
MESSAGES = """
from pydotcompute import KernelContext, RingKernelRuntime, UnifiedBuffer, message, ring_kernel

@message
@dataclass
class Request:                                   # these three fields may be written out ...
    data: str
    message_id: UUID = field(default_factory=uuid4)
    priority: int = 128
    correlation_id: UUID | None = None

@message
class Response:                                  # ... or left to @message, which adds them
    data: str
"""
KERNEL = """
@ring_kernel(kernel_id="processor")
async def processor(ctx: KernelContext[Request, Response]):
    while not ctx.should_terminate:
        request = await ctx.receive()
        await ctx.send(Response(data=request.data.upper()))
"""
USE = """
async with RingKernelRuntime() as runtime:
    await runtime.launch("processor")            # phase 1: allocate, compile; nothing runs
    await runtime.activate("processor")          # phase 2: start
    await runtime.send("processor", Request(data="hello"))
    response = await runtime.receive("processor")
"""
BUFFER = """
buf = UnifiedBuffer((1000,), dtype=np.float32)
buf.host[:] = np.random.randn(1000)
"""


@pytest.mark.parametrize(
    "cells", [[IMPORTS, MESSAGES, KERNEL, USE, BUFFER], [IMPORTS + MESSAGES + KERNEL + USE + BUFFER]]
)
@pytest.mark.parametrize("mode", ["thread", "current"])
def test_the_documented_example_runs_as_it_is(fresh: NotebookKernel, mode: str, cells: list[str]) -> None:
    if mode == "current":
        cells = [cell.replace("RingKernelRuntime() as", 'RingKernelRuntime(loop="current") as') for cell in cells]
    for cell in cells:
        assert fresh.run(cell).text == ""
    assert fresh.value("response.data") == "HELLO"
    assert fresh.value("runtime.loop_mode, runtime.closed") == (mode, True)
    assert fresh.value("float(abs(buf.device - buf.host).max())") == 0.0
    assert fresh.value(THREADS) == []
    for cell in cells:  # and once more: nothing of the first time is in the way
        assert fresh.run(cell).text == ""


# -- alive while a cell blocks -----------------------------------------------------------------------------------------

FEED = """%%ring_kernel
import asyncio, time
stamps = []
async def feed(ctx):
    async for n in ctx:
        stamps.append(time.perf_counter())
        await ctx.tell("feed", n + 1)
        await asyncio.sleep(0.002)
"""
BLOCK = """
begin = time.perf_counter()
{block}
end = time.perf_counter()
inside = [t for t in stamps if begin < t < end]
"""
SLEEP = "time.sleep(3)"
COMPUTE = "while time.perf_counter() < begin + 1.5: pass"


@pytest.mark.parametrize("block", [SLEEP, COMPUTE], ids=["sleeping", "computing"])
def test_kernels_and_samples_go_on_while_a_cell_blocks(nb: NotebookKernel, block: str) -> None:
    nb.run(FEED)
    nb.run("frames = []\nruntime.sampler.listen(frames.append, hz=10)")
    nb.run("await runtime.send('feed', 0)")
    nb.run(BLOCK.format(block=block))
    nb.run("runtime.sampler.ignore(frames.append)")
    handled, longest, seconds = nb.value(
        "len(inside), max(b - a for a, b in zip([begin, *inside], [*inside, end])), end - begin"
    )
    assert handled > 20 * seconds  # five times as many on a quiet machine
    assert longest < seconds / 3
    # What a dashboard draws was sampled meanwhile, and shows the progress.
    frames = nb.value(
        "[(int(f.rows[0]['processed']), f.loop_lag or 0., f.notebook_lag or 0.) "
        "for f in frames if begin < f.time_ns / 1e9 < end]"
    )
    assert len(frames) > 3 * seconds
    processed, _, notebook_lag = zip(*frames, strict=True)
    assert list(processed) == sorted(processed)
    assert processed[-1] - processed[0] > handled / 3
    assert max(notebook_lag) > seconds / 2  # it shows that the notebook hangs


def test_on_the_notebooks_own_loop_they_rest_while_a_cell_blocks_and_that_is_shown(nb: NotebookKernel) -> None:
    nb.run("%ring loop current")
    nb.run(FEED)
    nb.run("frames = []\nruntime.sampler.listen(frames.append, hz=10)")
    nb.run("await runtime.send('feed', 0)\nwhile len(stamps) < 10: await asyncio.sleep(0.01)")
    nb.run(BLOCK.format(block="time.sleep(1.5)"))
    assert nb.value("len(inside)") == 0
    lags = nb.value("[f.loop_lag or 0. for f in frames if begin < f.time_ns / 1e9 < end]")
    assert len(lags) > 8
    assert max(lags) > 1
    nb.run("before = len(stamps)\nwhile len(stamps) < before + 10: await asyncio.sleep(0.01)")  # and go on
    nb.run("runtime.sampler.ignore(frames.append)")


# -- interrupts --------------------------------------------------------------------------------------------------------

HOLD = """%%ring_kernel
import asyncio
gate = asyncio.Event()
async def open_gate():
    gate.set()
async def hold(ctx):
    async for message in ctx:
        print("in hand:", message)
        if message == "wait":
            await gate.wait()
            gate.clear()
        await ctx.send(message)
"""


@pytest.mark.parametrize(
    "code", ["await runtime.ask('hold', 'wait')", "[m async for m in runtime.map('hold', ['wait'])]"]
)
def test_an_interrupted_cell_that_awaits_gives_up_and_the_kernel_lives(
    nb: NotebookKernel, loop: str, code: str
) -> None:
    defining = nb.run(HOLD)
    cell = nb.start(code)
    nb.show(defining, "in hand: wait")
    nb.interrupt()
    nb.until(lambda: cell.done)
    assert cell.ename == "CancelledError"
    assert "runtime.py" not in cell.text  # it ends at the cell's own line
    assert nb.value("runtime['hold'].state.value, runtime['hold'].busy") == ("ACTIVE", True)
    nb.run("gate.set()" if loop == "current" else "runtime.sync.call(open_gate)")
    assert nb.value("await runtime.ask('hold', 'next')") == "next"
    assert nb.value("[letter.message for letter in runtime.dead_letters]") == ["wait"]  # the reply that came too late


@pytest.mark.parametrize("code", ["runtime.sync.ask('hold', 'wait')", "%ring ask hold 'wait'"])
def test_an_interrupted_cell_that_blocks_gives_up_and_the_kernel_lives(nb: NotebookKernel, code: str) -> None:
    defining = nb.run(HOLD)
    cell = nb.start(code)
    nb.show(defining, "in hand: wait")
    nb.interrupt()
    nb.until(lambda: cell.done)
    assert cell.ename == "KeyboardInterrupt"
    assert ".py" not in cell.text  # it ends at the cell's own line
    assert nb.value("runtime['hold'].state.value, runtime['hold'].busy") == ("ACTIVE", True)
    nb.run("runtime.sync.call(open_gate)")
    assert nb.run(code.replace("wait", "next")).result == "'next'"
    assert nb.value("[letter.message for letter in runtime.dead_letters]") == ["wait"]


def test_interrupting_a_cell_that_has_nothing_to_do_with_kernels_leaves_them_alone(
    nb: NotebookKernel, loop: str
) -> None:
    nb.run(HOLD)
    nb.run("import time")
    for code in ("print('here', flush=True)\ntime.sleep(20)", "print('here', flush=True)\nawait asyncio.sleep(20)"):
        cell = nb.start(code)
        nb.show(cell, "here")
        nb.interrupt()
        nb.until(lambda cell=cell: cell.done)
        assert cell.ename in ("KeyboardInterrupt", "CancelledError")
    assert nb.value("await runtime.ask('hold', 'next')") == "next"


def test_an_interrupt_inside_async_with_closes_the_runtime(nb: NotebookKernel, loop: str) -> None:
    nb.run("from pydotcompute import RingKernelRuntime")
    nb.run(HOLD)
    cell = nb.start(
        f"""async with RingKernelRuntime({loop!r}) as mine:
    await mine.launch('hold')
    await mine.activate('hold')
    print("here", flush=True)
    await mine.receive('hold')
"""
    )
    nb.show(cell, "here")
    nb.interrupt()
    nb.until(lambda: cell.done)
    assert cell.ename == "CancelledError"
    assert nb.value("mine.closed, mine['hold'].state.value") == (True, "TERMINATED")
    assert nb.value("runtime.closed, runtime['hold'].state.value") == (False, "ACTIVE")


def test_an_interrupted_stop_goes_on(nb: NotebookKernel) -> None:
    defining = nb.run(HOLD)
    nb.run("%ring send hold 'wait'")
    nb.show(defining, "in hand: wait")
    subshell = nb.subshell()
    cell = nb.start("%ring stop --timeout 1 hold")
    nb.run("while runtime['hold'].state != 'TERMINATING': await asyncio.sleep(0.01)", subshell=subshell)
    nb.interrupt()
    nb.until(lambda: cell.done)
    assert nb.value("(await runtime.wait_ended('hold', timeout=10)).value") == "TERMINATED"


@pytest.mark.parametrize("way_out", ["raise SystemExit(3)", "raise KeyboardInterrupt", "__import__('sys').exit()"])
def test_an_exit_in_a_body_ends_the_kernel_and_not_the_notebook(nb: NotebookKernel, loop: str, way_out: str) -> None:
    nb.run(HOLD)
    cell = nb.run(f"%%ring_kernel\nasync def leave(ctx):\n    await ctx.receive()\n    {way_out}")
    told = nb.fail("await runtime.ask('leave', 1)")
    nb.settle()
    assert told.ename == "KernelFailedError"
    assert "----> 4     " + way_out in cell.stderr
    assert ".py" not in cell.stderr  # no frames of the event loop
    assert nb.value("runtime['leave'].state.value") == "FAILED"
    assert nb.value("await runtime.ask('hold', 'next')") == "next"


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_of_the_package_ends_at_the_line_of_the_cell(nb: NotebookKernel, loop: str) -> None:
    cell = nb.fail("x = 1\nawait runtime.ask('nope', 1)")
    assert "----> 2 await runtime.ask('nope', 1)" in cell.text
    assert "runtime.py" not in cell.text
    assert cell.text.endswith(
        "KernelNotFoundError: no ring kernel 'nope' (launched: none); define and launch it first, or check the spelling"
    )
    nb.run("def helper():\n    return runtime['nope']")
    cell = nb.fail("helper()")
    assert "----> 1 helper()" in cell.text
    assert "----> 2     return runtime['nope']" in cell.text
    assert "runtime.py" not in cell.text


def test_the_users_own_way_to_show_errors_is_kept(fresh: NotebookKernel) -> None:
    fresh.run(
        "get_ipython().set_custom_exc((Exception,), lambda self, kind, error, trace, tb_offset=None: print('mine'))"
    )
    fresh.run("%load_ext pydotcompute")
    assert fresh.fail("runtime['nope']").text == "mine\n"
    fresh.run("%unload_ext pydotcompute")
    assert fresh.fail("1 / 0").text == "mine\n"


def test_a_body_that_blocks_from_its_start_does_not_hold_its_cell(nb: NotebookKernel) -> None:
    nb.run(HOLD)
    nb.run("import threading\ndone = threading.Event()")
    cell = nb.run("%%ring_kernel\nasync def block(ctx):\n    print('here', flush=True)\n    done.wait(20)")
    nb.show(cell, "here")
    assert nb.run("%ring status block").shown == ["<ring kernel 'block' ACTIVE, 0 queued>"]
    nb.run("done.set()")
    assert nb.value("await runtime.ask('hold', 'next')") == "next"


def test_on_its_own_loop_the_blocking_twin_says_what_to_write(nb: NotebookKernel) -> None:
    nb.run("%ring loop current")
    nb.run(HOLD)
    told = nb.fail("runtime.sync.ask('hold', 1)").text
    assert "LoopError: runtime.sync.ask would wait for the loop that it runs on: write `await runtime.ask(...)`" in told


# -- subshells ---------------------------------------------------------------------------------------------------------


def test_a_subshell_uses_the_runtime(nb: NotebookKernel, loop: str) -> None:
    nb.run(HOLD)
    subshell = nb.subshell()
    assert nb.run("await runtime.ask('hold', 1)", subshell=subshell).result == "1"
    assert nb.run("runtime.sync.ask('hold', 2)", subshell=subshell).result == "2"
    assert nb.run("%ring ask hold 3", subshell=subshell).result == "3"
    told = nb.fail("%ring ask nope 3", subshell=subshell)
    assert told.ename == "KernelNotFoundError"
    # A kernel that is defined there lives where the others do, and prints below its cell.
    cell = nb.run(HOLD.replace("hold", "here"), subshell=subshell)
    assert nb.run("await runtime.ask('here', 4)").result == "4"
    nb.show(cell, "in hand: 4")


def test_a_subshell_reaches_kernels_while_a_cell_blocks(nb: NotebookKernel) -> None:
    nb.run(HOLD)
    nb.run("import threading\ndone = threading.Event()")
    subshell = nb.subshell()
    blocking = nb.start("done.wait(20)")
    assert nb.run("await runtime.ask('hold', 1)", subshell=subshell).result == "1"
    assert nb.run("%ring pause hold", subshell=subshell).stdout.endswith("hold is paused with 0 messages queued\n")
    assert not blocking.done
    nb.run("done.set()", subshell=subshell)
    nb.until(lambda: blocking.done)


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", ["await runtime.close()", "runtime.sync.close()"])
def test_closing_leaves_no_thread(nb: NotebookKernel, close: str) -> None:
    nb.run(HOLD)
    nb.run("frames = []\nruntime.sampler.listen(frames.append)")
    assert len(nb.value(THREADS)) == 2
    nb.run(close)
    assert nb.value(THREADS) == []
    told = nb.fail("await runtime.ask('hold', 1)").text
    assert "RuntimeClosedError: the runtime is closed: make a new RingKernelRuntime" in told


BUSY = """%%ring_kernel
import asyncio, time
async def hold(ctx):
    async for message in ctx:
        print("in hand:", message, flush=True)
        {act}
"""
SWALLOW = """while True:
            try:
                await asyncio.sleep(1000)
            except BaseException:
                pass
"""
LIFE = {
    "idle": HOLD,
    "awaiting": HOLD,
    "blocking its loop": BUSY.format(act="time.sleep(1000)"),
    "computing": BUSY.format(act="while True: pass"),
    "never ending": BUSY.format(act=SWALLOW),
}


# A body that never lets go of the notebook's own loop is left out: that process ends when the front end kills it.
ENDS = [(life, "thread") for life in LIFE] + [(life, "current") for life in ("idle", "awaiting", "never ending")]


@pytest.mark.parametrize("restart", [True, False], ids=["restart", "shutdown"])
@pytest.mark.parametrize(("life", "mode"), ENDS)
def test_the_process_ends_quietly(fresh: NotebookKernel, life: str, mode: str, restart: bool) -> None:
    fresh.run("%load_ext pydotcompute")
    fresh.run(f"%ring loop {mode}\nruntime.sampler.listen(lambda frame: None, hz=50)")
    defining = fresh.run(LIFE[life])
    if life != "idle":
        fresh.start("await runtime.ask('hold', 'wait')")
        fresh.show(defining, "in hand: wait")
    seconds = fresh.request_end(restart)
    assert fresh.process.returncode == 0
    assert seconds < 4  # of which 2 are given to a loop that is blocked
    assert fresh.log.read_text() == ""


# -- without the widget libraries --------------------------------------------------------------------------------------


def test_without_the_widget_libraries_the_magics_work_and_the_dashboard_says_what_to_install(
    fresh: NotebookKernel,
) -> None:
    fresh.run("import sys\nsys.modules.update(dict.fromkeys(['ipywidgets', 'anywidget', 'bqplot']))")
    fresh.run("%load_ext pydotcompute")
    fresh.run(HOLD)
    assert fresh.run("%ring ask hold 1").result == "1"
    assert fresh.run("%ring status").shown == ["<RingKernelRuntime loop='thread', kernels: 1 ACTIVE>"]
    for code in ("%ring dashboard", "import pydotcompute\npydotcompute.dashboard(runtime)"):
        told = fresh.fail(code)
        assert told.ename == "ModuleNotFoundError"
        assert "the dashboard needs the package" in told.text
        assert re.search(r"pip install .*ipywidgets anywidget bqplot", told.text)
    assert fresh.run("%ring ask hold 2").result == "2"


@pytest.mark.needs_notebook
def test_dashboard(nb: NotebookKernel, loop: str) -> None:
    pytest.importorskip("bqplot")
    nb.run(HOLD)
    cell = nb.run("%ring dashboard")
    assert [text.partition("(")[0] for text in cell.shown] == ["Dashboard"]
    (message,) = [m for m in cell.messages if m["msg_type"] == "display_data"]
    assert "hold" in message["content"]["data"]["text/html"]
