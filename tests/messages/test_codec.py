"""Bytes of messages: what encodes, decodes to an equal message; nothing else decodes, whatever the bytes."""

import gc
import random
import struct
import sys
import threading
import time as clock
import tracemalloc
import types
import typing
import zoneinfo
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntFlag
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from uuid import UUID, uuid4

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

from pydotcompute.exceptions import MessageDecodeError, MessageEncodeError
from pydotcompute.messages import decode, encode, message
from pydotcompute.messages.forms import ENUM, FORMS, MESSAGE


class Colour(Enum):
    RED = 1
    BLUE = "b"


class Access(IntFlag):
    READ = 1
    WRITE = 2


class Strange(Enum):
    """Named in no annotation."""

    ONE = 1


@message
class Any_:  # noqa: N801
    value: Any
    enums: Colour | list[Access] | None = None


@message
@dataclass
class WrittenOut:
    data: str
    message_id: UUID = field(default_factory=uuid4)
    priority: int = 128
    correlation_id: UUID | None = None


@message
@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@message
class Typed:
    number: int = 0
    real: float = 0.0
    text: str | None = None
    data: bytes = b""
    items: list[int] = field(default_factory=list)
    array: NDArray[np.float64] | None = None
    small: np.int32 = np.int32(0)
    point: Point | None = None
    colour: "Colour" = Colour.RED
    when: date | None = None
    anything: object = None
    literal: Literal["a", 3] = "a"


def passed(value: Any) -> Any:
    """The value after a journey through bytes."""
    original = Any_(value)
    arrived = decode(encode(original))
    assert arrived == original
    assert arrived.message_id == original.message_id
    assert same(arrived.value, original.value), (arrived.value, original.value)
    return arrived.value


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types through and through."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        order = a.flags.f_contiguous and not a.flags.c_contiguous
        return (
            a.dtype == b.dtype and a.shape == b.shape and order == (b.flags.f_contiguous and not b.flags.c_contiguous)
        )
    if isinstance(a, dict):
        return all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, datetime):
        return (a.fold, a.tzinfo, a.replace(tzinfo=None)) == (b.fold, b.tzinfo, b.replace(tzinfo=None))
    return type(a) is not np.void or a.dtype == b.dtype


# -- what goes there and back ------------------------------------------------------------------------------------------

TABLE = np.dtype([("a", "i1"), ("b", ">f8", (2, 2)), ("c", [("d", "U3"), ("e", "M8[ms]")])])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)

