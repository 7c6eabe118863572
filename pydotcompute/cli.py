"""The command ``pydotcompute``, also ``python -m pydotcompute``.

A command is a function that takes the parsed options and returns the exit code; `_parser` is where it gets its name and
its options. What it needs it imports when it runs.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
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
    compile_.add_argument("--arch", action="append", required=True, help="such as sm_90; may be given several times")
    compile_.add_argument("--ptx", metavar="FILE", type=Path, help="write the PTX there")
    compile_.add_argument("--cubin", metavar="FILE", type=Path, help="write the machine code there")
    compile_.set_defaults(command=_compile)

    doctor = commands.add_parser("doctor", help="say what runs here, what does not, and what would change that")
    doctor.add_argument("--json", action="store_true", help="the same for programs")
    doctor.set_defaults(command=_doctor)
    return parser


# -- compile -----------------------------------------------------------------------------------------------------------


def _compile(options: Namespace) -> int:
    if len(options.arch) > 1 and (options.ptx or options.cubin):
        raise CommandError("--ptx and --cubin write the code for one --arch: give only one")
    from .device.backend import only_to_compile
    from .device.cuda_compiler import compiler_missing

    if missing := compiler_missing():
        raise CommandError(missing)
    with only_to_compile():
        definition = step_named(options.step)
    from .device.cuda import compiled

    rows = []
    for arch in options.arch:
        began = perf_counter()
        binary = compiled(definition, arch)
        seconds = perf_counter() - began
        rows.append((arch, binary.registers, binary.spilled, binary.shared, binary.local, f"{seconds:.2f}"))
    if options.ptx:
        _write(options.ptx, binary.ptx.encode())
    if options.cubin:
        _write(options.cubin, binary.cubin)
    print(table(("arch", "registers", "spilled bytes", "shared bytes", "local bytes", "seconds"), rows))
    return 0


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from None


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines of columns under their titles: the first, a name, to the left, the others, numbers, to the right."""
    lines = [titles, *([str(cell) for cell in row] for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in lines
    )


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
        try:
            return import_module(where)
        except ModuleNotFoundError as error:
            if not f"{where}.".startswith(f"{error.name}."):  # it is there, and something that it imports is not
                raise
            raise CommandError(
                f"there is no module {where}: write its name as in `import`, or path/to/file.py"
            ) from None
    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise CommandError(f"there is no file {where}")
    sys.path.insert(0, str(path.parent))  # as with `python file.py`
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- doctor ------------------------------------------------------------------------------------------------------------


def _doctor(options: Namespace) -> int:
    """The exit code is 0 where compiled ring kernels run, and 1 where none do."""
    try:
        from .device.doctor import doctor
    except ImportError as error:  # NumPy and msgpack are all that it needs
        raise CommandError(f"{error}: `pip install --force-reinstall 'numpy>=2' msgpack`") from None
    found = doctor()
    print(json.dumps(found.as_dict(), indent=2) if options.json else found)
    return 0 if found.healthy else 1
