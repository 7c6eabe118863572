"""Steps to machine code for a GPU, with or without one: by numba-cuda, which is imported when the first is compiled.

numba-cuda makes LLVM code of Python, NVVM makes PTX of that, and nvJitLink machine code, of the named architecture. No
driver takes part: what asks for the current device is told that it is one of that architecture.
"""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..exceptions import BackendUnavailableError
from . import compiler
from .cache import cached_files, fingerprint, is_cached
from .rules import Function, check_step
from .toolkit import PACKAGES, mismatch, versions

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition

_WARP = 32
"""Threads of the smallest block."""


class Binary(NamedTuple):
    """A step in its loop, compiled for one architecture."""

    cubin: bytes
    """The machine code, as a driver loads it."""
    ptx: str
    name: str
    """The entry's symbol."""
    arch: str
    """Such as ``"sm_90"``."""
    registers: int
    """Of each thread."""
    spilled: int
    """Bytes that each thread stores and loads because its registers do not suffice."""
    shared: int
    """Bytes of shared memory of each block."""
    local: int
    """Bytes of each thread's stack."""


@cache
def compiler_missing() -> str | None:
    """Why steps cannot be compiled for a GPU here and what to do about it; None if they can. It needs no GPU."""
    if missing := compiler.compiler_missing():
        return missing
    try:
        import numba_cuda  # noqa: F401 - there is a `numba.cuda` without it, an old one
    except ModuleNotFoundError:
        return f"numba-cuda is not installed: `{PACKAGES}`, and restart the notebook's kernel"
    if missing := mismatch():
        return missing
    try:
        from numba import config

        if getattr(config, "ENABLE_CUDASIM", False):
            return "numba-cuda simulates a GPU: unset the environment variable NUMBA_ENABLE_CUDASIM"
        _load()
        _architectures()
        _versions()
        from numba.cuda.cudadrv.libs import get_libdevice

        get_libdevice()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installation
        return (
            f"the compiler of the CUDA toolkit cannot be used ({type(error).__name__}: {error}): "
            f"`{PACKAGES}`, and restart the notebook's kernel"
        )
    return None


_loading = threading.Lock()


def _load() -> None:
    """Import numba-cuda with all that it otherwise imports when it first compiles.

    Version 0.30 reads names that NumPy has deprecated, and one that NumPy 2.5 does not have any more.
    """
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from numba.cuda.descriptor import cuda_target

        lacks = not hasattr(np, "row_stack")
        if lacks:
            vars(np)["row_stack"] = lambda arrays: np.vstack(arrays)
        try:
            cuda_target.typing_context.refresh()
            cuda_target.target_context.refresh()
        finally:
            if lacks:
                del vars(np)["row_stack"]


def compiled(definition: StepDefinition, source: str, namespace: Mapping[str, Any], arch: str) -> Binary:
    """The kernel that `source` makes around the step, for one architecture; from disk if it was made before.

    `source` defines ``entry(kernel, turn)``, both int64. It reads the names in `namespace`, all functions of `ptx`, the
    step as `step`, for `attempt`, and the decorator `inside` for other functions of the device. Registers
    suffice for blocks of 32 threads, or of `THREADS` where that is defined and more. What is in the namespace is a
    number, a text, a dtype or a tuple of these.

    Raises:
        StepError: as `compiler.typed_check`.
        BackendUnavailableError: no compiler, or none that knows the architecture; the text says what to install.
    """
    __tracebackhide__ = True  # the error shows the line of the user
    if missing := compiler_missing():
        raise BackendUnavailableError(missing)
    if arch not in _architectures():
        raise BackendUnavailableError(
            f"no code can be made for {arch!r}: this CUDA toolkit knows {', '.join(_architectures())}"
        )

    def make() -> dict[str, bytes]:
        binary = _made(definition, source, namespace, arch)
        about = {name: value for name, value in binary._asdict().items() if name not in ("cubin", "ptx")}
        return {"step.cubin": binary.cubin, "step.ptx": binary.ptx.encode(), "about.json": json.dumps(about).encode()}

    files = cached_files(_key(definition, source, namespace, arch), make)
    return Binary(files["step.cubin"], files["step.ptx"].decode(), **json.loads(files["about.json"]))


def is_kept(definition: StepDefinition, source: str, namespace: Mapping[str, Any], arch: str) -> bool:
    """Whether `compiled` finds it on disk; only where there is a compiler."""
    return is_cached(_key(definition, source, namespace, arch))


def _key(definition: StepDefinition, source: str, namespace: Mapping[str, Any], arch: str) -> str | None:
    return fingerprint(definition, source, sorted(namespace.items()), arch, _versions())