VALUES = [
    *(None, True, False, 0, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**5000),
    *(0.0, -0.0, 1.5, float("inf"), float("nan"), 1 + 2j, complex("nan-0j")),
    *("", "ä€😀", "\ud800", "\0", b"", b"\xff\0", bytearray(b""), bytearray(b"ab")),
    *([], [[1], [[]]], (), (1, (2, [3])), {}, {"a": [1]}, {1: 2, -5: 3, None: 4, 1.5: 5, b"b": 6, False: 7, 2**70: 8}),
    *({(1, 2): 3, date(2020, 1, 1): 4, Colour.RED: 5, np.int8(9): 6, Point(1): 7}, {uuid4(): {}}),
    *(set(), {1, "a", (2, 3)}, frozenset({frozenset({1}), Colour.BLUE})),
    *(Decimal("1.20"), Decimal("-0E-500"), Decimal("Infinity"), Decimal("NaN"), Decimal(10) ** 60),
    *(UUID(int=0), UUID(int=2**128 - 1), [uuid4(), uuid4()]),
    *(date.min, date.max, time(1, 2, 3, 4, fold=1), time(5, tzinfo=UTC), timedelta(-3, 4, 5), timedelta.max),
    *(datetime.min, datetime(2020, 10, 25, 2, 30, fold=1), datetime(2020, 1, 1, 1, 1, 1, 1, tzinfo=UTC)),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-3, seconds=1))),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1), "Named")),
    *(Colour.BLUE, Access.READ, Access.READ | Access.WRITE, Access(0)),
    *(np.float64(1.5), np.float32("nan"), np.int8(-3), np.uint64(2**64 - 1), np.True_, np.complex64(1j), np.float16(2)),
    *(np.longdouble(1) / 3, np.str_("a\0"), np.str_(""), np.bytes_(b"a\0"), np.bytes_(b""), np.void(b"ab\0")),
    *(np.datetime64("2020-01-01T01"), np.datetime64("NaT", "s"), np.timedelta64(3, "us")),
    *(np.zeros((2, 0, 3)), np.array(3), np.arange(6).reshape(2, 3), np.asfortranarray(np.ones((2, 3)))),
    *(
        np.array([1, np.nan]),
        np.array([True, False]),
        np.array(["a", "bc"]),
        np.array([b"a", b""]),
        np.array([1], ">i2"),
    ),
    *(np.array(["2020", "NaT"], "M8[D]"), np.array([1, 2], "m8[25us]"), np.zeros(3, "V3"), np.ones(2, np.longdouble)),
    *(
        np.zeros(2, TABLE),
        np.zeros((), TABLE),
        np.zeros(1, TABLE)[0],
        np.zeros(3, ALIGNED),
        np.zeros(3, ALIGNED)[["b"]],
    ),
    *(Any_(Any_([Point(1)])), {"a": (Point(1, 2.0), [WrittenOut("x")])}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_encodes_decodes_to_an_equal_message(value: Any) -> None:
    passed(value)
    passed([value, {"key": (value,)}])


def test_bytes_may_be_of_any_kind() -> None:
    data = encode(WrittenOut("x"))
    assert type(data) is bytes
    assert decode(data) == decode(bytearray(data)) == decode(memoryview(data))
    for other in ("text", None, [1]):
        with pytest.raises(TypeError, match="decode takes bytes"):
            decode(other)


def test_an_id_that_nobody_has_read_travels() -> None:
    original: Any = Point(1)
    assert "message_id" not in vars(original)
    arrived = decode(encode(original))
    assert vars(arrived)["message_id"] == original.message_id


def test_standard_fields_travel() -> None:
    key = uuid4()
    arrived = decode(encode(Point(1, message_id=key, priority=3, correlation_id=key)))
    assert (arrived.message_id, arrived.priority, arrived.correlation_id) == (key, 3, key)


def test_arrays_arrive_writable_and_on_their_own() -> None:
    array = np.arange(5.0)
    for value in (array, array[::2], np.asfortranarray(array.reshape(1, 5)), array.reshape(5, 1)[::2].T):
        arrived = decode(encode(Any_(value))).value
        assert np.array_equal(arrived, value)
        arrived[...] = 0
    assert array.sum() == 10


def test_a_strided_array_becomes_contiguous() -> None:
    arrived = decode(encode(Any_(np.arange(24).reshape(4, 6)[::2, ::2]))).value
    assert arrived.flags.c_contiguous


@pytest.fixture
def zones(tmp_path: Path) -> Any:
    """A time zone data base with one zone in it, so that no test depends on that of the machine."""
    header = b"TZif" + b"\0" * 16 + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    (tmp_path / "Here").mkdir()
    (tmp_path / "Here" / "Now").write_bytes(header + struct.pack(">lbb", 3600, 0, 0) + b"NOW\0")
    zoneinfo.reset_tzpath([str(tmp_path)])
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.may_block
def test_zones(zones: None) -> None:
    here = zoneinfo.ZoneInfo("Here/Now")
    moment = passed(datetime(2020, 1, 1, 2, tzinfo=here, fold=1))
    assert (moment.tzinfo, moment.fold) == (here, 1)
    passed(time(2, tzinfo=here))
    data = encode(Any_(datetime(2020, 1, 1, tzinfo=here)))
    zoneinfo.ZoneInfo.clear_cache()
    with pytest.raises(MessageDecodeError, match="Here/Not"):
        decode(data.replace(b"Here/Now", b"Here/Not"))
    for evil in (b"../../ab", b"/etc/abc", b"a\0bcdefg", b"Here/No.", b"Here////"):
        with pytest.raises(MessageDecodeError):
            decode(data.replace(b"Here/Now", evil))


# -- any value at all --------------------------------------------------------------------------------------------------


def without_nan(key: Any) -> bool:
    return all(map(without_nan, key)) if isinstance(key, tuple) else bool(key == key)


def has_titles(dtype: np.dtype[Any]) -> bool:
    return any(len(parts) == 3 for parts in (dtype.fields or {}).values())


dtypes = st.one_of(
    nps.scalar_dtypes(),
    nps.byte_string_dtypes(),
    nps.unicode_string_dtypes(),
    nps.array_dtypes(max_size=3, allow_subarrays=True),
).filter(lambda dtype: dtype.itemsize > 0 and not has_titles(dtype))
arrays = st.one_of(
    dtypes.flatmap(lambda dtype: nps.arrays(dtype, nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
)
zone = st.one_of(st.none(), st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone), st.just(UTC))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.uuids(),
    st.decimals().filter(lambda number: not number.is_snan()),
    st.dates(),
    zone.flatmap(lambda tz: st.times(timezones=st.just(tz))),
    zone.flatmap(lambda tz: st.datetimes(timezones=st.just(tz))),
    st.timedeltas(),
    st.sampled_from([*Colour, Access.READ, Access.READ | Access.WRITE]),
    arrays.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0]),
)
keys = (
    st.one_of(scalars, st.tuples(scalars, scalars))
    .filter(lambda key: type(key).__hash__ is not None and not isinstance(key, np.void) and without_nan(key))
    .filter(lambda key: not isinstance(key, tuple) or not any(isinstance(part, np.void) for part in key))
)
values = st.recursive(
    st.one_of(scalars, arrays, arrays.map(np.asfortranarray), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.builds(Any_, inner),
    ),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=400, database=None)
