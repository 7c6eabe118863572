"""Messages as bytes: msgpack, closed.

An encoded message is a msgpack array: a header, which is the qualified name of the message's type and the names of its
fields with spaces between them, and then the values of the fields. What msgpack has no type for is an extension, or an
array that starts with an extension without content, which tells the type of the rest (see `forms`). A message inside a
message is such an array too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from enum import Enum, Flag
from typing import Any

import numpy as np
from msgpack import Packer, Unpacker, unpackb

from ..exceptions import MessageDecodeError, MessageEncodeError
from .forms import ENUM, FORMS, MAP, MESSAGE, PLAIN, SCALAR, Form, has_nan, pack_extension, unpack_extension, unpack_map
from .message import registry, type_name
from .schema import Schema, schema_of

MAX_DEPTH = 64
MAX_BYTES = 64 * 2**20


def encode(message: Any, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> bytes:
    """The message as bytes, from which `decode` makes an equal one with the same `message_id`.

    Fields may hold None, bool, int of any size, float, complex, str, bytes, bytearray, Decimal, UUID, date, time,
    datetime (naive, or with a `timezone` or `ZoneInfo`), timedelta, list, tuple, dict, set, frozenset, other messages,
    members of enums that an annotation of the same message names, and NumPy scalars and arrays: any shape, any dtype
    of fixed size, C or F order (others become C). Subclasses of these types are refused, not flattened.

    A field whose annotation is simple (one of these types, whatever its brackets say, or a union of them) must hold
    such a value. Integers go for floats, and NumPy's numbers for Python's and the other way round.

    Args:
        message: of a class under `@message`.
        max_depth: how many levels of lists, dicts, messages and so on may be inside each other.
        max_bytes: the largest result, in bytes.

    Raises:
        MessageEncodeError: not a message, a value that has no encoding (the error names field and type), or a limit.
    """
    try:
        data = _pack(_disassemble(message, max_depth))
    except _Fault as fault:
        raise MessageEncodeError(str(fault)) from fault.__cause__
    except (ValueError, OverflowError, RecursionError) as error:  # of msgpack: a text beyond 4 GiB, its own depth limit
        raise MessageEncodeError(f"{type(message).__qualname__}: {error}") from error
    if len(data) > max_bytes:
        raise MessageEncodeError(f"{type(message).__qualname__}: {len(data)} bytes, more than max_bytes={max_bytes}")
    return data


def decode(data: bytes | bytearray | memoryview, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> Any:
    """The message that `encode` made these bytes of.

    Only classes under `@message` are made, by calling them with their fields; of classes with the same qualified name,
    the one that was defined last. A field that is missing in the bytes takes its default; one that the class does not
    have is an error. Fields with simple annotations are checked as in `encode`. ``__post_init__`` runs again, as in
    `dataclasses.replace`, but fields with ``init=False`` get the values that they had.

    Whatever the bytes hold, memory stays below about 100 times their size, and time is proportional to it. Arrays are
    new and writable.

    Args:
        data: from anywhere; it is not trusted.
        max_depth: how many levels of lists, dicts, messages and so on may be inside each other.
        max_bytes: how many bytes may be there; more are not looked at.

    Raises:
        MessageDecodeError: anything else than the bytes of a message of a known class.
        TypeError: `data` is not bytes, a bytearray or a memoryview.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"decode takes bytes, not {type(data).__name__}")
    size = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
    if size > max_bytes:
        raise MessageDecodeError(f"{size} bytes, more than max_bytes={max_bytes}")
    try:
        return _assemble(_unpack(data, size), max_depth)
    except _Fault as fault:
        raise MessageDecodeError(str(fault)) from fault.__cause__
    except Exception as error:
        raise MessageDecodeError(f"not an encoded message: {_described(error)}") from error


def also_from(cls: type, module: str) -> None:
    """Let `decode` make this message class of what was encoded when it was in another module.

    So also the enums that its annotations name. A class that was written in a notebook and moved to a file, for one.
    """
    registry[f"{module}.{cls.__qualname__}"] = cls
    schema = schema_of(cls)
    for enum in list(schema.enums.values()) if schema is not None else ():
        schema.enums[f"{module}.{enum.__qualname__}"] = enum  # type: ignore[union-attr]


