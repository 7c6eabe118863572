"""How values of each supported type are taken apart for msgpack, and put together again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from math import prod
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
from msgpack import ExtType

Array = np.ndarray[Any, np.dtype[Any]]

PLAIN = frozenset({type(None), bool, int, float, str, bytes, UUID})
"""Types that the packer writes on its own: UUID and integers beyond 64 bits with the help of `pack_extension`."""

_UUID, _BIG_INT = 1, 2


class Form:
    """Values of a type are written as a list: an extension without content that tells the type, then their parts.

    Args:
        code: of the extension.
        parts: takes a value apart, into plain values, lists, dicts, and values of any other form.
        make: puts the parts together. Raises anything when they are not what `parts` may give.
    """

    __slots__ = ("make", "parts", "tag")

    def __init__(self, code: int, parts: Callable[[Any], Iterable[Any]], make: Callable[..., Any]) -> None:
        self.tag = ExtType(code, b"")
        self.parts = parts
        self.make = make


def pack_extension(value: Any) -> ExtType:
    """What the packer asks for when it meets a value of `PLAIN` that msgpack does not have."""
    # Not by calling ExtType, whose checks take longer than all the rest.
    if type(value) is UUID:
        return tuple.__new__(ExtType, (_UUID, value.bytes))
    return ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def unpack_extension(code: int, data: bytes) -> Any:
    """The value, or the form whose tag it is."""
    if code == _UUID:
        return UUID(bytes=data)
    if code == _BIG_INT:
        return int.from_bytes(data, "big", signed=True)
    if data or code not in _BY_CODE:
        raise ValueError(f"an extension that is not ours, of code {code}")
    return _BY_CODE[code]


def unpack_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict whose keys are of types in `PLAIN`."""
    if not pairs:
        return {}
    keys = [key for key, _ in pairs]
    if not PLAIN.issuperset(map(type, keys)):
        raise ValueError("a key that is not plain")
    check_distinct(keys)
    return dict(pairs)


def check_distinct(keys: Sequence[Any]) -> None:
    """Refuse keys that are there twice, and those made so that a set or dict of them takes quadratic time.

    Python hashes integers, floats, ids and tuples of these in a way that anybody can invert.
    """
    most_common = Counter(map(hash, keys)).most_common(1) if len(keys) > 64 else ()
    if most_common and most_common[0][1] > 64:
        raise ValueError("too many keys of one hash")
    if len(set(keys)) != len(keys) or has_nan(keys):
        raise ValueError("a key or item that is there twice, or NaN")


def has_nan(keys: Iterable[Any]) -> bool:
    """Whether a key, or an item of a set, is NaN: it is never found again, so no decoded one would be equal."""
    if _NEVER_NAN.issuperset(map(type, keys)):
        return False
    return any(has_nan(key) if isinstance(key, (tuple, frozenset)) else key != key for key in keys)


_NEVER_NAN = PLAIN - {float}


def _make_map(*parts: Any) -> dict[Any, Any]:
    check_distinct(parts[::2])
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _make_set(*items: Any) -> set[Any]:
    check_distinct(items)
    return set(items)


def _strictly(make: Callable[..., Any], *types: type | tuple[type, ...]) -> Callable[..., Any]:
    """`make` for parts of these types only: some constructors take much else, such as a size to allocate."""

    def checked(*parts: Any) -> Any:
        if len(parts) != len(types) or not all(map(isinstance, parts, types)):
            raise ValueError("parts that do not fit their tag")
        return make(*parts)

    return checked


def _date_parts(d: date) -> list[int]:
    return [d.year, d.month, d.day]


def _time_parts(t: time | datetime) -> list[Any]:
    return [t.hour, t.minute, t.second, t.microsecond, t.tzinfo, t.fold]


_ZONE = (type(None), timezone, ZoneInfo)


def _make_time(*parts: Any) -> time:
    return time(*parts[:-1], fold=parts[-1])


def _make_datetime(*parts: Any) -> datetime:
    return datetime(*parts[:-1], fold=parts[-1])


def _make_zone(offset: timedelta, name: str) -> timezone:
    unnamed = timezone(offset)
    return unnamed if unnamed.tzname(None) == name else timezone(offset, name)


def _zone_parts(zone: ZoneInfo) -> list[str]:
    if zone.key is None:
        raise ValueError("a ZoneInfo without a key has no encoding")
    return [zone.key]


def _decimal_parts(number: Decimal) -> list[str]:
    if number.is_snan():
        raise ValueError("a signalling NaN has no encoding: it cannot even be compared")
    return [str(number)]


# -- arrays ------------------------------------------------------------------------------------------------------------

# Of fixed size and without pointers: bool, integers, floats, complex, text, bytes, void; dates and durations.
_DTYPE = re.compile(r"[<>|][biufcSUV]\d{1,9}|[<>][mM]8\[\d{0,9}[A-Za-z]{1,2}\]")


def _array_parts(array: Array) -> list[Any]:
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return [_dtype_parts(array.dtype), order, array.tobytes(order), *array.shape]


