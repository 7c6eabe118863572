"""Records: messages and states of fixed size, and how they lie in memory.

A record is the fields of a `@message` class or of a `Record`, and nothing else, one after the other as a C compiler
would lay them out: a NumPy structured dtype, which compiled ring kernels read and write in place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from enum import Enum
from inspect import formatannotation, signature
from itertools import groupby
from reprlib import repr as short
from types import NoneType
from typing import Annotated, Any, ClassVar, NamedTuple, NoReturn, Self, TypeVar, get_args, get_origin, get_type_hints
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DefinitionError, MessageTypeError
from .message import is_message_type, union_members
from .standard import DEFAULT_PRIORITY, STANDARD, LazyDtype, added_fields, equal_values

T = TypeVar("T")
Dtype = np.dtype[Any]

# The formats of `struct`. Of what NumPy has besides, compiled ring kernels have nothing.
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

# By NumPy's character codes, since on each platform two integer types have the same size.
_NUMBERS: dict[Any, Dtype] = {np.dtype(code).type: np.dtype(np.dtype(code).name) for code in "?bhilqBHILQfdFD"}
_NUMBERS |= {kind: np.dtype(kind) for kind in (bool, float, complex)} | {int: np.dtype(np.int64)}

_WORD = 8
"""Records are whole words, in which rings are counted."""

# What packing raises for a value that does not fit.
_MISFITS = (struct.error, ArithmeticError, AttributeError, TypeError, ValueError)


class Shape(tuple[int, ...]):
    """The shape of an array in a message or state: ``Annotated[NDArray[np.float32], Shape(8)]``, ``Shape(4, 4)``.

    Raises:
        DefinitionError: the sizes are not positive integers, or there are none.
    """

    def __new__(cls, *sizes: int) -> Self:
        if not sizes or not all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes):
            given = ", ".join(map(repr, sizes))
            raise DefinitionError(f"a Shape has positive integers, Shape(8) or Shape(4, 4), not Shape({given})")
        return super().__new__(cls, map(int, sizes))

    def __getnewargs__(self) -> tuple[Any, ...]:  # for copies and pickles
        return tuple(self)

    def __repr__(self) -> str:
        return f"Shape({', '.join(map(str, self))})"


class Record:
    """Base of the states of compiled ring kernels: fields by annotation, their initial values as class attributes.

    ::

        class SensorState(Record):
            gain: np.float64 = 1.0
            count: Annotated[NDArray[np.int64], Shape(64)]

    Fields that have no initial value start at zero, those that are themselves a `Record` at its initial values. One
    number as the initial value of an array fills it. ``SensorState(gain=2.0)`` makes a record, a copy of what it is
    given: numbers are Python's (int, float, bool, complex), arrays NumPy's, of the declared shape and dtype. Fields
    may be assigned; what they hold is checked again when the record is used. ``SensorState.dtype`` is its layout.

    Raises:
        DefinitionError: a field has no fixed size.
        MessageTypeError: a value does not fit its field, or there is no such field.
    """

    dtype = LazyDtype()

    def __init__(self, **values: Any) -> None:
        cls = type(self)
        known = layout(cls)
        for name in values.keys() - known.fields.keys():
            raise MessageTypeError(f"{cls.__qualname__} has no field {name!r} (it has: {', '.join(known.fields)})")
        mine = vars(self)
        mine.update(vars(known.unpack_from(bytes(known.dtype.itemsize), 0)))
        for name, field in known.fields.items():
            value = values.get(name, getattr(cls, name, MISSING))
            if isinstance(field, _Array) and np.ndim(value) == 0 and value is not MISSING:
                value = np.full(field.shape, value).tolist()
            elif value is MISSING and isinstance(field, _Inner) and issubclass(field.known.cls, Record):
                value = field.known.cls()
            if value is not MISSING:
                mine[name] = value
        mine.update(vars(from_record(cls, to_record(self))))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(equal_values(getattr(self, name), getattr(other, name)) for name in layout(type(self)).fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in layout(type(self)).fields)
        return f"{type(self).__qualname__}({', '.join(values)})"


def layout(cls: type) -> Layout:
    """How objects of a `@message` class or of a subclass of `Record` lie in memory.

    Fields may be numbers (bool, int, float and complex, which take 1, 8, 8 and 16 bytes, and NumPy's types of them from
    8 to 64 bits for each part), arrays of such with a `Shape`, and further messages and records. A message's
    `message_id`, `priority` and `correlation_id` are no part of it.

    Raises:
        DefinitionError: the class is neither, or one of its fields has no fixed size; says which, and what to write.
    """
    return _layout(cls, ())


class Layout:
    """The memory of the objects of one class; `layout` makes it."""

    __slots__ = ("cls", "dtype", "fields", "pack_into", "unpack_from")

    cls: type
    dtype: np.dtype[np.void]
    """Aligned as in C, in the order of the fields, a multiple of 8 bytes."""
    fields: dict[str, _Number | _Array | _Inner]
    pack_into: Callable[[Any, int, Any], None]
    """``pack_into(buffer, offset, message)``: write it into a writable buffer of bytes.

    Raises:
        MessageTypeError: a field holds what its type cannot; names the first one. Others may have been written.
    """
    unpack_from: Callable[[Any, int], Any]
    """``unpack_from(buffer, offset)``: make a message of what is there, with copies of arrays.

    A class without ``__post_init__`` is made without calling its constructor, others with it.
    """

    def __init__(self, cls: type, known: dict[str, _Number | _Array | _Inner]) -> None:
        self.cls, self.fields = cls, known
        offset, offsets = 0, []
        for field in known.values():
            align = field.dtype.alignment
            offset = -(-offset // align) * align
            offsets.append(offset)
            offset += field.dtype.itemsize
        spec: Any = {
            "names": list(known),
            "formats": [field.dtype for field in known.values()],
            "offsets": offsets,
            "itemsize": max(_WORD, -(-offset // _WORD) * _WORD),
        }
        try:
            self.dtype = np.dtype(spec, align=True)
        except (ValueError, OverflowError) as error:
            raise DefinitionError(f"{cls.__qualname__} is too large for a record: {error}") from None
        scope: dict[str, Any] = {"misfits": _MISFITS, "refusal": self._refusal, "bools": _BOOLS}
        source = _source(self, scope)
        exec(compile(source, f"<layout of {cls.__qualname__}>", "exec"), scope)
        self.pack_into, self.unpack_from = scope["pack_into"], scope["unpack_from"]

    def __repr__(self) -> str:
        return f"<layout of {self.cls.__qualname__}: {self.dtype}>"

    def _refusal(self, message: Any, error: Exception) -> Exception:
        """What to raise when packing the message has raised this."""
        scratch = bytearray(self.dtype.itemsize)
        for name, field in self.fields.items():
            place = f"{self.cls.__qualname__}.{name}"
            try:
                value = getattr(message, name)
            except AttributeError:
                if isinstance(message, self.cls):
                    return MessageTypeError(f"{place} has no value")
                return MessageTypeError(f"{short(message)} is no {self.cls.__qualname__}")
            try:
                field.put(scratch, 0, value)
            except MessageTypeError as inner:
                return MessageTypeError(f"{place}: {inner}")
            except _MISFITS as misfit:
                why = misfit.args[0] if isinstance(misfit, _Misfit) else short(value)
                return MessageTypeError(f"{place} must be {field.wanted}, not {why}")
        return error


def to_record(message: Any) -> np.void:
    """One record of a message or `Record`, of dtype ``type(message).dtype``.

    Raises:
        DefinitionError: its class has a field without fixed size, or is no class of messages or records.
        MessageTypeError: a field holds what its type cannot.
    """
    record: np.void = to_records([message])[0]
    return record


def to_records(messages: Iterable[Any]) -> NDArray[np.void]:
    """The records of messages of one class: an array of shape (n,) and that class' ``dtype``. Errors as `to_record`.

    Raises:
        MessageTypeError: the messages are not all of one class, or there are none, so that the dtype is not known.
    """
    messages = list(messages)
    if not messages:
        raise MessageTypeError("no messages, so no dtype either: np.empty(0, Sample.dtype) makes an empty array")
    cls = type(messages[0])
    known = layout(cls)
    for message in messages:
        if type(message) is not cls:
            raise MessageTypeError(f"one array holds one type: {cls.__qualname__}, not {type(message).__qualname__}")
    records = np.zeros(len(messages), known.dtype)
    buffer, size = _bytes_of(records), known.dtype.itemsize
    for i, message in enumerate(messages):
        known.pack_into(buffer, i * size, message)
    return records


def from_record(cls: type[T], record: Any) -> T:
    """The message or `Record` of one record, such as ``records[0]``. Errors as `checked_records`."""
    one: T = from_records(cls, np.asarray(record)[None] if isinstance(record, np.void) else record)[0]
    return one


def from_records(cls: type[T], records: NDArray[np.void]) -> list[T]:
    """The messages of an array of records. Errors as `checked_records`."""
    known = layout(cls)
    buffer, size = _bytes_of(checked_records(cls, records)), known.dtype.itemsize
    return [known.unpack_from(buffer, offset) for offset in range(0, len(records) * size, size)]


def checked_records(cls: type, records: NDArray[np.void]) -> NDArray[np.void]:
    """The records as an array of shape (n,) and exactly the dtype of the class, C-contiguous; a copy if they are not.

    An array with the same fields at other offsets, such as a packed one, is converted.

    Raises:
        DefinitionError: the class has no layout.
        MessageTypeError: not an array, not one-dimensional, or other fields; names the first that differs.
    """
    name, dtype = cls.__qualname__, layout(cls).dtype
    if not isinstance(records, np.ndarray):
        raise MessageTypeError(
            f"records of {name} must be a NumPy array, not a {type(records).__qualname__}: make one with "
            f"np.array(..., {name}.dtype), or of messages with to_records(messages)"
        )
    if difference := _difference(name, dtype, records.dtype):
        raise MessageTypeError(f"{difference}: make the array with {name}.dtype")
    if records.ndim != 1:
        raise MessageTypeError(f"records of {name} must have one dimension, shape (n,), not {records.shape}")
    if records.dtype != dtype:
        records = records.astype(dtype)
    return np.require(records, dtype, ["C_CONTIGUOUS", "ALIGNED"]).view(dtype, np.ndarray)


class _Misfit(ValueError):
    """Says what a value is instead of what is wanted."""


class _Number(NamedTuple):
    dtype: Dtype

    @property
    def format(self) -> str:
        return _FORMATS[self.dtype.name]

    @property
    def wanted(self) -> str:
        name = "bool" if self.dtype.kind == "b" else f"np.{self.dtype.name}"
        if self.dtype.kind not in "iu":
            return name
        range_ = np.iinfo(self.dtype)
        return f"{name} ({range_.min} to {range_.max})"

    def put(self, buffer: bytearray, offset: int, value: Any) -> None:
        if self.dtype.kind == "b" and type(value) not in _BOOLS:
            raise TypeError
        parts = (value.real, value.imag) if self.dtype.kind == "c" else (value,)
        struct.pack_into(f"={self.format}", buffer, offset, *parts)


class _Array(NamedTuple):
    dtype: Dtype
    """With the shape in it."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dtype.shape

    @property
    def wanted(self) -> str:
        return f"an array of np.{self.dtype.base.name} and shape {self.shape}"

    def put(self, buffer: Any, offset: int, value: Any) -> None:
        np.ndarray(self.shape, self.dtype.base, buffer, offset)[...] = self._fitting(value)

    def get(self, buffer: Any, offset: int) -> NDArray[Any]:
        return np.ndarray(self.shape, self.dtype.base, buffer, offset).copy()

    def _fitting(self, value: Any) -> NDArray[Any]:
        array, wanted = np.asarray(value), self.dtype.base
        if array.shape != self.shape:
            raise _Misfit(f"shape {array.shape}")
        if np.can_cast(array.dtype, wanted, "safe"):
            return array
        if not isinstance(value, (list, tuple)):
            raise _Misfit(f"{array.dtype}: convert it with .astype(np.{wanted.name})")
        # Python has one type for all integers and one for all floats: each value counts.
        kinds = {"i": "biu", "u": "biu", "f": "biuf", "c": "biufc"}.get(wanted.kind, "")
        if array.dtype.kind not in kinds:
            raise TypeError
        with np.errstate(all="ignore"):
            converted = array.astype(wanted)
        kept = converted == array if wanted.kind in "iu" else np.isfinite(converted) == np.isfinite(array)
        if not kept.all():
            raise _Misfit(f"{short(array[~kept].item(0))}, which is out of its range")
        return converted


