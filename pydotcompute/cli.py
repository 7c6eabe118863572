"""The command ``pydotcompute``, also ``python -m pydotcompute``.

A command is a function that takes the parsed options and returns the exit code; `_parser` is where it gets its name and
its options. What it needs it imports when it runs.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from sysconfig import get_paths
from time import perf_counter
from traceback import walk_tb
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
        from .device.text import for_a_terminal

        print(f"pydotcompute {options.name}: {for_a_terminal(str(error))}", file=sys.stderr)
        return 1


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="pydotcompute", description="Ring kernels: actors that stay alive, on CPU and GPU.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    compile_ = commands.add_parser(
        "compile",
        help="compile the step of a ring kernel for a GPU; none is needed",
        description="Compile the step of a ring kernel for a GPU; none is needed. The module or file is imported: "
        "guard what it runs as a script with `if __name__ == '__main__':`.",
    )
    compile_.add_argument("step", metavar="STEP", help="module:name or path/to/file.py:name")
    compile_.add_argument(
        "--arch", type=_arch, action="append", required=True, help="such as sm_90; may be given several times"
    )
    compile_.add_argument("--ptx", metavar="FILE", type=Path, help="write the PTX there")
    compile_.add_argument("--cubin", metavar="FILE", type=Path, help="write the machine code there")
    compile_.set_defaults(command=_compile)

    doctor = commands.add_parser("doctor", help="say what runs here, what does not, and what would change that")
    doctor.add_argument("--json", action="store_true", help="the same for programs")
    doctor.set_defaults(command=_doctor)
    return parser


# -- compile -----------------------------------------------------------------------------------------------------------


def _arch(text: str) -> str:
    if re.fullmatch(r"sm_\w+", text):
        return text
    if len(several := [f"--arch {part}" for part in re.split(r"[\s,;]+", text) if part]) > 1:
        raise ArgumentTypeError(f"{text!r}: give it several times, {' '.join(several)}")
    number = "".join(re.findall(r"\d", text))
    raise ArgumentTypeError(f"{text!r} is no architecture: write sm_{number or 90}")


def _compile(options: Namespace) -> int:
    if len(options.arch) > 1 and (options.ptx or options.cubin):
        raise CommandError("--ptx and --cubin write the code for one --arch: give only one")
    from .device.backend import only_to_compile

    with only_to_compile():
        definition = step_named(options.step)
    from .device import cuda_compiler

    if missing := cuda_compiler.compiler_missing():
        raise CommandError(missing)
    from .device.cuda import hands, program_source

    source, namespace = program_source(definition)
    rows = []
    for arch in options.arch:
        kept = cuda_compiler.is_kept(definition, source, namespace, arch)
        began = perf_counter()
        binary = cuda_compiler.compiled(definition, source, namespace, arch)
        seconds = "kept" if kept else f"{perf_counter() - began:.2f}"
        rows.append((arch, binary.registers, binary.spilled, binary.shared, binary.local, seconds))
    if options.ptx:
        _write(options.ptx, binary.ptx.encode())
    if options.cubin:
        _write(options.cubin, binary.cubin)
    print(
        f"{definition.body.__name__!r} with its loop, {hands(definition)} threads a block: "
        "registers, spilled and local bytes a thread, shared bytes a block"
    )
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
    if path.suffix == ".ipynb":
        raise CommandError("notebooks cannot be read: use a .py file, with the step and the classes of its messages")
    if path.suffix != ".py":
        sys.path.insert(0, "")  # as with `python -m`
        try:
            with _faults_told(where):
                return import_module(where)
        except ModuleNotFoundError:
            raise CommandError(
                f"there is no module {where}: write its name as in `import`, or path/to/file.py"
            ) from None
    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise CommandError(f"there is no file {where}")
    sys.path.insert(0, str(path.parent))  # as with `python file.py`
    module = sys.modules[path.stem] = module_from_spec(spec)
    with _faults_told(where):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _faults_told(where: str) -> Iterator[None]:
    """An error of the code that is imported becomes one line, with the last line of the user's on the way to it.

    Passed on are errors of ring kernels, which say where they are, and that there is no module `where`.
    """
    try:
        yield
    except PyDotComputeError:
        raise
    except SystemExit as ended:
        raise CommandError(
            f"{where} ends the process with {ended.code!r} when it is imported: guard what it runs as a script with "
            "`if __name__ == '__main__':`"
        ) from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            raise
        places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
        text = str(error)
        if isinstance(error, SyntaxError) and error.filename:
            places, text = [*places, (error.filename, error.lineno or 1)], error.msg
        paths = get_paths()
        not_theirs = (str(Path(__file__).parent), "<", *(paths[key] for key in ("stdlib", "purelib", "platlib")))
        file, line = next((place for place in reversed(places) if not place[0].startswith(not_theirs)), places[-1])
        raise CommandError(f"{Path(file).name}, line {line}: {type(error).__name__}: {text}") from None


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
