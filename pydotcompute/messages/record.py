"""Records: messages and states of fixed size, and how they lie in memory.

A record is the fields of a `@message` class or of a `Record`, and nothing else, one after the other as a C compiler
would lay them out: a NumPy structured dtype, which compiled ring kernels read and write in place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from inspect import isdatadescriptor, signature
from itertools import groupby
from reprlib import repr as short
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DefinitionError, MessageTypeError
from .fields import MISFITS, AnyField, ArrayField, Dtype, Misfit, NumberField, RecordField, checked_bool, field_of
from .message import is_message_type
from .standard import DEFAULT_PRIORITY, STANDARD, LazyDtype, added_fields, as_html, equal_values

T = TypeVar("T")

_WORD = 8
"""Records are whole words: a ring is made of these."""


class Record:
    """Base of the states of compiled ring kernels: fields by annotation, their initial values as class attributes.

    ::

        class SensorState(Record):
            gain: np.float64 = 1.0
            count: Annotated[NDArray[np.int64], Shape(64)]

    A field without initial value starts at zero, one that is a `Record` itself at the initial values of that. One
    number as the value of an array fills it. ``SensorState(gain=2.0)`` holds copies of what it is given: numbers as
    Python's (int, float, bool, complex), arrays as NumPy's, of the declared shape and dtype. What is assigned to a
    field later is checked when the record is packed. ``SensorState.dtype`` is the dtype of such records.

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
        for name, field in known.fields.items():
            value = values.get(name, getattr(cls, name, MISSING))
            if value is MISSING:
                if isinstance(field, RecordField) and issubclass(field.cls, Record):
                    value = field.cls()
                else:
                    value = field.get(bytes(field.dtype.itemsize), 0)
            elif isinstance(field, ArrayField) and np.isscalar(value):
                with suppress(*MISFITS):  # if it does not fit, this is told below
                    value = field.filled(value)
            vars(self)[name] = value
        vars(self).update(vars(from_record(cls, to_record(self))))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(equal_values(getattr(self, name), getattr(other, name)) for name in layout(type(self)).fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in layout(type(self)).fields)
        return f"{type(self).__qualname__}({', '.join(values)})"

    _repr_html_ = as_html


