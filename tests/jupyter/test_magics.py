"""`%%ring_kernel` and `%ring`, in a real kernel."""

from __future__ import annotations

import re
from html import escape

import pytest

from tests.jupyter.kernel import NotebookKernel

pytestmark = pytest.mark.needs_kernel

ECHO = """%%ring_kernel
async def echo(ctx):
    async for message in ctx:
        await ctx.send(message)
"""

# Says which body answers, what state it finds, and how many messages this one has handled.
COUNT = """%%ring_kernel {options}
async def count(ctx):
    handled = 0
    async for message in ctx:
        ctx.state.total = getattr(ctx.state, "total", 0) + message
        handled += 1
        await ctx.send(("{name}", ctx.state.total, handled))
"""


def count(name: str, options: str = "") -> str:
    return COUNT.format(name=name, options=options)


# -- the extension -----------------------------------------------------------------------------------------------------


def test_loading_the_extension_makes_the_runtime_and_no_thread(fresh: NotebookKernel) -> None:
    fresh.run("%load_ext pydotcompute")
    assert fresh.value("repr(runtime)") == "<RingKernelRuntime loop='thread', kernels: none>"
    assert fresh.value("[t.name for t in __import__('threading').enumerate() if 'pydotcompute' in t.name]") == []


def test_without_the_extension_the_error_names_the_magic(fresh: NotebookKernel) -> None:
    assert "%%ring_kernel` not found" in fresh.fail(ECHO).text


