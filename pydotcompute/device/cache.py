"""Compiled steps on disk: a step that is known starts at once, also in another process.

A step is known by its **fingerprint**, a hash of all that its machine code depends on. What was compiled for it lies in
a directory of that name, below ``$PYDOTCOMPUTE_CACHE_DIR`` or the platform's directory for such things. Numba writes
the files; the **seal** beside them, a hash of their contents, tells whether they are whole: loading machine code that
is damaged would end the process.
"""

from __future__ import annotations

import dis
import logging
import os
import platform
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodDescriptorType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

import numpy as np

from ..messages.record import layout

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition

log = logging.getLogger("pydotcompute")

LIMIT = 500
"""Steps that are kept on disk, each about 100 KB; those that were used last stay."""

# -- what a step is known by -------------------------------------------------------------------------------------------


def fingerprint(definition: StepDefinition, *extra: object) -> str | None:
    """A text of 32 characters that is another one whenever the compiled step could be: a file name.

    It depends on the step's bytecode and constants, on the values of what it reads from outside (numbers, arrays, the
    functions it calls and what these read), on the layouts of state, messages, replies and buffers, on `key` and
    `boundscheck`, on the processor and on the versions of all that take part; and on `extra`, what else the code is
    made from. Names of files and numbers of lines are no part of it. None: it reads a thing whose value has no hash.
    """
    layouts = [
        cls and layout(cls).dtype for cls in (definition.state_type, definition.message_type, definition.reply_type)
    ]
    buffers = [(name, buffer.dtype, buffer.shape) for name, buffer in definition.buffers.items()]
    parts = (*layouts, *buffers, definition.key, definition.boundscheck, definition.body, extra)
    try:
        return _hash(*_environment(), *_described(parts, []))
    except _UnknownValueError:
        return None


def fingerprint_of(*parts: object) -> str:
    """The same for code that is no step: it depends on what `repr` gives of these, and on the environment."""
    return _hash(*_environment(), *parts)


class _UnknownValueError(Exception):
    """A value that nothing is known to be equal to."""


_PLAIN = (NoneType, EllipsisType, bool, int, float, complex, str, bytes)
VERSIONED = {"builtins", "cmath", "llvmlite", "math", "numba", "numpy", "operator", "pydotcompute"}
"""Packages whose contents follow from the versions that `_environment` lists: a name says it all."""


def _described(value: Any, seen: list[Any]) -> Iterator[object]:
    """What makes a value another one for the compiler; `seen` are the functions that were described before."""
    kind = type(value)
    if kind in _PLAIN:
        yield repr(value)
    elif isinstance(value, np.dtype):
        yield _layout_text(value)
    elif isinstance(value, np.generic | np.ndarray):
        yield "array", _layout_text(value.dtype), value.shape, value.flags.c_contiguous, value.flags.f_contiguous
        if value.dtype.hasobject:
            raise _UnknownValueError
        yield value.tobytes()
    elif isinstance(value, tuple | list):
        yield kind.__qualname__, len(value)
        for item in value:
            yield from _described(item, seen)
    elif isinstance(value, frozenset):
        yield "frozenset", sorted(tuple(map(str, _described(item, seen))) for item in value)
    elif isinstance(value, ModuleType):
        yield "module", value.__name__
    elif (getattr(value, "__module__", None) or "").partition(".")[0] in VERSIONED and hasattr(value, "__qualname__"):
        yield value.__module__, value.__qualname__
    elif isinstance(value, Enum):
        yield kind.__qualname__, value.name
        yield from _described(value.value, seen)
    elif isinstance(value, type):
        yield value.__module__, value.__qualname__
        for member in value if issubclass(value, Enum) else ():
            yield from _described(member, seen)
    elif isinstance(value, np.ufunc | BuiltinFunctionType | MethodDescriptorType):
        yield repr(value)
    elif isinstance(function := getattr(value, "py_func", value), FunctionType):
        yield "fastmath", repr(getattr(value, "targetoptions", {}).get("fastmath"))
        yield from _function(function, seen)
    else:
        raise _UnknownValueError