@given(values)
def test_any_value_goes_there_and_back(value: Any) -> None:
    passed(value)


# -- what has no encoding ----------------------------------------------------------------------------------------------


class Zone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


@dataclass
class Plain:
    x: int = 0


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), r"Any_.value: a value of type object has no encoding"),
        (
            {"a": [0, (1, {2: {3: Plain()}})]},
            r"Any_.value\['a'\]\[1\]\[1\]\[2\]\[3\]: .*Plain has no.*put @message on its class",
        ),
        ([Any_([1, object()])], r"Any_.value\[0\].value\[1\]: a value of type object"),
        (Any_, r"a value of type type has no encoding"),
        (memoryview(b"x"), r"memoryview has no encoding"),
        (OrderedDict(a=1), r"OrderedDict has no encoding: convert it to dict"),
        (namedtuple("Pair", "a b")(1, 2), r"Pair has no encoding: convert it to tuple"),
        (type("Text", (str,), {})("x"), r"Text has no encoding: convert it to str"),
        (type("Real", (np.float64,), {})(1.0), r"Real has no encoding"),
        (Strange.ONE, r"the enum Strange is not named in the annotations of Any_"),
        (np.array([object()]), r"NumPy data of dtype object has no encoding"),
        (np.zeros(2, [("a", object)]), r"has no encoding: convert it to a dtype of fixed size"),
        (np.zeros(2, np.dtypes.StringDType()), r"StringDType\(\) has no encoding"),
        (np.zeros(2, []), r"has no encoding"),
        (np.zeros(2, [(("title", "a"), "i4")]), r"has no encoding"),
        (np.ma.array([1]), r"MaskedArray has no encoding: convert it to ndarray"),
        (datetime(2020, 1, 1, tzinfo=Zone()), r"a value of type Zone has no encoding"),
        (Decimal("sNaN"), r"signalling NaN"),
        ({float("nan"): 1}, r"NaN as a key"),
        ({(1, float("nan")): 1}, r"NaN as a key"),
        ({Decimal("NaN")}, r"NaN in a set"),
        (frozenset({frozenset({float("nan")})}), r"NaN in a set"),
        (CIRCLE, r"deeper than max_depth allows \(does it contain itself\?\)"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_values_without_encoding_are_named(value: Any, text: str) -> None:
    with pytest.raises(MessageEncodeError, match=text):
        encode(Any_(value))


def test_what_is_no_message_does_not_encode() -> None:
    class Inherits(Point):
        pass

    for thing in (3, Plain(), Point, Inherits(1)):
        with pytest.raises(MessageEncodeError, match="is not a message: put @message on its class"):
            encode(thing)


def test_a_message_with_a_field_unset_does_not_encode() -> None:
    unset = Any_(1)
    del unset.value
    with pytest.raises(MessageEncodeError, match="value"):
        encode(unset)


def test_a_parameter_that_is_not_kept_needs_a_default() -> None:
    @message
    class Scaled:
        value: int
        scale: InitVar[int]

        def __post_init__(self, scale: int) -> None:
            self.value *= scale

    with pytest.raises(MessageEncodeError, match="cannot be made again without scale: give these a default"):
        encode(Scaled(2, 3))


# -- annotations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("number", 2**70),
            ("number", np.int64(3)),
            ("number", True),
            ("real", 1),
            ("real", np.float32(1)),
            ("real", np.int8(1)),
        ),
        *(
            ("text", None),
            ("text", np.str_("x")),
            ("items", ["not", "an", "int"]),
            ("array", np.arange(3)),
            ("small", 3),
        ),
        *(
            ("point", Point(1)),
            ("colour", Colour.BLUE),
            ("when", datetime(2020, 1, 1)),
            ("anything", [1]),
            ("literal", 99),
        ),
    ],
)
def test_values_that_fit_their_annotation(name: str, value: Any) -> None:
    original = Typed(**{name: value})
    assert decode(encode(original)) == original


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("number", "3"),
            ("number", 1.0),
            ("number", None),
            ("real", "1"),
            ("real", 1j),
            ("text", b"x"),
            ("data", "x"),
        ),
        *(("items", (1,)), ("array", [1.0]), ("small", 1.5), ("point", Any_(1)), ("colour", 1), ("when", "2020-01-01")),
        ("message_id", "not a UUID"),
    ],
)
def test_values_that_do_not_fit_their_annotation(name: str, value: Any) -> None:
    with pytest.raises(
        MessageEncodeError, match=rf"Typed.{name}: a value of type {type(value).__name__}, but the annotation"
    ):
        encode(Typed(**{name: value}))
    loose = bytes_of(Typed, **{name: value})
    with pytest.raises(MessageDecodeError, match=rf"Typed.{name}: a value of type {type(value).__name__}, but"):
        decode(loose)


