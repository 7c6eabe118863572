"""The command ``pydotcompute``, also ``python -m pydotcompute``.

A command is a function that takes the parsed options and returns the exit code; `_parser` is where it gets its name and
its options. What it needs it imports when it runs.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from . import __version__
from .exceptions import PyDotComputeError

if TYPE_CHECKING:
    from .runtime import StepDefinition


class CommandError(Exception):
    """What was asked cannot be done; the text says why, in a line for the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `arguments` are those of the process by default. The exit code: 0, or 1 for a failure."""
    options = _parser().parse_args(arguments)
    command: Callable[[Namespace], int] = options.command
    try:
        return command(options)
    except (CommandError, PyDotComputeError) as error:
        print(f"pydotcompute {options.name}: {error}", file=sys.stderr)
        return 1


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="pydotcompute", description="Ring kernels: actors that stay alive, on CPU and GPU.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    compile_ = commands.add_parser("compile", help="compile the step of a ring kernel for a GPU; none is needed")
    compile_.add_argument("step", metavar="STEP", help="module:name or path/to/file.py:name")
    compile_.set_defaults(command=_compile)
    return parser


# -- compile -----------------------------------------------------------------------------------------------------------


def _compile(options: Namespace) -> int:
    definition = step_named(options.step)
    definition.build()
    return 0


def step_named(text: str) -> StepDefinition:
    """The compiled ring kernel of a ``module:name`` or a ``path/to/file.py:name``.

    Raises:
        CommandError: there is none.
    """
    from .runtime import RingKernelDefinition, StepDefinition

    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise CommandError(f"{text!r} is no step: write module:name or path/to/file.py:name")
    found = _module(where)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{where} has no {part!r}: check the spelling") from None
    if isinstance(found, StepDefinition):
        return found
    if isinstance(found, RingKernelDefinition):
        raise CommandError(f"{name!r} is an async ring kernel, which is not compiled: a step is a plain `def`")
    raise CommandError(f"{name!r} is no ring kernel: put @ring_kernel above the function")


def _module(where: str) -> ModuleType:
    """The module of that name, or the file at that path, run."""
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, "")  # as with `python -m`
        return import_module(where)
    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise CommandError(f"there is no file {where}")
    sys.path.insert(0, str(path.parent))  # as with `python file.py`
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