def layout(cls: type) -> Layout:
    """How objects of a `@message` class or of a subclass of `Record` lie in memory.

    Fields may be numbers (bool, int, float and complex, which take 1, 8, 8 and 16 bytes, and NumPy's of these kinds
    that take as much or less, but for np.float16), arrays with a `Shape` of all these but bool, further messages and
    records. The `message_id`, `priority` and `correlation_id` of a message are not in it.

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
    fields: dict[str, AnyField]
    pack_into: Callable[[Any, int, Any], None]
    """``pack_into(buffer, offset, message)``: write it into a buffer of bytes.

    Raises:
        MessageTypeError: a field holds what its type cannot; names the first such. Others may have been written.
    """
    unpack_from: Callable[[Any, int], Any]
    """``unpack_from(buffer, offset)``: a new object of what is there, with arrays of its own.

    The constructor is called only where the class has a ``__post_init__``.
    """

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # a class that goes to another process is looked at there anew

    def __init__(self, cls: type, known: dict[str, AnyField]) -> None:
        self.cls, self.fields = cls, known
        offsets, end = [], 0
        for field in known.values():
            offsets.append(_up_to(field.dtype.alignment, end))
            end = offsets[-1] + field.dtype.itemsize
        spec: Any = {
            "names": list(known),
            "formats": [field.dtype for field in known.values()],
            "offsets": offsets,
            "itemsize": max(_WORD, _up_to(_WORD, end)),
        }
        try:
            self.dtype = np.dtype(spec, align=True)
        except ValueError as error:
            raise DefinitionError(f"{cls.__qualname__} is too large for a record: {error}") from None
        scope: dict[str, Any] = {"misfits": MISFITS, "refusal": self._refusal, "checked_bool": checked_bool}
        source = _source(cls, list(zip(known, known.values(), offsets, strict=True)), scope)
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
                is_one = isinstance(message, self.cls)
                return MessageTypeError(
                    f"{place} has no value" if is_one else f"{short(message)} is no {self.cls.__qualname__}"
                )
            try:
                field.put(scratch, 0, value)
            except MessageTypeError as inner:
                return MessageTypeError(f"{place}: {inner}")
            except MISFITS as misfit:
                given = misfit.args[0] if isinstance(misfit, Misfit) else short(value)
                return MessageTypeError(f"{place} must be {field.wanted}, not {given}")
        return error


def to_record(message: Any) -> np.void:
    """One record of a message or `Record`, its dtype that of the class.

    Raises:
        DefinitionError: its class has a field without fixed size, or is no class of messages or records.
        MessageTypeError: a field holds what its type cannot.
    """
    record: np.void = to_records([message])[0]
    return record


def to_records(messages: Iterable[Any]) -> NDArray[np.void]:
    """The records of messages of one class: an array of shape (n,), its dtype that of the class.

    Raises:
        DefinitionError, MessageTypeError: as `to_record`.
        MessageTypeError: the messages are of several classes, or there are none, which tells no dtype.
    """
    messages = list(messages)
    if not messages:
        raise MessageTypeError("no message tells the dtype: np.empty(0, Sample.dtype) makes an empty array")
    cls = type(messages[0])
    known = layout(cls)
    records = np.zeros(len(messages), known.dtype)
    buffer, size = _bytes_of(records), known.dtype.itemsize
    for i, message in enumerate(messages):
        if type(message) is not cls:
            raise MessageTypeError(f"one array has one type: {cls.__qualname__}, not {type(message).__qualname__}")
        known.pack_into(buffer, i * size, message)
    return records


def from_record(cls: type[T], record: np.void) -> T:
    """The message or `Record` of one record, such as ``records[0]``. Raises as `checked_records` does."""
    one = np.asarray(record)
    if one.ndim:
        raise MessageTypeError(
            f"one record of {cls.__qualname__} is wanted, such as records[0], not an array of shape {one.shape}: "
            "from_records takes these"
        )
    return from_records(cls, one[None])[0]


def from_records(cls: type[T], records: NDArray[np.void]) -> list[T]:
    """The messages of an array of records. Raises as `checked_records` does."""
    known = layout(cls)
    buffer, size = _bytes_of(checked_records(cls, records)), known.dtype.itemsize
    return [known.unpack_from(buffer, offset) for offset in range(0, len(records) * size, size)]


def checked_records(cls: type, records: NDArray[np.void]) -> NDArray[np.void]:
    """The records as an array of shape (n,) and the very dtype of the class, C-contiguous; a copy if they are not.

    An array of the same fields at other offsets, a packed one for instance, is converted.

    Raises:
        DefinitionError: the class has no layout.
        MessageTypeError: no array, not one-dimensional, or of other fields; names the first that differs.
    """
    name, dtype = cls.__qualname__, layout(cls).dtype
    if type(records) is np.ndarray and records.dtype is dtype and records.ndim == 1 and records.flags.carray:
        return records
    if not isinstance(records, np.ndarray):
        raise MessageTypeError(
            f"records of {name} must be a NumPy array, not a {type(records).__qualname__}: make one with "
            f"np.array(..., {name}.dtype), or of messages with pydotcompute.messages.to_records(...)"
        )
    if difference := _difference(name, dtype, records.dtype):
        raise MessageTypeError(f"{difference}: make the array with {name}.dtype")
    if records.ndim != 1:
        raise MessageTypeError(f"records of {name} must have one dimension, not shape {records.shape}: ravel() them")
    return np.require(records, dtype, ["C_CONTIGUOUS", "ALIGNED"]).view(dtype, np.ndarray)


def _difference(name: str, wanted: Dtype, given: Dtype) -> str | None:
    """How the fields of two dtypes differ, apart from where they lie."""
    if wanted.names is None or wanted.names != given.names:
        return None if wanted == given else f"{name} must be {_kind(wanted)}, not {_kind(given)}"
    return next(filter(None, (_difference(f"{name}.{n}", wanted[n], given[n]) for n in wanted.names)), None)


def _kind(dtype: Dtype) -> str:
    if dtype.names is not None:
        return f"a record of {', '.join(dtype.names)}"
    return f"{dtype.base} of shape {dtype.shape}" if dtype.shape else f"{dtype}"


def _bytes_of(records: NDArray[np.void]) -> memoryview:
    return records.view(np.uint8).data


def _up_to(multiple: int, size: int) -> int:
    return -(-size // multiple) * multiple


def _layout(cls: type, around: tuple[type, ...]) -> Layout:
    """`around`: the classes inside of which this one was found."""

    def layout_of(kind: type, place: str) -> Layout | None:
        if kind in (*around, cls):
            raise DefinitionError(f"{place}: {kind.__qualname__} inside itself has no fixed size: use an index")
        return _layout(kind, (*around, cls)) if _is_record_type(kind) else None

    if not _is_record_type(cls):
        raise DefinitionError(f"{short(cls)} is no record: put @message on a class, or make it a subclass of Record")
    known: Layout | None = vars(cls).get("__record_layout__")
    if known is None:
        hints = _annotations(cls).items()
        known = Layout(cls, {name: field_of(f"{cls.__qualname__}.{name}", hint, layout_of) for name, hint in hints})
        cls.__record_layout__ = known  # type: ignore[attr-defined]
    return known


def _is_record_type(cls: Any) -> bool:
    return is_message_type(cls) or (isinstance(cls, type) and issubclass(cls, Record) and cls is not Record)


def _annotations(cls: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:  # it evaluates what the user wrote
        raise DefinitionError(
            f"the annotations of {cls.__qualname__} cannot be read ({error}): define or import what they name in the "
            f"module {cls.__module__} itself"
        ) from error
    if is_message_type(cls):
        return {f.name: hints[f.name] for f in fields(cls) if f.name not in STANDARD}
    return {name: hint for name, hint in hints.items() if (get_origin(hint) or hint) is not ClassVar}


# -- the functions of a layout -----------------------------------------------------------------------------------------


def _source(cls: type, places: list[tuple[str, AnyField, int]], scope: dict[str, Any]) -> str:
    """Source of `pack_into` and `unpack_from`: no loops, and one call of `struct` for numbers that lie together."""
    packing: list[str] = []
    unpacking: list[str] = []
    values: dict[str, str] = {}
    for is_number, run in groupby(places, lambda place: isinstance(place[1], NumberField)):
        members = list(run)
        start = end = members[0][2]
        format_, read, parts = "=", "", ""
        for name, field, offset in members:
            value = f"v{len(values)}"
            values[name] = value
            if isinstance(field, NumberField):
                format_ += f"{offset - end}x{field.format}"
                end = offset + field.dtype.itemsize
                if field.is_complex:
                    read += f", message.{name}.real, message.{name}.imag"
                    parts += f"{value}r, {value}i, "
                    values[name] = f"complex({value}r, {value}i)"
                else:
                    read += f", checked_bool(message.{name})" if field.is_bool else f", message.{name}"
                    parts += f"{value}, "
            else:
                scope[f"pack{offset}"], scope[f"unpack{offset}"] = field.put, field.get
                packing.append(f"pack{offset}(buffer, offset + {offset}, message.{name})")
                unpacking.append(f"{value} = unpack{offset}(buffer, offset + {offset})")
        if is_number:
            numbers = struct.Struct(format_)
            scope[f"pack{start}"], scope[f"unpack{start}"] = numbers.pack_into, numbers.unpack_from
            packing.append(f"pack{start}(buffer, offset + {start}{read})")
            unpacking.append(f"{parts}= unpack{start}(buffer, offset + {start})")
    unpacking += _making(cls, values, scope)
    return (
        "def pack_into(buffer, offset, message):\n try:\n  "
        + "\n  ".join(packing or ["pass"])
        + "\n except misfits as error:\n  raise refusal(message, error) from None\n"
        + "def unpack_from(buffer, offset):\n "
        + "\n ".join([*unpacking, "return made"])
    )


def _making(cls: Any, values: dict[str, str], scope: dict[str, Any]) -> list[str]:
    """The lines that make an object of the class; `values` are the expressions of what the record has."""
    scope |= {"cls": cls, "new": object.__new__, "put": object.__setattr__}
    if is_message_type(cls):
        made_when_read = added_fields(cls).keys() & {"message_id"}
        declared = {f.name: f for f in fields(cls) if f.name not in made_when_read}
        values = {name: values.get(name) or _standard(f, scope) for name, f in declared.items()}
        if hasattr(cls, "__post_init__"):
            given = [name for name, f in declared.items() if f.init]
            parameters = list(signature(cls.__init__).parameters.values())[1:]
            if lost := [p.name for p in parameters if p.default is p.empty and p.name not in given]:
                raise DefinitionError(f"{cls.__qualname__} cannot be made again without {lost[0]}: give it a default")
            made = f"made = cls({', '.join(f'{name}={values[name]}' for name in given)})"
            return [made, *(f"put(made, {name!r}, {values[name]})" for name in declared if name not in given)]
    if cls.__setattr__ is object.__setattr__:
        return ["made = new(cls)", *(f"made.{name} = {value}" for name, value in values.items())]
    lines = ["made = new(cls)", "room = made.__dict__"]  # frozen: this takes half the time of object.__setattr__
    for name, value in values.items():
        in_room = not isdatadescriptor(getattr(cls, name, None))  # a base may have __slots__
        lines.append(f"room[{name!r}] = {value}" if in_room else f"put(made, {name!r}, {value})")
    return lines


def _standard(f: Field[Any], scope: dict[str, Any]) -> str:
    """The usual value of a standard field, as an expression."""
    if f.default_factory is not MISSING or f.name == "message_id":
        scope[f"new_{f.name}"] = uuid4 if f.default_factory is MISSING else f.default_factory
        return f"new_{f.name}()"
    usual = DEFAULT_PRIORITY if f.name == "priority" else None
    scope[f"usual_{f.name}"] = usual if f.default is MISSING else f.default
    return f"usual_{f.name}"