def _function(function: FunctionType, seen: list[Any]) -> Iterator[object]:
    if function in seen:
        yield "function", seen.index(function)
        return
    seen.append(function)
    yield "function", len(seen)
    yield from _described((function.__defaults__, tuple((function.__kwdefaults__ or {}).items())), seen)
    yield from _code(function.__code__)
    for name, value in sorted(read_from_outside(function).items()):
        yield name
        yield from _described(value, seen)
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in VERSIONED:
            for attribute in sorted(set(function.__code__.co_names) & set(vars(value))):
                yield attribute
                yield from _described(vars(value)[attribute], seen)


def _code(code: CodeType) -> Iterator[object]:
    yield code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount
    for constant in code.co_consts:
        yield from _code(constant) if isinstance(constant, CodeType) else _described(constant, [])


def read_from_outside(function: FunctionType) -> dict[str, Any]:
    """The variables of the module and of enclosing functions that a function reads, but for those not yet defined."""
    values = {}
    pending = [function.__code__]
    while pending:
        code = pending.pop()
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in function.__globals__:
                values[instruction.argval] = function.__globals__[instruction.argval]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # an empty cell
            values[name] = cell.cell_contents
    return values


def _layout_text(dtype: np.dtype[Any]) -> str:
    if dtype.subdtype is not None:
        return f"{dtype.subdtype[1]}{_layout_text(dtype.subdtype[0])}"
    if dtype.fields is None:
        return dtype.str
    fields = (f"{name}@{at}:{_layout_text(field)}" for name, (field, at, *_) in dtype.fields.items())
    return f"{{{','.join(fields)}}}{dtype.itemsize}{'a' if dtype.isalignedstruct else ''}"


@cache
def _environment() -> tuple[object, ...]:
    """All but the step that machine code depends on."""
    import llvmlite
    import numba
    from llvmlite import binding

    own = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        own.update(file.read_bytes())
    return (
        (own.hexdigest(), sys.version, platform.machine()),
        (numba.__version__, llvmlite.__version__, np.__version__),
        (binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()),
    )


def _hash(*parts: object) -> str:
    result = sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        result.update(len(data).to_bytes(8, "little"))
        result.update(data)
    return result.hexdigest()[:32]


# -- where it is kept --------------------------------------------------------------------------------------------------

_modules: WeakValueDictionary[str, ModuleType] = WeakValueDictionary()
_lock = threading.Lock()


def is_cached(key: str | None) -> bool:
    """Whether the compiled form of a fingerprint is at hand, in this process or on disk."""
    if key is None:
        return False
    root = folder()
    return key in _modules or (root is not None and _is_whole(root / key))


def cached_module(source: str, namespace: Mapping[str, Any], key: str | None) -> ModuleType:
    """Run `source` as a module with these globals, and find what it compiles on disk if it was compiled before.

    In it, `CACHE` is what to write as Numba's option: ``@cfunc(signature, cache=CACHE)``. It is False where nothing can
    be kept: where `key`, the fingerprint, is None, or no directory can be written. What the source reads must follow
    from the fingerprint; a second call with the same key gives the same module as long as somebody holds it. Any thread
    may call it. Errors are those of the source.
    """
    with _lock:
        known = _modules.get(key) if key is not None else None
        root = folder() if key is not None and known is None else None
        if known is not None:
            return known
        name = f"pydotcompute_step_{key or uuid4().hex}"
        if key is None or root is None:
            return _run(name, source, namespace, None)
        try:
            module = _kept(root / key, name, source, namespace)
        except OSError:  # no room on the disk, for one
            log.warning("a compiled step cannot be kept in %s", root, exc_info=True)
            module = _run(name, source, namespace, None)
        _modules[key] = module
        return module


def _kept(entry: Path, name: str, source: str, namespace: Mapping[str, Any]) -> ModuleType:
    """Run the source with what `entry` holds, or make that directory.

    It appears as a whole under its name: other processes may be looking for it, or making the same.
    """
    if _is_whole(entry):
        os.utime(entry)  # those that were used last stay
        try:
            return _run(name, source, namespace, entry)
        except Exception:
            # Whatever keeps it from being loaded here, it can be compiled anew.
            log.warning("a compiled step in %s cannot be used", entry, exc_info=True)
    with _draft(entry) as draft:
        file = draft / _SOURCE
        file.write_text(source, encoding="utf-8")
        os.utime(file, (0, 0))  # versions of Numba tell by it whether the source has changed: it never does
        return _run(name, source, namespace, draft)