class _Fault(Exception):
    """Why a value cannot be encoded or decoded; `within` adds where it is, from the inside out."""

    start = path = ""

    def within(self, part: str, start: str = "") -> None:
        self.path = part + self.path
        self.start = start or self.start

    def __str__(self) -> str:
        where = self.start + (self.path if len(self.path) < 100 else f"{self.path[:100]}…")
        return f"{where}: {self.args[0]}" if where else str(self.args[0])


# -- msgpack -----------------------------------------------------------------------------------------------------------

# A packer is taken out while it works: threads, and code that runs in between such as `__del__`, never share one.
_packers: list[Packer] = []


def _pack(parts: list[Any]) -> bytes:
    try:
        packer = _packers.pop()
    except IndexError:
        packer = Packer(default=pack_extension, strict_types=True, unicode_errors="surrogatepass")
    data: bytes = packer.pack(parts)
    if len(data) <= 2**20:  # it keeps the memory of the largest message
        _packers.append(packer)
    return data


def _unpack(data: bytes | bytearray | memoryview, size: int) -> Any:
    if size > 1024:
        # Skipping allocates nothing. Afterwards every length that is announced is known to be there; unpacking at once
        # would allocate for each before looking.
        unpacker = Unpacker(max_buffer_size=size)
        unpacker.feed(data)
        unpacker.skip()
    return unpackb(
        data,
        strict_map_key=False,
        object_pairs_hook=unpack_map,
        ext_hook=unpack_extension,
        unicode_errors="surrogatepass",
    )


# -- message -> what msgpack writes ------------------------------------------------------------------------------------


def _disassemble(message: Any, room: int) -> list[Any]:
    cls = type(message)
    schema = schema_of(cls)
    if schema is None:
        raise _Fault(f"{cls.__qualname__} is not a message: put @message on its class")
    try:
        parts, types = schema.parts(message)
    except AttributeError as error:
        raise _Fault(str(error)) from error
    if types in schema.flat:
        return parts
    place = ""
    try:
        if schema.lost:
            raise _Fault(f"cannot be made again without {', '.join(schema.lost)}: give these a default")
        lowered = parts[:1]
        for name, value in zip(schema.names, parts[1:], strict=True):
            place = f".{name}"
            if misfit := schema.misfit(name, value):
                raise _Fault(misfit)
            lowered.append(_lower(value, room, schema))
    except _Fault as fault:
        fault.within(place, cls.__qualname__)
        raise
    schema.remember(types)
    return lowered


