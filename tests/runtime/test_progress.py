"""What takes long says how far it is."""

import io
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import pydotcompute.runtime.progress as progress
from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import DefinitionError, KernelNotFoundError, MessageTypeError


@message
class Number:
    value: np.int64


class Terminal(io.StringIO):
    """Standard error, where somebody looks."""

    def isatty(self):
        return True

    @property
    def screen(self):
        """What stands there, line by line."""
        return [line.rpartition("\r")[2].rstrip() for line in self.getvalue().split("\n")]


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))  # pytest puts its own there for each test
    return terminal


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.01)


class Bar:
    """In place of tqdm's."""

    made: list["Bar"]

    def __init__(self, **options):
        self.options, self.moves, self.closed = options, [], False
        self.made.append(self)

    def update(self, n=1):
        self.moves.append(n)

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    Bar.made = []
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=Bar))
    return Bar.made


@pytest.fixture
def tqdm():
    """Imported beforehand: that reads files, here on a loop."""
    import tqdm

    return tqdm


@pytest.fixture
async def echo(runtime):
    @ring_kernel(input_type=Number)
    async def echo(ctx):
        async for one in ctx:
            await ctx.send(one)

    await runtime.launch(echo)
    await runtime.activate("echo")
    return runtime["echo"]


NUMBERS = np.array([(i,) for i in range(1000)], Number.dtype)


async def test_map_shows_a_bar_when_asked(runtime, echo, bars, in_thread):
    some = [Number(1), Number(2), Number(3)]
    assert [reply async for reply in runtime.map("echo", some)] == some
    assert bars == []
    assert [reply async for reply in runtime.map("echo", some, progress=True)] == some
    assert (bars[0].moves, bars[0].closed, bars[0].options["total"]) == ([1, 1, 1], True, 3)
    assert [reply async for reply in runtime.map("echo", iter(some), progress=True)] == some
    assert bars[1].options["total"] is None
    assert [reply async for reply in echo.map(some, progress=True)] == some
    assert await in_thread(lambda: runtime.sync.map("echo", some, progress=True)) == some
    assert [sum(bar.moves) for bar in bars] == [3, 3, 3, 3]


async def test_a_batch_shows_a_bar_when_asked(runtime, echo, bars, in_thread):
    async def sent():
        replies = [(await runtime.receive("echo", timeout=5)).value for _ in NUMBERS]
        assert replies == list(range(1000))

    await runtime.send_batch("echo", NUMBERS)
    await sent()
    assert bars == []
    await runtime.send_batch("echo", NUMBERS, progress=True)
    await sent()
    await echo.send_batch(NUMBERS, progress=True)
    await sent()
    await in_thread(lambda: runtime.sync.send_batch("echo", NUMBERS, progress=True))
    await sent()
    assert [bar.moves for bar in bars] == [[5] * 200] * 3
    assert all(bar.closed and bar.options["total"] == 1000 for bar in bars)


async def test_a_batch_to_one_instance_shows_a_bar_too(runtime, bars):
    @ring_kernel(backend="interpreted", instances=2)
    def step(state: None, msg: Number, out: None) -> bool:
        return False

    await runtime.launch(step)
    await runtime["step"][1].send_batch(NUMBERS[:10])
    assert bars == []
    await runtime["step"][1].send_batch(NUMBERS[:10], progress=True)
    assert bars[0].moves == [1] * 10


async def test_a_batch_with_a_bar_is_checked_as_a_whole_before_anything_is_sent(runtime, echo, bars):
    for wrong in (np.zeros(3), [1, 2], NUMBERS.reshape(10, 100)):
        with pytest.raises(MessageTypeError):
            await runtime.send_batch("echo", wrong, progress=True)
    with pytest.raises(KernelNotFoundError):
        await runtime.send_batch("ecko", NUMBERS, progress=True)

    @ring_kernel
    async def anything(ctx): ...

    await runtime.launch(anything)
    with pytest.raises(DefinitionError):
        await runtime.send_batch("anything", NUMBERS, progress=True)
    assert bars == []
    await runtime.send_batch("echo", NUMBERS[:0], progress=True)
    assert bars[0].moves == []
    assert echo.statistics().received == 0


async def test_a_bar_goes_with_the_map_that_is_left_or_fails(runtime, echo, bars):
    replies = runtime.map("echo", [Number(i) for i in range(100)], progress=True)
    await anext(replies)
    await replies.aclose()
    assert bars[0].closed
    with pytest.raises(MessageTypeError):
        [reply async for reply in runtime.map("echo", [Number(1), "two"], progress=True)]
    assert bars[1].closed


