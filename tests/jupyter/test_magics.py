"""`%%ring_kernel` and `%ring`, in a real kernel."""

from __future__ import annotations

import re

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
    assert fresh.run("runtime").result == "<RingKernelRuntime loop='thread', kernels: none>"
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
    told = nb.run("%ring help").stdout
    for line in (
        "%ring status [KERNEL ...]",
        "%ring send KERNEL EXPRESSION",
        "%ring ask [--timeout SECONDS] KERNEL EXPRESSION",
        "%ring pause [--all] [KERNEL ...]",
        "%ring resume [--all] [KERNEL ...]",
        "%ring stop [--all] [--no-drain] [--timeout SECONDS] [KERNEL ...]",
        "%ring restart [--all] [KERNEL ...]",
        "%ring dashboard",
        "%ring loop [{thread,current}]",
        "%%ring_kernel [KERNEL] [OPTION ...]",
        "        --queue-size N          messages that the mailbox holds (1024)",
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
        ("dashboard echo", "unrecognized arguments: echo"),
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


@pytest.fixture
def two(nb: NotebookKernel) -> NotebookKernel:
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel alarm"))
    nb.run(ECHO.replace("%%ring_kernel", "%%ring_kernel 'all day'"))
    return nb


COMMAND_NAMES = ["status", "send", "ask", "pause", "resume", "stop", "restart", "dashboard", "loop", "help"]


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
        ("%ring loop ", ["%ring loop thread", "%ring loop current"]),
        ("%ring loop c", ["%ring loop current"]),
        ("%%ring_kernel --que", ["%%ring_kernel --queue-size"]),
        ("%%ring_kernel --backpressure ", [f"%%ring_kernel --backpressure {name}" for name in
                                            ("block", "reject", "drop_oldest", "drop_newest")]),
        ("%%ring_kernel --backpressure drop_n", ["%%ring_kernel --backpressure drop_newest"]),
        ("%%ring_kernel ala", ["%%ring_kernel alarm"]),
        ('runtime["', ['runtime["alarm"]', 'runtime["all day"]']),
        ('await runtime["ala', ['await runtime["alarm"]']),
    ],
)  # fmt: skip
def test_completion(two: NotebookKernel, line: str, completed: list[str]) -> None:
    assert sorted(found.removesuffix('"]') for found in two.complete(line)) == sorted(
        text.removesuffix('"]') for text in completed
    )


@pytest.mark.parametrize("line", ["%ring dashboard ", "%ring nope ", "%ring ask alarm ", "%%ring_kernel --queue-size "])
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
