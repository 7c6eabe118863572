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
    from .runtime import RingKernelDefinition, StepDefinition
    from .runtime.recording import Log, RecordedKernel
    from .runtime.replay import Replay


class CommandError(Exception):
    """What was asked cannot be done; the text says why, in a line for the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `arguments` are those of the process by default. The exit code: 0, or that of a failure."""
    options = _parser().parse_args(arguments)
    command: Callable[[Namespace], int] = options.command
    try:
        return command(options)
    except (CommandError, PyDotComputeError) as error:
        from .device.text import for_a_terminal

        print(f"pydotcompute {options.name}: {for_a_terminal(str(error))}", file=sys.stderr)
        failure: int = options.failure
        return failure


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="pydotcompute", description="Ring kernels: actors that stay alive, on CPU and GPU.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(failure=1)
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

    replay = commands.add_parser(
        "replay",
        help="send the messages of a recording again, and compare the replies with those recorded",
        description="Launch the ring kernels of a recording afresh, send them its messages again, and say where "
        "replies differ from those recorded. The modules of the kernels are imported: guard what they run as scripts "
        "with `if __name__ == '__main__':`.",
    )
    replay.add_argument("log", metavar="LOG", help="a file that runtime.record() has written")
    replay.add_argument(
        "--check", action="store_true", help="exit with 1 if anything differs; an error exits with 2 in any case"
    )
    replay.add_argument(
        "--actors",
        metavar="FILE_OR_MODULE",
        help="where the ring kernels are defined, with the classes of their messages; by default where they were then",
    )
    replay.add_argument(
        "--kernel",
        metavar="ID",
        action="append",
        help="replay this ring kernel alone, with what others had sent it; may be given several times",
    )
    replay.add_argument(
        "--ignore", metavar="FIELD", action="append", default=[], help="a field of replies that is not compared"
    )
    replay.add_argument(
        "--speed",
        metavar="X",
        type=float,
        help="1 is the recorded rhythm; by default as fast as can be",
    )
    replay.set_defaults(command=_replay, failure=2)

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


# -- replay ------------------------------------------------------------------------------------------------------------


def _replay(options: Namespace) -> int:
    """The exit code is 0, or with --check 1 if anything differs."""
    import asyncio

    from .runtime import RingKernelRuntime
    from .runtime.recording import read_log

    try:
        log = read_log(options.log)
    except OSError as error:
        raise CommandError(f"cannot read {options.log}: {error.strerror}") from None
    if options.speed is not None and not 0 < options.speed < float("inf"):
        raise CommandError(f"--speed must be a number above 0, not {options.speed:g}")
    kernels = _recorded_kernels(log, options.actors, options.kernel)

    async def run() -> Replay:
        async with RingKernelRuntime(loop="current") as runtime:
            for kernel_id, definition in kernels.items():
                await runtime.launch(definition, kernel_id=kernel_id)
            for source, target in sorted(log.links):
                if source in kernels and target in kernels:
                    await runtime.connect(source, target)
            for kernel_id in kernels:
                await runtime.activate(kernel_id)
            return await runtime.replay(options.log, speed=options.speed, kernels=options.kernel, ignore=options.ignore)

    replayed = asyncio.run(run())
    print(replayed)
    return 1 if options.check and not replayed else 0


def _recorded_kernels(log: Log, actors: str | None, wanted: list[str] | None) -> dict[str, RingKernelDefinition]:
    """The definitions of the kernels of a recording, by their ids; those that cannot be found may be left out.

    Raises:
        CommandError: one that is wanted, by default each, cannot be found.
    """
    from .messages.codec import also_from
    from .messages.message import is_message_type
    from .runtime import definitions

    found: dict[str, RingKernelDefinition] = {}
    homes: dict[tuple[str, str | None], ModuleType] = {}
    module = None if actors is None else _module(actors)
    for kernel_id, kernel in log.kernels.items():
        key = kernel.module, kernel.file
        try:
            if key not in homes:
                homes[key] = module or _home_of(kernel)
            if kernel.definition_id not in definitions():
                raise CommandError(
                    f"{actors or homes[key].__name__} defines no ring kernel {kernel.definition_id!r}: pass --actors "
                    "FILE.py with a file that does"
                )
        except CommandError:
            if wanted is None or kernel_id in wanted:
                raise
            continue
        found[kernel_id] = definitions()[kernel.definition_id]
    for (name, _), home in homes.items():
        for value in vars(home).values():
            if is_message_type(value) and home.__name__ != name:
                also_from(value, name)
    return found


def _home_of(kernel: RecordedKernel) -> ModuleType:
    """The module where a kernel was defined when it was recorded."""
    if kernel.module != "__main__":
        try:
            return _module(kernel.module)
        except CommandError:
            if kernel.file is None or not Path(kernel.file).is_file():
                raise
    if kernel.file is None:
        raise CommandError(
            f"{kernel.kernel_id!r} was defined in a notebook ({kernel.origin}): pass --actors FILE.py with a file that "
            "defines it and the classes of its messages"
        )
    return _module(kernel.file)


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
