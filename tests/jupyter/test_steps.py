"""`%%ring_kernel` and `%ring` with compiled ring kernels, in a real kernel."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.device.conftest import own_cache  # noqa: F401 - steps are compiled for this run alone
from tests.jupyter.kernel import NotebookKernel

pytestmark = [pytest.mark.needs_kernel, pytest.mark.needs_numba]

PATIENCE = 150.0
"""Seconds for the first step on a slow machine: what runs all steps is compiled with it."""

NO_GPU = """import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
"""
"""What is tested here is the same on machines that have one."""

MESSAGES = """import math
from typing import Annotated
import numpy as np
from numpy.typing import NDArray
from pydotcompute import Record, Shape, UnifiedBuffer, message, ring_kernel

@message
class Sample:
    sensor: np.int32
    value: np.float64

@message
class Stats:
    sensor: np.int32
    total: np.float64

class Totals(Record):
    total: Annotated[NDArray[np.float64], Shape(4)]
"""

STATS = """{first}
def stats(state: Totals, msg: Sample, out: Stats):
    state.total[msg.sensor] += msg.value
    out.sensor, out.total = msg.sensor, {total}
    {then}
    return True
"""


def stats(options: str = "", *, total: str = "state.total[msg.sensor]", then: str = "", bare: bool = False) -> str:
    """A cell whose step adds up values by sensor."""
    return STATS.format(first="@ring_kernel" if bare else f"%%ring_kernel {options}", total=total, then=then)


def total(sensor: int, value: float, *, of: str = "stats") -> str:
    """An expression that sends a value and gives the total of its sensor."""
    return f'(await runtime.ask("{of}", Sample({sensor}, {value}))).total'


@pytest.fixture
def steps(nb: NotebookKernel) -> NotebookKernel:
    """A notebook that defines messages and a state, after what runs all steps has been compiled."""
    nb.run(NO_GPU + MESSAGES)
    nb.run("import pydotcompute.runtime.progress as progress\nprogress.PATIENCE = 1000")  # however slow the machine is
    cell = nb.start(stats(bare=True) + "stats.build()")
    nb.until(lambda: cell.done, PATIENCE)
    assert cell.errors == []
    return nb


# -- %%ring_kernel -----------------------------------------------------------------------------------------------------


def test_a_step_is_compiled_launched_and_activated(steps: NotebookKernel, loop: str) -> None:
    assert steps.run(stats()).stdout.endswith("stats is active\n")
    assert steps.value(total(3, 20.5)) == 20.5
    assert steps.value(total(3, 1.0)) == 21.5
    assert steps.value('runtime["stats"].definition.backend_name') == "cpu"


@pytest.mark.parametrize("way", ["magic", "launch"])
def test_what_takes_long_to_compile_is_said_below_its_cell(steps: NotebookKernel, loop: str, way: str) -> None:
    steps.run("import pydotcompute.runtime.progress as progress\nprogress.PATIENCE = 0.0")
    number = {"thread": 12.75, "current": 13.25}[loop] + (way == "launch")  # nothing that is compiled already
    source = stats(total=f"math.sin(state.total[0]) * math.cos(msg.value) - {number}", bare=way == "launch")
    cell = steps.run(source + ("await runtime.launch(stats)" if way == "launch" else ""))

    def told() -> list[dict[str, Any]]:
        """What was shown below it, but for widgets, which this cell or one before may have."""
        shown = [m for m in cell.messages if m["msg_type"] in ("display_data", "update_display_data")]
        return [m for m in shown if "compil" in m["content"]["data"]["text/plain"]]

    steps.until(lambda: len(told()) > 1)
    assert [m["msg_type"] for m in told()] == ["display_data", *["update_display_data"] * (len(told()) - 1)]
    assert len({m["content"]["transient"]["display_id"] for m in told()}) == 1
    lines = [m["content"]["data"]["text/plain"] for m in told()]
    assert lines[0].startswith("compiling stats: 0.")
    assert lines[-1].startswith("compiled stats in ")


USUAL = {
    "backend_name": "cpu",
    "instances": 1,
    "key": None,
    "boundscheck": False,
    "quantum": "auto",
    "threads": 1,
    "device": "auto",
    "queue_size": 1024,
    "backpressure": "block",
}
OPTIONS: dict[str, dict[str, object]] = {
    "": {},
    "--backend interpreted": {"backend_name": "interpreted"},
    "--backend auto --instances 8 --key sensor": {"instances": 8, "key": "sensor"},
    "--boundscheck --quantum 0.01": {"boundscheck": True, "quantum": 0.01},
    "--quantum none": {"quantum": None},
    "--quantum auto --device auto": {},
    "--threads 64 --device 3": {"threads": 64, "device": 3},
    "--queue-size 3 --backpressure reject": {"queue_size": 3, "backpressure": "reject"},
    "other --state Totals --input-type Sample --output-type Stats": {},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(steps: NotebookKernel, options: str) -> None:
    steps.run(stats(options))
    name = "other" if "other" in options else "stats"
    told = f"{{name: getattr(runtime[{name!r}].definition, name) for name in {tuple(USUAL)}}}"
    assert steps.value(told) == USUAL | OPTIONS[options]
    assert steps.value(total(2, 1.5, of=name)) == 1.5


def test_buffers_are_named(steps: NotebookKernel) -> None:
    steps.run("gain, offset = (UnifiedBuffer((4,), np.float64) for _ in range(2))\ngain.host[:], offset.host[:] = 2, 7")
    cell = stats("--buffers offset,gain", total="msg.value * gain[0] + offset[msg.sensor]")
    steps.run(cell.replace("out: Stats", "out: Stats, gain, offset"))
    assert steps.value(total(1, 10.0)) == 27.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--backend gpu", "argument --backend: invalid choice: 'gpu'"),
        ("--instances x", "argument --instances: invalid int value: 'x'"),
        ("--instances 0", "instances of 'stats' must be an integer of at least 1, not 0"),
        ("--quantum x", "argument --quantum: must be a number of seconds, auto or none, not 'x'"),
        ("--quantum 0", "quantum of 'stats' must be 'auto', None or a number of seconds above 0, not 0.0"),
        ("--threads x", "argument --threads: invalid int value: 'x'"),
        ("--threads 33", "threads of 'stats' must be 1 or a multiple of 32 up to 1024"),
        ("--threads 64 --boundscheck", "'stats' has boundscheck=True and threads=64"),
        ("--device 1.5", "argument --device: must be the number of a GPU or auto, not '1.5'"),
        ("--device -1", "device of 'stats' must be 'auto' or the number of a GPU from 0 on, not -1"),
        ("--backend cuda", "ring kernels cannot run on a GPU here: "),
        ("--key sensor", "key='sensor' of 'stats' chooses among instances: add instances="),
        (
            "--instances 2 --key value",
            "key of 'stats' must be an integer field of Sample (it has: 'sensor'), not 'value'",
        ),
        ("--buffers nowhere", "'nowhere': NameError: name 'nowhere' is not defined"),
        ("--buffers math", "buffer 'math' of 'stats' must be a UnifiedBuffer, not module"),
        ("--state Sample", "the state of 'stats' must be a class that inherits from Record"),
    ],
)
def test_a_wrong_option_is_told_in_one_line_and_starts_nothing(steps: NotebookKernel, options: str, told: str) -> None:
    first, *more = steps.fail(stats(options)).text.strip().splitlines()
    assert told in first
    assert more in ([], ["Usage: %%ring_kernel [KERNEL] [OPTION ...]: `%ring help` lists them"])
    assert steps.value("list(runtime.kernels)") == []


def test_options_of_steps_are_refused_for_an_async_kernel(steps: NotebookKernel) -> None:
    cell = steps.fail("%%ring_kernel --backend cpu\nasync def body(ctx): pass")
    assert "backend= is for compiled ring kernels" in cell.text


# -- what is wrong in the cell -----------------------------------------------------------------------------------------


BROKEN = {
    "np.sqrt": ({"total": "np.sqrt(msg.value)"}, "line 4: `np.sqrt` cannot run on a GPU: use math.sqrt(x)"),
    "print": ({"then": "print(msg.value)"}, "line 5: `print()` is not there in a step: see values with"),
    "breakpoint": ({"then": "breakpoint()"}, "line 5: `breakpoint()`: it needs backend='interpreted'"),
    "raise": ({"then": "raise ValueError"}, "line 5: `raise`:"),
    "text": ({"then": "return 'no'"}, "line 5: `return` of a text"),
    "unknown name": ({"total": "nowhere"}, "line 4: 'nowhere' is not defined"),
    "types": ({"total": "(1, 2) + msg.value"}, "line 4: `+` cannot be done with a tuple and float64"),
    "field": ({"total": "msg.volume"}, "line 4:"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("options", ["", "--restart"])
def test_a_faulty_step_is_told_with_its_line_and_the_old_one_goes_on(
    steps: NotebookKernel, options: str, fault: str
) -> None:
    changes, told = BROKEN[fault]
    steps.run(stats())
    cell = steps.fail(stats(options, **changes))
    assert f"StepError: cell In [{cell.number}], {told}" in cell.text
    _, line = cell.text.splitlines()  # no frames, of nobody
    assert line.strip() in stats(**changes)
    assert steps.value(total(1, 2.5)) == 2.5
    assert steps.value('runtime["stats"].version') == 1


UNFIT = {
    "no annotation": (stats().replace("msg: Sample", "msg"), "parameter 'msg' of 'stats' has no annotation"),
    "four parameters": (stats().replace("out: Stats", "out: Stats, x"), "must be `def stats(state, msg, out)`"),
    "unsized message": (
        stats().replace("def stats", "@message\nclass Text:\n    text: str\ndef stats").replace("Sample", "Text"),
        "Text.text: str has no fixed size",
    ),
    "another layout": (
        stats().replace(
            "def stats", "class Totals(Record):\n    total: Annotated[NDArray[np.float64], Shape(8)]\ndef stats"
        ),
        "'stats' goes on as it was, for it cannot be replaced while it runs",
    ),
    "more instances": (stats("--instances 4 --key sensor"), "use `%%ring_kernel --restart`"),
    "async": ("%%ring_kernel\nasync def stats(ctx): pass", "it is a compiled ring kernel and that is an async one"),
    "helper": (stats() + "def helper(x): return x", "'helper' is no `async def helper(ctx)` and no `def helper(state,"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_cannot_take_over_is_told_in_one_line_and_the_old_one_goes_on(steps: NotebookKernel, fault: str) -> None:
    code, told = UNFIT[fault]
    steps.run(stats())
    cell = steps.fail(code)
    assert told in cell.text
    assert len(cell.text.splitlines()) == 1
    assert steps.value('(await runtime.ask("stats", Sample(1, 2.5))).total') == 2.5
    assert steps.value('runtime["stats"].version') == 1


def test_a_decorated_step_that_is_faulty_shows_the_lines_of_the_cell_alone(steps: NotebookKernel) -> None:
    cell = steps.fail("%%ring_kernel\n" + stats(bare=True, total="np.sqrt(msg.value)"))
    assert f"StepError: cell In [{cell.number}], line 5: `np.sqrt`" in cell.text
    assert "----> 2 @ring_kernel" in cell.text
    assert "rules.py" not in cell.text
    assert "magics.py" not in cell.text


# -- running the cell again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["magic", "decorator"])
def test_running_the_cell_again_swaps_the_step_and_keeps_state_and_mailbox(
    steps: NotebookKernel, loop: str, again: str
) -> None:
    steps.run(stats())
    assert steps.value(total(1, 5.0)) == 5.0
    steps.run("%ring pause stats\n%ring send stats Sample(1, 1.0)\n%ring send stats Sample(1, 1.0)")
    cell = steps.run(stats(total="-state.total[msg.sensor]", bare=again == "decorator"))
    if again == "magic":
        kept = "its state and 2 messages in the mailbox kept; still paused"
        assert cell.stdout.endswith(f"stats: version 2 takes over now; {kept}\n")
    steps.run("%ring resume stats")
    assert steps.value('[(await runtime.receive("stats")).total for _ in range(2)]') == [-6.0, -7.0]
    assert steps.value('runtime["stats"].version') == 2


LARGER = "class Totals(Record):\n    total: Annotated[NDArray[np.float64], Shape(8)]"
ECHO = "%%ring_kernel {options}\nasync def stats(ctx):\n    async for message in ctx:\n        await ctx.send(message)"


def test_restart_lets_the_state_have_another_layout(steps: NotebookKernel, loop: str) -> None:
    steps.run(stats())
    steps.run("%ring pause stats\n%ring send stats Sample(1, 1.0)")
    steps.run(LARGER)
    steps.show(steps.run(stats("--restart")), "stats is active\n")
    assert steps.value(total(7, 1.0)) == 1.0
    assert steps.value("[letter.message.value for letter in runtime.dead_letters]") == [1.0]
    assert steps.value('runtime["stats"].version') == 1


def test_restart_makes_a_compiled_kernel_of_an_async_one(steps: NotebookKernel, loop: str) -> None:
    steps.run(ECHO.format(options=""))
    steps.show(steps.run(stats("--restart")), "stats is active\n")
    assert steps.value(total(1, 2.0)) == 2.0


def test_restart_makes_an_async_kernel_of_a_compiled_one(steps: NotebookKernel, loop: str) -> None:
    steps.run(stats())
    cell = steps.run(ECHO.format(options="--restart"))
    steps.show(cell, "stats is active\n")
    assert steps.value('await runtime.ask("stats", 3)') == 3
    assert cell.stderr == ""


# -- %ring -------------------------------------------------------------------------------------------------------------


def test_the_commands(steps: NotebookKernel, loop: str) -> None:
    steps.run(stats())
    cell = steps.run("%ring ask stats Sample(3, 20.5)")
    shown = "Stats(sensor=3, total=20.5)"
    steps.until(lambda: cell.result == shown if loop == "thread" else cell.shown == [shown])
    assert steps.run("%ring status stats").shown == ["<ring kernel 'stats' ACTIVE, 0 queued>"]
    assert steps.run("%ring pause stats").stdout == "stats is paused with 0 messages queued\n"
    steps.run("%ring send stats Sample(3, 1.0)")
    assert steps.run("%ring resume stats").stdout == "stats goes on with 1 message queued\n"
    assert steps.value('(await runtime.receive("stats")).total') == 21.5
    steps.show(steps.run("%ring stop stats"), "stats is terminated\n")
    assert steps.fail("%ring ask stats Sample(3, 1.0)").ename == "KernelStateError"
    steps.show(steps.run("%ring restart stats"), "stats is active\n")
    assert steps.value(total(3, 1.0)) == 1.0
    steps.show(steps.run("%ring restart stats"), "stats is terminated\nstats is active\n")
    assert steps.value(total(3, 1.0)) == 1.0


def test_a_step_that_sends_no_reply_shows_nothing(steps: NotebookKernel, loop: str) -> None:
    steps.run(stats(then="return False"))
    cell = steps.run("%ring ask stats Sample(3, 20.5)")
    steps.run("await runtime.wait_idle()")
    steps.settle()
    assert cell.text == ""


def test_instances_are_named_by_their_numbers(steps: NotebookKernel) -> None:
    steps.run(stats("--instances 3"))
    assert "send it to runtime['stats'][0]" in steps.fail("%ring ask stats Sample(1, 1.0)").text
    for n in (0, 2, 2):
        cell = steps.run(f"n = {n}\n%ring ask stats[{{n}}] Sample(1, 1.0)")
    assert cell.result == "Stats(sensor=1, total=2.0)"
    steps.run("%ring send stats[1] Sample(1, 9.0)\nawait runtime.wait_idle()")
    assert steps.value("(await runtime.snapshot('stats'))['total'][:, 1].tolist()") == [1.0, 9.0, 2.0]
    for n in (3, -1):
        cell = steps.fail(f"%ring ask stats[{n}] Sample(1, 1.0)")
        assert cell.text == f"InstanceError: 'stats' has the instances 0 to 2, and none {n}"
    assert steps.fail("%ring ask nope[1] 1").ename == "KernelNotFoundError"


def test_an_async_kernel_has_no_instances(steps: NotebookKernel) -> None:
    steps.run(ECHO.format(options=""))
    assert "only compiled ones have instances" in steps.fail("%ring ask stats[0] 1").text


@pytest.mark.parametrize("options", ["--backend interpreted", "--boundscheck"])
def test_a_step_that_fails_is_reported_below_its_cell(steps: NotebookKernel, loop: str, options: str) -> None:
    defining = steps.run(stats(options))
    other = steps.fail('await runtime.ask("stats", Sample(4, 1.0))')
    steps.show(defining, "%ring restart stats")
    told = "IndexError: index 4 is out of bounds for axis 0 with size 4"
    assert other.text.splitlines()[-1] == f"KernelFailedError: 'stats' failed: {told}"
    assert defining.stderr.startswith(f"ring kernel 'stats' failed (cell In [{defining.number}])\n")
    assert defining.stderr.count(told) == 1
    assert "----> 3     state.total[msg.sensor] += msg.value" in defining.stderr
    assert not re.search(r"interpreted\.py|compiled\.py|cpu\.py", defining.stderr)
    assert defining.stderr.endswith("To go on, correct its cell and run it again, or: %ring restart stats\n")
    assert other.stderr == ""
    steps.show(steps.run("%ring restart stats"), "stats is active\n")
    assert steps.value(total(3, 1.0)) == 1.0


def test_restart_compiles_the_latest_definition(steps: NotebookKernel, loop: str) -> None:
    steps.run(stats())
    steps.run("await runtime.terminate('stats')")
    steps.run(stats(bare=True, total="(1, 2) + msg.value"))
    cell = steps.fail("%ring restart stats")
    assert re.fullmatch(
        r"StepError: cell In \[\d+\], line 4: `\+` cannot be done.*\n.*\(1, 2\) \+ msg\.value", cell.text
    )
    steps.run(stats(bare=True, total="-msg.value"))
    assert steps.run("%ring restart stats").stdout.endswith("stats is active\n")
    assert steps.value(total(3, 1.0)) == -1.0


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("%%ring_kernel --inst", ["%%ring_kernel --instances"]),
        ("%%ring_kernel --b", ["%%ring_kernel --backend", "%%ring_kernel --backoff", "%%ring_kernel --backpressure",
                               "%%ring_kernel --boundscheck", "%%ring_kernel --buffers"]),
        ("%%ring_kernel --backend ", [f"%%ring_kernel --backend {name}" for name in
                                      ("auto", "cpu", "cuda", "interpreted")]),
        ("%%ring_kernel --backend in", ["%%ring_kernel --backend interpreted"]),
        ("%%ring_kernel --backend cu", ["%%ring_kernel --backend cuda"]),
        ("%%ring_kernel --th", ["%%ring_kernel --threads"]),
        ("%%ring_kernel --dev", ["%%ring_kernel --device"]),
        ("%%ring_kernel --device ", ["%%ring_kernel --device auto"]),
        ("%%ring_kernel --quantum ", ["%%ring_kernel --quantum auto", "%%ring_kernel --quantum none"]),
        ("%%ring_kernel --quantum n", ["%%ring_kernel --quantum none"]),
        ("%%ring_kernel --boundscheck sta", ["%%ring_kernel --boundscheck stats"]),
        ("%ring ask sta", ["%ring ask stats"]),
    ],
)  # fmt: skip
def test_completion(steps: NotebookKernel, line: str, completed: list[str]) -> None:
    steps.run(stats("--backend interpreted"))
    assert sorted(steps.complete(line)) == sorted(completed)
