"""Arrays that are assigned to arrays, ``x[1:] = y[:-1]``, for code that numba-cuda compiles.

Its own way takes memory for a copy in case the two overlap, which is not there on a GPU. This one needs none: it begins
at the end where the target lies behind the source, as C's memmove does. Importing it is enough.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.cudaimpl import registry
from numba.cuda.extending import intrinsic, overload
from numba.cuda.np.arrayobj import make_array, setitem_array


@registry.lower(operator.setitem, types.Buffer, types.Any, types.Buffer)
def _set_slice(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array, index, source = signature.args
    if isinstance(index, types.EllipsisType) and not context.enable_nrt:
        return _assigned(context, builder, array, source, args[0], args[2])
    part = context.typing_context.resolve_function_type(operator.getitem, (array, index), {})
    fancy = any(isinstance(kind, types.Array) for kind in getattr(index, "types", (index,)))
    if context.enable_nrt or fancy or not isinstance(part.return_type, types.Array):
        return setitem_array(context, builder, signature, args)
    target = context.get_function(operator.getitem, part)(builder, args[:2])
    return _assigned(context, builder, part.return_type, source, target, args[2])


def _assigned(context: Any, builder: Any, array: Any, other: Any, target: Any, source: Any) -> Any:
    kinds = types.void(array, other)
    return context.compile_internal(builder, lambda target, source: assign(target, source), kinds, (target, source))


@intrinsic
def _address(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(make_array(array)(context, builder, args[0]).data, ir.IntType(64))

    return types.int64(array), codegen


def assign(target: Any, source: Any) -> None:
    """``target[...] = source``, also where these are parts of one array.

    Raises:
        ValueError: the shapes do not fit; or the parts overlap and have different steps, so that no order is right.
    """
    target[...] = source


@overload(assign, target="cuda")
def _assign(target, source):  # type: ignore[no-untyped-def] # numba-cuda compares it with what it returns
    if target.ndim < source.ndim:
        raise TypeError(f"an array of {source.ndim} dimensions does not fit into {target.ndim}")
    if target.ndim > source.ndim:

        def assigned(target, source):  # type: ignore[no-untyped-def]
            for i in range(len(target)):
                if _overlap(target[i], source) and _address(target[i]) != _address(source):
                    raise ValueError("parts of an array that overlap, one of which is repeated")
                assign(target[i], source)

    else:

        def assigned(target, source):  # type: ignore[no-untyped-def]
            if not _alike(target, source) and _overlap(target, source):
                raise ValueError("parts of an array that overlap and have different steps")
            _copy(target, source, _address(target) > _address(source))

    return assigned


def _overlap(target: Any, source: Any) -> bool:
    """Whether the memory from the beginning to the end of one is part of that of the other."""
    raise NotImplementedError


@overload(_overlap, target="cuda")
def _do_overlap(target, source):  # type: ignore[no-untyped-def]
    def overlap(target, source):  # type: ignore[no-untyped-def]
        (low, high), (bottom, top) = _extent(target), _extent(source)
        return low < top and bottom < high

    return overlap


def _extent(array: Any) -> tuple[int, int]:
    """Where its memory begins and ends."""
    raise NotImplementedError


@overload(_extent, target="cuda")
def _extent_of(array):  # type: ignore[no-untyped-def]
    def extent(array):  # type: ignore[no-untyped-def]
        low = high = _address(array)
        for length, step in zip(array.shape, array.strides):  # noqa: B905 - numba-cuda knows no `strict`
            reach = (length - 1) * step
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high + array.itemsize

    return extent


def _alike(target: Any, source: Any) -> bool:
    """Whether both have the same steps, upwards: then what lies behind in one lies behind in the other."""
    raise NotImplementedError


@overload(_alike, target="cuda")
def _are_alike(target, source):  # type: ignore[no-untyped-def]
    in_line = target.ndim == 1  # where a single element that is repeated is read only once

    def alike(target, source):  # type: ignore[no-untyped-def]
        if in_line and len(source) == 1:
            return True
        for mine, other in zip(target.strides, source.strides):  # noqa: B905 - nor generators
            if mine != other or mine < 0:
                return False
        return in_line or target.shape == source.shape

    return alike


def _copy(target: Any, source: Any, from_the_end: bool) -> None:
    """Element by element, in that order. Where there is one along a dimension, it is repeated."""
    raise NotImplementedError


@overload(_copy, target="cuda")
def _copied(target, source, from_the_end):  # type: ignore[no-untyped-def]
    in_line = target.ndim == 1

    def copy(target, source, from_the_end):  # type: ignore[no-untyped-def]
        n, m = len(target), len(source)
        if m != n and m != 1:
            raise ValueError("arrays of different shapes")
        if in_line and m == 1:
            target[:] = source[0]
            return
        for k in range(n):
            i = n - 1 - k if from_the_end else k
            j = i if m == n else 0
            if in_line:
                target[i] = source[j]
            else:
                _copy(target[i], source[j], from_the_end)

    return copy
