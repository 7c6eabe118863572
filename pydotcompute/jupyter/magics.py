"""`%%ring_kernel` and `%ring`."""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import display

from ..exceptions import PyDotComputeError
from ..runtime import KernelState, RingKernel, RingKernelDefinition, RingKernelRuntime, define, definitions
from ..runtime.mailbox import STRATEGIES
from .notebook import at_once, choose_loop, finish, notebook_runtime


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def _parser(prog: str, description: str) -> _Parser:
    return _Parser(prog=prog, description=description, add_help=False, allow_abbrev=False, formatter_class=_one_line)


def _one_line(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=1000)


CELL = _parser("%%ring_kernel", "Define the last function of the cell as a ring kernel, launch it and activate it.")
CELL.add_argument("kernel_id", nargs="?", help="the function's name by default")
CELL.add_argument("--queue-size", type=int, metavar="N", help="messages that the mailbox holds (1024)")
CELL.add_argument("--backpressure", choices=STRATEGIES, help="what happens when it is full (block)")
CELL.add_argument("--state", metavar="CLASS", help="makes ctx.state")
CELL.add_argument("--input-type", metavar="CLASS", help="class of the messages that it takes")
CELL.add_argument("--output-type", metavar="CLASS", help="class of its replies")
CELL.add_argument("--restart", action="store_true", help="start afresh: new mailbox, new ctx.state")

LINE = _parser("%ring", "Look at the ring kernels of this notebook and steer them.")
_COMMANDS = LINE.add_subparsers(dest="command", parser_class=_Parser, metavar="COMMAND")


def _command(name: str, what: str) -> argparse.ArgumentParser:
    return _COMMANDS.add_parser(
        name, help=what, description=what, prog=f"%ring {name}", add_help=False, formatter_class=_one_line
    )


def _some_kernels(command: argparse.ArgumentParser) -> None:
    command.add_argument("kernel_ids", nargs="*", metavar="KERNEL")
    command.add_argument("--all", action="store_true", help="every kernel to which it applies")


_command("status", "a table of all kernels, or of those named").add_argument("kernel_ids", nargs="*", metavar="KERNEL")
for _name, _what in (("send", "send it the value of an expression"), ("ask", "the same, and return the reply")):
    _one = _command(_name, _what)
    _one.add_argument("kernel_id", metavar="KERNEL")
    _one.usage = f"%ring {_name} KERNEL EXPRESSION"
    if _name == "ask":
        _one.usage = "%ring ask [--timeout SECONDS] KERNEL EXPRESSION"
        _one.add_argument("--timeout", type=float, metavar="SECONDS", help="how long to wait for the reply")
_some_kernels(_command("pause", "finish the message in hand and hand out no further one"))
_some_kernels(_command("resume", "go on after a pause"))
_stop = _command("stop", "handle what is queued, and end")
_some_kernels(_stop)
_stop.add_argument("--no-drain", action="store_true", help="make dead letters of what is queued instead")
_stop.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="until the body is cancelled (5)")
_some_kernels(_command("restart", "end it and start its latest definition afresh"))
_command("dashboard", "the live dashboard")
_command("loop", "where the kernels run; with an argument, choose").add_argument(
    "mode", nargs="?", choices=("thread", "current")
)
COMMANDS: dict[str, argparse.ArgumentParser] = dict(_COMMANDS.choices)


def help_text() -> str:
    """What `%ring help` prints."""
    lines = []
    for command in COMMANDS.values():
        lines += [f"  {_usage(command)}", f"      {command.description}"]
    return "\n".join([*lines, "", f"  {_usage(CELL)}", f"      {CELL.description}"])


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").strip()


_SENDING = re.compile(r"\s*((?:send|ask)\s+(?:--\S+\s+\S+\s+)*\S+)(.*)", re.DOTALL)