def cached_files(key: str | None, make: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    """The named files that are kept on disk for a fingerprint, or what `make` makes, which is kept from then on.

    A name has a suffix, such as ``"step.cubin"``. Where nothing can be kept, as in `cached_module`, they are made each
    time. Any thread may call it. Errors are those of `make`.
    """
    root = folder() if key is not None else None
    if key is None or root is None:
        return make()
    entry = root / key
    if (kept := _sealed_files(entry)) is not None:
        with suppress(OSError):  # another process may be removing it
            os.utime(entry)
        return kept
    files = make()
    try:
        with _draft(entry) as draft:
            for name, content in files.items():
                (draft / name).write_bytes(content)
    except OSError:
        log.warning("a compiled step cannot be kept in %s", root, exc_info=True)
    return files


@contextmanager
def _draft(entry: Path) -> Iterator[Path]:
    """A directory that is sealed and becomes `entry` once it is filled, in place of what is there."""
    shutil.rmtree(entry, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, ignore_cleanup_errors=True) as made:
        draft = Path(made, _DRAFT)
        draft.mkdir(0o700)
        yield draft
        (draft / _SEAL).write_bytes(_seal(_files(draft)))
        with suppress(OSError):  # another process was quicker
            draft.rename(entry)
    _prune(entry.parent)


def _run(name: str, source: str, namespace: Mapping[str, Any], directory: Path | None) -> ModuleType:
    from numba import config

    file = str(directory / _SOURCE) if directory is not None else f"<{name}>"
    module = ModuleType(name)
    vars(module).update(namespace, CACHE=directory is not None, __file__=file)
    sys.modules[name] = module  # what Numba has stored names its module, and is looked up here
    elsewhere, config.CACHE_DIR = config.CACHE_DIR, ""  # beside the source, also under NUMBA_CACHE_DIR
    try:
        exec(compile(source, file, "exec"), vars(module))
    finally:
        config.CACHE_DIR = elsewhere
        del sys.modules[name]
    return module


_SOURCE, _SEAL, _DRAFT = "step.py", "seal", "draft"


def _is_whole(entry: Path) -> bool:
    return _sealed_files(entry) is not None


def _sealed_files(entry: Path) -> dict[str, bytes] | None:
    """What lies in a directory, if it is all there as it was written."""
    try:
        files = _files(entry)
        return files if (entry / _SEAL).read_bytes() == _seal(files) else None
    except OSError:
        return None


def _files(entry: Path) -> dict[str, bytes]:
    paths = (path for path in entry.rglob("*.*") if path.is_file())
    return {path.relative_to(entry).as_posix(): path.read_bytes() for path in paths}


def _seal(files: dict[str, bytes]) -> bytes:
    return _hash(*(part for item in sorted(files.items()) for part in item)).encode()


def _prune(root: Path) -> None:
    """Remove all but those that were used last."""
    with suppress(OSError), os.scandir(root) as entries:  # another process may be at the same
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[LIMIT:]:
            shutil.rmtree(entry, ignore_errors=True)


def folder() -> Path | None:
    """The directory below which compiled steps are kept; None where there is none to trust."""
    for place in _places():
        root = place / "steps"
        try:
            root.mkdir(0o700, parents=True, exist_ok=True)
            if _is_private(root):
                return root
        except OSError:
            continue
    return None


def _places() -> Iterator[Path]:
    if given := os.environ.get("PYDOTCOMPUTE_CACHE_DIR"):
        yield Path(given).absolute()
    with suppress(RuntimeError):  # no home
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        yield Path(base) / "pydotcompute"
    yield Path(tempfile.gettempdir()) / f"pydotcompute-{getattr(os, 'geteuid', int)()}"


def _is_private(root: Path) -> bool:
    """Whether nobody else could have put files there: what is loaded from it is run."""
    if not os.access(root, os.W_OK | os.X_OK):
        return False
    status = root.lstat()
    if not hasattr(os, "geteuid"):
        return True
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
