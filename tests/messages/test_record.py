"""Records: how messages and states of fixed size lie in memory, the way there and back, and what is refused."""

import copy
import ctypes
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import datetime
from enum import IntEnum
from textwrap import dedent
from typing import Annotated, Any, ClassVar, NamedTuple, Optional
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

import pydotcompute
from pydotcompute.exceptions import DefinitionError, MessageTypeError
from pydotcompute.messages import (
    Layout,
    Record,
    Shape,
    checked_records,
    from_record,
    from_records,
    layout,
    message,
    to_record,
    to_records,
)


@message
class Sample:
    sensor: np.int32
    value: np.float64
    good: bool
    count: int


@message
class Point:
    x: np.float32
    y: np.float32


@message
class Box:
    name: np.uint8
    corner: Point
    weights: Annotated[NDArray[np.float32], Shape(2, 3)]
    phase: complex


@message
@dataclass(frozen=True)
class Frozen:
    sensor: np.int32
    values: Annotated[NDArray[np.int16], Shape(3)]


class Gain(Record):
    factor: np.float64 = 2.5
    enabled: bool


class SensorState(Record):
    constant: ClassVar[int] = 3
    count: Annotated[NDArray[np.int64], Shape(4)]
    lowest: Annotated[NDArray[np.float32], Shape(2, 2)] = np.inf
    limits: Annotated[NDArray[np.float64], Shape(2)] = (-1, 1.5)
    gain: Gain
    corner: Point
    seen: np.int16 = -7


SAMPLE = Sample(-3, 2.5, True, 2**40)
BOX = Box(7, Point(0.5, -1), np.arange(6, dtype=np.float32).reshape(2, 3), 1 - 2j)


def refused(cls: Any, why: str) -> None:
    """Its layout and its dtype are refused with this text."""
    with pytest.raises(DefinitionError) as at_layout:
        layout(cls)
    with pytest.raises(DefinitionError) as at_dtype:
        _ = cls.dtype
    assert str(at_layout.value) == str(at_dtype.value) == why
    assert not hasattr(cls, "dtype")


def misfit(value: Any, why: str) -> None:
    """Packing the message or record is refused with this text."""
    with pytest.raises(MessageTypeError) as refusal:
        layout(type(value)).pack_into(bytearray(1024), 0, value)
    assert str(refusal.value) == why


# -- layouts -----------------------------------------------------------------------------------------------------------


def test_a_layout_has_the_fields_of_the_user_as_a_c_compiler_lays_them_out() -> None:
    assert Sample.dtype.names == ("sensor", "value", "good", "count")
    assert [Sample.dtype.fields[name] for name in Sample.dtype.names] == [
        (np.dtype(np.int32), 0),
        (np.dtype(np.float64), 8),
        (np.dtype(np.bool_), 16),
        (np.dtype(np.int64), 24),
    ]
    assert Sample.dtype.isalignedstruct
    assert Sample.dtype.itemsize == 32
    assert layout(Sample).dtype is layout(Sample).dtype is Sample.dtype
    assert isinstance(layout(Sample), Layout)
    assert layout(Sample).cls is Sample


def test_sizes_are_whole_words() -> None:
    @message
    class Small:
        a: np.uint8

    @message
    class Empty: ...

    assert Point.dtype.itemsize == 8
    assert (Small.dtype.itemsize, Empty.dtype.itemsize) == (8, 8)
    assert Empty.dtype.names == ()
    assert from_record(Empty, to_record(Empty())) == Empty()


def test_nested_ones_and_arrays_lie_inside() -> None:
    assert Box.dtype["corner"] == Point.dtype
    assert Box.dtype["weights"] == np.dtype((np.float32, (2, 3)))
    assert [Box.dtype.fields[name][1] for name in Box.dtype.names] == [0, 4, 12, 40]
    assert SensorState.dtype["gain"] == Gain.dtype
    assert SensorState.dtype.names == ("count", "lowest", "limits", "gain", "corner", "seen")


@pytest.mark.parametrize(
    ("annotation", "dtype"),
    [
        (bool, np.bool_),
        (int, np.int64),
        (float, np.float64),
        (complex, np.complex128),
        (np.intc, np.intc),
        (np.longlong, np.int64),
        (np.ulonglong, np.uint64),
        (np.complex64, np.complex64),
        (Annotated[np.float32, "degrees"], np.float32),
        ("np.float32", np.float32),
        (Annotated[NDArray[np.intc], "flags", Shape(np.int64(2))], (np.int32, (2,))),
        (np.ndarray[tuple[int, int], np.dtype[np.int8]], None),
    ],
)
def test_what_a_field_may_be(annotation: Any, dtype: Any) -> None:
    @message
    class Made:
        value: annotation

    if dtype is None:
        refused(Made, f"{Made.__qualname__}.value: NDArray[np.int8] has no fixed size: "
                      "use Annotated[NDArray[np.int8], Shape(8)]")  # fmt: skip
    else:
        assert Made.dtype["value"] == np.dtype(dtype)


if sys.version_info >= (3, 12):  # which brought `type` statements

    def test_aliases_are_looked_through() -> None:
        scope: dict[str, Any] = {"NDArray": NDArray, "np": np, "Annotated": Annotated, "Shape": Shape}
        exec("type Items = NDArray[np.int8]\ntype Vector = Annotated[Items, Shape(3)]\ntype Number = np.int16", scope)
        vector_type, number_type = scope["Vector"], scope["Number"]

        @message
        class Made:
            vector: vector_type
            number: number_type

        assert (Made.dtype["vector"], Made.dtype["number"]) == (np.dtype((np.int8, 3)), np.dtype(np.int16))