@magics_class
class RingMagics(Magics):
    """The magics of one IPython shell."""

    @cell_magic
    def ring_kernel(self, line: str, cell: str) -> None:
        """Run the cell, make a ring kernel of the last function that it defines, launch and activate it.

        %%ring_kernel [KERNEL_ID] [--queue-size N] [--backpressure STRATEGY] [--state CLASS] [--input-type CLASS]
        [--output-type CLASS] [--restart]

        A kernel that runs under that id gets the new body between two messages and keeps its mailbox and ctx.state.
        """
        __tracebackhide__ = True  # an error in the cell is shown from the cell on
        options = CELL.parse_args(shlex.split(line))
        namespace = self._shell.user_ns
        # Compiled under the cell's own name, one line down because of the magic: tracebacks find the source.
        source = "\n" + cell
        filename = self._shell.compile.cache(source, self._shell.execution_count)
        try:
            tree = ast.parse(source, filename)
        except SyntaxError as error:
            where = f"Cell In[{self._shell.execution_count}], line {error.lineno}"
            told = "".join(traceback.format_exception_only(error)).partition("\n")[2].rstrip()
            raise UsageError(f"{where}\n{told}") from None
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        if not names:
            raise UsageError("%%ring_kernel needs a function in its cell: async def name(ctx): ...")
        exec(compile(tree, filename, "exec"), namespace)
        function = namespace[names[-1]]
        with _plain_errors():
            given = {
                "queue_size": options.queue_size,
                "backpressure": options.backpressure,
                "state": self._value(options.state),
                "input_type": self._value(options.input_type),
                "output_type": self._value(options.output_type),
            }
            given = {name: value for name, value in given.items() if value is not None}
            runtime = notebook_runtime()
            if isinstance(function, RingKernelDefinition):
                if given or options.kernel_id not in (None, function.kernel_id):
                    raise UsageError("options are given twice: take off @ring_kernel or those of the magic")
                definition = function
            else:
                definition = RingKernelDefinition(function, kernel_id=options.kernel_id, scope=None, **given)
            namespace[names[-1]] = definition
            self._run(runtime, definition, options.restart)

    def _run(self, runtime: RingKernelRuntime, definition: RingKernelDefinition, restart: bool) -> None:
        """Launch a definition, or let it take over from the former one."""
        name = definition.kernel_id
        kernel = runtime.kernels.get(name)
        running = kernel is not None and not kernel.state.over
        if definitions().get(name) is not definition:  # else its decorator has done it
            define(definition)
        if kernel is not None and running and not restart:
            version = kernel.version + (kernel.definition is not definition)
            when = "after the message in hand" if kernel.busy else "now"
            kept = _messages(kernel.queue_depth)
            print(f"{name}: version {version} takes over {when}; ctx.state and {kept} in the mailbox kept")  # noqa: T201
            return

        def start(_: Any = None) -> None:
            at_once(runtime, runtime.launch, definition)
            at_once(runtime, runtime.activate, name)
            print(f"{name} is active")  # noqa: T201

        if running:
            finish(runtime, runtime.terminate, name, False, then=start)
        else:
            start()

    @line_magic
    def ring(self, line: str) -> Any:
        """Look at the ring kernels of this notebook and steer them; `%ring help` lists the commands."""
        words = line.split(maxsplit=1)
        if words and words[0] == "help":
            print(help_text())  # noqa: T201
            return None
        if words and words[0] not in COMMANDS:
            raise UsageError(f"no command {words[0]!r}; `%ring help` lists them: {', '.join(COMMANDS)}")
        # What is sent is an expression of Python: all that follows the kernel's id, with its quotes.
        sending = _SENDING.match(line)
        options = LINE.parse_args(shlex.split(sending[1] if sending else line) or ["status"])
        options.expression = sending[2].strip() if sending else ""
        with _plain_errors():
            command: Callable[[RingKernelRuntime, argparse.Namespace], Any] = getattr(self, f"_{options.command}")
            return command(notebook_runtime(), options)

    def _status(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        if not options.kernel_ids:
            display(runtime)  # type: ignore[no-untyped-call]
        for kernel_id in options.kernel_ids:
            display(runtime[kernel_id])  # type: ignore[no-untyped-call]

    def _message(self, options: argparse.Namespace) -> Any:
        if not options.expression:
            raise UsageError(f"what shall be sent? {_usage(COMMANDS[options.command])}")
        return self._value(options.expression)

    def _send(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        finish(runtime, runtime.send, options.kernel_id, self._message(options))

    def _ask(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> Any:
        message = self._message(options)
        return finish(runtime, runtime.ask, options.kernel_id, message, options.timeout, below=display)

    def _pause(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, KernelState.ACTIVE):
            at_once(runtime, runtime.deactivate, kernel.id)
            print(f"{kernel.id} is paused with {_messages(kernel.queue_depth)} queued")  # noqa: T201

    def _resume(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, KernelState.DEACTIVATED):
            queued = _messages(kernel.queue_depth)
            at_once(runtime, runtime.reactivate, kernel.id)
            print(f"{kernel.id} goes on with {queued} queued")  # noqa: T201

    def _stop(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, *_RUNNING):
            self._terminate(runtime, kernel, not options.no_drain, options.timeout, lambda *_: None)

    def _restart(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        for kernel in self._chosen(runtime, options, *_RUNNING, KernelState.TERMINATED, KernelState.FAILED):
            if kernel.state.over:
                self._again(runtime, kernel)
            else:
                self._terminate(runtime, kernel, True, 5.0, self._again)

    def _terminate(
        self, runtime: RingKernelRuntime, kernel: RingKernel, drain: bool, timeout: float, after: Callable[..., None]
    ) -> None:
        def then(_: Any) -> None:
            print(f"{kernel.id} is {kernel.state.lower()}")  # noqa: T201
            after(runtime, kernel)

        finish(runtime, runtime.terminate, kernel.id, drain, timeout, then=then)

    def _again(self, runtime: RingKernelRuntime, kernel: RingKernel) -> None:
        at_once(runtime, lambda: runtime.launch(kernel.definition, kernel_id=kernel.id))
        at_once(runtime, runtime.activate, kernel.id)
        print(f"{kernel.id} is active")  # noqa: T201

    def _dashboard(self, runtime: RingKernelRuntime, _: argparse.Namespace) -> Any:
        from .widgets import dashboard

        return dashboard(runtime)

    def _loop(self, runtime: RingKernelRuntime, options: argparse.Namespace) -> None:
        if options.mode is not None:
            runtime = choose_loop(options.mode)
        where = "on the notebook's own loop" if runtime.loop_mode == "current" else "on a loop in a thread of their own"
        print(f"ring kernels run {where} (loop={runtime.loop_mode!r})")  # noqa: T201

    def _chosen(
        self, runtime: RingKernelRuntime, options: argparse.Namespace, *states: KernelState
    ) -> list[RingKernel]:
        """The kernels that a command names, or with --all those in one of these states."""
        if options.all:
            return [kernel for kernel in runtime.kernels.values() if kernel.state in states]
        if not options.kernel_ids:
            raise UsageError(f"name a kernel, or --all: {_usage(COMMANDS[options.command])}")
        return [runtime[kernel_id] for kernel_id in options.kernel_ids]

    @property
    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell

    def _value(self, expression: str | None) -> Any:
        return None if expression is None else eval(expression, self._shell.user_ns)


_RUNNING = (KernelState.LAUNCHED, KernelState.ACTIVE, KernelState.DEACTIVATED)


def _messages(n: int) -> str:
    return f"{n:,} message{'s' * (n != 1)}"


class _plain_errors:  # noqa: N801 - used like a function
    """Errors of the package say what to do: show them without the frames of the magic."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, PyDotComputeError):
            raise UsageError(f"{type(error).__name__}: {error}") from error.__cause__


class CrashReport(logging.Handler):
    """Shows why a kernel failed the way that the notebook shows errors, below the cell that defines the kernel.

    The runtime logs a crash in the context of that cell, so that `sys.stderr` leads there.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(logging.WARNING)
        self._shell = shell

    def emit(self, record: logging.LogRecord) -> None:
        lines = [record.getMessage()]
        if record.exc_info and record.exc_info[1] is not None:
            lines += self._shell.InteractiveTB.structured_traceback(*record.exc_info, tb_offset=0)
        print("\n".join(lines), file=sys.stderr)  # noqa: T201


log = logging.getLogger("pydotcompute")


@context_matcher()  # type: ignore[untyped-decorator, unused-ignore]
def complete_ring(context: CompletionContext) -> SimpleMatcherResult:
    """Completions inside `%ring` and `%%ring_kernel` lines: commands, options, kernel ids."""
    line = context.text_until_cursor
    words = line.split()
    found: list[str] = []
    if words and words[0] in ("%ring", "%%ring_kernel"):
        before = words if line[-1:].isspace() else words[:-1]
        if words[0] == "%%ring_kernel":
            known = [*_option_strings(CELL), *notebook_runtime().kernels]
            if before[-1:] == ["--backpressure"]:
                known = list(STRATEGIES)
        elif len(before) == 1:
            known = [*COMMANDS, "help"]
        elif len(before) >= 2 and before[1] in COMMANDS:
            known = _option_strings(COMMANDS[before[1]])
            if before[1] == "loop":
                known += ["thread", "current"]
            elif before[1] != "dashboard" and not (before[1] in ("send", "ask") and len(before) > 2):
                known += notebook_runtime().kernels
        else:
            known = []
        found = [word for word in known if word.startswith(context.token) and word not in before]
    return {"completions": [SimpleCompletion(word, type="magic") for word in found], "suppress": bool(found)}


def _option_strings(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def load(shell: InteractiveShell) -> None:
    """Register the magics and the completer, and make the notebook's runtime."""
    shell.register_magics(RingMagics)
    if complete_ring not in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.append(complete_ring)
    if not any(isinstance(handler, CrashReport) for handler in log.handlers):
        log.addHandler(CrashReport(shell))
    notebook_runtime()


def unload(shell: InteractiveShell) -> None:
    """Take the magics and the completer away; kernels go on."""
    shell.magics_manager.magics["cell"].pop("ring_kernel", None)
    shell.magics_manager.magics["line"].pop("ring", None)
    for handler in [handler for handler in log.handlers if isinstance(handler, CrashReport)]:
        log.removeHandler(handler)
    if complete_ring in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(complete_ring)