class _Inner(NamedTuple):
    """A message or record inside another."""

    known: Layout

    @property
    def dtype(self) -> Dtype:
        return self.known.dtype

    @property
    def wanted(self) -> str:
        return f"a {self.known.cls.__qualname__}"

    def put(self, buffer: Any, offset: int, value: Any) -> None:
        self.known.pack_into(buffer, offset, value)


_BOOLS = frozenset((bool, np.bool_))


def _bytes_of(records: NDArray[np.void]) -> memoryview:
    return records.view(np.uint8).data


# -- what a class declares ---------------------------------------------------------------------------------------------


def _layout(cls: type, around: tuple[type, ...]) -> Layout:
    """`around`: the classes inside of which this one was found."""
    known: Layout | None = vars(cls).get("__record_layout__")
    if known is None:
        declared = _annotations(cls)
        found = {name: _field(f"{cls.__qualname__}.{name}", hint, (*around, cls)) for name, hint in declared.items()}
        known = cls.__record_layout__ = Layout(cls, found)  # type: ignore[attr-defined]
    return known


def _annotations(cls: type) -> dict[str, Any]:
    if not (is_message_type(cls) or (issubclass(cls, Record) and cls is not Record)):
        raise DefinitionError(f"{cls.__qualname__} is no record: put @message on it, or make it a subclass of Record")
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:  # it evaluates what the user wrote
        raise DefinitionError(
            f"the annotations of {cls.__qualname__} cannot be read ({error}): what they name must be defined in, or "
            f"imported by, the module {cls.__module__}"
        ) from error
    if is_message_type(cls):
        return {f.name: hints[f.name] for f in fields(cls) if f.name not in STANDARD}  # type: ignore[arg-type]
    return {name: hint for name, hint in hints.items() if (get_origin(hint) or hint) is not ClassVar}


