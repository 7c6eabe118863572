"""The fields that a record may have: numbers, arrays of numbers, further records."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from inspect import formatannotation
from reprlib import repr as short
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self, get_args, get_origin

import numpy as np

from ..exceptions import DefinitionError
from .message import union_members

if TYPE_CHECKING:
    from .record import Layout

Dtype = np.dtype[Any]
Array = np.ndarray[Any, Any]

_FORMATS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
    "complex64": "ff",
    "complex128": "dd",
}
"""The numbers that compiled ring kernels can compute with, as `struct` calls them."""

# By character codes, since NumPy has two types for one of the integers, and which of them depends on the platform.
_NUMBERS: dict[Any, Dtype] = {np.dtype(code).type: np.dtype(np.dtype(code).name) for code in "?bhilqBHILQfdFD"}
_NUMBERS |= {kind: np.dtype(kind) for kind in (bool, float, complex)} | {int: np.dtype(np.int64)}

_BOOLS = frozenset((bool, np.bool_))

MISFITS = (struct.error, ArithmeticError, AttributeError, TypeError, ValueError)
"""What `put` may raise for a value that does not fit."""


class Misfit(ValueError):
    """Says what the value is, where its `repr` would not tell why it does not fit."""


class Shape(tuple[int, ...]):
    """The shape of an array in a message or state: ``Annotated[NDArray[np.float32], Shape(8)]``, ``Shape(4, 4)``.

    Raises:
        DefinitionError: the sizes are not positive integers, or there are none.
    """

    def __new__(cls, *sizes: Any) -> Self:
        if not sizes or not all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes):
            given = ", ".join(map(repr, sizes))
            raise DefinitionError(f"a Shape has positive integers, Shape(8) or Shape(4, 4), not Shape({given})")
        return super().__new__(cls, map(int, sizes))

    def __getnewargs__(self) -> tuple[Any, ...]:  # for copies and pickles
        return tuple(self)

    def __repr__(self) -> str:
        return f"Shape({', '.join(map(str, self))})"


class NumberField:
    """A number. `format`: that of `struct`, one character for each value that is packed."""

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype
        self.format = _FORMATS[dtype.name]
        self.is_bool, self.is_complex = dtype.kind == "b", dtype.kind == "c"

    @property
    def wanted(self) -> str:
        if self.dtype.kind not in "iu":
            return "bool" if self.is_bool else f"np.{self.dtype.name}"
        limits = np.iinfo(self.dtype)
        return f"np.{self.dtype.name} ({limits.min} to {limits.max})"

    def put(self, buffer: Any, offset: int, value: Any) -> None:
        if self.is_bool:
            value = checked_bool(value)
        parts = (value.real, value.imag) if self.is_complex else (value,)
        struct.pack_into(f"={self.format}", buffer, offset, *parts)

    def get(self, buffer: Any, offset: int) -> Any:
        return np.ndarray((), self.dtype, buffer, offset).item()


class ArrayField:
    """An array of numbers; its dtype has the shape in it."""

    def __init__(self, dtype: Dtype) -> None:
        self.dtype, self.item, self.shape = dtype, dtype.base, dtype.shape

    @property
    def wanted(self) -> str:
        return f"an array of np.{self.item.name} and shape {self.shape}"

    def put(self, buffer: Any, offset: int, value: Any) -> None:
        np.ndarray(self.shape, self.item, buffer, offset)[...] = self._fitting(value)

    def get(self, buffer: Any, offset: int) -> Array:
        return np.ndarray(self.shape, self.item, buffer, offset).copy()

    def filled(self, number: Any) -> Array:
        """Such an array with this number everywhere."""
        scratch = bytearray(self.item.itemsize)
        NumberField(self.item).put(scratch, 0, number)
        return np.full(self.shape, np.frombuffer(scratch, self.item))

    def _fitting(self, value: Any) -> Array:
        is_list = isinstance(value, (list, tuple))
        array: Array = np.array(value, object) if is_list else np.asarray(value)
        if array.shape != self.shape:
            raise Misfit(f"shape {array.shape}" if array.ndim else short(value))
        if is_list:
            return self._of_numbers(array)
        if array.dtype == self.item or np.can_cast(array.dtype, self.item, "safe"):
            return array
        raise Misfit(f"{array.dtype}: convert it with .astype(np.{self.item.name})")

    def _of_numbers(self, array: Array) -> Array:
        """Python has one type for all integers and one for all floats: their values decide, one by one."""
        number, size = NumberField(self.item), self.item.itemsize
        packed = bytearray(array.size * size)
        for i, value in enumerate(array.flat):
            try:
                number.put(packed, i * size, value)
            except MISFITS:
                raise Misfit(f"{short(value)} in it") from None
        return np.frombuffer(packed, self.item).reshape(self.shape)


class RecordField:
    """A message or record inside another."""

    def __init__(self, layout: Layout) -> None:
        self.cls, self.dtype, self.put, self.get = layout.cls, layout.dtype, layout.pack_into, layout.unpack_from

    @property
    def wanted(self) -> str:
        return f"a {self.cls.__qualname__}"


AnyField = NumberField | ArrayField | RecordField


def checked_bool(value: Any) -> Any:
    """`struct` would take the truth of anything."""
    if type(value) not in _BOOLS:
        raise TypeError
    return value


def field_of(place: str, hint: Any, layout_of: Callable[[type, str], Layout | None]) -> AnyField:
    """The field of this annotation. `place` is its name in errors; `layout_of` gives None for what is no record.

    Raises:
        DefinitionError: it has no fixed size; says what to write instead.
    """

    def refuse(what: Any, instead: str) -> NoReturn:
        raise DefinitionError(f"{place}: {_text(what)} has no fixed size: use {instead}")

    members, shape = union_members(hint), None
    if get_origin(members[0]) is Annotated:
        bare, *extras = get_args(members[0])
        members, shape = union_members(bare), next((extra for extra in extras if isinstance(extra, Shape)), None)
    kind = members[0]
    if len(members) > 1:
        refuse(hint, "a number that stands for none, -1 or NaN" if NoneType in members else "one of these types")
    if get_origin(kind) is np.ndarray or shape is not None:
        item = next(iter(get_args(get_args(kind)[-1])), None) if get_origin(kind) is np.ndarray else None
        if item not in _NUMBERS:
            refuse(kind, "an array of numbers: Annotated[NDArray[np.float32], Shape(8)]")
        if shape is None:
            refuse(kind, f"Annotated[{_text(kind)}, Shape(8)]")
        if _NUMBERS[item].kind == "b":  # Numba has no type for such a field
            raise DefinitionError(
                f"{place}: arrays of bool are not for records: use Annotated[NDArray[np.uint8], Shape(...)]"
            )
        try:
            return ArrayField(np.dtype((_NUMBERS[item], shape)))
        except ValueError as error:
            raise DefinitionError(f"{place}: {shape} is too large for a record: {error}") from None
    if not isinstance(kind, type):
        refuse(kind, _instead(get_origin(kind)))
    if kind in _NUMBERS:
        return NumberField(_NUMBERS[kind])
    inner = layout_of(kind, place)
    if inner is None:
        refuse(kind, _instead(kind))
    return RecordField(inner)


def _text(hint: Any) -> str:
    if isinstance(hint, str):
        return hint
    if get_origin(hint) is np.ndarray:
        return f"NDArray[{', '.join(map(_text, get_args(get_args(hint)[-1])))}]"
    return formatannotation(hint).replace("numpy.", "np.")


def _instead(kind: Any) -> str:
    if isinstance(kind, type):
        for kinds, instead in _INSTEAD:
            if issubclass(kind, kinds):
                return instead
    return "numbers, arrays of numbers with a Shape, or a class of such with @message or of Record"


_INSTEAD: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Enum,), "np.int32 and the numbers of its members"),
    ((np.datetime64, np.timedelta64), "np.int64, a number of nanoseconds for one"),
    ((str, bytes, bytearray), "a number type, or Annotated[NDArray[np.uint8], Shape(32)]"),
    ((list, tuple, np.ndarray), "Annotated[NDArray[np.float64], Shape(8)]"),
    ((np.floating,), "np.float32 or np.float64"),
)