def _lower(value: Any, room: int, schema: Schema) -> Any:
    """The value in types that the packer knows. `room`: how many levels may still be opened."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if room <= 0:
        raise _Fault("deeper than max_depth allows (does it contain itself?)")
    room -= 1
    if kind is list:
        return _lower_all(value, room, schema)
    if kind is dict:
        if has_nan(value):
            raise _Fault("NaN as a key has no encoding: it could not be found again")
        if not PLAIN.issuperset(map(type, value)):
            return [MAP.tag, *_lower_all(list(MAP.parts(value)), room, schema, [key for key in value for _ in "kv"])]
        values = list(value.values())
        lowered = _lower_all(values, room, schema, list(value))
        return value if lowered is values else dict(zip(value, lowered, strict=True))
    if kind in (set, frozenset) and has_nan(value):
        raise _Fault("NaN in a set has no encoding: it could not be found again")
    if schema_of(kind) is not None:
        return [MESSAGE.tag, *_disassemble(value, room)]
    if isinstance(value, Enum):
        name = type_name(kind)
        if schema.enum(name, kind) is not kind:
            raise _Fault(
                f"the enum {kind.__qualname__} is not named in the annotations of {schema.cls.__qualname__}: annotate "
                "the field with it, and if it was defined again, run the definition of the message again too"
            )
        return [ENUM.tag, name, value.value if isinstance(value, Flag) else value.name]
    form = FORMS.get(kind) or (SCALAR if isinstance(value, np.generic) else None)
    if form is None:
        raise _Fault(f"a value of type {kind.__qualname__} has no encoding{_hint(value)}")
    try:
        parts = list(form.parts(value))
    except ValueError as error:
        raise _Fault(str(error)) from None
    return [form.tag, *_lower_all(parts, room, schema)]


def _lower_all(values: list[Any], room: int, schema: Schema, keys: Sequence[Any] | None = None) -> list[Any]:
    if PLAIN.issuperset(map(type, values)):
        return values
    lowered: list[Any] = []
    try:
        for value in values:
            lowered.append(_lower(value, room, schema))
    except _Fault as fault:
        where = len(lowered) if keys is None else keys[len(lowered)]
        fault.within(f"[{where!r}]")
        raise
    return lowered


def _hint(value: Any) -> str:
    if is_dataclass(value):
        return ": put @message on its class"
    base = next((t for t in type(value).__mro__ if t in FORMS or t in PLAIN or t in (list, dict)), None)
    return f": convert it to {base.__name__}" if base else ""


# -- what msgpack read -> message --------------------------------------------------------------------------------------


def _assemble(parts: Any, room: int) -> Any:
    if type(parts) is not list or not parts or type(parts[0]) is not str:
        raise _Fault("not an encoded message")
    header = parts[0]
    name = header.partition(" ")[0]
    cls = registry.get(name)
    schema = schema_of(cls) if cls is not None else None
    if schema is None:
        raise _Fault(f"no message type {name[:200]!r} is known: import the module, or run the cell, that defines it")
    place = ""
    try:
        if header == schema.header and (message := schema.made(parts)) is not None:
            return message
        names, values = header.split(" ")[1:], parts[1:]
        if len(values) != len(names) or len(values) != len(set(names)):
            raise _Fault("names and values do not match")
        if unknown := [name for name in names if name not in schema.accepts]:
            some = ", ".join(map(repr, unknown))[:200]
            raise _Fault(f"it has no field {some}; its definition here may be older or newer")
        given = {}
        for name, value in zip(names, values, strict=True):
            place = f".{name}"
            given[name] = _lift(value, room, schema)
            if misfit := schema.misfit(name, given[name]):
                raise _Fault(misfit)
        place = ""
        late = {name: given.pop(name) for name in schema.late if name in given}
        message = schema.cls(**given)
        for name, value in late.items():
            object.__setattr__(message, name, value)
    except _Fault as fault:
        fault.within(place, schema.cls.__qualname__)
        raise
    except Exception as error:  # of the constructors of many types, that of the message among them
        reason = _Fault(_described(error))
        reason.within(place, schema.cls.__qualname__)
        raise reason from error
    if header == schema.header:
        schema.remember(tuple(map(type, given.values())))
    return message


def _lift(value: Any, room: int, schema: Schema) -> Any:
    """The reverse of `_lower`."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is not list and kind is not dict:
        raise _Fault("a tag that stands alone, or an extension that is not ours")
    if room <= 0:
        raise _Fault("deeper than max_depth allows")
    room -= 1
    if kind is dict:
        values = list(value.values())
        lifted = _lift_all(values, room, schema)
        return value if lifted is values else dict(zip(value, lifted, strict=True))
    if not value or type(value[0]) is not Form:
        return _lift_all(value, room, schema)
    form, *parts = value
    if form is MESSAGE:
        return _assemble(parts, room)
    if form is ENUM:
        name, member = parts
        enum = schema.enum(name)
        if enum is None:
            raise _Fault(f"no enum {name!r:.200} is named in the annotations of the message")
        return enum(member) if issubclass(enum, Flag) else enum[member]
    return form.make(*_lift_all(parts, room, schema))


def _lift_all(values: list[Any], room: int, schema: Schema) -> list[Any]:
    return values if PLAIN.issuperset(map(type, values)) else [_lift(value, room, schema) for value in values]


def _described(error: Exception) -> str:
    """Its message, if there is one to be had: it may show a value that cannot be shown."""
    try:
        text = str(error)[:200]
    except Exception:  # noqa: BLE001 - of a foreign `__str__`
        text = ""
    return text if text and isinstance(error, ValueError) else f"{type(error).__name__} {text}".rstrip()