def _made(definition: StepDefinition, source: str, namespace: Mapping[str, Any], arch: str) -> Binary:
    from numba import cuda
    from numba.cuda.core.compiler_lock import global_compiler_lock

    from . import ptx

    check_step(definition)  # once more: a function that it calls may have been defined since
    compiler.typed_check(definition)  # by the other compiler, which says most of what is to be said
    intrinsics = {name: value for name, value in vars(ptx).items() if isinstance(value, type(ptx.get))}
    inside = cuda.jit(
        device=True, forceinline=True, debug=False, opt=True
    )  # the others return their results through memory
    with global_compiler_lock, _as_on(arch), _bounds_checked(definition.boundscheck):
        step = _typed_step(definition)
        scope = {"__name__": __name__, **namespace, **intrinsics, "inside": inside, "step": step}
        exec(compile(source, "<the loop of a ring kernel on a GPU>", "exec"), scope)
        words = (cuda.types.int64, cuda.types.int64)
        threads = max(scope.get("THREADS", 1), scope.get("HANDS", _WARP))
        text, _ = cuda.compile_ptx(
            scope["entry"], words, cc=_capability(arch), launch_bounds=threads, debug=False, opt=True
        )
    text = re.sub(r"^\.common .*NumbaEnv\S*;\n", "", text, flags=re.M)  # of no use, and under other names each time
    (given,) = re.findall(r"\.entry (\w+)", text)
    name = re.sub(r"\W", "_", f"{definition.body.__name__}_ring_kernel", flags=re.ASCII)
    text = text.replace(given, name)
    cubin, told = _linked(definition, text, arch)

    def numbers(form: str) -> list[int]:
        return [0, *map(int, re.findall(form, told))]

    return Binary(
        cubin,
        text,
        name,
        arch,
        registers=max(numbers(r"(\d+) registers")),
        spilled=sum(numbers(r"(\d+) bytes spill")),
        shared=max(numbers(r"(\d+) bytes smem")),
        local=max(numbers(r"(\d+) bytes (?:stack frame|lmem)")),
    )


def _typed_step(definition: StepDefinition) -> Any:
    """The step as a function of the device, compiled for the types of its records and arrays."""
    from numba import cuda

    from .diagnosis import Diagnosis

    def jit(function: FunctionType, fastmath: Any) -> Any:
        is_step = function.__code__ is definition.body.__code__
        return cuda.jit(device=True, fastmath=fastmath, forceinline=is_step, debug=False, opt=True)(function)

    step = compiler.with_helpers(definition.body, jit, {})
    diagnosis = Diagnosis(definition)
    try:
        step.compile_device(diagnosis.argument_types())
    except Exception as error:  # noqa: BLE001 - numba-cuda raises what it likes; `details` keeps it
        told = diagnosis.translated(error)
    else:
        return step
    raise told.with_traceback(None) from None


def _linked(definition: StepDefinition, text: str, arch: str) -> tuple[bytes, str]:
    """The machine code for some PTX, and what nvJitLink says of it."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(2, [f"-arch={arch}", "-verbose"])
    try:
        try:
            data = text.encode()
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), definition.body.__name__)
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = bytearray(nvjitlink.get_error_log_size(handle))
            nvjitlink.get_error_log(handle, log)
            raise _refused(definition, log.decode().strip(" \n\0") or str(error)) from None
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        return bytes(cubin), log.decode()
    finally:
        nvjitlink.destroy(handle)


def _refused(definition: StepDefinition, log: str) -> Exception:
    """What nvJitLink has said, in words of ours."""
    if "constant data" in log:
        body: Any = definition.body
        line = definition.body.__code__.co_firstlineno
        return Function(body).refusal(
            line, "it reads arrays of more than 64 KB from outside, which a GPU cannot hold: pass them as buffers=", log
        )
    if "nsupported .version" in log:
        return BackendUnavailableError(
            f"the parts of the CUDA toolkit do not fit together, nvJitLink is older than NVVM: `{PACKAGES}` ({log})"
        )
    return BackendUnavailableError(f"nvJitLink cannot make machine code of this step: {log}")


# -- numba-cuda, told what it would ask a driver -----------------------------------------------------------------------


@contextmanager
def _as_on(arch: str) -> Iterator[None]:
    """Functions of the device that this thread compiles are for that architecture; no driver is asked."""
    from numba.cuda import dispatcher

    me, current = threading.get_ident(), dispatcher.get_current_device
    device = SimpleNamespace(compute_capability=_capability(arch))
    dispatcher.get_current_device = lambda: device if threading.get_ident() == me else current()
    try:
        yield
    finally:
        dispatcher.get_current_device = current


@contextmanager
def _bounds_checked(wanted: bool) -> Iterator[None]:
    """An index out of bounds becomes an error of the function, for `attempt`.

    numba-cuda can, but refuses the option, since nobody would hear of the error.
    """
    from numba.cuda.target import CUDATargetContext

    usual = CUDATargetContext.enable_boundscheck
    CUDATargetContext.enable_boundscheck = property(lambda self: wanted)
    try:
        yield
    finally:
        CUDATargetContext.enable_boundscheck = usual


def _capability(arch: str) -> tuple[int, int]:
    number = int(arch.removeprefix("sm_"))
    return number // 10, number % 10


@cache
def _architectures() -> tuple[str, ...]:
    """Those that the toolkit makes code for."""
    from numba.cuda.cudadrv.nvrtc import get_supported_ccs

    return tuple(f"sm_{major}{minor}" for major, minor in get_supported_ccs())


@cache
def _versions() -> tuple[object, ...]:
    """Of all that takes part."""
    import numba_cuda
    from cuda.bindings import nvjitlink
    from numba.cuda.cudadrv.nvvm import NVVM

    return numba_cuda.__version__, NVVM().get_version(), nvjitlink.version(), sorted(versions().items())