def _make_array(description: Any, order: Literal["C", "F"], data: bytes, *shape: int) -> Array:
    dtype = _make_dtype(description)
    if (
        order not in ("C", "F")
        or type(data) is not bytes
        or any(type(n) is not int or not 0 <= n < 2**63 for n in shape)
    ):
        raise ValueError("a malformed array")
    # Before anything is allocated: the shape may say whatever it likes.
    if len(shape) > 64 or prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array whose shape does not fit its data")
    view: Array = np.ndarray(shape, dtype, data, order=order)
    _check_text(view)
    return view.copy(order="K")  # writable, and free of the bytes


def _scalar_parts(scalar: np.generic) -> list[Any]:
    if type(scalar) is not scalar.dtype.type:
        raise ValueError(f"a value of type {type(scalar).__qualname__} has no encoding: convert it")
    return [_dtype_parts(scalar.dtype), scalar.tobytes()]


def _make_scalar(description: Any, data: bytes) -> Any:
    return _make_array(description, "C", data)[()]


@lru_cache(maxsize=256)
def _dtype_parts(dtype: np.dtype[Any]) -> Any:
    """Text, or for a structured dtype a dict of NumPy's keywords, or for a subarray a list of base and shape."""
    description: Any = dtype.str
    if dtype.subdtype is not None:
        description = [_dtype_parts(dtype.subdtype[0]), list(dtype.subdtype[1])]
    elif dtype.names is not None and dtype.fields is not None:
        parts = [dtype.fields[name] for name in dtype.names]
        description = {
            "names": list(dtype.names),
            "formats": [_dtype_parts(part[0]) for part in parts],
            "offsets": [part[1] for part in parts],
            "itemsize": dtype.itemsize,
        }
    try:
        made = _make_dtype(description)
        same = made == dtype and made.type is dtype.type  # np.record has another type
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"NumPy data of dtype {dtype} has no encoding: convert it to a dtype of fixed size (dates: with a unit)"
        )
    return description


def _make_dtype(description: Any) -> np.dtype[Any]:
    if isinstance(description, str):
        return _simple_dtype(description)
    if isinstance(description, list):
        base, shape = description
        dtype: np.dtype[Any] = np.dtype((_make_dtype(base), tuple(shape)))
    else:
        names, formats, offsets, size = (description[key] for key in ("names", "formats", "offsets", "itemsize"))
        formats = [_make_dtype(part) for part in formats]
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
    return _with_size(dtype)


@lru_cache(maxsize=256)
def _simple_dtype(description: str) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(description):
        raise ValueError("a dtype that has no encoding")
    return _with_size(np.dtype(description))


def _with_size(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if not dtype.itemsize:  # any number of elements would need no data
        raise ValueError("a dtype without size")
    return dtype


def _check_text(array: Array) -> None:
    """Refuse characters that Unicode does not have: NumPy takes them, and fails when they are read."""
    for name in array.dtype.names or ():
        _check_text(array[name])
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.str[0] + "u4")
        if codes.max() > 0x10FFFF:
            raise ValueError("text with characters that do not exist")


# -- the table ---------------------------------------------------------------------------------------------------------

# What the codec takes apart itself, because it depends on the message that holds it.
MESSAGE = Form(16, iter, iter)
ENUM = Form(17, iter, iter)
MAP = Form(18, lambda items: [part for item in items.items() for part in item], _make_map)
SCALAR = Form(32, _scalar_parts, _make_scalar)

FORMS: dict[type, Form] = {
    tuple: Form(19, iter, lambda *items: items),
    set: Form(20, iter, _make_set),
    frozenset: Form(21, iter, lambda *items: frozenset(_make_set(*items))),
    bytearray: Form(22, lambda b: [bytes(b)], _strictly(bytearray, bytes)),
    complex: Form(23, lambda z: [z.real, z.imag], _strictly(complex, float, float)),
    Decimal: Form(24, _decimal_parts, _strictly(Decimal, str)),
    date: Form(25, _date_parts, _strictly(date, int, int, int)),
    time: Form(26, _time_parts, _strictly(_make_time, int, int, int, int, _ZONE, int)),
    datetime: Form(
        27,
        lambda d: [*_date_parts(d), *_time_parts(d)],
        _strictly(_make_datetime, int, int, int, int, int, int, int, _ZONE, int),
    ),
    timedelta: Form(28, lambda d: [d.days, d.seconds, d.microseconds], _strictly(timedelta, int, int, int)),
    timezone: Form(29, lambda zone: [zone.utcoffset(None), zone.tzname(None)], _strictly(_make_zone, timedelta, str)),
    ZoneInfo: Form(30, _zone_parts, _strictly(ZoneInfo, str)),
    np.ndarray: Form(31, _array_parts, _make_array),
    # As arrays of one, these would lose zeros at the end.
    np.str_: Form(33, lambda text: ["".join(text)], _strictly(np.str_, str)),
    np.bytes_: Form(34, lambda text: [bytes(text)], _strictly(np.bytes_, bytes)),
}

_BY_CODE = {form.tag.code: form for form in (MESSAGE, ENUM, MAP, SCALAR, *FORMS.values())}