def test_standard_fields_are_never_in_it() -> None:
    @message
    @dataclass
    class WrittenOut:
        value: np.int32
        message_id: UUID = field(default_factory=uuid4)
        priority: int = 7
        correlation_id: UUID | None = None
        after: np.int32 = 5

    assert WrittenOut.dtype.names == ("value", "after")
    made = from_record(WrittenOut, to_record(WrittenOut(1, after=2)))
    assert (made.value, made.after, made.priority, made.correlation_id) == (1, 2, 7, None)
    assert isinstance(made.message_id, UUID)
    assert made.message_id == made.message_id

    @message
    class Without:
        message_id: UUID
        priority: int
        correlation_id: UUID | None
        value: np.int32

    made = from_record(Without, to_record(Without(uuid4(), 3, None, 4)))
    assert (made.value, made.priority, made.correlation_id) == (4, 128, None)
    assert isinstance(made.message_id, UUID)


def test_a_record_may_have_fields_named_like_the_standard_ones() -> None:
    class Own(Record):
        priority: np.int8 = 3
        message_id: np.int64

    assert Own.dtype.names == ("priority", "message_id")
    assert (Own().priority, Own(message_id=4).message_id) == (3, 4)


def test_a_subclass_has_the_fields_of_its_base_first() -> None:
    @message
    class Wider(Point):
        z: np.float64

    class More(Gain):
        factor: np.float64 = 9.0
        extra: np.int8

    assert Wider.dtype.names == ("x", "y", "z")
    assert More.dtype.names == ("factor", "enabled", "extra")
    assert (More().factor, Gain().factor) == (9.0, 2.5)
    assert Point.dtype.names == ("x", "y")


def test_names_of_classes_are_looked_up_in_their_module() -> None:
    module = types.ModuleType("a_module_of_records")
    sys.modules[module.__name__] = module
    source = """
        from __future__ import annotations
        from typing import ClassVar
        import numpy as np
        from pydotcompute import Record, message

        class State(Record):
            constant: ClassVar[int] = 3
            inner: Inner

        @message
        class Lost:
            value: NotThere

        class Inner(Record):
            a: np.int32 = 4
    """
    try:
        exec(dedent(source), vars(module))
        assert module.State.dtype["inner"] == module.Inner.dtype
        assert module.State().inner.a == 4
        refused(
            module.Lost,
            "the annotations of Lost cannot be read (name 'NotThere' is not defined): define or import what they name "
            "in the module a_module_of_records itself",
        )
    finally:
        del sys.modules[module.__name__]


# -- refused classes ---------------------------------------------------------------------------------------------------


class Colour(IntEnum):
    RED = 1


class Plain:
    pass


NUMBERS = "an array of numbers: Annotated[NDArray[np.float32], Shape(8)]"
OTHERWISE = "numbers, arrays of numbers with a Shape, or a class of such with @message or of Record"


@pytest.mark.parametrize(
    ("annotation", "what", "instead"),
    [
        (str, "str", "a number type, or Annotated[NDArray[np.uint8], Shape(32)]"),
        (bytes, "bytes", "a number type, or Annotated[NDArray[np.uint8], Shape(32)]"),
        (list[float], "list[float]", "Annotated[NDArray[np.float64], Shape(8)]"),
        (tuple, "tuple", "Annotated[NDArray[np.float64], Shape(8)]"),
        (NDArray[np.float32], "NDArray[np.float32]", "Annotated[NDArray[np.float32], Shape(8)]"),
        (Annotated[NDArray[np.int8], (8,)], "NDArray[np.int8]", "Annotated[NDArray[np.int8], Shape(8)]"),
        (NDArray[Any], "NDArray[Any]", NUMBERS),
        (np.ndarray, "np.ndarray", "Annotated[NDArray[np.float64], Shape(8)]"),
        (Annotated[NDArray[np.str_], Shape(2)], "NDArray[np.str_]", NUMBERS),
        (Annotated[np.ndarray, Shape(2)], "np.ndarray", NUMBERS),
        (Annotated[list[int], Shape(2)], "list[int]", NUMBERS),
        (Annotated[np.float32, Shape(2)], "np.float32", NUMBERS),
        (int | None, "int | None", "a number that stands for none, -1 or NaN"),
        (int | float, "int | float", "one of these types"),
        (datetime, "datetime.datetime", OTHERWISE),
        (np.datetime64, "np.datetime64", "np.int64, a number of nanoseconds for one"),
        (np.timedelta64, "np.timedelta64", "np.int64, a number of nanoseconds for one"),
        (np.float16, "np.float16", "np.float32 or np.float64"),
        (np.floating, "np.floating", "np.float32 or np.float64"),
        (np.object_, "np.object_", OTHERWISE),
        (Colour, None, "np.int32 and the numbers of its members"),
        (dict[str, int], "dict[str, int]", OTHERWISE),
        (Any, "Any", OTHERWISE),
        (object, "object", OTHERWISE),
        (Plain, None, OTHERWISE),
        (Record, None, OTHERWISE),
        (Callable[[], int], None, OTHERWISE),
    ],
)
def test_fields_without_fixed_size_are_named_with_what_to_write(
    annotation: Any, what: str | None, instead: str
) -> None:
    @message
    class Unsized:
        fine: np.int32
        value: annotation

    class UnsizedState(Record):
        fine: np.int32
        value: annotation

    for cls in (Unsized, UnsizedState):
        name = what or (
            f"{annotation.__module__}.{annotation.__qualname__}" if isinstance(annotation, type) else str(annotation)
        )
        refused(cls, f"{cls.__qualname__}.value: {name} has no fixed size: use {instead}")