def bytes_of(cls: type, **given: Any) -> bytes:
    """A message of this class with these fields only, as an older or newer version of it would write it."""
    other = message(type("Other", (), {"__annotations__": dict.fromkeys(given, Any), "__module__": "elsewhere"}))
    names = ["message_id", "priority", "correlation_id"]
    data = msgpack.unpackb(encode(other(**given)), ext_hook=msgpack.ExtType, unicode_errors="surrogatepass")
    pairs = dict(zip(data[0].split(" ")[1:], data[1:], strict=True))
    kept = {name: value for name, value in pairs.items() if name not in names or name in given}
    header = " ".join([f"{cls.__module__}.{cls.__qualname__}", *kept])
    packed: bytes = msgpack.packb([header, *kept.values()], unicode_errors="surrogatepass")
    return packed


# -- definitions change ------------------------------------------------------------------------------------------------


def test_a_missing_field_takes_its_default() -> None:
    arrived = decode(bytes_of(Point, x=3))
    assert (arrived.x, arrived.y, arrived.priority) == (3, 0.0, 128)
    assert isinstance(arrived.message_id, UUID)
    with pytest.raises(MessageDecodeError, match=r"Point: .*'x'"):
        decode(bytes_of(Point, y=3.0))


def test_fields_may_come_in_another_order() -> None:
    assert decode(bytes_of(Point, y=2.0, x=1)) == Point(1, 2.0)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(
        MessageDecodeError, match="Point: it has no field 'z'; its definition here may be older or newer"
    ):
        decode(bytes_of(Point, x=1, z=3))


def test_an_unknown_type_is_named() -> None:
    data = encode(Point(1)).replace(b"Point", b"Pount")
    with pytest.raises(MessageDecodeError, match=r"no message type '.*Pount' is known: import the module"):
        decode(data)


def cell(source: str) -> dict[str, Any]:
    """Run a cell of a notebook."""
    module = sys.modules.setdefault("cells", types.ModuleType("cells"))
    vars(module).update(message=message, Enum=Enum)
    exec(source, vars(module))
    return dict(vars(module))


