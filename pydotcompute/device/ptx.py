"""Words of memory that a GPU shares with the host and among its blocks, for code that numba-cuda compiles.

A word is an int64 at ``base + 8 * i``, in global memory: that of the device, or the host's that is mapped. The names
that end in ``_sys`` are for what the host sees too, those in ``_gpu`` for what stays on the device. Each is an
instruction of PTX, written out: compilers may neither leave one out nor move memory accesses past it, which they do to
plain loads in a loop, and ``cuda.atomic`` is relaxed and blind for the host. The rules are those of the PTX memory
consistency model (PTX ISA, chapter 8); it needs a GPU of compute capability 7.0 or newer.

This is what `atomics` is for the CPU, for the other compiler. Importing it tells numba-cuda what `lane`, `width` and
`barrier` are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.core.imputils import fix_returning_optional
from numba.cuda.extending import intrinsic, overload

from . import block, slices  # noqa: F401 - the latter changes what numba-cuda does
from .bridge import DESK_WORDS

I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_VOID = ir.VoidType()

LONGEST_NAP = 1_000_000
"""Nanoseconds; no GPU sleeps longer at a time."""


def _asm(builder: Any, result: Any, text: str, constraints: str, *values: Any) -> Any:
    """Instructions that stay where they are, with all that is written and read before and after them."""
    kind = ir.FunctionType(result, [value.type for value in values])
    constraints = ",".join(filter(None, (constraints, "~{memory}")))
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), list(values))


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """One of the compiler's own functions. Threads of a warp meet in some of them, which it knows."""
    kind = ir.FunctionType(result, [value.type for value in values])
    known = builder.module.globals.get(name)
    return builder.call(known if known is not None else ir.Function(builder.module, kind, name), list(values))