def test_arrays_of_bool_are_refused() -> None:
    class Flags(Record):
        flags: Annotated[NDArray[np.bool_], Shape(8)]

    uint8 = "Annotated[NDArray[np.uint8], Shape(...)]"
    refused(Flags, f"{Flags.__qualname__}.flags: arrays of bool are not for records: use {uint8}")


def test_optional_in_its_old_spelling_and_in_annotated() -> None:
    @message
    class Old:
        value: Optional[np.float32]  # noqa: UP045

    @message
    class Hidden:
        value: Annotated[np.float32 | None, "degrees"]

    for cls in (Old, Hidden):
        with pytest.raises(DefinitionError, match=r"has no fixed size: use a number that stands for none, -1 or NaN$"):
            layout(cls)


def test_the_fault_of_a_nested_class_is_told_there() -> None:
    @message
    class Inner:
        name: str

    @message
    class Outer:
        inner: Inner

    text = "a number type, or Annotated[NDArray[np.uint8], Shape(32)]"
    refused(Outer, f"{Inner.__qualname__}.name: str has no fixed size: use {text}")


def test_a_class_cannot_contain_itself() -> None:
    class Node(Record):
        next: "Node"  # resolved below, since a local class has no name in its module

    Node.__annotations__ = {"next": Node}
    refused(Node, f"{Node.__qualname__}.next: {Node.__qualname__} inside itself has no fixed size: use an index")


def test_what_is_no_record() -> None:
    for cls in (Plain, int, Record):
        with pytest.raises(DefinitionError, match="is no record: put @message on a class, or make it a subclass of"):
            layout(cls)
    for thing in (SAMPLE, 3, "Sample"):
        with pytest.raises(DefinitionError, match="is no record"):
            layout(thing)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="is no record"):
        to_record(3)


def test_records_beyond_2_gib_are_refused() -> None:
    class Huge(Record):
        a: Annotated[NDArray[np.float64], Shape(2**30)]

    class Sum(Record):
        a: Annotated[NDArray[np.int8], Shape(2**30)]
        b: Annotated[NDArray[np.int8], Shape(2**30)]

    with pytest.raises(DefinitionError, match=r"\.a: Shape\(1073741824\) is too large for a record: "):
        layout(Huge)
    with pytest.raises(DefinitionError, match=r"Sum is too large for a record: "):
        layout(Sum)


# -- dtype -------------------------------------------------------------------------------------------------------------


def test_a_message_without_layout_is_a_message_all_the_same() -> None:
    @message
    class Request:
        data: str

    request = Request("x")
    assert request.data == "x"
    assert not hasattr(request, "dtype")
    assert not hasattr(Request, "dtype")
    with pytest.raises(DefinitionError, match="str has no fixed size"):
        _ = Request.dtype
    with pytest.raises(AttributeError, match="object has no attribute 'dtype'; its class has one"):
        _ = SAMPLE.dtype


def test_a_dtype_of_the_user_is_left_alone() -> None:
    @message
    class Named:
        dtype: str

    @message
    class Defaulted:
        dtype: str = "f4"

    @message
    class Constant:
        value: np.int32
        dtype: ClassVar[str] = "f4"

    class Mixin:
        def dtype(self) -> str:
            return "mine"

    @message
    class Mixed(Mixin):
        value: np.int32

    @message
    class Derived(Point):
        dtype: np.int16

    class State(Record):
        dtype: np.int16

    assert Named("i4").dtype == "i4"
    assert not hasattr(Named, "dtype")
    assert (Defaulted.dtype, Defaulted().dtype, Constant.dtype, Mixed(1).dtype()) == ("f4", "f4", "f4", "mine")
    assert layout(Constant).dtype.names == ("value",)
    assert Derived(1, 2, 3).dtype == 3
    assert from_record(Derived, to_record(Derived(1, 2, 3))) == Derived(1, 2, 3)
    assert State().dtype == 0
    assert State(dtype=4).dtype == 4
    for cls in (Derived, State):
        with pytest.raises(AttributeError, match="each object has its own, the class has none"):
            _ = cls.dtype


def test_the_class_is_not_looked_at_before_its_dtype_is_read() -> None:
    @message
    class Late:
        value: "DefinedLater"  # noqa: F821

    globals()["DefinedLater"] = np.int32
    try:
        assert Late.dtype.names == ("value",)
    finally:
        del globals()["DefinedLater"]


# -- there and back ----------------------------------------------------------------------------------------------------


def test_one_message() -> None:
    record = to_record(SAMPLE)
    assert isinstance(record, np.void)
    assert record.dtype == Sample.dtype
    assert record.item() == (-3, 2.5, True, 2**40)
    made = from_record(Sample, record)
    assert made == SAMPLE
    assert [type(value) for value in (made.sensor, made.value, made.good, made.count)] == [int, float, bool, int]
    assert (made.priority, made.correlation_id) == (128, None)
    assert "message_id" not in vars(made)
    assert isinstance(made.message_id, UUID)
    assert made.message_id != SAMPLE.message_id