def _field(place: str, hint: Any, around: tuple[type, ...]) -> _Number | _Array | _Inner:
    def refuse(what: str, instead: str) -> NoReturn:
        raise DefinitionError(f"{place}: {what} has no fixed size: use {instead}")

    members = union_members(hint)
    if len(members) > 1:
        other = "a number that stands for none, such as -1 or NaN" if NoneType in members else "one of these types"
        refuse(_text(hint), other)
    kind, *extras = get_args(members[0]) if get_origin(members[0]) is Annotated else members
    shape = next((extra for extra in extras if isinstance(extra, Shape)), None)
    if shape is not None or get_origin(kind) is np.ndarray:
        item = (get_args(get_args(kind)[-1]) or (Any,))[0] if get_origin(kind) is np.ndarray else None
        if item not in _NUMBERS:
            refuse(_text(kind), "an array of a number type, such as Annotated[NDArray[np.float32], Shape(8)]")
        if shape is None:
            refuse(_text(kind), f"Annotated[{_text(kind)}, Shape(8)]")
        try:
            return _Array(np.dtype((_NUMBERS[item], shape)))
        except (ValueError, OverflowError) as error:
            raise DefinitionError(f"{place}: {shape} is too large for a record: {error}") from None
    if not isinstance(kind, type):
        refuse(_text(kind), _instead(get_origin(kind)))
    if kind in _NUMBERS:
        return _Number(_NUMBERS[kind])
    if kind in around:
        refuse(f"{kind.__qualname__} inside itself", "the index of another one, a number")
    if is_message_type(kind) or issubclass(kind, Record):
        return _Inner(_layout(kind, around))
    refuse(_text(kind), _instead(kind))