def test_a_class_that_is_defined_again_replaces_the_former_one() -> None:
    source = "@message\nclass Inner:\n    x: int\n@message\nclass Outer:\n    inner: Inner\n"
    old = cell(source)
    data = encode(old["Outer"](old["Inner"](3)))
    new = cell(source)
    assert decode(data) == new["Outer"](new["Inner"](3))
    only_inner = cell(source.partition("@message\nclass Outer")[0])
    assert decode(encode(only_inner["Outer"](only_inner["Inner"](4)))).inner == only_inner["Inner"](4)
    cell(source.replace("x: int", "x: int\n    y: int = 7"))
    assert decode(data).inner.y == 7


@pytest.mark.parametrize("annotation", ["Shade", "'Shade'"])
def test_an_enum_that_is_defined_again(annotation: str) -> None:
    shade = "class Shade(Enum):\n    DARK = 1\n"
    holder = f"@message\nclass Holder:\n    shade: {annotation}\n"
    old = cell(shade + holder)
    encode(old["Holder"](old["Shade"].DARK))
    new = cell(shade)
    if annotation == "Shade":
        with pytest.raises(MessageEncodeError, match="run the definition of the message again too"):
            encode(old["Holder"](new["Shade"].DARK))
        new = cell(holder)
    arrived = decode(encode(new["Holder"](new["Shade"].DARK)))
    assert arrived.shade is new["Shade"].DARK


def test_enums_in_all_kinds_of_annotations() -> None:
    annotations = [Literal[Colour.RED], dict[str, list[Colour]], Annotated[Colour, "x"], tuple[Colour | None, ...]]
    if sys.version_info >= (3, 12):
        annotations.append(typing.TypeAliasType("Alias", Colour | None))
    for annotation in annotations:
        cls = message(type("Holder", (), {"__annotations__": {"value": annotation}, "__module__": __name__}))
        value = {"a": [Colour.RED]} if "dict" in str(annotation) else (Colour.RED,)
        original = cls(value if get_origin(annotation) in (dict, tuple) else Colour.RED)
        assert decode(encode(original)) == original


def test_an_enum_that_is_defined_after_the_message() -> None:
    first = cell("@message\nclass Early:\n    when: 'Later | None' = None\n")
    encode(first["Early"]())
    later = cell("class Later(Enum):\n    NOW = 1\n")["Later"]
    assert decode(encode(first["Early"](later.NOW))).when is later.NOW


def test_post_init_runs_again_and_computed_fields_keep_their_values() -> None:
    @message
    class Careful:
        low: int
        high: int
        calls: int = field(init=False, default=0)
        scale: InitVar[int] = 1

        def __post_init__(self, scale: int) -> None:
            if self.low > self.high:
                raise RuntimeError("low is above high")

    careful = Careful(1, 2)
    careful.calls = 5
    for _ in range(2):
        careful = decode(encode(careful))
        assert careful.calls == 5
    careful.low = 9
    with pytest.raises(MessageDecodeError, match=r"Careful: RuntimeError low is above high") as failure:
        decode(encode(careful))
    assert isinstance(failure.value.__cause__, RuntimeError)


# -- limits ------------------------------------------------------------------------------------------------------------


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda v: [v],
        lambda v: (v,),
        lambda v: {"a": v},
        lambda v: {(1, 2): v},
        Any_,
        lambda v: frozenset({v}),
        lambda v: {v: 1} if v == 1 else {"k": v},
    ],
    ids=["list", "tuple", "dict", "tuple keys", "message", "frozenset", "int keys"],
)
def test_depth_is_limited_on_both_sides(wrap: Callable[[Any], Any]) -> None:
    deep = Any_(nested(64, wrap))
    extra = 1 if isinstance(deep.value, dict) and (1, 2) in deep.value else 0  # the innermost key is one level more
    data = encode(deep, max_depth=64 + extra)
    assert decode(data, max_depth=64 + extra) == deep
    with pytest.raises(MessageEncodeError, match="max_depth"):
        encode(deep, max_depth=63)
    with pytest.raises(MessageDecodeError, match="max_depth"):
        decode(data, max_depth=63)
    with pytest.raises(MessageEncodeError, match="max_depth"):
        encode(Any_(nested(66, wrap)))