def test_nested_ones_and_arrays() -> None:
    record = to_record(BOX)
    assert record["corner"].item() == (0.5, -1)
    assert record["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]
    made = from_record(Box, record)
    assert made == BOX
    assert isinstance(made.corner, Point)
    assert made.phase == 1 - 2j
    assert made.weights.dtype == np.float32
    made.weights[0, 0] = 9  # its own, and writable
    assert record["weights"][0, 0] == 0


def test_frozen_ones() -> None:
    made = from_record(Frozen, to_record(Frozen(4, np.arange(3, dtype=np.int16))))
    assert made == Frozen(4, np.arange(3, dtype=np.int16))
    assert (made.priority, made.correlation_id) == (128, None)
    assert hash(made.message_id)
    with pytest.raises(AttributeError):
        made.sensor = 5  # type: ignore[misc]


def test_fields_in_slots_of_a_base() -> None:
    @dataclass(frozen=True, slots=True)
    class Base:
        a: np.int32

    @message
    @dataclass(frozen=True)
    class Derived(Base):
        b: np.int32

    made = from_record(Derived, to_record(Derived(1, 2)))
    assert (made.a, made.b, made.priority) == (1, 2, 128)


def test_post_init_is_called_when_a_message_is_made() -> None:
    @message
    class Checked:
        a: np.int32
        scale: InitVar[int] = 2
        double: np.int32 = field(init=False)

        def __post_init__(self, scale: int) -> None:
            if self.a < 0:
                raise ValueError("a must not be negative")
            self.double = scale * self.a

    given = Checked(2, 10)
    made = from_record(Checked, to_record(given))
    assert (made.a, made.double, made.priority) == (2, 20, 128)  # what the record has, not what would be made anew
    record = to_record(given)
    record["a"] = -1
    with pytest.raises(ValueError, match="a must not be negative"):
        from_record(Checked, record)

    @message
    class Lost:
        a: np.int32
        scale: InitVar[int]

        def __post_init__(self, scale: int) -> None: ...

    refused(Lost, f"{Lost.__qualname__} cannot be made again without scale: give it a default")


def test_fields_that_init_does_not_take() -> None:
    @message
    class Late:
        a: np.int32
        b: np.int32 = field(init=False, default=3)
        c: np.int32 = field(init=False)

    with_all = Late(1)
    misfit(with_all, f"{Late.__qualname__}.c has no value")
    with_all.c = 5
    made = from_record(Late, to_record(with_all))
    assert (made.a, made.b, made.c) == (1, 3, 5)


def test_many_messages() -> None:
    messages = [Sample(i, i / 4, i % 2 == 0, -i) for i in range(10)]
    records = to_records(iter(messages))
    assert records.shape == (10,)
    assert records.dtype == Sample.dtype
    assert records["sensor"].tolist() == list(range(10))
    assert from_records(Sample, records) == messages
    assert from_records(Sample, records[::-3]) == messages[::-3]
    assert from_records(Sample, records[:0]) == []


def test_packing_into_a_buffer_leaves_what_is_around() -> None:
    known = layout(Sample)
    buffer = memoryview(bytearray(b"\xff" * 48))
    known.pack_into(buffer, 8, SAMPLE)
    assert buffer[:8] == buffer[40:] == b"\xff" * 8
    assert np.frombuffer(buffer, Sample.dtype, 1, 8)[0] == to_record(SAMPLE)
    assert known.unpack_from(buffer, 8) == SAMPLE
    assert known.unpack_from(bytes(buffer), 8) == SAMPLE


def test_errors_of_the_buffer_are_not_blamed_on_the_message() -> None:
    with pytest.raises(Exception, match="buffer") as refusal:
        layout(Sample).pack_into(bytearray(8), 0, SAMPLE)
    assert not isinstance(refusal.value, MessageTypeError)


def test_a_message_of_a_former_definition_packs_too() -> None:
    @dataclass
    class Former:
        x: float
        y: float

    buffer = bytearray(8)
    layout(Point).pack_into(buffer, 0, Former(1.5, 2.5))
    assert layout(Point).unpack_from(buffer, 0) == Point(1.5, 2.5)


class Kind(NamedTuple):
    annotation: Any
    values: st.SearchStrategy[Any]
    ctype: Any = None


def _number(dtype: Any, ctype: Any = None) -> Kind:
    as_numpy = nps.from_dtype(np.dtype(dtype))
    values = as_numpy if dtype in (np.complex64, np.float32) else as_numpy | as_numpy.map(lambda value: value.item())
    return Kind(dtype, values, ctype)


NUMBER_KINDS = [
    _number(np.bool_, ctypes.c_bool),
    _number(np.int8, ctypes.c_int8),
    _number(np.int16, ctypes.c_int16),
    _number(np.int32, ctypes.c_int32),
    _number(np.int64, ctypes.c_int64),
    _number(np.uint8, ctypes.c_uint8),
    _number(np.uint16, ctypes.c_uint16),
    _number(np.uint32, ctypes.c_uint32),
    _number(np.uint64, ctypes.c_uint64),
    _number(np.float32, ctypes.c_float),
    _number(np.float64, ctypes.c_double),
    _number(np.complex64),
    _number(np.complex128),
]


def _array(number: Kind, shape: tuple[int, ...]) -> Kind:
    ctype = number.ctype
    for size in reversed(shape):
        ctype = ctype and ctype * size
    values = nps.arrays(number.annotation, shape)
    return Kind(Annotated[NDArray[number.annotation], Shape(*shape)], values | values.map(np.ndarray.tolist), ctype)


def _record(kinds: list[Kind]) -> Kind:
    names = [f"f{i}" for i in range(len(kinds))]
    cls = message(make_dataclass("Made", [(name, kind.annotation) for name, kind in zip(names, kinds, strict=True)]))
    ctype = None
    if all(kind.ctype for kind in kinds):
        ctype = type("C", (ctypes.Structure,), {"_fields_": [(n, k.ctype) for n, k in zip(names, kinds, strict=True)]})
    return Kind(cls, st.builds(cls, *(kind.values for kind in kinds)), ctype)


numbers = st.sampled_from(NUMBER_KINDS)
arrays = st.builds(_array, st.sampled_from(NUMBER_KINDS[1:]), nps.array_shapes(max_dims=3, max_side=3))
record_kinds = st.recursive(
    st.lists(numbers | arrays, max_size=6).map(_record),
    lambda inner: st.lists(numbers | arrays | inner, min_size=1, max_size=4).map(_record),
    max_leaves=3,
)


def same(value: Any, other: Any) -> bool:
    """Equal, NaN to NaN, a list to an array."""
    if hasattr(value, "__dataclass_fields__"):
        return all(same(getattr(value, n), getattr(other, n)) for n in layout(type(value)).fields)
    return np.array_equal(np.asarray(value, np.asarray(other).dtype), other, equal_nan=True)


@settings(derandomize=True, deadline=None, max_examples=300, database=None)
@given(record_kinds, st.data())
def test_what_was_packed_is_unpacked(kind: Kind, data: st.DataObject) -> None:
    messages = data.draw(st.lists(kind.values, min_size=1, max_size=3))
    records = to_records(messages)
    made = from_records(kind.annotation, records)
    assert all(map(same, messages, made))
    assert to_records(made).tobytes() == records.tobytes()
    for name in layout(kind.annotation).fields:  # NumPy reads the same
        if records.dtype[name].names is None:
            assert all(
                same(getattr(message, name), record[name]) for message, record in zip(made, records, strict=True)
            )


@settings(derandomize=True, deadline=None, max_examples=200, database=None)
@given(st.lists(numbers | arrays, min_size=1, max_size=8).filter(lambda kinds: all(kind.ctype for kind in kinds)))
def test_c_lays_it_out_the_same_way(kinds: list[Kind]) -> None:
    kind = _record(kinds)
    dtype = layout(kind.annotation).dtype
    assert [dtype.fields[name][1] for name in dtype.names] == [getattr(kind.ctype, name).offset for name in dtype.names]
    assert dtype.itemsize == -(-ctypes.sizeof(kind.ctype) // 8) * 8


# -- values that do not fit --------------------------------------------------------------------------------------------


def test_numbers_that_do_not_fit() -> None:
    range_ = "(-2147483648 to 2147483647)"
    misfit(Sample(3000000000, 0, True, 0), f"Sample.sensor must be np.int32 {range_}, not 3000000000")
    misfit(Sample(1.0, 0, True, 0), f"Sample.sensor must be np.int32 {range_}, not 1.0")
    misfit(Sample("1", 0, True, 0), f"Sample.sensor must be np.int32 {range_}, not '1'")
    misfit(Sample(None, "x", 1, 0), f"Sample.sensor must be np.int32 {range_}, not None")
    misfit(Sample(1, "x", 1, 0), "Sample.value must be np.float64, not 'x'")
    misfit(Sample(1, 1j, 1, 0), "Sample.value must be np.float64, not 1j")
    misfit(Sample(1, 10**400, True, 0), f"Sample.value must be np.float64, not 1{'0' * 17}...{'0' * 19}")
    misfit(Sample(1, np.arange(2.0), True, 0), "Sample.value must be np.float64, not array([0., 1.])")
    misfit(Sample(1, 0, 1, 0), "Sample.good must be bool, not 1")
    misfit(
        Sample(1, 0, True, np.float64(1)),
        f"Sample.count must be np.int64 (-{2**63} to {2**63 - 1}), not np.float64(1.0)",
    )
    misfit(Point(0, 1e39), "Point.y must be np.float32, not 1e+39")


def test_numbers_that_fit() -> None:
    given = Sample(np.uint8(3), np.float32(0.5), np.False_, True)
    assert from_record(Sample, to_record(given)) == Sample(3, 0.5, False, 1)
    assert from_record(Sample, to_record(Sample(np.array(3), 7, True, 0))) == Sample(3, 7.0, True, 0)
    assert from_record(Point, to_record(Point(np.inf, np.nan))) == Point(np.inf, np.nan)
    phases = [
        from_record(Box, to_record(Box(1, Point(0, 0), BOX.weights, p))).phase for p in (1, 2.5, np.complex64(1j))
    ]
    assert phases == [1, 2.5, 1j]


def test_complex_numbers_that_do_not_fit() -> None:
    class Phase(Record):
        value: np.complex64

    state = Phase()
    for value in ("x", None, [1, 2], 1e300):
        state.value = value
        misfit(state, f"{Phase.__qualname__}.value must be np.complex64, not {value!r}")


WANTED = "Frozen.values must be an array of np.int16 and shape (3,), not"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.zeros(4, np.int16), "shape (4,)"),
        (np.zeros((3, 1), np.int16), "shape (3, 1)"),
        (np.zeros(3), "float64: convert it with .astype(np.int16)"),
        (np.zeros(3, np.int32), "int32: convert it with .astype(np.int16)"),
        (np.zeros(3, object), "object: convert it with .astype(np.int16)"),
        ([1, 2], "shape (2,)"),
        ([1, 2, 2**15], "32768 in it"),
        ([1, -(2**40), 2**15], "-1099511627776 in it"),
        ([1, 2, 3.0], "3.0 in it"),
        ([1, 2, 2**70], f"{2**70} in it"),
        (["1", "2", "3"], "'1' in it"),
        ([[1], [2, 3], 4], "[1] in it"),
        ([[1, 2], [3, 4]], "shape (2, 2)"),
        (3, "3"),
        ("abc", "'abc'"),
        (None, "None"),
    ],
)
def test_arrays_that_do_not_fit(values: Any, what: str) -> None:
    misfit(Frozen(1, values), f"{WANTED} {what}")