def _text(hint: Any) -> str:
    if get_origin(hint) is np.ndarray:
        return f"NDArray[{', '.join(map(_text, get_args(get_args(hint)[-1])))}]"
    return formatannotation(hint).replace("numpy.", "np.")


def _instead(kind: Any) -> str:
    """What to write where this type stands."""
    for kinds, instead in _INSTEAD:
        if isinstance(kind, type) and issubclass(kind, kinds):
            return instead
    return "a number type, an array with a Shape, or a class with @message or a Record of such"


_INSTEAD: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Enum,), "np.int32, and the numbers of its members"),
    ((np.datetime64, np.timedelta64), "np.int64, a number of nanoseconds for one"),
    ((str, bytes, bytearray), "a number type, or Annotated[NDArray[np.uint8], Shape(32)]"),
    ((list, tuple, np.ndarray), "Annotated[NDArray[np.float64], Shape(8)]"),
    ((np.floating,), "np.float32 or np.float64"),
)


def _difference(name: str, wanted: Dtype, given: Dtype) -> str | None:
    """How the fields of two dtypes differ, apart from where they lie."""
    if wanted.names is None:
        return None if wanted == given else f"{name} must be {_kind(wanted)}, not {_kind(given)}"
    if given.names is None:
        return f"{name} must have the fields {', '.join(wanted.names)}, not be {_kind(given)}"
    if wanted.names != given.names:
        return f"{name} must have the fields {', '.join(wanted.names)}, not {', '.join(given.names)}"
    return next(filter(None, (_difference(f"{name}.{n}", wanted[n], given[n]) for n in wanted.names)), None)