def test_unloading_takes_the_magics_away_and_lets_kernels_go_on(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("%unload_ext pydotcompute")
    assert "not found" in nb.fail("%ring status").text
    assert "not found" in nb.fail(ECHO).text
    assert not any("pause" in line for line in nb.complete("%ring pa"))
    assert nb.value('await runtime.ask("echo", 3)') == 3
    nb.run("%load_ext pydotcompute")
    assert nb.run("%ring ask echo 4").result == "4"


def test_loading_again_reports_a_crash_once(nb: NotebookKernel) -> None:
    nb.run("%reload_ext pydotcompute")
    nb.run("%reload_ext pydotcompute")
    cell = nb.run("%%ring_kernel\nasync def bad(ctx):\n    1 / 0")
    nb.run("await runtime.wait_ended('bad')")
    nb.settle()
    assert cell.stderr.count("ZeroDivisionError: division by zero") == 1


@pytest.mark.parametrize("loss", ["del runtime", "runtime = None", "%reset -f"])
def test_the_runtime_comes_back_with_its_kernels_when_the_variable_is_lost(nb: NotebookKernel, loss: str) -> None:
    nb.run(ECHO)
    nb.run(loss)
    assert nb.run("%ring ask echo 5").result == "5"
    assert nb.value('await runtime.ask("echo", 6)') == 6


def test_a_runtime_that_the_user_made_is_taken_until_it_is_closed(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("from pydotcompute import RingKernelRuntime\nruntime = RingKernelRuntime()")
    assert "no ring kernel 'echo' (launched: none)" in nb.fail("%ring status echo").text
    nb.run("await runtime.close()")
    assert nb.run("%ring ask echo 7").result == "7"


def test_a_variable_that_is_no_runtime_is_replaced_and_that_is_said(nb: NotebookKernel) -> None:
    nb.run("runtime = 'linux'")
    assert "'runtime' was 'linux'" in nb.run("%ring status").stdout
    assert "'runtime'" not in nb.run("%ring status").stdout


# -- %%ring_kernel: what becomes of the cell ---------------------------------------------------------------------------


def test_a_cell_becomes_a_live_kernel(nb: NotebookKernel, loop: str) -> None:
    assert nb.run(ECHO).stdout == "echo is active\n"
    assert nb.value('await runtime.ask("echo", [1, 2])') == [1, 2]


def test_the_last_function_of_the_cell_is_the_kernel(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel
FACTOR = 3
def helper(x):
    return x * FACTOR
async def unused(ctx):
    pass
async def triple(ctx):
    async for message in ctx:
        await ctx.send(helper(message))
"""
    )
    assert nb.value("list(runtime.kernels)") == ["triple"]
    assert nb.value('await runtime.ask("triple", 5)') == 15
    assert nb.value("helper(1)") == 3  # the cell ran in the notebook's namespace


def test_a_cell_may_define_its_messages_too(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel
from pydotcompute import KernelContext, message

@message
class Question:
    x: int

@message
class Answer:
    x: int

async def answer(ctx: KernelContext[Question, Answer]):
    async for question in ctx:
        await ctx.send(Answer(x=question.x + 1))
"""
    )
    assert nb.value('(await runtime.ask("answer", Question(x=1))).x') == 2
    assert "'answer' takes Question, not int" in nb.fail('await runtime.ask("answer", 1)').text


def test_the_last_expression_is_evaluated_with_the_kernel_and_shown(nb: NotebookKernel, loop: str) -> None:
    body = "%%ring_kernel\nasync def echo(ctx):\n    async for message in ctx:\n        await ctx.send(message)\n"
    cell = nb.run(f"{body}echo, 'echo' in runtime.kernels")
    assert re.fullmatch(r"\(<ring kernel definition 'echo' of .*>, True\)", cell.result or ""), cell.text
    assert nb.run(f"{body}echo;").result is None
    assert nb.run(f"{body}shown = echo").result is None
    cell = nb.fail(f"{body}1 / 0")
    assert "----> 5 1 / 0" in cell.text
    assert nb.value('await runtime.ask("echo", 1)') == 1


def test_a_decorated_function_is_launched_with_what_its_decorator_says(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel
from pydotcompute import ring_kernel
@ring_kernel("decorated", queue_size=7)
async def body(ctx):
    async for message in ctx:
        await ctx.send(message)
"""
    )
    assert nb.value('runtime["decorated"].statistics().queue_size') == 7
    assert nb.value('await runtime.ask("decorated", 1)') == 1


@pytest.mark.parametrize("options", ["other", "--queue-size 3"])
def test_options_beside_a_decorator_are_refused(nb: NotebookKernel, options: str) -> None:
    cell = nb.fail(
        f"""%%ring_kernel {options}
from pydotcompute import ring_kernel
@ring_kernel
async def body(ctx): pass
"""
    )
    assert "take off @ring_kernel or those of the magic" in cell.text
    assert nb.value("list(runtime.kernels)") == []


def test_the_cell_is_compiled_as_the_notebook_compiles_cells(nb: NotebookKernel) -> None:
    nb.run("from dataclasses import dataclass")
    cell = """%%ring_kernel
@dataclass
class Point:
    x: int
async def kernel(ctx): pass
"""
    nb.run(cell)
    assert nb.run("Point.__annotations__").result == "{'x': int}"
    nb.run("from __future__ import annotations")  # holds for all cells that follow
    nb.run(cell)
    assert nb.run("Point.__annotations__").result == "{'x': 'int'}"


def test_lines_of_ipython_work_in_the_cell(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel
where = %pwd
async def kernel(ctx):
    async for message in ctx:
        await ctx.send(where)
"""
    )
    assert nb.value('await runtime.ask("kernel", 1) == where')


def test_the_source_of_a_body_can_be_read(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    source = nb.value("__import__('inspect').getsource(echo)")
    assert source == ECHO.partition("\n")[2]
    nb.run("%%ring_kernel\n\n\n" + source.replace("echo", "later"))
    assert nb.value("__import__('inspect').getsource(later)").startswith("async def later(ctx):\n")


# -- %%ring_kernel: options --------------------------------------------------------------------------------------------


def test_kernel_id(nb: NotebookKernel) -> None:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel 'my echo'"))
    assert nb.value("list(runtime.kernels)") == ["my echo"]
    assert nb.run("%ring ask 'my echo' [1, 2]").result == "[1, 2]"


def test_queue_size_and_backpressure(nb: NotebookKernel) -> None:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel --queue-size 2 --backpressure reject"))
    nb.run("%ring pause echo")
    nb.run("%ring send echo 1")
    nb.run("%ring send echo 2")
    assert nb.fail("%ring send echo 3").ename == "QueueFullError"
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel --queue-size 2 --backpressure drop_oldest"))
    nb.run("%ring send echo 3")
    nb.run("%ring resume echo")
    assert nb.value('[await runtime.receive("echo") for _ in range(2)]') == [2, 3]


def test_state(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel --state Total
class Total:
    value = 10
async def add(ctx):
    async for message in ctx:
        ctx.state.value += message
        await ctx.send(ctx.state.value)
"""
    )
    assert nb.value('await runtime.ask("add", 5)') == 15


def test_input_type(nb: NotebookKernel) -> None:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel --input-type int"))
    assert nb.run("%ring ask echo 1").result == "1"
    cell = nb.fail("%ring ask echo 'x'")
    assert cell.ename == "MessageTypeError"
    assert "'echo' takes int, not str" in cell.text


def test_output_type(nb: NotebookKernel) -> None:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel --output-type int|float"))
    assert nb.run("%ring ask echo 1").result == "1"
    assert "'echo' sends int or float, not str" in nb.fail("%ring ask echo 'x'").text


def test_restart_option_starts_afresh(nb: NotebookKernel, loop: str) -> None:
    nb.run(count("old"))
    assert nb.value('await runtime.ask("count", 5)') == ("old", 5, 1)
    nb.run("%ring pause count\n%ring send count 1")
    cell = nb.run(count("new", "--restart"))
    nb.show(cell, "count is active")
    assert nb.value('await runtime.ask("count", 2)') == ("new", 2, 1)
    assert nb.value('runtime["count"].version, runtime["count"].queue_depth') == (1, 0)
    assert nb.value("[letter.message for letter in runtime.dead_letters]") == [1]  # nothing is lost silently


def test_restart_option_never_starts_the_new_body_in_the_old_kernel(nb: NotebookKernel, loop: str) -> None:
    cell = "%%ring_kernel --restart\nasync def hello(ctx):\n    print('hello')\n    async for message in ctx: pass"
    nb.run(cell)
    again = nb.run(cell)
    nb.show(again, "hello\n")
    nb.run('await runtime.wait_idle("hello")')
    nb.settle()
    assert again.stdout.count("hello\n") == 1


FRAGILE = """%%ring_kernel fragile {options}
from pydotcompute import Backoff
begun = []
def note(restart):
    begun.append((restart.number, restart.message))
async def fragile(ctx):
    ctx.state.seen = getattr(ctx.state, "seen", [])
    async for message in ctx:
        ctx.state.seen.append(message)
        if message == "bad" and ctx.state.seen.count("bad") < 3:
            raise ValueError("a bad one")
        await ctx.send(list(ctx.state.seen))
"""


def fragile(options: str) -> str:
    return FRAGILE.format(options=options)


def test_without_a_policy_a_failure_is_final(nb: NotebookKernel) -> None:
    nb.run(fragile("--policy never"))
    nb.fail("await runtime.ask('fragile', 'bad')")
    assert nb.value("runtime['fragile'].state.value, runtime['fragile'].restarts") == ("FAILED", 0)


def test_a_policy_starts_it_again(nb: NotebookKernel, loop: str) -> None:
    nb.run(fragile("--policy on_failure"))
    assert nb.value("await runtime.ask('fragile', 1)") == [1]
    assert "'fragile' failed on this message" in nb.fail("await runtime.ask('fragile', 'bad')").text
    assert nb.value("await runtime.ask('fragile', 2)") == [2]
    assert nb.value("runtime['fragile'].restarts") == 1


def test_always_starts_a_body_again_that_returns(nb: NotebookKernel) -> None:
    nb.run("%%ring_kernel once --policy always\nasync def once(ctx):\n    await ctx.send(await ctx.receive())")
    assert nb.value("[await runtime.ask('once', n) for n in (1, 2, 3)]") == [1, 2, 3]


def test_the_state_is_kept_and_messages_are_tried_again_as_the_options_say(nb: NotebookKernel, loop: str) -> None:
    nb.run(fragile("--policy on_failure --keep-state --max-retries 2 --backoff 0 --on-restart note"))
    assert nb.value("await runtime.ask('fragile', 'bad')") == ["bad"] * 3
    assert nb.value("begun") == [(1, "bad"), (2, "bad")]


def test_max_restarts_and_window_limit_the_restarts(nb: NotebookKernel) -> None:
    nb.run(fragile("--policy on_failure --max-restarts 1 --window 30 --backoff 0"))
    nb.run("await runtime.send_many('fragile', ['bad', 'bad'])\nawait runtime.wait_ended('fragile')")
    assert "failed for good, after 1 restart in 30 s" in nb.fail("await runtime.ask('fragile', 1)").text


@pytest.mark.parametrize("backoff", ["60", "'Backoff(60, limit=60, jitter=0)'"])
def test_backoff_delays_the_second_restart(nb: NotebookKernel, backoff: str) -> None:
    # less at most half of it
    nb.run("from pydotcompute import Backoff")
    nb.run(fragile(f"--policy on_failure --backoff {backoff}"))
    nb.run("await runtime.send_many('fragile', ['bad', 'bad'])")
    nb.run("import asyncio\nwhile 'restart 2' not in runtime['fragile'].waiting_for: await asyncio.sleep(0)")
    assert nb.value("float(runtime['fragile'].waiting_for.split()[-2])") > 29


def test_a_step_has_a_policy_too(nb: NotebookKernel) -> None:
    nb.run(
        """%%ring_kernel --backend interpreted --policy on_failure --keep-state
import numpy as np
from pydotcompute import Record, message
@message
class Number:
    n: np.int64
class Tally(Record):
    count: np.int64
def divide(state: Tally, msg: Number, out: Number) -> bool:
    state.count += 1
    out.n = 12 // int(msg.n) + 100 * state.count
    return True
"""
    )
    nb.fail("await runtime.ask('divide', Number(0))")
    assert nb.value("int((await runtime.ask('divide', Number(3))).n)") == 204


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--foo", "unrecognized arguments: --foo"),
        ("a b", "unrecognized arguments: b"),
        ("--queue-size x", "argument --queue-size: invalid int value: 'x'"),
        ("--queue-size", "argument --queue-size: expected one argument"),
        ("--queue-size 0", "queue_size of 'echo' must be an integer of at least 1, not 0"),
        ("--backpressure lossy", "argument --backpressure: invalid choice: 'lossy'"),
        ("--state Nowhere", "'Nowhere': NameError: name 'Nowhere' is not defined"),
        ("--state 5", "state of 'echo' must be a class or function that makes a state, not 5"),
        ("--input-type 'list['", "'list[': SyntaxError"),
        ("--input-type 5", "input_type of 'echo' cannot be checked at run time: 5"),
        ("'echo", 'No closing quotation in "\'echo"'),
        ("--policy sometimes", "argument --policy: invalid choice: 'sometimes'"),
        ("--max-restarts x", "argument --max-restarts: invalid int value: 'x'"),
        ("--keep-state", "--keep-state is for ring kernels that are started again: add --policy on_failure"),
        ("--policy never --window 3", "--window is for ring kernels that are started again"),
        ("--policy always --window 0", "window of 'echo' must be a number of seconds above 0"),
        ("--policy always --max-retries -1", "max_retries of 'echo' must be an integer of at least 0, not -1"),
        ("--policy always --backoff nowhere", "'nowhere': NameError: name 'nowhere' is not defined"),
        ("--policy always --backoff -1", "backoff of 'echo' must be a number of seconds"),
        ("--policy always --on-restart 5", "on_restart of 'echo' must be a function of one Restart, not 5"),
    ],
)
def test_a_wrong_option_is_told_in_one_line_and_starts_nothing(nb: NotebookKernel, options: str, told: str) -> None:
    cell = nb.fail(ECHO.replace("%%ring_kernel", f"%%ring_kernel {options}"))
    first, *more = cell.text.strip().splitlines()
    assert told in first
    assert [line.partition(" ")[0] for line in more] in ([], ["Usage:"])
    assert nb.value("list(runtime.kernels)") == []


# -- %%ring_kernel: what is wrong in the cell --------------------------------------------------------------------------


BROKEN = {
    "syntax error": ("async def count(ctx):\n    x = = 1\n", "Cell In[{n}], line 3\n    x = = 1\n", "SyntaxError: "),
    "await": ("await x\nasync def count(ctx): pass", "Cell In[{n}], line 2\n", "%%ring_kernel cannot await"),
    "exception": ("import math\nmath.sqrt(-1)\nasync def count(ctx): pass", "Cell In[{n}], line 3", "ValueError: "),
    "no function": ("x = 1", "", "%%ring_kernel needs a function in its cell: async def name(ctx): ... or def"),
    "empty": ("", "", "the cell body is empty"),
    "plain def": (
        "async def f(ctx): ...\ndef count(ctx): ...",
        "'count' is no `async def count(ctx)` and no `def count(state, msg, out)`",
        "put the ring kernel last",
    ),
    "yield": (
        "async def count(ctx):\n    yield 1",
        "",
        "'count' yields: write an `async def` that replies with ctx.send",
    ),
    "no parameter": ("async def count(): ...", "", "the body of 'count' must take one parameter, the context"),
    "unreadable type": (
        "from pydotcompute import KernelContext\nasync def count(ctx: 'KernelContext[Nowhere, int]'): ...",
        "",
        "the types of 'count' cannot be read (name 'Nowhere' is not defined): define them first",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_faulty_cell_says_where_and_the_old_version_goes_on(nb: NotebookKernel, fault: str) -> None:
    body, *told = BROKEN[fault]
    nb.run(count("old"))
    cell = nb.fail(f"%%ring_kernel\n{body}")
    for text in told:
        assert text.format(n=cell.number) in cell.text
    assert "magics.py" not in cell.text
    assert nb.value('await runtime.ask("count", 1)') == ("old", 1, 1)
    assert nb.value('runtime["count"].version') == 1


def test_an_exception_in_the_cell_shows_the_cells_own_lines(nb: NotebookKernel) -> None:
    cell = nb.fail("%%ring_kernel\ndef helper():\n    return {}['missing']\nhelper()\nasync def kernel(ctx): pass")
    assert re.search(rf"Cell In\[{cell.number}\], line 3, in helper\(\)", cell.text)
    assert "----> 3     return {}['missing']" in cell.text
    assert "----> 4 helper()" in cell.text


# -- hot swap ----------------------------------------------------------------------------------------------------------


BARE = """
from pydotcompute import ring_kernel
@ring_kernel
async def count(ctx):
    handled = 0
    async for message in ctx:
        ctx.state.total = getattr(ctx.state, "total", 0) + message
        handled += 1
        await ctx.send(("{name}", ctx.state.total, handled))
"""


@pytest.mark.parametrize("again", ["magic", "decorator"])
def test_running_the_cell_again_swaps_the_body_and_keeps_state_and_mailbox(
    nb: NotebookKernel, loop: str, again: str
) -> None:
    nb.run(count("old"))
    assert nb.value('await runtime.ask("count", 5)') == ("old", 5, 1)
    nb.run("%ring pause count\n%ring send count 1\n%ring send count 1")
    cell = nb.run(count("new") if again == "magic" else BARE.format(name="new"))
    if again == "magic":
        kept = "ctx.state and 2 messages in the mailbox kept; still paused"
        assert cell.stdout == f"count: version 2 takes over now; {kept}\n"
    nb.run("%ring resume count")
    replies = nb.value('[await runtime.receive("count") for _ in range(2)]')
    assert replies == [("new", 6, 1), ("new", 7, 2)]
    assert nb.value('runtime["count"].version') == 2


def test_the_message_in_hand_is_finished_by_the_old_body(nb: NotebookKernel, loop: str) -> None:
    cell = """%%ring_kernel
async def slow(ctx):
    async for message in ctx:
        if message == "wait":
            await gate.wait()
        await ctx.send("{name} " + message)
"""
    nb.run("import asyncio\ngate = asyncio.Event()")
    nb.run(cell.replace("{name}", "old"))
    nb.run("%ring send slow 'wait'\n%ring send slow 'next'")
    nb.run("while not runtime['slow'].busy: await asyncio.sleep(0)")
    assert "version 2 takes over after the message in hand" in nb.run(cell.replace("{name}", "new")).stdout
    opened = "runtime.sync.call(open_gate)" if loop == "thread" else "gate.set()"
    nb.run(f"async def open_gate(): gate.set()\n{opened}")
    assert nb.value('[await runtime.receive("slow") for _ in range(2)]') == ["old wait", "new next"]


def test_a_body_that_ended_or_failed_starts_afresh_when_its_cell_runs_again(nb: NotebookKernel, loop: str) -> None:
    nb.run("%%ring_kernel\nasync def count(ctx): 1 / 0")
    nb.run("await runtime.wait_ended('count')")
    assert nb.run(count("new")).stdout == "count is active\n"
    assert nb.value('await runtime.ask("count", 2)') == ("new", 2, 1)
    nb.run("await runtime.terminate('count')")
    nb.run(count("newer"))
    assert nb.value('await runtime.ask("count", 3)') == ("newer", 3, 1)


def test_a_kernel_that_was_only_launched_is_activated(nb: NotebookKernel, loop: str) -> None:
    nb.run(BARE.format(name="old"))
    nb.run('await runtime.launch("count")')
    nb.run(count("new"))
    assert nb.value('await runtime.ask("count", 1)') == ("new", 1, 1)


def test_a_message_class_with_the_same_fields_is_taken_and_with_others_the_error_says_what_to_run(
    nb: NotebookKernel,
) -> None:
    define = "from pydotcompute import KernelContext, message\n@message\nclass Number:\n    x: {}"
    nb.run(define.format("int"))
    kernel = nb.run(
        """%%ring_kernel
async def increment(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(Number(x=number.x + 1))
"""
    )
    nb.run(define.format("int"))
    assert nb.value('(await runtime.ask("increment", Number(x=1))).x') == 2
    other = nb.run(define.format("float"))
    told = nb.fail('await runtime.ask("increment", Number(x=1.0))').text
    assert f"Number was defined again with other fields (cell In [{other.number}])" in told
    assert f"run the definition of 'increment' again (cell In [{kernel.number}])" in told


@pytest.mark.parametrize("way", ["magic", "decorator"])
def test_a_warning_when_another_cell_owns_the_name(nb: NotebookKernel, way: str) -> None:
    cell = {"magic": count("x"), "decorator": BARE.format(name="x")}[way]
    first = nb.run(cell, cell_id="a")
    assert nb.run(cell, cell_id="a").stderr == ""
    other = nb.run(cell, cell_id="b")
    assert "KernelRedefinedWarning: ring kernel 'count'" in other.stderr
    assert f"cell In [{first.number + 1}] is replaced by the one of cell In [{other.number}]" in other.stderr
    assert "site-packages" not in other.stderr
    assert "magics.py" not in other.stderr
    assert nb.run(cell, cell_id="b").stderr == ""
    assert nb.run(cell).stderr == ""  # a front end that does not tell


# -- output ------------------------------------------------------------------------------------------------------------


TALK = """{first}
async def talk(ctx):
    async for message in ctx:
        print("got", message)
        if message == "crash":
            raise ValueError("no such thing")
        await ctx.send(message)
"""


@pytest.mark.parametrize("way", ["magic", "decorator"])
def test_prints_and_the_crash_go_below_the_defining_cell(nb: NotebookKernel, loop: str, way: str) -> None:
    first = {"magic": "%%ring_kernel", "decorator": "from pydotcompute import ring_kernel\n@ring_kernel"}[way]
    defining = nb.run(TALK.format(first=first))
    others = []
    if way == "decorator":
        others.append(nb.run('await runtime.launch("talk")\nawait runtime.activate("talk")'))
    others.append(nb.run('await runtime.ask("talk", "one")'))
    nb.show(defining, "got one\n")
    others.append(nb.fail('await runtime.ask("talk", "crash")'))
    nb.settle()
    assert "got crash\n" in defining.stdout
    assert defining.stderr.count("ring kernel 'talk' failed") == 1
    assert defining.stderr.count("ValueError: no such thing") == 1
    assert f"ring kernel 'talk' failed (cell In [{defining.number}])" in defining.stderr
    line = 6 if way == "magic" else 7
    assert re.search(rf'----> {line} +raise ValueError\("no such thing"\)', defining.stderr)
    assert f"Cell In[{defining.number}], line {line}, in talk(ctx)" in defining.stderr
    assert defining.stderr.endswith("To go on, correct its cell and run it again, or: %ring restart talk\n")
    for other in others:
        assert "got" not in other.stdout
        assert other.stderr == ""


def test_a_kernel_that_was_started_again_says_so_below_its_cell(nb: NotebookKernel, loop: str) -> None:
    defining = nb.run(TALK.format(first="%%ring_kernel --policy on_failure --backoff 0"))
    other = nb.fail('await runtime.ask("talk", "crash")')
    nb.settle()
    assert "ring kernel 'talk' failed and is started again (1 of 3 in 60 s)" in defining.stderr
    assert '----> 6             raise ValueError("no such thing")' in defining.stderr
    assert "To go on" not in defining.stderr
    assert other.stderr == ""
    for _ in range(3):
        nb.fail('await runtime.ask("talk", "crash")')
    nb.settle()
    assert defining.stderr.endswith("To go on, correct its cell and run it again, or: %ring restart talk\n")
    assert defining.stderr.count("----> 6") == 1  # that of the first failure; then a line for each
    assert "started again (3 of 3 in 60 s) (cell In" in defining.stderr
    assert "failed for good, after 3 restarts in 60 s" in defining.stderr
    assert defining.stderr.count("ValueError: no such thing") == 4
    nb.run("%ring restart talk")
    nb.fail('await runtime.ask("talk", "crash")')
    nb.settle()
    assert defining.stderr.count("----> 6") == 2  # it was launched anew


def test_what_a_storm_of_restarts_shows_is_bounded(nb: NotebookKernel) -> None:
    cell = nb.run(TALK.format(first="%%ring_kernel --policy on_failure --max-restarts 1000 --backoff 0"))
    nb.run("await runtime.send_many('talk', ['crash'] * 600)\nawait runtime.wait_idle('talk')")
    nb.settle()
    assert cell.stderr.count("ring kernel 'talk' failed") == 14  # of the 1st to the 8th, the 16th, …, the 512th
    assert "ValueError: no such thing (512 times by now)" in cell.stderr
    again = nb.run(TALK.format(first="%%ring_kernel --policy on_failure --max-restarts 1000 --backoff 0"))
    nb.fail("await runtime.ask('talk', 'crash')")
    nb.settle()
    assert "----> 6" in again.stderr  # another cell: it is shown in full


def test_output_comes_while_another_cell_blocks(nb: NotebookKernel) -> None:
    defining = nb.run(TALK.format(first="%%ring_kernel"))
    nb.run("import threading\ndone = threading.Event()")
    nb.run('await runtime.send("talk", "one")')
    blocking = nb.start("done.wait(20)")
    other = nb.subshell()
    nb.run('runtime.sync.send("talk", "two")\nruntime.sync.send("talk", "crash")', subshell=other)
    nb.show(defining, "ValueError: no such thing")
    assert defining.stdout.endswith("got one\ngot two\ngot crash\n")
    assert not blocking.done
    nb.run("done.set()", subshell=other)
    nb.until(lambda: blocking.done)
    assert (blocking.stdout, blocking.stderr) == ("", "")


def test_after_a_swap_prints_go_below_the_new_cell(nb: NotebookKernel, loop: str) -> None:
    old = nb.run(TALK.format(first="%%ring_kernel"))
    new = nb.run(TALK.format(first="%%ring_kernel"))
    nb.run('await runtime.ask("talk", "one")')
    nb.show(new, "got one\n")
    assert "got" not in old.stdout


def test_what_a_body_displays_goes_below_its_cell(nb: NotebookKernel, loop: str) -> None:
    cell = nb.run("%%ring_kernel\nasync def show(ctx):\n    async for message in ctx:\n        display(message)")
    other = nb.run('await runtime.send("show", 42)\nawait runtime.wait_idle("show")')
    nb.until(lambda: cell.shown == ["42"])
    assert other.shown == []


def test_a_crash_without_the_extension_is_shown_once_below_its_cell(fresh: NotebookKernel) -> None:
    fresh.run("from pydotcompute import RingKernelRuntime, ring_kernel\nruntime = RingKernelRuntime()")
    cell = fresh.run("@ring_kernel\nasync def bad(ctx):\n    1 / 0")
    other = fresh.run("await runtime.launch('bad')\nawait runtime.activate('bad')\nawait runtime.wait_ended('bad')")
    fresh.settle()
    assert cell.stderr.count("ZeroDivisionError: division by zero") == 1
    assert other.stderr == ""


# -- %ring -------------------------------------------------------------------------------------------------------------


def test_status(nb: NotebookKernel, loop: str) -> None:
    assert nb.run("%ring").shown == [f"<RingKernelRuntime loop='{loop}', kernels: none>"]
    nb.run(ECHO)
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel twin"))
    nb.run("%ring pause twin")
    everything = nb.run("%ring status")
    assert everything.shown == [f"<RingKernelRuntime loop='{loop}', kernels: 1 ACTIVE, 1 DEACTIVATED>"]
    (message,) = [m for m in everything.messages if m["msg_type"] == "display_data"]
    assert "twin" in message["content"]["data"]["text/html"]
    assert nb.run("%ring status twin").shown == ["<ring kernel 'twin' DEACTIVATED, 0 queued>"]
    assert nb.fail("%ring status twn").ename == "KernelNotFoundError"


def test_send(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.run("x = 'a  b'")
    nb.run("%ring send echo {x: [1, {2}], '$x': \"{x}\"}")
    assert nb.value('await runtime.receive("echo")') == {"a  b": [1, {2}], "$x": "{x}"}


def test_ask(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    cell = nb.run("%ring ask echo 'x' * 3")
    if loop == "thread":
        assert cell.result == "'xxx'"
        assert nb.run("x = %ring ask echo (1, 2)\nx").result == "(1, 2)"
        assert nb.run("def f(local):\n    reply = %ring ask echo local\n    return reply\nf('here')").result == "'here'"
    else:
        nb.until(lambda: cell.shown == ["'xxx'"])  # it comes when the cell has ended


def test_a_reply_of_none_shows_nothing(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    cell = nb.run("%ring ask echo None")
    nb.run("await runtime.ask('echo', 1)")
    nb.settle()
    assert cell.text == ""


@pytest.mark.parametrize("form", ["--timeout 0.01", "--timeout=0.01"])
def test_ask_with_a_timeout(nb: NotebookKernel, loop: str, form: str) -> None:
    nb.run(ECHO)
    nb.run("%ring pause echo")
    code = f"%ring ask {form} echo 1"
    told = "QueueTimeoutError: no reply from 'echo' within 0.01 s; it is DEACTIVATED, 1 queued, idle"
    if loop == "thread":
        assert told in nb.fail(code).text
    else:
        nb.show(nb.run(code), told)


def test_a_failed_ask_fails_the_cell_and_can_be_caught(nb: NotebookKernel) -> None:
    nb.run(TALK.format(first="%%ring_kernel"))
    cell = nb.fail("%ring ask talk 'crash'\nprint('not reached')")
    assert cell.ename == "KernelFailedError"
    assert cell.text == "KernelFailedError: 'talk' failed: ValueError: no such thing"
    caught = nb.run(
        """from pydotcompute.exceptions import KernelFailedError
try:
    %ring ask talk 1
except KernelFailedError as error:
    print(repr(error.__cause__))
"""
    )
    assert caught.stdout == "ValueError('no such thing')\n"


def test_pause_and_resume(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    assert nb.run("%ring pause echo").stdout == "echo is paused with 0 messages queued\n"
    nb.run("%ring send echo 1")
    nb.run("%ring send echo 2")
    assert nb.value('runtime["echo"].queue_depth') == 2
    cell = nb.fail("%ring pause echo")
    assert cell.text == (
        "KernelStateError: cannot pause 'echo': it is DEACTIVATED; possible now: %ring resume echo or %ring stop echo"
    )
    assert nb.run("%ring resume echo").stdout == "echo goes on with 2 messages queued\n"
    assert nb.value('[await runtime.receive("echo") for _ in range(2)]') == [1, 2]
    assert "possible now: %ring pause echo or %ring stop echo" in nb.fail("%ring resume echo").text


def test_stop(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.run("%ring pause echo\n%ring send echo 1\n%ring send echo 2")
    nb.show(nb.run("%ring stop echo"), "echo is terminated\n")
    assert nb.value('[await runtime.receive("echo") for _ in range(2)]') == [1, 2]  # it drained
    assert "it is TERMINATED; possible now: %ring restart echo" in nb.fail("%ring stop echo").text
    assert "is TERMINATED" in nb.fail("%ring send echo 1").text
    assert "launch it again" in nb.fail("%ring ask echo 1").text


def test_stop_without_draining(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.run("%ring pause echo\n%ring send echo 1\n%ring send echo 2")
    nb.show(nb.run("%ring stop --no-drain echo"), "echo is terminated; 2 dead letters, see runtime.dead_letters\n")
    assert nb.value("[letter.message for letter in runtime.dead_letters]") == [1, 2]


def test_stop_with_a_timeout(nb: NotebookKernel, loop: str) -> None:
    nb.run("import asyncio\n%load_ext pydotcompute")
    nb.run("%%ring_kernel\nasync def stuck(ctx):\n    await asyncio.Event().wait()")
    nb.show(nb.run("%ring stop --timeout 0.05 stuck"), "stuck is terminated\n")  # and not after 5 s


def test_restart(nb: NotebookKernel, loop: str) -> None:
    nb.run(count("old"))
    nb.run('await runtime.ask("count", 5)')
    cell = nb.run("%ring restart count")
    nb.show(cell, "count is terminated\ncount is active\n")
    assert nb.value('await runtime.ask("count", 1)') == ("old", 1, 1)
    nb.run("await runtime.terminate('count')")
    assert nb.run("%ring restart count").stdout == "count is active\n"
    assert nb.value('await runtime.ask("count", 1)') == ("old", 1, 1)


def test_restart_takes_the_latest_definition(nb: NotebookKernel, loop: str) -> None:
    nb.run("%%ring_kernel\nasync def count(ctx):\n    1 / 0")
    nb.run("await runtime.wait_ended('count')")
    nb.run(BARE.format(name="mended"))
    nb.run("%ring restart count")
    assert nb.value('await runtime.ask("count", 1)') == ("mended", 1, 1)


def test_all(nb: NotebookKernel, loop: str) -> None:
    for command in ("pause", "resume", "stop", "restart"):
        assert nb.run(f"%ring {command} --all").stdout == f"no ring kernel to {command}\n"
    nb.run(ECHO)
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel twin"))
    nb.run("%ring pause twin")
    assert nb.run("%ring pause --all").stdout == "echo is paused with 0 messages queued\n"
    assert nb.run("%ring resume --all").stdout.count("goes on") == 2
    cell = nb.run("%ring stop --all")
    nb.show(cell, "echo is terminated\n")
    nb.show(cell, "twin is terminated\n")
    assert nb.run("%ring restart --all").stdout == "echo is active\ntwin is active\n"


def test_step(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.show(nb.run("%ring step echo"), "echo is paused; nothing is queued\n")  # at once
    nb.run("%ring send echo 1\n%ring send echo [2,\\\n3]\n%ring send echo 'x' * 200\n%ring send echo 4")
    nb.show(nb.run("%ring step echo"), "handled: 1\necho is paused; 3 messages queued, next: [2, 3]\n")
    cell = nb.run("%ring step echo 2")
    nb.show(cell, "handled: [2, 3]\nhandled: 'xxx")
    nb.show(cell, "…\necho is paused; 1 message queued, next: 4\n")
    nb.show(nb.run("%ring step echo 99"), "handled: 4\necho is paused; nothing is queued\n")
    assert nb.value("runtime['echo'].statistics().processed") == 4
    nb.run("%ring resume echo")
    assert nb.value('[await runtime.receive("echo") for _ in range(2)]') == [1, [2, 3]]


def test_a_step_says_what_failed(nb: NotebookKernel) -> None:
    nb.run(fragile("--policy on_failure --max-retries 1"))
    nb.run("%ring pause fragile\n%ring send fragile 'bad'\n%ring send fragile 'good'")
    cell = nb.run("%ring step fragile")
    assert "handled: 'bad'\nit failed with ValueError: a bad one\nfragile is paused; 2 messages queued" in cell.stdout
    assert "failed" not in nb.run("import time\n%ring peek fragile").stdout


def test_words_that_are_no_kernels_and_no_policies_of_restart(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    assert "`%ring trace --stop` ends it" in nb.fail("%ring trace stop").text
    assert "is --policy on_failure" in nb.fail(fragile("--restart on_failure")).text


def test_a_step_shows_few_of_many_messages(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("%ring pause echo\nawait runtime.send_many('echo', range(1000))")
    cell = nb.run("%ring step echo 1000")
    assert cell.stdout.endswith("handled: 19\nhandled: 980 messages more\necho is paused; nothing is queued\n")


def test_a_step_gives_up_after_its_timeout(nb: NotebookKernel, loop: str) -> None:
    nb.run("import asyncio")
    nb.run("%%ring_kernel\nasync def stuck(ctx):\n    async for message in ctx:\n        await asyncio.Event().wait()")
    nb.run("%ring pause stuck\n%ring send stuck 1")
    told = "of 1 messages within 0.05 s; it is DEACTIVATED, 0 queued, handling a message"
    code = "%ring step stuck --timeout 0.05"
    if loop == "thread":
        assert told in nb.fail(code).text
    else:
        nb.show(nb.run(code), told)
    nb.run("await runtime.kill('stuck')")


def test_a_step_into_a_failure_says_so(nb: NotebookKernel) -> None:
    nb.run(TALK.format(first="%%ring_kernel"))
    nb.run("%ring pause talk\n%ring send talk 'crash'")
    cell = nb.fail("%ring step talk")
    assert cell.text == "KernelFailedError: 'talk' failed: ValueError: no such thing"
    assert nb.fail("%ring step talk").ename == "KernelFailedError"


def test_a_compiled_kernel_is_stepped_and_its_queue_shown(nb: NotebookKernel, loop: str) -> None:
    nb.run(
        """%%ring_kernel --backend interpreted
import numpy as np
from pydotcompute import message
@message
class Number:
    n: np.int64
def square(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n * msg.n
    return True
"""
    )
    told = nb.fail("%ring queue square")
    assert "KernelStateError: 'square' is ACTIVE" in told.text
    nb.run("%ring pause square\n%ring send square Number(3)\n%ring send square Number(4)")
    assert "Number(n=4)" in nb.run("%ring queue square").shown[0]
    nb.show(nb.run("%ring step square"), "handled: Number(n=3)\nsquare is paused; 1 message queued, next: Number(n=4)")
    assert nb.value("int((await runtime.receive('square')).n)") == 9


def test_queue_and_peek(nb: NotebookKernel, loop: str) -> None:
    nb.run("from pydotcompute import message\n@message\nclass Note:\n    text: str")
    nb.run(ECHO)
    nb.run("%ring pause echo")
    assert nb.run("%ring queue echo").shown == ["echo: 0 messages queued, paused"]
    assert nb.run("%ring peek echo").stdout == "echo has nothing queued\n"
    nb.run("%ring send echo '<b> & </b>'\n%ring send echo Note('urgent', priority=200)")
    cell = nb.run("%ring queue echo")
    lines = [re.split(r"  +", line) for line in cell.shown[0].splitlines()]
    assert lines[0] == ["echo: 2 messages queued, paused"]
    assert lines[1] == ["place", "message", "priority", "age", "ask", "failed"]
    assert [line[:3] + line[4:] for line in lines[2:]] == [
        ["0", "Note(text='urgent', priority=200)", "200", "no", "–"],
        ["1", "'<b> & </b>'", "128", "no", "–"],
    ]
    (message,) = [m for m in cell.messages if m["msg_type"] == "display_data"]
    html = message["content"]["data"]["text/html"]
    assert html.count("<tr") == 3
    assert "&lt;b&gt; &amp; &lt;/b&gt;" in html
    assert "<b> &" not in html
    assert nb.run("%ring peek echo").result == "Note(text='urgent', priority=200)"
    assert nb.run("x = %ring peek echo\nx.text").result == "'urgent'"
    assert nb.value("runtime['echo'].queue_depth") == 2
    nb.run("await runtime.send_many('echo', range(200))")
    assert nb.run("%ring queue echo").shown[0].splitlines()[-1] == "and 102 more"


def test_the_queue_shows_asks_and_how_often_a_message_has_failed(nb: NotebookKernel) -> None:
    nb.run(fragile("--policy on_failure --max-retries 2 --backoff 60"))
    asking = nb.start("reply = await runtime.ask('fragile', 'bad')")
    subshell = nb.subshell()
    nb.run("import asyncio\nwhile runtime['fragile'].restarts < 1: await asyncio.sleep(0.001)", subshell=subshell)
    nb.run("while runtime['fragile'].busy: await asyncio.sleep(0.001)", subshell=subshell)
    (shown,) = nb.run("%ring queue fragile", subshell=subshell).shown
    assert re.split("  +", shown.splitlines()[2])[4:] == ["yes", "2 ×"]
    nb.run("%ring stop --no-drain fragile", subshell=subshell)
    nb.until(lambda: asking.done)


def test_trace(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel twin"))
    assert "`%ring trace` begins one" in nb.fail("%ring trace --stop").text
    assert nb.run("%ring trace").stdout == "tracing all ring kernels; %ring trace --stop ends it and shows it\n"
    nb.run("await runtime.ask('echo', 1)\nawait runtime.ask('twin', 2)")
    cell = nb.run("%ring trace --stop")
    assert cell.result is not None
    assert "at 2 kernels" in cell.result
    (message,) = [m for m in cell.messages if m["msg_type"] == "execute_result"]
    assert "<svg" in message["content"]["data"]["text/html"]
    assert nb.value("runtime._observers") == ()
    assert nb.run("%ring trace twin").stdout.startswith("tracing twin; ")
    nb.run("await runtime.ask('echo', 1)\nawait runtime.ask('twin', 2)")
    nb.run("%reload_ext pydotcompute")  # does not lose it
    assert nb.value("trace = %ring trace --stop\n[e.message for e in trace.of(kind='start')]") == [2]


def test_a_trace_that_begins_anew_gives_the_one_before_up(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("%ring trace")
    nb.run("await runtime.ask('echo', 1)")
    assert nb.run("%ring trace").stdout.startswith("the trace before is given up, with 5 events\ntracing all")
    nb.run("await runtime.ask('echo', 2)")
    assert nb.value("trace = %ring trace --stop\n[e.message for e in trace.of(kind='start')]") == [2]


def test_record(nb: NotebookKernel, loop: str) -> None:
    nb.run("from pydotcompute import message\n@message\nclass Note:\n    text: str")
    nb.run(ECHO)
    nb.run("from pathlib import Path\nPath('run.pdclog').unlink(missing_ok=True)")
    assert "`%ring record PATH` begins" in nb.fail("%ring record --stop").text
    assert nb.run("%ring record run.pdclog").stdout == "recording to run.pdclog; %ring record --stop ends it\n"
    assert "'run.pdclog' is being recorded" in nb.fail("%ring record other.pdclog").text
    nb.run("await runtime.ask('echo', Note('a'))")
    assert "'run.pdclog', stopped: 1 messages, 1 replies" in nb.run("%ring record --stop").stdout
    assert "choose another name, or write --overwrite" in nb.fail("%ring record run.pdclog").text
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel twin"))
    nb.run("%ring record --overwrite run.pdclog twin")
    nb.run("await runtime.ask('echo', Note('b'))\nawait runtime.ask('twin', Note('c'))")
    nb.run("%ring record --stop")
    nb.run("from pydotcompute.runtime.recording import RecordedMessage, read_log")
    assert nb.value(
        "[entry.message.text for entry in read_log('run.pdclog') if isinstance(entry, RecordedMessage)]"
    ) == ["c"]
    assert "cannot be written: No such file or directory" in nb.fail("%ring record no/such/folder").text


def test_health_and_letters(nb: NotebookKernel, loop: str) -> None:
    nb.run(ECHO)
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel twin"))
    nb.run("%ring pause twin\n%ring send twin '<lost>'")
    (shown,) = nb.run("%ring health").shown
    assert shown.startswith("live, not ready: 'twin' is paused")
    nb.run("await runtime.terminate('twin', drain=False)")
    cell = nb.run("%ring letters")
    assert "'<lost>'" in cell.shown[0]
    (message,) = [m for m in cell.messages if m["msg_type"] == "display_data"]
    assert "&lt;lost&gt;" in message["content"]["data"]["text/html"]
    assert nb.run("%ring letters echo").shown == ["0 dead letters"]
    assert nb.fail("%ring letters nope").ename == "KernelNotFoundError"


def test_names_may_come_from_variables(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("for name in ['echo']:\n    %ring pause {name}\n    %ring resume $name")
    assert nb.run("%ring ask {name} {name}").result == "{'echo'}"


def test_loop(nb: NotebookKernel) -> None:
    assert nb.run("%ring loop").stdout == "ring kernels run on a loop in a thread of their own (loop='thread')\n"
    nb.run(ECHO)
    assert nb.fail("%ring loop current").text == (
        "KernelStateError: stop 'echo' in a cell before this one: %ring stop --all"
    )
    assert nb.run("%ring loop thread").stdout.endswith("(loop='thread')\n")  # no change
    nb.run("%ring stop --all")
    assert nb.run("%ring loop current").stdout == "ring kernels run on the notebook's own loop (loop='current')\n"
    assert nb.value("[t.name for t in __import__('threading').enumerate() if 'pydotcompute' in t.name]") == []
    nb.run(ECHO)
    assert nb.value('await runtime.ask("echo", 1)') == 1
    nb.run("await runtime.close()")
    assert nb.run("%ring loop").stdout.endswith("(loop='current')\n")  # it stays chosen


def test_on_the_notebooks_own_loop_what_is_wrong_at_once_fails_the_cell(nb: NotebookKernel) -> None:
    nb.run("%ring loop current")
    assert nb.fail("%ring ask nope 1").ename == "KernelNotFoundError"
    assert nb.fail("%ring send nope 1").ename == "KernelNotFoundError"
    assert nb.fail("%ring stop nope").ename == "KernelNotFoundError"
    nb.run("%%ring_kernel\nasync def bad(ctx):\n    1 / 0")
    nb.run("await runtime.wait_ended('bad')")
    assert nb.fail("%ring ask bad 1").ename == "KernelFailedError"


def test_help(nb: NotebookKernel) -> None:
    (message,) = [m for m in nb.run("%ring help").messages if m["msg_type"] == "display_data"]
    told, html = (message["content"]["data"][form] for form in ("text/plain", "text/html"))
    lines = re.findall(r"<div style='padding[^>]*>(.*?)</div>", html)
    assert lines == [escape(line.strip()) for line in told.splitlines()]
    assert "word-break:normal" in html  # else JupyterLab breaks lines within words
    for line in (
        "%ring status [KERNEL ...]",
        "%ring send KERNEL EXPRESSION",
        "%ring ask [--timeout SECONDS] KERNEL EXPRESSION",
        "%ring pause [--all] [KERNEL ...]",
        "%ring resume [--all] [KERNEL ...]",
        "%ring stop [--all] [--no-drain] [--timeout SECONDS] [KERNEL ...]",
        "%ring restart [--all] [KERNEL ...]",
        "%ring step [--timeout SECONDS] KERNEL [N]",
        "%ring queue KERNEL",
        "%ring peek KERNEL",
        "%ring health",
        "%ring letters [KERNEL]",
        "%ring trace [--stop] [--live] [KERNEL ...]",
        "%ring record [--overwrite] [--stop] [PATH] [KERNEL ...]",
        "%ring dashboard [--compact] [KERNEL]",
        "%ring topology",
        "%ring lifecycle KERNEL",
        "%ring mailbox KERNEL",
        "%ring loop [{thread,current}]",
        "%%ring_kernel [KERNEL] [OPTION ...]",
        "        --queue-size N          messages that the mailbox holds (1024)",
        "    when it fails:",
        "        --policy WHEN           start it again: never, on_failure, always",
        "        --backend NAME          what runs it: auto, cpu, cuda, interpreted",
    ):
        assert f"\n{line}" in f"\n{told}"
    assert max(map(len, told.splitlines())) < 200


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("foo", "no command 'foo'; `%ring help` lists them: status, send, ask, pause"),
        ("pause", "name a kernel, or write --all"),
        ("stop --foo", "unrecognized arguments: --foo"),
        ("pause nope", "no ring kernel 'nope' (launched: 'echo'); define and launch it first, or check the spelling"),
        ("pause ech", "did you mean 'echo'?"),
        ("pause 'echo", "No closing quotation"),
        ("ask", "the following arguments are required: KERNEL"),
        ("ask echo", "an EXPRESSION is missing"),
        ("send echo", "an EXPRESSION is missing"),
        ("ask --timeout x echo 1", "argument --timeout: must be a number of seconds, 0 or more, not 'x'"),
        ("ask --timeout -1 echo 1", "argument --timeout: must be a number of seconds, 0 or more, not '-1'"),
        ("stop --timeout inf echo", "argument --timeout: must be a number of seconds, 0 or more, not 'inf'"),
        ("ask --timeout 1", "the following arguments are required: KERNEL"),
        ("ask echo 1 +", "'1 +' is not an expression of Python (invalid syntax)"),
        ("ask echo --timeout 1 2", "'--timeout 1 2' is not an expression of Python (invalid syntax)"),
        ("send nope 1", "no ring kernel 'nope'"),
        ("loop sideways", "invalid choice: 'sideways'"),
        ("dashboard nope", "no ring kernel 'nope'"),
        ("dashboard --compact echo", "--compact is for all kernels: name none"),
        ("topology echo", "unrecognized arguments: echo"),
        ("lifecycle nope", "no ring kernel 'nope'"),
        ("mailbox", "the following arguments are required: KERNEL"),
        ("step", "the following arguments are required: KERNEL"),
        ("step echo 0", "N must be at least 1, not 0"),
        ("step echo x", "argument N: invalid int value: 'x'"),
        ("step --timeout -1 echo", "argument --timeout: must be a number of seconds, 0 or more, not '-1'"),
        ("step nope", "no ring kernel 'nope'"),
        ("queue", "the following arguments are required: KERNEL"),
        ("queue nope", "no ring kernel 'nope'"),
        ("peek nope", "no ring kernel 'nope'"),
        ("trace nope", "no ring kernel 'nope'"),
        ("trace --stop echo", "--stop ends the whole trace: name no kernel, and no --live"),
        ("trace --stop --live", "--stop ends the whole trace: name no kernel, and no --live"),
        ("record", "name the file to write, or write --stop"),
        ("record --stop x", "--stop ends the recording that runs: name no file"),
        ("record x nope", "no ring kernel 'nope'"),
        ("health echo", "unrecognized arguments: echo"),
    ],
)
def test_wrong_usage_is_told_in_one_line(nb: NotebookKernel, line: str, told: str) -> None:
    nb.run(ECHO)
    first, *more = nb.fail(f"%ring {line}").text.strip().splitlines()
    assert told in first
    assert [text.partition(" ")[0] for text in more] in ([], ["Usage:"])
    if more:
        assert more[0].startswith(f"Usage: %ring {line.split()[0]}")


def test_an_error_in_an_expression_shows_the_expression(nb: NotebookKernel) -> None:
    nb.run(ECHO)
    nb.run("def helper():\n    return 1 / 0")
    cell = nb.fail("%ring ask echo helper()")
    assert "----> 1 helper()" in cell.text
    assert "----> 2     return 1 / 0" in cell.text
    assert "magics.py" not in cell.text


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("dashboard", "Dashboard(hz=5, window=60)"),
        ("dashboard --compact", "layout='compact'"),
        ("dashboard echo", "embed='echo'"),
        ("topology", "Topology(hz=2)"),
        ("lifecycle echo", "Lifecycle('echo', hz=5)"),
        ("mailbox echo", "MailboxView('echo', hz=5, limit=100)"),
        ("trace --live", "SequenceView(hz=5, limit=200)"),
    ],
)
def test_widgets_are_shown(nb: NotebookKernel, line: str, shown: str) -> None:
    nb.run(ECHO)
    assert shown in nb.run(f"%ring {line}").text


@pytest.fixture
def two(nb: NotebookKernel) -> NotebookKernel:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel alarm"))
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel 'all day'"))
    return nb


COMMAND_NAMES = [
    *("status", "send", "ask", "pause", "step", "queue", "peek", "resume", "stop", "restart", "health", "letters"),
    *("trace", "record", "dashboard", "topology", "lifecycle", "mailbox", "loop", "help"),
]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("%ring ", [f"%ring {name}" for name in COMMAND_NAMES]),
        ("%ring pa", ["%ring pause"]),
        ("x = %ring as", ["x = %ring ask"]),
        ("%ring pause al", ["%ring pause alarm", "%ring pause 'all day'"]),
        ("%ring pause ala", ["%ring pause alarm"]),
        ("%ring pause 'al", ["%ring pause alarm", "%ring pause 'all day'"]),
        ("%ring pause alarm al", ["%ring pause alarm 'all day'"]),
        ("%ring pause --a", ["%ring pause --all"]),
        ("%ring stop --no", ["%ring stop --no-drain"]),
        ("%ring ask al", ["%ring ask alarm", "%ring ask 'all day'"]),
        ("%ring ask --timeout 3 ala", ["%ring ask --timeout 3 alarm"]),
        ("%ring ask --t", ["%ring ask --timeout"]),
        ("%ring step al", ["%ring step alarm", "%ring step 'all day'"]),
        ("%ring step alarm ", ["%ring step alarm --timeout"]),
        ("%ring step --timeout 3 ala", ["%ring step --timeout 3 alarm"]),
        ("%ring queue ala", ["%ring queue alarm"]),
        ("%ring peek ala", ["%ring peek alarm"]),
        ("%ring letters ala", ["%ring letters alarm"]),
        ("%ring trace alarm al", ["%ring trace alarm 'all day'"]),
        ("%ring trace --s", ["%ring trace --stop"]),
        ("%ring record x ala", ["%ring record x alarm"]),
        ("%ring dashboard ala", ["%ring dashboard alarm"]),
        ("%ring dashboard --c", ["%ring dashboard --compact"]),
        ("%ring mailbox al", ["%ring mailbox alarm", "%ring mailbox 'all day'"]),
        ("%ring loop ", ["%ring loop thread", "%ring loop current"]),
        ("%ring loop c", ["%ring loop current"]),
        ("%%ring_kernel --que", ["%%ring_kernel --queue-size"]),
        ("%%ring_kernel --backpressure ", [f"%%ring_kernel --backpressure {name}" for name in
                                            ("block", "reject", "drop_oldest", "drop_newest")]),
        ("%%ring_kernel --backpressure drop_n", ["%%ring_kernel --backpressure drop_newest"]),
        ("%%ring_kernel ala", ["%%ring_kernel alarm"]),
        ("%%ring_kernel alarm --pol", ["%%ring_kernel alarm --policy"]),
        ("%%ring_kernel --policy ", [f"%%ring_kernel --policy {name}" for name in ("never", "on_failure", "always")]),
        ('runtime["', ['runtime["alarm"]', 'runtime["all day"]']),
        ('await runtime["ala', ['await runtime["alarm"]']),
    ],
)  # fmt: skip
def test_completion(two: NotebookKernel, line: str, completed: list[str]) -> None:
    assert sorted(found.removesuffix('"]') for found in two.complete(line)) == sorted(
        text.removesuffix('"]') for text in completed
    )


@pytest.mark.parametrize(
    "line",
    [
        *("%ring topology ", "%ring nope ", "%ring ask alarm ", "%ring health ", "%ring step 'all day' "),
        *("%ring peek 'x' ", "%%ring_kernel --queue-size "),
    ],
)
def test_completion_offers_no_kernel_where_none_belongs(two: NotebookKernel, line: str) -> None:
    assert not any("alarm" in found.removeprefix(line) for found in two.complete(line))


def test_completion_of_an_expression_is_left_to_ipython(two: NotebookKernel) -> None:
    two.run("temperature = 5")
    assert two.complete("%ring ask alarm temperature.re") == ["%ring ask alarm temperature.real"]


def test_completion_of_other_lines_is_left_alone(two: NotebookKernel) -> None:
    assert "import pydotcompute" in two.complete("import pydotcomp")
    assert "%rehashx" in two.complete("%rehas")
    assert any(line.endswith("%ring") for line in two.complete("%rin"))
    assert "sorted" in two.complete("sort")
    assert "runtime.ask" in two.complete("runtime.as")
    assert 'runtime["alarm"].ask' in two.complete('runtime["alarm"].as')
    assert "%%ring_kernel\nprint" in two.complete("%%ring_kernel\nprin")