def test_arrays_of_the_other_kinds_that_do_not_fit() -> None:
    class Arrays(Record):
        small: Annotated[NDArray[np.float32], Shape(2)]
        phases: Annotated[NDArray[np.complex64], Shape(2)]
        big: Annotated[NDArray[np.uint64], Shape(2)]

    for name, kind, value, what in [
        ("small", "float32", [1, 1e39], "1e+39 in it"),
        ("small", "float32", [1, 1j], "1j in it"),
        ("small", "float32", np.ones(2), "float64: convert it with .astype(np.float32)"),
        ("phases", "complex64", (1, 1e39j), "1e+39j in it"),
        ("big", "uint64", [0, -1], "-1 in it"),
    ]:
        state = Arrays()
        setattr(state, name, value)
        misfit(state, f"{Arrays.__qualname__}.{name} must be an array of np.{kind} and shape (2,), not {what}")


def test_arrays_that_fit() -> None:
    whole = np.arange(12, dtype=np.int16)
    for values in (
        whole[3:6],
        whole[::4],
        whole[2::-1],
        whole.astype(">i2")[:3],
        whole[:3].astype(np.int8),
        np.array([True, False, True]),
        [1, -2, np.int64(3)],
        (1, 2, 3),
    ):
        made = from_record(Frozen, to_record(Frozen(1, values)))
        assert made.values.tolist() == [int(value) for value in values]
        assert made.values.dtype == np.int16

    class Arrays(Record):
        small: Annotated[NDArray[np.float32], Shape(4)] = (0.1, np.nan, -np.inf, 2)
        big: Annotated[NDArray[np.uint64], Shape(2)] = (2**64 - 1, 0)
        phases: Annotated[NDArray[np.complex64], Shape(2)] = (1, 2j)
        turned: Annotated[NDArray[np.int8], Shape(2, 3)] = np.arange(6, dtype=np.int8).reshape(3, 2).T

    state = Arrays()
    assert np.array_equal(state.small, np.array([0.1, np.nan, -np.inf, 2], np.float32), equal_nan=True)
    assert state.big.tolist() == [2**64 - 1, 0]
    assert state.phases.tolist() == [1, 2j]
    assert state.turned.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_nested_ones_that_do_not_fit() -> None:
    misfit(Box(7, None, BOX.weights, 0), "Box.corner: None is no Point")
    misfit(Box(7, {"x": 1}, BOX.weights, 0), "Box.corner: {'x': 1} is no Point")
    misfit(Box(7, Point(1, "2"), BOX.weights, 0), "Box.corner: Point.y must be np.float32, not '2'")
    misfit(Box(-1, None, None, 0), "Box.name must be np.uint8 (0 to 255), not -1")
    with pytest.raises(MessageTypeError, match=r"^'x' is no Sample$"):
        layout(Sample).pack_into(bytearray(32), 0, "x")