@pytest.mark.parametrize("depth", [900, 5000])
def test_a_generous_depth_ends_where_python_or_msgpack_do(depth: int) -> None:
    with pytest.raises(MessageEncodeError):
        encode(Any_(nested(depth, lambda v: (v,))), max_depth=10**6)
    data = encode(Any_("here")).replace(msgpack.packb("here"), b"\x91" * depth + b"\xc0")
    with pytest.raises(MessageDecodeError):
        decode(data, max_depth=10**6)


def test_size_is_limited_on_both_sides() -> None:
    data = encode(Any_(bytes(1000)))
    assert decode(data, max_bytes=len(data)) == decode(data)
    assert encode(Any_(bytes(1000)), max_bytes=len(data))
    with pytest.raises(MessageDecodeError, match=f"{len(data)} bytes, more than max_bytes=1000"):
        decode(data, max_bytes=1000)
    with pytest.raises(MessageDecodeError, match="max_bytes"):
        decode(memoryview(np.zeros(200)), max_bytes=1000)
    with pytest.raises(MessageEncodeError, match=f"Any_: {len(data)} bytes, more than max_bytes=1000"):
        encode(Any_(bytes(1000)), max_bytes=1000)


# -- hostile bytes -----------------------------------------------------------------------------------------------------

HEADER = msgpack.packb(f"{Any_.__module__}.{Any_.__qualname__} value")
N = 200_000


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def many(count: int, items: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + items


def tagged(form: Any, *parts: bytes) -> bytes:
    return many(len(parts) + 1, packed(form.tag) + b"".join(parts))


def array_of(dtype: Any, data: bytes, *shape: Any, order: str = "C") -> bytes:
    return tagged(FORMS[np.ndarray], packed(dtype), packed(order), packed(data), *map(packed, shape))


def big(number: int) -> msgpack.ExtType:
    return msgpack.ExtType(2, number.to_bytes(40, "big", signed=True))


def uuid_of(number: int) -> msgpack.ExtType:
    return msgpack.ExtType(1, number.to_bytes(16, "big"))


MODULUS = 2**61 - 1  # of the hash of integers: its multiples all collide

BOMBS = {
    "deep arrays": b"\x91" * N,
    "deep maps": b"\x81\xc0" * N,
    "deep tuples": (b"\x92" + packed(FORMS[tuple].tag)) * 900 + b"\xc0",
    "deep messages": (b"\x93" + packed(MESSAGE.tag) + HEADER) * 300 + b"\xc0",
    "announced array": b"\xdd\xff\xff\xff\xff",
    "announced map": b"\xdf\xff\xff\xff\xff",
    "announced text": b"\xdb\xff\xff\xff\xff",
    "announced bytes": b"\xc6\xff\xff\xff\xff",
    "announced extension": b"\xc9\xff\xff\xff\xff\x05",
    "announced arrays in arrays": (b"\xdd" + struct.pack(">I", N)) * 1000 + b"\xc0" * N,
    "extension": packed(msgpack.ExtType(77, b"")),
    "extension with content": packed(msgpack.ExtType(FORMS[tuple].tag.code, b"x")),
    "extension in extension": packed(msgpack.ExtType(1, packed(msgpack.ExtType(1, b"x" * N)))),
    "timestamp": b"\xd6\xff\0\0\0\0",
    "tag alone": packed(FORMS[set].tag),
    "tag as item": b"\x92\xc0" + packed(FORMS[set].tag),
    "tag as value": b"\x81\xc0" + packed(FORMS[set].tag),
    "tag as key": b"\x81" + packed(FORMS[set].tag) + b"\xc0",
    "list as key": b"\x81\x90\xc0",
    "key twice": b"\x82\x01\xc0\x01\xc0",
    "NaN as key": b"\x81" + packed(float("nan")) + b"\xc0",
    "item twice": tagged(FORMS[set], packed(1), packed(1)),
    "unhashable item": tagged(FORMS[frozenset], packed([1])),
    "colliding keys": b"\xdf"
    + struct.pack(">I", 9000)
    + b"".join(packed(big(i * MODULUS)) + b"\xc0" for i in range(9000)),
    "colliding ids": tagged(FORMS[set], *(packed(uuid_of(i * MODULUS)) for i in range(9000))),
    "colliding tuples": tagged(FORMS[set], *(tagged(FORMS[tuple], packed(big(i * MODULUS))) for i in range(9000))),
    "a shape that would fill the memory": array_of("<f8", b"", 2**40),
    "a shape that overflows": array_of("<f8", b"", 2**62, 2**62),
    "a shape that overflows, times 0": array_of("<f8", b"", 2**62, 0, 2**62),
    "a negative shape": array_of("<f8", b"", -1, 0),
    "a shape of texts": array_of("<f8", b"", "1"),
    "a shape of giants": array_of("<f8", b"", *([msgpack.ExtType(2, b"\x7f" * 3000)] * 60)),
    "many dimensions": array_of("<f8", bytes(8), *([1] * 65)),
    "endless dimensions": array_of("<f8", bytes(8), *([1] * N)),
    "elements of no size": array_of("|S0", b"", 2**62),
    "pointers": array_of("|O", bytes(8), 1),
    "pointers in a table": array_of({"names": ["a"], "formats": ["|O"], "offsets": [0], "itemsize": 8}, bytes(8), 1),
    "strings with pointers": array_of("|T16", bytes(16), 1),
    "a field outside": array_of({"names": ["a"], "formats": ["<i8"], "offsets": [8], "itemsize": 8}, bytes(8), 1),
    "a field before": array_of({"names": ["a"], "formats": ["<i8"], "offsets": [-8], "itemsize": 8}, bytes(8), 1),
    "a table that lacks a part": array_of({"names": ["a"]}, bytes(8), 1),
    "a subarray of everything": array_of(["<f8", [2**40]], bytes(8), 1),
    "a comma": array_of("i4,O", bytes(12), 1),
    "an unknown order": array_of("<f8", bytes(8), 1, order="K"),
    "text beyond Unicode": array_of("<U1", b"\xff" * 4, 1),
    "text beyond Unicode in a table": array_of(
        {"names": ["a", "b"], "formats": ["|i1", ">U2"], "offsets": [0, 1], "itemsize": 9}, b"\xff" * 9, 1
    ),
    "a size for bytes": tagged(FORMS[bytearray], packed(2**40)),
    "a size for NumPy bytes": tagged(FORMS[np.bytes_], packed(2**40)),
    "a date of bytes": tagged(FORMS[date], packed(b"\x07\xe4\x01\xff")),
    "a date that is none": tagged(FORMS[date], packed(2023), packed(2), packed(30)),
    "a duration too long": tagged(FORMS[timedelta], packed(2**60), packed(0), packed(0)),
    "a number too large": tagged(FORMS[Decimal], packed("1e9999999999999999999999")),
    "an id too short": packed(msgpack.ExtType(1, b"x")),
    "an enum that nobody knows": tagged(ENUM, packed("os.system"), packed("RED")),
    "a member that nobody knows": tagged(ENUM, packed(f"{Colour.__module__}.Colour"), packed("__class__")),
    "a flag that nobody knows": tagged(ENUM, packed(f"{Access.__module__}.Access"), packed("RED")),
    "a message that nobody knows": tagged(MESSAGE, packed("os.system command"), packed("true")),
    "a message without a name": tagged(MESSAGE),
    "a message that lacks values": tagged(MESSAGE, HEADER),
    "a field twice": tagged(MESSAGE, packed(f"{__name__}.Point x x"), packed(1), packed(1)),
    "a header of spaces": tagged(MESSAGE, packed(f"{__name__}.Point" + " " * N), packed(1)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    bomb = b"\x92" + HEADER + BOMBS[name]
    with pytest.raises(MessageDecodeError):  # and fill caches
        decode(bomb)
    gc.collect()
    tracemalloc.start()
    try:
        began = clock.thread_time()
        with pytest.raises(MessageDecodeError):
            decode(bomb)
        took = clock.thread_time() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(bomb) + 50_000
    assert took < 2


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", b"\x90", b"\x91\x01", b"\x80", b"\xc1", b"\x91\xa1x", HEADER, encode(Any_(1)) + b"\0"]
)
def test_what_is_no_message_at_all(data: bytes) -> None:
    with pytest.raises(MessageDecodeError):
        decode(data)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(many(N, b"\x80" * N), id="empty dicts"),
        pytest.param(many(N, b"\x90" * N), id="empty lists"),
        pytest.param(many(N // 4, (b"\x91" + packed(FORMS[set].tag)) * (N // 4)), id="empty sets"),
        pytest.param(many(N // 19, array_of("<i1", b"", 0) * (N // 19)), id="empty arrays"),
    ],
)
def test_memory_stays_in_proportion_to_the_bytes(content: bytes) -> None:
    data = b"\x92" + HEADER + content
    tracemalloc.start()
    try:
        decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(data)


def mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """A message with some of its bytes changed, removed, repeated, or replaced by those of another."""
    result = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at = draw.randrange(len(result) + 1)
        until = min(len(result), at + draw.choice((1, 1, 2, 4, 16)))
        match draw.randrange(8):
            case 0:
                result[at:until] = draw.randbytes(until - at)
            case 1:  # the markers of msgpack lie here
                result[at : at + 1] = bytes([draw.randrange(0x80, 0x100)])
            case 2:
                del result[at:until]
            case 3:
                result[at:at] = result[at:until] * draw.choice((1, 2, 50))
            case 4:
                result[at : at + 1] = bytes([result[at] ^ (1 << draw.randrange(8))]) if at < len(result) else b"\0"
            case 5:
                other = draw.choice(others)
                start = draw.randrange(len(other))
                result[at:until] = other[start : start + draw.choice((1, 4, 16, 64))]
            case 6:
                result[at:at] = draw.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")) + draw.randbytes(4)
            case _:
                del result[at:]
    return bytes(result)


def test_100_000_mutated_and_random_byte_strings() -> None:
    draw = random.Random(2026)
    seeds = [encode(Any_(value)) for value in VALUES if not isinstance(value, int) or value < 2**100]
    seeds += [encode(Typed(number=i, text="x", point=Point(i))) for i in range(3)] + [encode(WrittenOut("x"))]
    for seed in seeds:
        decode(seed)
    slowest, messages, faults = 0.0, 0, 0
    tracemalloc.start()
    try:
        for i in range(100_000):
            data = draw.randbytes(draw.randrange(40)) if i % 10 == 0 else mutated(draw.choice(seeds), seeds, draw)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            began = clock.thread_time()
            try:
                decode(data)
                messages += 1
            except MessageDecodeError:
                faults += 1
            slowest = max(slowest, clock.thread_time() - began)
            assert tracemalloc.get_traced_memory()[1] - before < 100 * len(data) + 1_000_000, data
    finally:
        tracemalloc.stop()
    assert messages + faults == 100_000
    assert messages > 1000, "the mutations are too wild to reach far"
    assert faults > 50_000
    assert slowest < 1


def test_what_decodes_encodes() -> None:
    """What a stranger may send is nothing that a message could not have held."""
    draw = random.Random(2027)
    seeds = [encode(Any_(value)) for value in VALUES if not isinstance(value, int) or value < 2**100]
    for _ in range(10_000):
        try:
            arrived = decode(mutated(draw.choice(seeds), seeds, draw))
        except MessageDecodeError:
            continue
        assert decode(encode(arrived, max_depth=100)) == arrived


# -- many at once ------------------------------------------------------------------------------------------------------


def test_threads_encode_and_decode_at_once() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for i in range(300):
            original = Any_([number, i, {"a": (uuid4(), 2**80)}, np.arange(number)])
            if decode(encode(original)) != original:
                wrong.append(original)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_encoding_inside_of_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a `__del__` does that the garbage collector runs in between."""

    class Inside(UUID):
        pass

    from pydotcompute.messages import codec

    def pack_extension(value: Any) -> Any:
        inner.append(encode(Any_([1, 2, 3])))
        return msgpack.ExtType(1, value.bytes)

    inner: list[bytes] = []
    monkeypatch.setattr(codec, "_packers", [msgpack.Packer(default=pack_extension, strict_types=True)])
    original = Any_("x" * 300)
    assert decode(encode(original)) == original
    assert [decode(data).value for data in inner] == [[1, 2, 3]] * len(inner)
    assert inner
