"""`%%ring_kernel` and `%ring`."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)
from IPython.display import display
from IPython.utils.text import DollarFormatter

from ..device.backend import NAMES as BACKENDS
from ..exceptions import KernelStateError
from ..origin import current_cell
from ..runtime import KernelState, RingKernel, RingKernelDefinition, RingKernelRuntime, define, definitions
from ..runtime.checks import PROMISES
from ..runtime.kernel import definition_of
from ..runtime.lifecycle import allowed
from ..runtime.mailbox import STRATEGIES
from ..runtime.step import StepDefinition
from ..runtime.supervision import OPTIONS, When
from ..telemetry.html import STATE_WORDS
from . import interrupts, reports, rich
from .display import brief, queue_bundle
from .notebook import at_once, choose_loop, finish, notebook_runtime
from .reports import one_line_errors, written

if TYPE_CHECKING:
    from ..runtime.recording import Recording
    from ..telemetry.trace import Trace


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, width=1000),
        )
        self.color = False  # Python 3.14 would colour it, in a notebook too

    @property
    def form(self) -> str:
        """How to write it, in one line."""
        return self.format_usage().removeprefix("usage: ").strip()

    def error(self, message: str) -> NoReturn:
        options = ": `%ring help` lists them" if "OPTION" in self.form else ""
        raise UsageError(f"{message}\nUsage: {self.form}{options}")

    def read(self, text: str) -> argparse.Namespace:
        """The arguments in a text.

        Raises:
            UsageError: they are not as they should be.
        """
        try:
            return self.parse_args(shlex.split(text))
        except ValueError as error:  # a quote without its twin
            self.error(f"{error} in {text!r}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds


class _NumberOr:
    """The type of an option: a number, or one of some words."""

    def __init__(self, number: type[int | float], what: str, *words: str) -> None:
        self.number, self.what, self.words = number, what, words

    def __call__(self, text: str) -> int | float | str:
        try:
            return text if text in self.words else self.number(text)
        except ValueError:
            *others, last = self.what, *self.words
            raise argparse.ArgumentTypeError(f"must be {', '.join(others)} or {last}, not {text!r}") from None


CELL = _Parser("%%ring_kernel", "Make a ring kernel of the last function in the cell, launch it and activate it.")
CELL.usage = "%(prog)s [KERNEL] [OPTION ...]"
CELL.add_argument("kernel_id", nargs="?", metavar="KERNEL", help="the function's name by default")
CELL.add_argument("--queue-size", type=int, metavar="N", help="messages that the mailbox holds (1024)")
CELL.add_argument(
    "--backpressure", choices=STRATEGIES, metavar="STRATEGY", help=f"when it is full: {', '.join(STRATEGIES)} (block)"
)
CELL.add_argument("--state", metavar="CLASS", help="makes ctx.state; of a step a class that inherits from Record")
CELL.add_argument("--input-type", metavar="CLASS", help="class of the messages that it takes")
CELL.add_argument("--output-type", metavar="CLASS", help="class of its replies")
CELL.add_argument("--restart", dest="afresh", action="store_true", help="start afresh now: new mailbox, new state")
_failures = CELL.add_argument_group("when it fails")
_failures.add_argument(
    "--policy", dest="restart", choices=get_args(When), metavar="WHEN", help="start it again: never, on_failure, always"
)
_failures.add_argument(
    "--max-restarts", type=int, metavar="N", help="restarts within the window; then it is FAILED (3)"
)
_failures.add_argument("--window", type=float, metavar="SECONDS", help="the window of that limit (60)")
_failures.add_argument("--max-retries", type=int, metavar="N", help="tries of the message in hand after the first (0)")
_failures.add_argument(
    "--backoff", metavar="SECONDS", help="before the second restart in the window, then ever longer; or a Backoff (0.1)"
)
_failures.add_argument(
    "--keep-state", action="store_true", default=None, help="a restart keeps ctx.state, or the state of a step"
)
_failures.add_argument("--on-restart", metavar="FUNCTION", help="called with a Restart before the new body begins")
_steps = CELL.add_argument_group("of a step, def step(state, msg, out)")
_steps.add_argument(
    "--backend", choices=BACKENDS, metavar="NAME", help=f"what runs it: {', '.join(BACKENDS)} (auto: the fastest here)"
)
_steps.add_argument("--instances", type=int, metavar="N", help="actors of this step, each with its own state (1)")
_steps.add_argument("--key", metavar="FIELD", help="field of the message that says for which of them it is")
_steps.add_argument(
    "--buffers",
    type=lambda text: text.split(","),
    metavar="NAME,...",
    help="variables that hold UnifiedBuffers, for further parameters of the same names",
)
_steps.add_argument(
    "--boundscheck", action="store_true", default=None, help="fail at an index out of bounds (needs --threads 1)"
)
_steps.add_argument(
    "--quantum",
    type=_NumberOr(float, "a number of seconds", "auto", "none"),
    metavar="SECONDS",
    help="how long it keeps a worker that others wait for, or stays on a GPU at a time; none: for good (auto)",
)
_steps.add_argument(
    "--threads", type=int, metavar="N", help="how many threads of a GPU share each message: 1, or a multiple of 32 (1)"
)
_steps.add_argument(
    "--device",
    type=_NumberOr(int, "the number of a GPU", "auto"),
    metavar="N",
    help="GPU to run on (auto: the least busy)",
)

_places = CELL.add_argument_group("where it runs, on a cluster")
_places.add_argument("--node", metavar="NAME", help="one of runtime.nodes")
_places.add_argument("--num-gpus", type=int, metavar="N", help="a node that offers so many GPUs, which are its own")
_places.add_argument(
    "--spread", action="store_true", default=None, help="the node with the fewest kernels; instances on all of them"
)
_places.add_argument(
    "--delivery",
    choices=PROMISES,
    metavar="PROMISE",
    help=f"of messages that are on a node which is lost: {', '.join(PROMISES)} (at_most_once)",
)

COMMANDS: dict[str, _Parser] = {}


def _command(name: str, what: str) -> _Parser:
    COMMANDS[name] = _Parser(f"%ring {name}", what)
    return COMMANDS[name]


def _some_kernels(command: _Parser) -> None:
    command.add_argument("kernel_ids", nargs="*", metavar="KERNEL")
    command.add_argument("--all", action="store_true", help="every kernel to which it applies")


_command("status", "a table of all kernels, or of those named").add_argument("kernel_ids", nargs="*", metavar="KERNEL")
_one = _command("send", "send it, or one instance of it (KERNEL[3]), the value of a Python expression")
_one.add_argument("kernel_id", metavar="KERNEL")
_one.usage = "%(prog)s KERNEL EXPRESSION"
_one = _command("ask", "the same, and return the reply (with loop='current': show it when it comes)")
_one.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="how long to wait for the reply")
_one.add_argument("kernel_id", metavar="KERNEL")
_one.usage = "%(prog)s [--timeout SECONDS] KERNEL EXPRESSION"
_some_kernels(_command("pause", "finish the message in hand and hand out no further one"))
_one = _command("step", "pause it and let it handle what is queued, N messages at most (1)")
_one.add_argument("kernel_id", metavar="KERNEL")
_one.add_argument("n", nargs="?", type=int, default=1, metavar="N")
_one.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for all of them (5)")
_command("queue", "a table of what is queued, in the order in which it will be handed out").add_argument(
    "kernel_id", metavar="KERNEL"
)
_command("peek", "return the message that will be handed out next").add_argument("kernel_id", metavar="KERNEL")
_some_kernels(_command("resume", "go on after a pause"))
_stop = _command("stop", "handle what is queued, and end")
_some_kernels(_stop)
_stop.add_argument("--no-drain", action="store_true", help="make dead letters of what is queued instead")
_stop.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="until the body is cancelled (5)")
_some_kernels(_command("restart", "end it and start its latest definition afresh, with a new mailbox and a new state"))
_command("health", "whether the runtime lives and its kernels do their work")
_command("letters", "a table of the dead letters of all kernels, or of one").add_argument(
    "kernel_id", nargs="?", metavar="KERNEL"
)
_one = _command("trace", "record what happens from now on, to all kernels or those named; --stop ends and returns it")
_one.add_argument("--stop", action="store_true", help="end the trace and return it: the notebook shows its picture")
_one.add_argument("--live", action="store_true", help="show it while it records")
_one.add_argument("kernel_ids", nargs="*", metavar="KERNEL")
_one = _command("record", "write messages and replies to the file PATH from now on, for replay; --stop ends that")
_one.add_argument("--overwrite", action="store_true", help="replace a file of that name")
_one.add_argument("--stop", action="store_true", help="end the recording")
_one.add_argument("path", nargs="?", metavar="PATH")
_one.add_argument("kernel_ids", nargs="*", metavar="KERNEL")
_one = _command("dashboard", "the live dashboard of all kernels, or of one")
_one.add_argument("--compact", action="store_true", help="in one line")
_one.add_argument("kernel_id", nargs="?", metavar="KERNEL")
_command("topology", "a live graph of who sends to whom")
_command("lifecycle", "the states of a kernel, live, and the way that it came").add_argument(
    "kernel_id", metavar="KERNEL"
)
_command("mailbox", "the queue of a kernel, live, to step through and to change").add_argument(
    "kernel_id", metavar="KERNEL"
)
_command("loop", "where the kernels run; with an argument, choose").add_argument(
    "mode", nargs="?", choices=("thread", "current")
)


def help_text() -> str:
    """What `%ring help` prints."""
    lines = []
    for parser in (*COMMANDS.values(), CELL):
        lines += [parser.form, f"    {parser.description}"]
    for group in CELL._action_groups[1:]:
        lines.append(f"    {group.title}:")
        for action in group._group_actions:
            written = f"{action.option_strings[0]} {action.metavar or ''}"
            lines.append(f"        {written:23} {action.help}")
    return "\n".join(lines)


def help_html() -> str:
    """The same, so that narrow pages break its lines between words."""
    lines = ""
    for line in help_text().splitlines():
        indent = len(line) - len(line.lstrip()) + 4
        lines += f"<div style='padding-left:{indent}ch;text-indent:-4ch'>{escape(line.lstrip())}</div>"
    font = "12px/1.5 var(--jp-code-font-family,monospace)"
    return f"<div style='font:{font};white-space:pre-wrap;word-break:normal;overflow-wrap:break-word'>{lines}</div>"


_RESTART_WITH_VALUE = re.compile(rf"--restart[\s=]+({'|'.join(get_args(When))})\b")
_INSTANCE = re.compile(r"(.+)\[(-?\d+)\]")
_HEAD = re.compile(
    r"""\s*(?:--[\w-]+(?:=|\s+)\S+\s+)*(?:"[^"]*"|'[^']*'|(?!--)\S+)""",
)
"""The options and the kernel of `%ring send` and `%ring ask`; the rest of the line is an expression of Python."""