def _integers(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    return [context.cast(builder, *pair, types.int64) for pair in zip(args, signature.args, strict=True)]


def _word(builder: Any, base: Any, i: Any) -> Any:
    """Where word `i` of `base` is, as the instructions for global memory take it."""
    place = builder.inttoptr(builder.add(base, builder.shl(i, I64(3))), I64.as_pointer())
    return builder.addrspacecast(place, I64.as_pointer(1))


def _loader(instruction: str) -> Any:
    def load(typingctx: Any, base: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = _word(builder, *_integers(context, builder, signature, args))
            return _asm(builder, I64, f"{instruction}.b64 $0, [$1];", "=l,l", word)

        return types.int64(base, i), codegen

    return intrinsic(load)


def _storer(instruction: str) -> Any:
    def store(typingctx: Any, base: Any, i: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base, i, value = _integers(context, builder, signature, args)
            _asm(builder, _VOID, f"{instruction}.b64 [$0], $1;", "l,l", _word(builder, base, i), value)
            return context.get_dummy_value()

        return types.void(base, i, value), codegen

    return intrinsic(store)


load_sys = _loader("ld.relaxed.sys.global")
"""``load_sys(base, i)``: the word, now, as the host may have left it; says nothing about other memory."""
acquire_sys = _loader("ld.acquire.sys.global")
"""``acquire_sys(base, i)``: the word; what the host wrote before it released that can be read after it."""
release_sys = _storer("st.release.sys.global")
"""``release_sys(base, i, value)``: the host, when it acquires the value, sees all that was written before."""
load_gpu = _loader("ld.relaxed.gpu.global")
"""``load_gpu(base, i)``, ``acquire_gpu``, ``store_gpu`` and ``release_gpu``: the same between blocks of one device."""
acquire_gpu = _loader("ld.acquire.gpu.global")
store_gpu = _storer("st.relaxed.gpu.global")
release_gpu = _storer("st.release.gpu.global")
get = _loader("ld.global")
"""``get(base, i)``: a word that nobody else writes, or that was written before the last `sync`."""
put = _storer("st.global")
"""``put(base, i, value)``: a word that nobody else touches before the next `sync`."""


@intrinsic
def desk_at(typingctx: Any, elsewhere: Any) -> Any:
    """``desk_at(address)``: the block's desk in shared memory, for `look` and `note`; one call in a kernel.

    The address is for targets without such memory.
    """
    kind = ir.ArrayType(I64, DESK_WORDS)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        desk = cgutils.add_global_variable(builder.module, kind, "desk", addrspace=3)
        desk.linkage, desk.initializer, desk.align = "internal", ir.Constant(kind, ir.Undefined), 16
        return builder.ptrtoint(desk, I64)

    return types.int64(elsewhere), codegen


def _desk_word(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Any, list[Any]]:
    base, i, *value = _integers(context, builder, signature, args)
    return builder.inttoptr(builder.add(base, builder.shl(i, I64(3))), I64.as_pointer(3)), value


@intrinsic
def look(typingctx: Any, desk: Any, i: Any) -> Any:
    """``look(desk, i)``: `get` of a word of `desk_at`, in a fraction of the time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, _ = _desk_word(context, builder, signature, args)
        return _asm(builder, I64, "ld.shared.b64 $0, [$1];", "=l,l", word)

    return types.int64(desk, i), codegen


@intrinsic
def note(typingctx: Any, desk: Any, i: Any, value: Any) -> Any:
    """``note(desk, i, value)``: `put`, likewise."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, (value,) = _desk_word(context, builder, signature, args)
        _asm(builder, _VOID, "st.shared.b64 [$0], $1;", "l,l", word, value)
        return context.get_dummy_value()

    return types.void(desk, i, value), codegen


def _adder(instruction: str) -> Any:
    def add(typingctx: Any, base: Any, i: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base, i, value = _integers(context, builder, signature, args)
            return _asm(builder, I64, f"{instruction}.add.u64 $0, [$1], $2;", "=l,l,l", _word(builder, base, i), value)

        return types.int64(base, i, value), codegen

    return intrinsic(add)


fetch_add_gpu = _adder("atom.acq_rel.gpu.global")
"""``fetch_add_gpu(base, i, value)``: add, and the word as it was; acquires and releases."""
count_gpu = _adder("atom.relaxed.gpu.global")
"""``count_gpu(base, i, value)``: the same of a number that says nothing about other memory."""


@intrinsic
def fence_gpu(typingctx: Any) -> Any:
    """What was written before is seen on the device before what is written after, and reads likewise."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _asm(builder, _VOID, "fence.acq_rel.gpu;", "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def copy_line(typingctx: Any, target: Any, source: Any) -> Any:
    """``copy_line(target, source)``: 64 bytes from address to address, both multiples of 16, by this thread alone.

    The loads see what the host has left, and are all on their way before the first has come: one trip over the bus.
    """
    loads = (f"ld.relaxed.sys.global.v2.b64 {{a{i}, b{i}}}, [$1+{16 * i}];" for i in range(4))
    stores = (f"st.global.v2.b64 [$0+{16 * i}], {{a{i}, b{i}}};" for i in range(4))
    text = " ".join(("{", ".reg .b64 a<4>, b<4>;", *loads, *stores, "}"))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = (_word(builder, address, I64(0)) for address in _integers(context, builder, signature, args))
        _asm(builder, _VOID, text, "l,l", *places)
        return context.get_dummy_value()

    return types.void(target, source), codegen


# -- threads and time --------------------------------------------------------------------------------------------------


def _register(name: str) -> Callable[[Any], Any]:
    return lambda builder: builder.zext(_call(builder, f"llvm.nvvm.read.ptx.sreg.{name}", _I32), I64)


_x, _y, _columns, _rows = (_register(name) for name in ("tid.x", "tid.y", "ntid.x", "ntid.y"))


def _number(count: Callable[[Any], Any]) -> Any:
    def number(typingctx: Any) -> Any:
        return types.int64(), lambda context, builder, signature, args: count(builder)

    return intrinsic(number)


thread_index = _number(lambda builder: builder.add(_x(builder), builder.mul(_y(builder), _columns(builder))))
"""``thread_index()``: the number of this thread in its block, which has one or two dimensions."""
thread_count = _number(lambda builder: builder.mul(_columns(builder), _rows(builder)))
"""``thread_count()``: the threads of a block."""
block_index = _number(_register("ctaid.x"))
"""``block_index()``: the number of this block in the grid, which has one dimension."""
now_ns = _number(lambda builder: _asm(builder, I64, "mov.u64 $0, %globaltimer;", "=l"))
"""``now_ns()``: nanoseconds of the device's clock, which moves in steps of up to a microsecond."""
_lane = _number(_x)
_width = _number(_columns)


@intrinsic
def sync(typingctx: Any) -> Any:
    """All threads of the block come here, and see what they have written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, "llvm.nvvm.barrier0", _VOID)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nap(typingctx: Any, ns: Any) -> Any:
    """``nap(ns)``: sleep for about that long, at most `LONGEST_NAP`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (ns,) = _integers(context, builder, signature, args)
        longest = I64(LONGEST_NAP)
        ns = builder.select(builder.icmp_unsigned("<", ns, longest), ns, longest)
        _asm(builder, _VOID, "nanosleep.u32 $0;", "r", builder.trunc(ns, _I32))
        return context.get_dummy_value()

    return types.void(ns), codegen


@intrinsic
def warp_peers(typingctx: Any, value: Any) -> Any:
    """``warp_peers(value)``: the threads of the warp that came here with the same value, a bit for each.

    All 32 must come here.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = _integers(context, builder, signature, args)
        return builder.zext(_call(builder, "llvm.nvvm.match.any.sync.i64", _I32, _I32(-1), value), I64)

    return types.int64(value), codegen


@intrinsic
def bit_count(typingctx: Any, word: Any) -> Any:
    """``bit_count(word)``: how many bits are set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(*_integers(context, builder, signature, args))

    return types.int64(word), codegen


@intrinsic
def low_bits(typingctx: Any, count: Any) -> Any:
    """``low_bits(count)``: a word whose lowest so many bits are set, up to 63."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (count,) = _integers(context, builder, signature, args)
        return builder.sub(builder.shl(I64(1), count), I64(1))

    return types.int64(count), codegen


# What a step sees of them. A block whose threads all run the step lies along x, one of which a single thread does along
# y: to that step it is one thread, and meets nobody.


@overload(block.lane, target="cuda")
def _lane_of_block():  # type: ignore[no-untyped-def] # numba-cuda compares its signature with that of what it returns
    return lambda: _lane()


@overload(block.width, target="cuda")
def _width_of_block():  # type: ignore[no-untyped-def]
    return lambda: _width()


@overload(block.barrier, target="cuda")
def _barrier_of_block():  # type: ignore[no-untyped-def]
    def barrier():  # type: ignore[no-untyped-def]
        if _width() > 1:
            sync()

    return barrier


# -- what lies at an address -------------------------------------------------------------------------------------------


def _place(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer of which the compiler knows that it is one of global memory.

    There the two kinds of addresses are the same (PTX ISA, "Generic Addressing").
    """
    return builder.addrspacecast(builder.inttoptr(address, kind.pointee.as_pointer(1)), kind)


@intrinsic
def record_at(typingctx: Any, dtype: Any, place: Any) -> Any:
    """``record_at(dtype, address)``: the record there. The dtype is a constant."""
    record = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.cast(builder, args[1], signature.args[1], types.int64)
        return _place(builder, place, context.get_value_type(record))

    return record(dtype, place), codegen


@intrinsic
def array_at(typingctx: Any, dtype: Any, shape: Any, place: Any) -> Any:
    """``array_at(dtype, shape, address)``: the array there, C-contiguous. Dtype and shape, a tuple, are constants."""
    array = types.Array(dtype.dtype, len(shape), "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.cast(builder, args[2], signature.args[2], types.int64)
        lengths = [builder.extract_value(args[1], n) for n in range(len(shape))]
        itemsize = I64(context.get_abi_sizeof(context.get_data_type(array.dtype)))
        steps = [itemsize]
        for length in reversed(lengths[1:]):
            steps.insert(0, builder.mul(steps[0], length))
        made = context.make_array(array)(context, builder)
        context.populate_array(
            made,
            data=_place(builder, place, made.data.type),
            shape=lengths,
            strides=steps[: len(lengths)],
            itemsize=itemsize,
            meminfo=None,
        )
        return made._getvalue()

    return array(dtype, shape, place), codegen


@intrinsic
def attempt(typingctx: Any, step: Any, state: Any, message: Any, reply: Any, *arrays: Any) -> Any:
    """``attempt(step, state, message, reply, *arrays)``: call a step; 1: send its reply, 0: do not, -1: it has failed.

    It fails by an error of its compiled code, such as an index out of bounds where those are checked.
    """
    taken = (state, message, reply, *arrays)
    inner = step.get_call_type(typingctx, taken, {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = step.dispatcher.overloads[inner.args]
        context.active_code_library.add_linking_library(result.library)
        given = [*args[1:4], *cgutils.unpack_tuple(builder, args[4], len(arrays))]
        given = [context.cast(builder, *triple) for triple in zip(given, taken, inner.args, strict=True)]
        descriptor = result.fndesc
        # A plain call would hand the error on to whatever calls this.
        status, answer = descriptor.call_conv.call_internal_no_propagate(builder, descriptor, inner, given)
        answer = fix_returning_optional(context, builder, inner, status, answer)
        said = _truth(context, builder, inner.return_type, answer)
        return builder.select(status.is_error, I64(-1), builder.zext(said, I64))

    return types.int64(step, state, message, reply, types.StarArgTuple(arrays)), codegen


def _truth(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Whether a step wants its reply sent: None, which it gives where it does not return, is no."""
    if isinstance(kind, types.NoneType):
        return ir.IntType(1)(0)
    if isinstance(kind, types.Optional):
        optional = context.make_helper(builder, kind, value=value)
        said = context.is_true(builder, kind.type, optional.data)
        return builder.and_(builder.icmp_unsigned("!=", optional.valid, optional.valid.type(0)), said)
    return context.is_true(builder, kind, value)