def test_several_classes_or_no_message_make_no_array() -> None:
    with pytest.raises(MessageTypeError, match=r"^one array has one type: Sample, not Point$"):
        to_records([SAMPLE, Point(1, 2)])
    with pytest.raises(MessageTypeError, match=r"np\.empty\(0, Sample\.dtype\) makes an empty array"):
        to_records([])


# -- arrays of records -------------------------------------------------------------------------------------------------

RECORDS = to_records([Sample(i, i / 4, True, -i) for i in range(6)])


def test_an_array_as_it_should_be_is_taken_as_it_is() -> None:
    assert np.shares_memory(checked_records(Sample, RECORDS), RECORDS)
    read_only = RECORDS[2:]
    read_only.flags.writeable = False
    assert np.shares_memory(checked_records(Sample, read_only), RECORDS)


@pytest.mark.parametrize(
    "records",
    [
        RECORDS[::2],
        RECORDS[::-1],
        RECORDS.astype([("sensor", "i4"), ("value", "f8"), ("good", "?"), ("count", "i8")]),  # packed
        RECORDS.view(np.recarray),
        RECORDS.astype(RECORDS.dtype.newbyteorder("=")),
        np.frombuffer(b"-" + RECORDS.tobytes(), Sample.dtype, 6, 1),  # not aligned
        RECORDS.view(np.dtype(dict(Sample.dtype.fields))),  # not marked as aligned
        RECORDS[:0],
    ],
)  # fmt: skip
def test_arrays_that_are_converted(records: Any) -> None:
    checked = checked_records(Sample, records)
    assert type(checked) is np.ndarray
    assert checked.dtype == Sample.dtype
    assert checked.dtype.isalignedstruct
    assert checked.flags.c_contiguous
    assert checked.flags.aligned
    assert checked.tolist() == records.tolist()


