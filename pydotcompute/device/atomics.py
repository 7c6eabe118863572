"""Words of memory that several threads share, for code that Numba compiles for the CPU.

A word is an int64 at ``base + 8 * i``. Never uint64: Numba compares uint64 with int64 through float64. Plain loads in a
loop may be hoisted out of it and are then never seen to change; what another thread writes is read by `load` or
`acquire`.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

I64 = ir.IntType(64)
_I32 = ir.IntType(32)


def _word(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Pointer to word `i` of `base`: the first two arguments."""
    base, i = (context.cast(builder, args[n], signature.args[n], types.int64) for n in (0, 1))
    return builder.inttoptr(builder.add(base, builder.shl(i, I64(3))), I64.as_pointer())


def _value(context: Any, builder: Any, signature: Any, args: Any, n: int) -> Any:
    return context.cast(builder, args[n], signature.args[n], types.int64)


def _loader(order: str) -> Callable[..., Any]:
    def load(typingctx: Any, base: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load_atomic(_word(context, builder, signature, args), order, 8)

        return types.int64(base, i), codegen

    return intrinsic(load)  # type: ignore[no-any-return]


def _storer(order: str) -> Callable[..., Any]:
    def store(typingctx: Any, base: Any, i: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = _word(context, builder, signature, args)
            builder.store_atomic(_value(context, builder, signature, args, 2), word, order, 8)
            return context.get_dummy_value()

        return types.void(base, i, value), codegen

    return intrinsic(store)  # type: ignore[no-any-return]


def _changer(operation: str) -> Callable[..., Any]:
    def change(typingctx: Any, base: Any, i: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = _word(context, builder, signature, args)
            return builder.atomic_rmw(operation, word, _value(context, builder, signature, args, 2), "seq_cst")

        return types.int64(base, i, value), codegen

    return intrinsic(change)  # type: ignore[no-any-return]


load = _loader("monotonic")
"""``load(base, i)``: the word, now; says nothing about other memory."""
acquire = _loader("acquire")
"""``acquire(base, i)``: the word; what was written before it was released can be read after it."""
store = _storer("monotonic")
"""``store(base, i, value)``."""
release = _storer("release")
"""``release(base, i, value)``: whoever acquires the value sees all that was written before."""
fetch_add = _changer("add")
"""``fetch_add(base, i, value)``: add, and the word as it was. This one and the next are sequentially consistent."""
fetch_or = _changer("or")
fetch_and = _changer("and")
exchange = _changer("xchg")


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def swap_if(typingctx: Any, base: Any, i: Any, expected: Any, value: Any) -> Any:
    """``swap_if(base, i, expected, value)``: store the value if the word is as expected; whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = _word(context, builder, signature, args)
        expected, value = (_value(context, builder, signature, args, n) for n in (2, 3))
        return builder.extract_value(builder.cmpxchg(word, expected, value, "seq_cst", "acquire"), 1)

    return types.boolean(base, i, expected, value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def fence(typingctx: Any) -> Any:
    """A store before it is seen before a load after it is made."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def order(typingctx: Any) -> Any:
    """The compiler moves no load or store past this; the processor may."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst", targetscope="singlethread")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def relax(typingctx: Any) -> Any:
    """Tell the processor that this is a loop which waits. No inline assembly: it would abort the process."""
    machine = platform.machine().lower()

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        void = ir.VoidType()
        if machine in ("x86_64", "amd64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif machine in ("aarch64", "arm64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, [_I32]), "llvm.aarch64.hint")
            builder.call(hint, [_I32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Index of the lowest bit that is set; the word is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def bit_length(typingctx: Any, word: Any) -> Any:
    """``int.bit_length`` of a word that is not negative."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sub(I64(64), builder.ctlz(args[0], ir.IntType(1)(0)))

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def copy(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
    """``copy(target, source, size)``: so many bytes from address to address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (builder.inttoptr(arg, cgutils.voidptr_t) for arg in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def clear(typingctx: Any, target: Any, size: Any) -> Any:
    """``clear(address, size)``: so many bytes of zeros; the address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(args[0], cgutils.voidptr_t), args[1], 0)
        return args[0]

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def call(typingctx: Any, function: Any, argument: Any) -> Any:
    """``call(address, argument)`` of a C function ``int64 f(int64)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I64, [I64]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), [args[1]])

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def launch(
    typingctx: Any, function: Any, kernel: Any, blocks: Any, x: Any, y: Any, stream: Any, parameters: Any
) -> Any:
    """``launch(address, ...)`` of a C function with the parameters of ``cuLaunchKernel``; its error code.

    The grid has one dimension, a block two, and none shared memory.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, kernel, blocks, x, y, stream, parameters = args
        words = [I64, *[_I32] * 7, I64, I64, I64]
        kind = ir.FunctionType(_I32, words).as_pointer()
        blocks, x, y = (builder.trunc(arg, _I32) for arg in (blocks, x, y))
        one, none = _I32(1), _I32(0)
        given = [kernel, blocks, one, one, x, y, one, none, stream, parameters, I64(0)]
        return builder.sext(builder.call(builder.inttoptr(function, kind), given), I64)

    return types.int64(*[types.int64] * 7), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def query(typingctx: Any, function: Any, stream: Any) -> Any:
    """``query(address, stream)`` of a C function like ``cuStreamQuery``; its error code."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_I32, [I64]).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(args[0], kind), [args[1]]), I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def pointer(typingctx: Any, address: Any) -> Any:
    """An address as `numba.carray` takes it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


def _record_on_stack(context: Any, builder: Any, record: Any) -> tuple[Any, Any]:
    words = cgutils.alloca_once(builder, ir.ArrayType(I64, record.size // 8))
    return builder.bitcast(words, context.get_value_type(record)), builder.bitcast(words, cgutils.voidptr_t)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def copied_record(typingctx: Any, dtype: Any, source: Any) -> Any:
    """``copied_record(dtype, address)``: a copy of the record there, on the stack.

    Nothing else can point to it, which lets the optimizer keep it in registers.
    """
    record = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, place = _record_on_stack(context, builder, record)
        cgutils.raw_memcpy(builder, place, builder.inttoptr(args[1], cgutils.voidptr_t), I64(record.size), 1)
        return value

    return record(dtype, source), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def blank_record(typingctx: Any, dtype: Any) -> Any:
    """``blank_record(dtype)``: a record of zeros, likewise."""
    record = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, place = _record_on_stack(context, builder, record)
        cgutils.memset(builder, place, I64(record.size), 0)
        return value

    return record(dtype), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def put_record(typingctx: Any, target: Any, record: Any) -> Any:
    """``put_record(address, record)``: copy a record there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], cgutils.voidptr_t)
        source = builder.bitcast(args[1], cgutils.voidptr_t)
        cgutils.raw_memcpy(builder, target, source, I64(signature.args[1].size), 1)
        return context.get_dummy_value()

    return types.void(types.int64, record), codegen


def truth(answer: Any) -> bool:
    """Whether a step wants its reply sent: None, which it gives where it does not return, is no."""
    return bool(answer)


@overload(truth)  # type: ignore[untyped-decorator, unused-ignore]
def _truth(answer):  # type: ignore[no-untyped-def] # Numba compares its signature with that of what it returns
    if isinstance(answer, types.NoneType):
        return lambda answer: False
    if isinstance(answer, types.Optional):
        return lambda answer: False if answer is None else bool(answer)
    return lambda answer: bool(answer)


_CLOCK_MONOTONIC = 6 if platform.system() == "Darwin" else 1


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def now_ns(typingctx: Any) -> Any:
    """Nanoseconds of the system's monotonic clock."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        spec = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
        kind = ir.FunctionType(_I32, [_I32, spec.type])
        clock = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(clock, [_I32(_CLOCK_MONOTONIC), spec])
        pair = builder.load(spec)
        seconds = builder.mul(builder.extract_value(pair, 0), I64(10**9))
        return builder.add(seconds, builder.extract_value(pair, 1))

    return types.int64(), codegen


# A fence in all threads of this process that run, which a system call of Linux makes (`man 2 membarrier`).
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine()) if platform.system() == "Linux" else None
_REGISTER, _FENCE_ALL = 1 << 4, 1 << 3


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def membarrier(typingctx: Any) -> Any:
    """Only where `has_membarrier` has said True."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        system_call = cgutils.get_or_insert_function(builder.module, kind, "syscall")
        builder.call(system_call, [I64(_MEMBARRIER or 0), I64(_FENCE_ALL), I64(0), I64(0)])
        return context.get_dummy_value()

    return types.void(), codegen


def has_membarrier() -> bool:
    """Whether this system has it; it is then switched on for this process."""
    if _MEMBARRIER is None:
        return False
    system_call = ctypes.CDLL(None).syscall
    return int(system_call(_MEMBARRIER, _REGISTER, 0, 0)) == 0


# What goes through a file descriptor wakes a thread, or an event loop, without the interpreter.
read = types.ExternalFunction("read", types.int64(types.int32, types.int64, types.int64))
write = types.ExternalFunction("write", types.int64(types.int32, types.int64, types.int64))
poll = types.ExternalFunction("poll", types.int32(types.int64, types.int64, types.int32))
give_way = types.ExternalFunction("sched_yield", types.int32())