@magics_class
class RingMagics(Magics):
    """The magics of one IPython shell."""

    @output_can_be_silenced
    @cell_magic
    def ring_kernel(self, line: str, cell: str) -> Any:
        """Run the cell, make a ring kernel of the last function that it defines, launch and activate it.

        %%ring_kernel [KERNEL_ID] [--queue-size N] [--backpressure STRATEGY] [--state CLASS] [--input-type CLASS]
        [--output-type CLASS] [--restart]

        what happens when it fails:

        [--policy WHEN] [--max-restarts N] [--window SECONDS] [--max-retries N] [--backoff SECONDS] [--keep-state]
        [--on-restart FUNCTION]

        and of a step, `def step(state, msg, out)`, which is compiled:

        [--backend NAME] [--instances N] [--key FIELD] [--buffers NAME,...] [--boundscheck] [--quantum SECONDS]
        [--threads N] [--device N]

        where it runs, on a cluster; where it ran before if nothing is said:

        [--node NAME] [--num-gpus N] [--spread] [--delivery PROMISE]

        A kernel that runs under that id gets the new body between two messages and keeps its mailbox and its state.
        An expression at the end is evaluated after that, and its value is shown, as in other cells.
        """
        __tracebackhide__ = True  # an error in the cell is shown from the cell on
        if policy := _RESTART_WITH_VALUE.search(line):
            CELL.error(f"--restart starts afresh; what happens at a failure is --policy {policy[1]}")
        options = CELL.read(line)
        namespace = self._shell.user_ns
        code, name, last = self._compiled(line, cell)
        runtime = notebook_runtime()
        versions = {kernel.id: kernel.version for kernel in runtime.kernels.values()}
        exec(code, namespace)
        function = namespace[name]
        with one_line_errors():
            given = {option: value for option, value in vars(options).items() if value is not None}
            given = {option: self._meant(option, value) for option, value in given.items()}
            afresh = given.pop("afresh")
            place = {option: given.pop(option) for option in _PLACES & given.keys()}
            if given.get("restart", "never") == "never" and (limits := given.keys() & _LIMITS):
                option = min(limits).replace("_", "-")
                raise UsageError(f"--{option} is for ring kernels that are started again: add --policy on_failure")
            if isinstance(function, RingKernelDefinition):
                if given.keys() - {"kernel_id"} or options.kernel_id not in (None, function.kernel_id):
                    raise UsageError("options are given twice: take off @ring_kernel or those of the magic")
                definition = function
            elif inspect.isfunction(function) and not _is_body(function):
                raise UsageError(
                    f"%%ring_kernel makes a ring kernel of the last function in the cell, but {name!r} is no "
                    f"`async def {name}(ctx)` and no `def {name}(state, msg, out)`: put the ring kernel last"
                )
            else:
                definition = definition_of(function, **given)
            namespace[name] = definition
            self._run(runtime, definition, versions.get(definition.kernel_id, 0) + 1, afresh, place)
        return None if last is None else eval(last, namespace)

    def _compiled(self, line: str, cell: str) -> tuple[CodeType, str, CodeType | None]:
        """The code of a cell, as the notebook compiles its cells, and the name of the last function that it defines.

        Apart from the code, the expression behind that function at the end of the cell, if there is one.
        """
        source = f"# %%ring_kernel {line}\n{cell}"  # the lines of tracebacks are then those of the cell
        number = _cell_number()
        compiler = self._shell.compile
        try:
            source = self._shell.transform_cell(source)  # type: ignore[no-untyped-call]
            filename = compiler.cache(source, number)
            tree = compiler.ast_parse(source, filename)
            assert isinstance(tree, ast.Module)
            last = None
            if tree.body and isinstance(end := tree.body[-1], ast.Expr):
                del tree.body[-1]
                last = compiler(ast.Expression(end.value), filename, "eval")  # type: ignore[arg-type]
            code = compiler(tree, filename, "exec")  # type: ignore[arg-type]
        except SyntaxError as error:
            told = "".join(traceback.format_exception_only(error)).partition("\n")[2].rstrip()
            if error.msg.endswith(("outside function", "outside async function")):
                told += "; %%ring_kernel cannot await: do that in a cell before this one"
            raise UsageError(f"Cell In[{number}], line {error.lineno}\n{told}") from None
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        if not names:
            raise UsageError(
                "%%ring_kernel needs a function in its cell: async def name(ctx): ... or def step(state, msg, out): ..."
            )
        return code, names[-1], last

    def _run(
        self,
        runtime: RingKernelRuntime,
        definition: RingKernelDefinition,
        version: int,
        afresh: bool,
        place: dict[str, Any],
    ) -> None:
        """Launch a definition, or let it take over from the former one."""
        name = definition.kernel_id
        kernel = runtime.kernels.get(name)
        where = place or ({} if kernel is None else kernel._where())
        if not where:
            _compile(definition)  # first: a step that cannot be compiled ends nothing
        if place and kernel is not None and not (kernel.state.over or afresh or _is_placed(kernel, place)):
            here = f"on {kernel.node}" if kernel.node else "in this process"
            raise UsageError(f"{name} runs {here}: to launch it anew, with what is given now, add --restart")

        def publish() -> None:
            if definitions().get(name) is not definition:  # else its decorator has done it
                with warnings.catch_warnings(record=True) as caught:  # a warning here would point into this file
                    define(definition)
                for warning in caught:
                    print(f"{warning.category.__name__}: {warning.message}", file=sys.stderr)  # noqa: T201

        def start(_: Any = None) -> None:
            publish()
            _launch(runtime, definition, name, where)

        if kernel is None or kernel.state.over:
            start()
        elif kernel.state is KernelState.TERMINATING:
            finish(runtime, runtime.wait_ended, name, then=start)
        elif afresh:
            finish(runtime, runtime.terminate, name, False, then=start)
        else:
            kernel._check_successor(definition)
            when = "after the message in hand" if kernel.busy else "now"
            state = "its state" if isinstance(definition, StepDefinition) else "ctx.state"
            kept = _messages(kernel.queue_depth)
            paused = "; still paused" if kernel.state is KernelState.DEACTIVATED else ""
            print(  # noqa: T201
                f"{name}: version {version} takes over {when}; {state} and {kept} in the mailbox kept{paused}"
            )
            publish()
            if kernel.state is KernelState.LAUNCHED:
                _activate(runtime, name)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def ring(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Look at the ring kernels of this notebook and steer them; `%ring help` lists the commands."""
        __tracebackhide__ = True  # an error in an expression is shown from the expression on
        name, rest = [*line.split(maxsplit=1), "", ""][:2]
        if name == "help":
            display({"text/plain": help_text(), "text/html": help_html()}, raw=True)  # type: ignore[no-untyped-call]
            return None
        if name not in ("", *COMMANDS):
            raise UsageError(f"no command {name!r}; `%ring help` lists them: {', '.join(COMMANDS)}")
        names = {**self._shell.user_ns, **(local_ns or {})}
        expression = ""
        if name in ("send", "ask") and (head := _HEAD.match(rest)):
            # Braces and dollars, which IPython replaces in magics, may be part of an expression.
            rest, expression = head[0], rest[head.end() :].strip()
        options = COMMANDS[name or "status"].read(_expanded(rest, names))
        if name in ("send", "ask"):
            options.message = self._value(expression, names, COMMANDS[name])
        with one_line_errors():
            command: Callable[[RingKernelRuntime, argparse.Namespace], Any] = getattr(self, f"_{name or 'status'}")
            return command(notebook_runtime(), options)

    def _status(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        named: list[RingKernel | RingKernelRuntime] = [runtime[kernel_id] for kernel_id in options.kernel_ids]
        for one in named or [runtime]:
            tables = {"text/plain": repr(one), "text/html": one._repr_html_()}  # of now: the live views are elsewhere
            display(tables, raw=True)  # type: ignore[no-untyped-call]

    def _send(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        kernel_id, instance = self._receiver(runtime, options.kernel_id)
        finish(runtime, runtime.send, kernel_id, options.message, instance)

    def _ask(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        kernel_id, instance = self._receiver(runtime, options.kernel_id)
        return finish(runtime, runtime.ask, kernel_id, options.message, options.timeout, instance, below=_show)

    def _pause(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, "pause", KernelState.ACTIVE):
            at_once(runtime, runtime.deactivate, kernel.id)
            print(f"{kernel.id} is paused with {_messages(kernel.queue_depth)} queued")  # noqa: T201

    def _resume(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, "resume", KernelState.DEACTIVATED):
            queued = _messages(kernel.queue_depth)
            at_once(runtime, runtime.reactivate, kernel.id)
            print(f"{kernel.id} goes on with {queued} queued")  # noqa: T201

    def _step(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        kernel = runtime[options.kernel_id]
        if options.n < 1:
            COMMANDS["step"].error(f"N must be at least 1, not {options.n}")

        failures = kernel.statistics().errors

        async def step() -> tuple[list[Any], int, Any]:
            handled: list[Any] = []
            if kernel.state is KernelState.ACTIVE:
                await runtime.deactivate(kernel.id)
            if kernel.state is KernelState.DEACTIVATED:
                await runtime.wait_paused(kernel.id, options.timeout)
            # With nothing queued it would wait for a message, which this notebook cannot send meanwhile.
            if (queued := kernel.queue_depth) or kernel.state is not KernelState.DEACTIVATED:
                handled = await runtime.step(kernel.id, max(min(options.n, queued), 1), options.timeout)
            return handled, kernel.queue_depth, kernel.peek()

        def then(done: tuple[list[Any], int, Any]) -> None:
            handled, queued, following = done
            for message in handled[:_LINES]:
                print(f"handled: {brief(message)}")  # noqa: T201
            if len(handled) > _LINES:
                print(f"handled: {_messages(len(handled) - _LINES)} more")  # noqa: T201
            if (failed := kernel.statistics().errors - failures) > 0:
                error = kernel.last_exception
                times = f" {failed} times, the last" if failed > 1 else ""
                print(f"it failed{times} with {type(error).__name__}: {error}")  # noqa: T201
            what = f"{_messages(queued)} queued, next: {brief(following)}" if queued else "nothing is queued"
            print(f"{kernel.id} is {STATE_WORDS[kernel.state]}; {what}")  # noqa: T201

        finish(runtime, step, then=then)

    def _queue(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        display(queue_bundle(runtime[options.kernel_id]), raw=True)  # type: ignore[no-untyped-call]

    def _peek(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        queued = runtime[options.kernel_id].queue()
        if not queued:
            print(f"{options.kernel_id} has nothing queued")  # noqa: T201
            return None
        return queued[0].message

    def _stop(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, "stop", *_RUNNING):
            self._terminate(runtime, kernel, not options.no_drain, options.timeout, lambda *_: None)

    def _restart(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        ended = (KernelState.TERMINATED, KernelState.FAILED)
        for kernel in self._chosen(runtime, options, "restart", *_RUNNING, *ended):
            if kernel.state.over:
                self._again(runtime, kernel)
            else:
                self._terminate(runtime, kernel, True, 5.0, self._again)

    def _terminate(
        self, runtime: RingKernelRuntime, kernel: RingKernel, drain: bool, timeout: float, after: Callable[..., None]
    ) -> None:
        before = kernel.statistics().dead_letters

        def then(_: Any) -> None:
            lost = kernel.statistics().dead_letters - before
            hint = f"; {lost:,} dead letter{'s' * (lost != 1)}, see runtime.dead_letters" if lost else ""
            print(f"{kernel.id} is {kernel.state.lower()}{hint}")  # noqa: T201
            after(runtime, kernel)

        finish(runtime, runtime.terminate, kernel.id, drain, timeout, then=then)

    def _again(self, runtime: RingKernelRuntime, kernel: RingKernel) -> None:
        # A kernel that had ended, or was busy until its end, has not taken a later definition over.
        latest = definitions().get(kernel.definition.kernel_id, kernel.definition)
        where = kernel._where()
        if not where:
            _compile(latest)
        _launch(runtime, latest, kernel.id, where)

    def _health(self, runtime: RingKernelRuntime, _: argparse.Namespace) -> None:
        display(runtime.health())  # type: ignore[no-untyped-call]

    def _letters(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        letters = runtime.dead_letters
        display(letters if options.kernel_id is None else letters.of(runtime[options.kernel_id].id))  # type: ignore[no-untyped-call]

    def _trace(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        global _trace
        if options.stop:
            if options.kernel_ids or options.live:
                COMMANDS["trace"].error("--stop ends the whole trace: name no kernel, and no --live")
            if _trace is None:
                raise UsageError("no trace is being recorded: `%ring trace` begins one")
            trace, _trace = _trace, None
            trace.stop()
            return trace
        if options.kernel_ids in (["stop"], ["start"]) and options.kernel_ids[0] not in runtime.kernels:
            COMMANDS["trace"].error("`%ring trace` begins a trace, `%ring trace --stop` ends it")
        kernels = _known(runtime, options.kernel_ids)
        if _trace is not None:
            print(f"the trace before is given up, with {len(_trace):,} events")  # noqa: T201
            _trace.stop()
        _trace = runtime.trace(kernels=kernels).start()
        what = ", ".join(kernels) if kernels else "all ring kernels"
        print(f"tracing {what}; %ring trace --stop ends it and shows it")  # noqa: T201
        if not options.live:
            return None
        from .widgets import sequence

        return sequence(_trace)

    def _record(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        global _recording
        parser = COMMANDS["record"]
        if options.stop:
            if options.path is not None or options.overwrite:
                parser.error("--stop ends the recording that runs: name no file")
            if _recording is None:
                raise UsageError("nothing is being recorded: `%ring record PATH` begins")
            recording, _recording = _recording, None
            recording.stop()
            print(f"{recording!r}"[1:-1])  # noqa: T201
            return
        if options.path is None:
            parser.error("name the file to write, or write --stop")
        if _recording is not None and _recording.recording:
            raise UsageError(f"{str(_recording.path)!r} is being recorded: `%ring record --stop` ends that first")
        kernels = _known(runtime, options.kernel_ids)
        if Path(options.path).exists() and not options.overwrite:
            parser.error(f"{options.path!r} is there already: choose another name, or write --overwrite")
        try:
            _recording = runtime.record(options.path, kernels=kernels, overwrite=options.overwrite).start()
        except OSError as error:
            raise UsageError(f"{options.path!r} cannot be written: {error.strerror}") from None
        print(f"recording to {options.path}; %ring record --stop ends it")  # noqa: T201

    def _dashboard(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        if options.compact and options.kernel_id is not None:
            COMMANDS["dashboard"].error("--compact is for all kernels: name none")
        embed = None if options.kernel_id is None else runtime[options.kernel_id]
        from .widgets import dashboard

        return dashboard(runtime, layout="compact" if options.compact else "full", embed=embed)

    def _topology(self, runtime: RingKernelRuntime, _: argparse.Namespace) -> Any:
        from .widgets import topology

        return topology(runtime)

    def _lifecycle(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        kernel = runtime[options.kernel_id]
        from .widgets import lifecycle

        return lifecycle(kernel)

    def _mailbox(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        kernel = runtime[options.kernel_id]
        from .widgets import mailbox

        return mailbox(kernel)

    def _loop(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        if options.mode is not None:
            runtime = choose_loop(options.mode)
        where = "on the notebook's own loop" if runtime.loop_mode == "current" else "on a loop in a thread of their own"
        print(f"ring kernels run {where} (loop={runtime.loop_mode!r})")  # noqa: T201

    def _chosen(
        self, runtime: RingKernelRuntime, options: argparse.Namespace, verb: str, *states: KernelState
    ) -> list[RingKernel]:
        """The kernels that a command names, or with --all those in one of these states."""
        if options.all:
            chosen = [kernel for kernel in runtime.kernels.values() if kernel.state in states]
            if not chosen:
                print(f"no ring kernel to {verb}")  # noqa: T201
            return chosen
        if not options.kernel_ids:
            COMMANDS[verb].error("name a kernel, or write --all")
        chosen = [runtime[kernel_id] for kernel_id in options.kernel_ids]
        for kernel in chosen:
            if kernel.state not in states:
                possible = " or ".join(written(step, kernel.id) for step in allowed(kernel.state))
                hint = f"possible now: {possible}" if possible else "wait until it has ended"
                raise KernelStateError(f"cannot {verb} {kernel.id!r}: it is {kernel.state}; {hint}")
        return chosen

    def _receiver(self, runtime: RingKernelRuntime, text: str) -> tuple[str, int | None]:
        """The id of a kernel that takes messages, and the instance that is meant: ``stats`` or ``stats[3]``.

        The runtime would raise the same errors, but with loop='current' after the cell.
        """
        kernel_id, instance = text, None
        if text not in runtime.kernels and (both := _INSTANCE.fullmatch(text)):
            kernel_id, instance = both[1], int(both[2])
        kernel = runtime[kernel_id]
        if kernel.state.over:
            raise kernel._unusable()
        return kernel_id, None if instance is None else kernel[instance].index

    @property
    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell

    def _value(self, expression: str, names: dict[str, Any], parser: _Parser) -> Any:
        """The value of what the user wrote, which is Python."""
        __tracebackhide__ = True
        if not expression:
            parser.error("an EXPRESSION is missing")
        filename = self._shell.compile.cache(expression, _cell_number())
        try:
            code = compile(expression, filename, "eval", dont_inherit=True)
        except SyntaxError as error:
            parser.error(f"{expression!r} is not an expression of Python ({error.msg})")
        return eval(code, names)

    def _meant(self, option: str, value: Any) -> Any:
        """The value of an option of the cell; some name what is in the namespace."""
        if option == "buffers":
            return {name: self._named(name) for name in value}
        if (option, value) == ("quantum", "none"):
            return None
        named = option in ("state", "input_type", "output_type", "backoff", "on_restart")
        return self._named(value) if named else value

    def _named(self, expression: str) -> Any:
        """The class, function, buffer or number that an option names."""
        try:
            return eval(expression, self._shell.user_ns)
        except Exception as error:  # noqa: BLE001 - it evaluates what the user wrote
            CELL.error(f"{expression!r}: {type(error).__name__}: {error}")


_RUNNING = (KernelState.LAUNCHED, KernelState.ACTIVE, KernelState.DEACTIVATED)
_LIMITS = OPTIONS.keys() - {"restart"}
_PLACES = {"node", "num_gpus", "spread", "delivery"}
_LINES = 20
"""How many of the messages that it handled `%ring step` shows."""

_trace: Trace | None = None
_recording: Recording | None = None
# What `%ring trace` and `%ring record` have begun: a shell that loads the extension again makes its magics anew.


def _is_body(function: Callable[..., Any]) -> bool:
    """Whether it looks like what a ring kernel is made of, and not like a helper."""
    waits = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    return waits or len(function.__code__.co_varnames[: function.__code__.co_argcount]) >= 3


def _compile(definition: RingKernelDefinition) -> None:
    """Compile a step here, so that launching it waits for nothing."""
    if isinstance(definition, StepDefinition):
        definition.build()


def _cell_number() -> int:
    cell = current_cell()
    return cell.number if cell is not None else 0


def _is_placed(kernel: RingKernel, place: dict[str, Any]) -> bool:
    """Whether a kernel was launched with these arguments."""
    placement = getattr(kernel, "placement", None)
    return placement is not None and all(getattr(placement, name) == value for name, value in place.items())


def _launch(
    runtime: RingKernelRuntime, definition: RingKernelDefinition, kernel_id: str, where: dict[str, Any]
) -> None:
    """Launch a definition and activate it; on a node of a cluster that may take its time."""
    launch = partial(runtime.launch, definition, kernel_id=kernel_id, **where)
    if where:
        finish(runtime, launch, then=lambda _: _activate(runtime, kernel_id))
    else:
        at_once(runtime, launch)
        _activate(runtime, kernel_id)


def _activate(runtime: RingKernelRuntime, kernel_id: str) -> None:
    print(f"{kernel_id} is active")  # noqa: T201 - said first: what the body prints at once would mix with it
    at_once(runtime, runtime.activate, kernel_id)


def _messages(n: int) -> str:
    return f"{n:,} message{'s' * (n != 1)}"


def _known(runtime: RingKernelRuntime, kernel_ids: list[str]) -> list[str] | None:
    """These ids, all of kernels that there are; None: none is named, which means all."""
    return [runtime[kernel_id].id for kernel_id in kernel_ids] or None


def _show(reply: Any) -> None:
    if reply is not None:
        display(reply)  # type: ignore[no-untyped-call]


def _expanded(text: str, names: dict[str, Any]) -> str:
    """Replace ``{name}`` and ``$name``, as IPython does in the lines of magics."""
    try:
        return str(DollarFormatter().vformat(text, [], names))
    except Exception:  # noqa: BLE001 - as IPython does it: what is no expression stays as it is
        return text


_MAGIC_LINE = re.compile(r"(?:.*=)?\s*(%ring|%%ring_kernel)\s+(.*)", re.DOTALL)


@context_matcher()  # type: ignore[untyped-decorator, unused-ignore]
def complete_ring(context: CompletionContext) -> SimpleMatcherResult:
    """Completions inside `%ring` and `%%ring_kernel` lines: commands, options, kernel ids."""
    line = _MAGIC_LINE.fullmatch(context.text_until_cursor)
    if line is None:
        return {"completions": []}
    magic, text = line.groups()
    before = text.split()
    word = "" if not text or text[-1].isspace() else before.pop()
    known = [text for text in _candidates(magic, before, text) if text.lstrip("'").startswith(word.lstrip("'\""))]
    found = [SimpleCompletion(text, type="magic") for text in known if text not in before]
    return {"completions": found, "suppress": bool(found), "matched_fragment": word}


def _candidates(magic: str, before: list[str], text: str) -> list[str]:
    """What may be written after these words of a line."""
    if magic == "%ring" and not before:
        return [*COMMANDS, "help"]
    parser = CELL if magic == "%%ring_kernel" else COMMANDS.get(before[0])
    if parser is None:
        return []
    if before[:1] in (["send"], ["ask"]):
        rest = text.split(maxsplit=1)[1:]
        if rest and (head := _HEAD.match(rest[0])) and head.end() < len(rest[0]):
            return []  # in the expression
    known: list[str] = []
    has_one = bool(_positional(parser, before if magic == "%%ring_kernel" else before[1:]))
    for action in parser._actions:
        if action.option_strings:
            if before[-1:] == action.option_strings and action.nargs != 0:
                words: tuple[str, ...] = getattr(action.type, "words", ())
                return list(action.choices or words)
            known += action.option_strings
        elif action.metavar == "KERNEL" and not (has_one and action.nargs in (None, "?")):
            known += map(shlex.quote, notebook_runtime().kernels)
        else:
            known += action.choices or ()
    return known


def _positional(parser: _Parser, words: list[str]) -> list[str]:
    """Those of these words that are neither options nor the values of options."""
    with_value = {text for action in parser._actions if action.nargs != 0 for text in action.option_strings}
    return [word for former, word in pairwise(["", *words]) if not word.startswith("-") and former not in with_value]


def load(shell: InteractiveShell) -> None:
    """Register the magics and the completer, and make the notebook's runtime."""
    shell.register_magics(RingMagics)
    if complete_ring not in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.append(complete_ring)
    reports.load(shell)
    rich.load(shell)
    interrupts.load()
    notebook_runtime()


def unload(shell: InteractiveShell) -> None:
    """Take the magics and the completer away; kernels go on."""
    shell.magics_manager.magics["cell"].pop("ring_kernel", None)
    shell.magics_manager.magics["line"].pop("ring", None)
    reports.unload(shell)
    rich.unload(shell)
    interrupts.unload()
    if complete_ring in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(complete_ring)