def test_nested_records_at_other_offsets_are_converted() -> None:
    packed = np.dtype(
        [("name", "u1"), ("corner", [("x", "f4"), ("y", "f4")]), ("weights", "f4", (2, 3)), ("phase", "c16")]
    )
    assert packed.itemsize < Box.dtype.itemsize
    records = np.array([to_record(BOX)]).astype(packed)
    assert from_records(Box, records) == [BOX]
    assert from_record(Box, records[0]) == BOX


def as_fields(**formats: Any) -> NDArray[np.void]:
    """Three records with the fields of `Sample`, in other formats."""
    usual = {"sensor": "i4", "value": "f8", "good": "?", "count": "i8"}
    return np.zeros(3, list((usual | formats).items()))


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (np.zeros(3), "Sample must be a record of sensor, value, good, count, not float64"),
        (np.zeros(3, Point.dtype), "Sample must be a record of sensor, value, good, count, not a record of x, y"),
        (
            RECORDS[["value", "sensor", "good", "count"]],
            "Sample must be a record of sensor, value, good, count, not a record of value, sensor, good, count",
        ),
        (as_fields(value="f4"), "Sample.value must be float64, not float32"),
        (as_fields(value=Point.dtype), "Sample.value must be float64, not a record of x, y"),
        (as_fields(value=np.dtype(("f8", 2))), "Sample.value must be float64, not float64 of shape (2,)"),
        (as_fields(good="u1", count="f8"), "Sample.good must be bool, not uint8"),
        (as_fields(sensor=">i4"), "Sample.sensor must be int32, not >i4"),
    ],
)
def test_arrays_of_other_fields_are_refused(records: Any, why: str) -> None:
    with pytest.raises(MessageTypeError) as refusal:
        checked_records(Sample, records)
    assert str(refusal.value) == f"{why}: make the array with Sample.dtype"


@pytest.mark.parametrize("records", [[(1, 2.0, True, 3)], RECORDS[0], None])
def test_what_is_no_array_is_refused(records: Any) -> None:
    with pytest.raises(MessageTypeError) as refusal:
        checked_records(Sample, records)
    assert str(refusal.value) == (
        f"records of Sample must be a NumPy array, not a {type(records).__name__}: make one with np.array(..., "
        "Sample.dtype), or of messages with pydotcompute.messages.to_records(...)"
    )


@pytest.mark.parametrize("shape", [(2, 3), (6, 1)])
def test_arrays_that_are_not_one_dimensional_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MessageTypeError) as refusal:
        checked_records(Sample, RECORDS.reshape(shape))
    assert str(refusal.value) == f"records of Sample must have one dimension, not shape {shape}: ravel() them"


def test_arrays_whose_nested_fields_differ() -> None:
    fields = [("name", "u1"), ("corner", [("x", "f4"), ("y", "f8")]), ("weights", "f4", (2, 3)), ("phase", "c16")]
    with pytest.raises(MessageTypeError, match=r"^Box\.corner\.y must be float32, not float64: "):
        checked_records(Box, np.zeros(1, fields))
    fields[1] = ("corner", "f4")
    with pytest.raises(MessageTypeError, match=r"^Box\.corner must be a record of x, y, not float32: "):
        checked_records(Box, np.zeros(1, fields))


def test_one_record_is_asked_for_and_many_are_given() -> None:
    assert from_record(Sample, np.array(RECORDS[1])) == Sample(1, 0.25, True, -1)
    with pytest.raises(
        MessageTypeError, match=r"such as records\[0\], not an array of shape \(6,\): from_records takes"
    ):
        from_record(Sample, RECORDS)
    with pytest.raises(MessageTypeError, match=r"^Sample must be a record of .*, not a record of x, y: "):
        from_record(Sample, to_record(Point(1, 2)))
    with pytest.raises(MessageTypeError, match="is wanted, such as"):
        from_record(Sample, (1, 2.0, True, 3))


# -- Record ------------------------------------------------------------------------------------------------------------


def test_initial_values() -> None:
    state = SensorState()
    assert state.count.tolist() == [0, 0, 0, 0]
    assert state.count.dtype == np.int64
    assert state.lowest.tolist() == [[np.inf, np.inf], [np.inf, np.inf]]
    assert state.lowest.dtype == np.float32
    assert state.limits.tolist() == [-1, 1.5]
    assert (state.gain, state.corner, state.seen) == (Gain(factor=2.5, enabled=False), Point(0, 0), -7)
    assert type(state.seen) is int
    assert SensorState(seen=np.int8(4)).seen == 4
    assert SensorState(count=1).count.tolist() == [1, 1, 1, 1]
    assert SensorState(gain=Gain(factor=1)).gain.factor == 1.0


def test_records_share_nothing() -> None:
    limits, gain = np.array([1.0, 2.0]), Gain()
    state, other = SensorState(limits=limits, gain=gain), SensorState()
    state.limits[0] = 9
    state.gain.factor = 9
    state.lowest[:] = 0
    assert limits[0] == 1
    assert gain.factor == 2.5
    assert other == SensorState()
    assert other.lowest[0, 0] == np.inf