def _kind(dtype: Dtype) -> str:
    return f"{dtype.base}{f' of shape {dtype.shape}' if dtype.shape else ''}"


# -- the functions of a layout -----------------------------------------------------------------------------------------


def _source(known: Layout, scope: dict[str, Any]) -> str:
    """Source of `pack_into` and `unpack_from`: without loops, numbers that lie together by one call of `struct`."""
    packing: list[str] = []
    unpacking: list[str] = []
    values: dict[str, str] = {}
    places = [(name, field, known.dtype.fields[name][1]) for name, field in known.fields.items()]  # type: ignore[index]
    for is_number, run in groupby(places, lambda place: isinstance(place[1], _Number)):
        members = list(run)
        first = members[0][2]
        if is_number:
            format_, reads, targets, end = "=", [], [], first
            for name, field, offset in members:
                format_ += f"{offset - end}x{field.format}"
                end = offset + field.dtype.itemsize
                value = f"v{len(values)}"
                if field.dtype.kind == "c":
                    reads += [f"message.{name}.real", f"message.{name}.imag"]
                    targets += [f"{value}r", f"{value}i"]
                    value = f"complex({value}r, {value}i)"
                else:
                    reads.append(f"message.{name}")
                    targets.append(value)
                if field.dtype.kind == "b":
                    packing.append(f"if type(message.{name}) not in bools: raise TypeError")
                values[name] = value
            compiled = struct.Struct(format_)
            scope[f"pack{first}"], scope[f"unpack{first}"] = compiled.pack_into, compiled.unpack_from
            packing.append(f"pack{first}(buffer, offset + {first}, {', '.join(reads)})")
            unpacking.append(f"{', '.join(targets)}, = unpack{first}(buffer, offset + {first})")
        else:
            for name, field, offset in members:
                values[name] = f"v{len(values)}"
                inner = isinstance(field, _Inner)
                scope[f"pack{offset}"] = field.known.pack_into if inner else field.put
                scope[f"unpack{offset}"] = field.known.unpack_from if inner else field.get
                packing.append(f"pack{offset}(buffer, offset + {offset}, message.{name})")
                unpacking.append(f"{values[name]} = unpack{offset}(buffer, offset + {offset})")
    unpacking += _making(known.cls, values, scope)
    return (
        "def pack_into(buffer, offset, message):\n try:\n  "
        + "\n  ".join(packing or ["pass"])
        + "\n except misfits as error:\n  raise refusal(message, error) from None\n"
        + "def unpack_from(buffer, offset):\n "
        + "\n ".join([*unpacking, "return made"])
    )


def _making(cls: Any, values: dict[str, str], scope: dict[str, Any]) -> list[str]:
    """The lines that make an object of the class; `values` are the expressions of its fields in the record."""
    scope |= {"cls": cls, "new": object.__new__, "put": object.__setattr__}
    lines, given, late = ["made = new(cls)"], {}, values
    if is_message_type(cls):
        made_when_read = added_fields(cls).keys() & {"message_id"}
        declared = {f.name: f for f in fields(cls) if f.name not in made_when_read}
        late = {name: values.get(name) or _standard(f, scope) for name, f in declared.items()}
        if hasattr(cls, "__post_init__"):
            given = {name: value for name, value in late.items() if declared[name].init}
            lost = [p.name for p in list(signature(cls.__init__).parameters.values())[1:] if p.default is p.empty]
            if lost := [name for name in lost if name not in given]:
                raise DefinitionError(
                    f"{cls.__qualname__} cannot be made again from its fields without {', '.join(lost)}: give these a "
                    "default"
                )
            lines = [f"made = cls({', '.join(f'{name}={value}' for name, value in given.items())})"]
    assign = "made.{} = {}" if cls.__setattr__ is object.__setattr__ else "put(made, {!r}, {})"
    return lines + [assign.format(name, value) for name, value in late.items() if name not in given]


def _standard(f: Field[Any], scope: dict[str, Any]) -> str:
    """The usual value of a standard field, as an expression."""
    if f.default_factory is not MISSING or f.name == "message_id":
        scope[f"new_{f.name}"] = uuid4 if f.default_factory is MISSING else f.default_factory
        return f"new_{f.name}()"
    usual = DEFAULT_PRIORITY if f.name == "priority" else None
    scope[f"usual_{f.name}"] = usual if f.default is MISSING else f.default
    return f"usual_{f.name}"