async def test_progress_without_tqdm_says_what_to_install(runtime, echo, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match="progress=True needs the package tqdm: pip install tqdm"):
        await anext(runtime.map("echo", [Number(1)], progress=True))
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        await runtime.send_batch("echo", NUMBERS, progress=True)
    assert echo.statistics().received == 0
    await runtime.send_batch("echo", NUMBERS[:1])


@pytest.mark.needs_notebook
async def test_the_bar_of_tqdm_is_on_one_line_of_the_terminal(tqdm, runtime, echo, terminal, at_once):
    await runtime.send_batch("echo", NUMBERS, progress=True)
    line, *rest = terminal.screen
    assert line.startswith("echo: 100%|")
    assert "1000/1000 [" in line
    assert "messages/s]" in line
    assert rest == [""]


@pytest.mark.needs_notebook
async def test_a_bar_comes_only_when_it_takes_long(tqdm, runtime, echo, terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 1000.0)
    await runtime.send_batch("echo", NUMBERS, progress=True)
    assert terminal.getvalue() == ""


@pytest.mark.needs_notebook
@pytest.mark.parametrize("error", [io.StringIO(), None], ids=["a file", "none"])
async def test_where_nobody_looks_nothing_is_shown(tqdm, runtime, echo, at_once, monkeypatch, error):
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=error))
    await runtime.send_batch("echo", NUMBERS, progress=True)
    with progress.compiling("stats"):
        assert not [thread for thread in threading.enumerate() if thread.name == "pydotcompute-progress"]
    assert error is None or error.getvalue() == ""


@pytest.mark.needs_notebook
@pytest.mark.parametrize(("disabled", "is_shown"), [("1", False), ("0", True), ("", True)])
async def test_the_environment_turns_it_off(tqdm, runtime, echo, terminal, at_once, monkeypatch, disabled, is_shown):
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    await runtime.send_batch("echo", NUMBERS, progress=True)
    assert bool(terminal.getvalue()) == is_shown
    assert (progress.place() is not None) == is_shown


# -- in a notebook -----------------------------------------------------------------------------------------------------


def test_below_a_cell_there_is_one_line_that_changes():
    shown = []
    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=lambda data, **how: shown.append((data, how))))
    line = progress.Below(shell)
    assert line.isatty()
    for text in ("\ra: 1", "0 s  ", "\ra: 20 s\n"):
        line.write(text)
        line.flush()
    line.flush()
    assert [data["text/plain"] for data, _ in shown] == ["a: 1", "a: 10 s", "a: 20 s"]
    assert [how["update"] for _, how in shown] == [False, True, True]
    assert len({how["transient"]["display_id"] for _, how in shown}) == 1
    other = progress.Below(shell)
    other.write("\rb")
    other.flush()
    assert shown[-1][1]["transient"] != shown[0][1]["transient"]


# -- compiling ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def until(terminal):
    def until(text):
        end = time.monotonic() + 10
        while text not in terminal.getvalue():
            assert time.monotonic() < end, terminal.getvalue()
            time.sleep(0.005)

    return until


def test_compiling_says_which_kernel_and_how_long_it_takes(terminal, until, at_once, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with progress.compiling("statistics"):
        until("compiling statistics: 0.0 s")
        now[0] = 103.21
        until("compiling statistics: 3.2 s")
        now[0] = 104.0
    assert terminal.screen == ["compiled statistics in 4.0 s", ""]


def test_what_cannot_be_compiled_says_so(terminal, until, at_once):
    @progress.compiling("statistics")
    def build():
        until("compiling")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert terminal.screen[0].startswith("statistics could not be compiled, after 0.")


def test_what_is_compiled_quickly_says_nothing(terminal):
    with progress.compiling("statistics"):
        pass
    assert terminal.getvalue() == ""


async def test_a_step_that_is_compiled_at_launch_says_so(terminal, until, at_once, monkeypatch):
    @ring_kernel(backend="interpreted")
    def slow(state: None, msg: Number, out: None) -> bool:
        return False

    build = slow._backend.build

    def slowly(definition):
        until("compiling slow: ")
        return build(definition)

    monkeypatch.setattr(type(slow._backend), "build", lambda self, definition: slowly(definition))
    async with RingKernelRuntime() as runtime:
        await runtime.launch(slow)
        await runtime.launch(slow, kernel_id="again")  # compiled once, told once
    assert len(terminal.screen) == 2
    assert terminal.screen[0].startswith("compiled slow in ")


@pytest.mark.parametrize("standard_error", ["closed", "no file"])
def test_where_there_is_no_standard_error_nothing_is_shown_and_nothing_fails(standard_error, monkeypatch):
    instead = io.StringIO() if standard_error == "closed" else object()
    if isinstance(instead, io.StringIO):
        instead.close()
    monkeypatch.setattr(sys, "stderr", instead)
    assert progress.place() is None
    with progress.compiling("step"):
        pass