def test_records_are_equal_by_class_and_values() -> None:
    assert SensorState() == SensorState()
    assert SensorState(count=[1, 2, 3, 4]) != SensorState()
    assert SensorState(limits=np.nan) == SensorState(limits=np.nan)

    class Other(Gain): ...

    assert Gain() != Other()
    assert Gain() != 2.5
    with pytest.raises(TypeError, match="unhashable"):
        hash(Gain())


def test_a_record_shows_its_fields() -> None:
    assert repr(Gain(factor=1)) == "Gain(factor=1.0, enabled=False)"
    assert repr(SensorState(lowest=0)).startswith("SensorState(count=array([0, 0, 0, 0]), lowest=array([[0., 0.],")


def test_records_are_copied_and_pickled() -> None:
    state = SensorState(seen=3)
    for twin in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert twin == state
        assert twin is not state
    assert from_record(SensorState, to_record(state)) == state


def test_values_of_a_record_are_checked() -> None:
    with pytest.raises(MessageTypeError, match=r"^Gain has no field 'gian' \(it has: factor, enabled\)$"):
        Gain(gian=2.0)
    with pytest.raises(MessageTypeError, match=r"^Gain\.factor must be np\.float64, not 'x'$"):
        Gain(factor="x")
    with pytest.raises(MessageTypeError, match=r"^SensorState\.gain: None is no Gain$"):
        SensorState(gain=None)
    with pytest.raises(
        MessageTypeError, match=r"^SensorState\.count must be an array of np\.int64 .*, not shape \(3,\)$"
    ):
        SensorState(count=[1, 2, 3])
    with pytest.raises(MessageTypeError, match=r"^SensorState\.count must be .*, not 'x'$"):
        SensorState(count="x")
    state = Gain()
    state.enabled = "yes"  # type: ignore[assignment]
    misfit(state, "Gain.enabled must be bool, not 'yes'")


def test_a_record_with_a_constructor_and_methods_of_its_own() -> None:
    class Counted(Record):
        count: np.int64

        def __init__(self, start: int) -> None:
            super().__init__(count=start)

        def twice(self) -> int:
            return 2 * int(self.count)

    assert Counted(4).twice() == 8
    assert from_record(Counted, to_record(Counted(4))).twice() == 8


def test_shapes() -> None:
    assert Shape(2, 3) == Shape(2, 3) != Shape(3, 2)
    assert len({Shape(8), Shape(8), Shape(4)}) == 2
    assert repr(Shape(8)) == "Shape(8)"
    assert repr(Shape(4, 4)) == "Shape(4, 4)"
    for twin in (copy.deepcopy(Shape(2, 3)), pickle.loads(pickle.dumps(Shape(2, 3)))):
        assert twin == Shape(2, 3)
    for sizes in ((), (0,), (-1,), (2.0,), ("8",), ((4, 4),), (True, "x")):
        with pytest.raises(
            DefinitionError, match=r"a Shape has positive integers, Shape\(8\) or Shape\(4, 4\), not Shape"
        ):
            Shape(*sizes)


def test_the_names_are_public() -> None:
    assert (pydotcompute.Record, pydotcompute.Shape) == (Record, Shape)
    assert {"Record", "Shape"} <= set(pydotcompute.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Records'"):
        _ = pydotcompute.messages.Records


# -- Numba -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs_numba
def test_numba_reads_and_writes_what_was_packed() -> None:
    import numba

    @numba.njit
    def step(state: Any, box: Any, out: Any) -> None:
        state.count[1] += box.name
        state.lowest[1, 0] = box.weights[1, 2]
        state.gain.factor = box.corner.x + state.limits[1]
        state.gain.enabled = not state.gain.enabled
        state.seen = -box.corner.y
        out.name, out.phase = 255, box.phase * 1j
        out.corner.x = state.lowest[0, 0]
        out.weights[:] = 2 * box.weights

    state, box, out = to_records([SensorState()]), to_records([BOX]), np.zeros(1, Box.dtype)
    step(state[0], box[0], out[0])
    assert from_records(SensorState, state) == [
        SensorState(
            count=[0, 7, 0, 0],
            lowest=[[np.inf, np.inf], [5, np.inf]],
            gain=Gain(factor=2.0, enabled=True),
            seen=1,
        )
    ]
    assert from_records(Box, out) == [Box(255, Point(np.inf, 0), 2 * BOX.weights, 2 + 1j)]


@pytest.mark.needs_numba
@pytest.mark.parametrize("kind", NUMBER_KINDS, ids=lambda kind: kind.annotation.__name__)
def test_numba_has_a_type_for_every_number(kind: Kind) -> None:
    import numba

    class State(Record):
        before: np.int8
        value: kind.annotation
        values: Annotated[NDArray[kind.annotation if kind.annotation is not np.bool_ else np.uint8], Shape(2)]

    typed = numba.from_dtype(State.dtype)
    assert (typed.size, typed.aligned) == (State.dtype.itemsize, True)
    assert {name: typed.offset(name) for name in State.dtype.names} == {
        name: State.dtype.fields[name][1] for name in State.dtype.names
    }
    assert typed.typeof("value") == numba.from_dtype(np.dtype(kind.annotation))
    assert typed.typeof("values").shape == (2,)


@pytest.mark.needs_numba
def test_numba_takes_a_record_without_fields() -> None:
    import numba

    @message
    class Tick: ...

    @numba.njit
    def length(ticks: Any) -> int:
        return len(ticks)

    assert length(to_records([Tick(), Tick()])) == 2
