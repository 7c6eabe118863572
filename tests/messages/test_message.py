"""What `@message` makes of a class, and what it refuses."""

import copy
import inspect
import pickle
import re
import sys
import textwrap
import threading
import types
from abc import ABC, abstractmethod
from dataclasses import FrozenInstanceError, InitVar, asdict, dataclass, field, fields, is_dataclass, replace
from enum import Enum, IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID, uuid4

import numpy as np
import pytest

from pydotcompute.exceptions import DefinitionError, MessageTypeError, PriorityError
from pydotcompute.messages import DEFAULT_PRIORITY, is_message_type, message, same_schema
from pydotcompute.origin import Cell

T = TypeVar("T")


@message
@dataclass
class Request:
    data: str
    message_id: UUID = field(default_factory=uuid4)
    priority: int = 128
    correlation_id: UUID | None = None


@message
class Response:
    data: str


@message
@dataclass(frozen=True)
class Frozen:
    data: str
    tags: list[str] = field(default_factory=list)


@message
class Derived(Response):
    extra: int = 0


BOTH = pytest.mark.parametrize("cls", [Request, Response])
ALL = pytest.mark.parametrize("cls", [Request, Response, Frozen, Derived])


# -- the standard fields -----------------------------------------------------------------------------------------------


@BOTH
def test_both_spellings_have_the_standard_fields(cls: Any) -> None:
    made = cls(data="x")
    assert is_dataclass(cls)
    assert [f.name for f in fields(cls)] == ["data", "message_id", "priority", "correlation_id"]
    assert isinstance(made.message_id, UUID)
    assert made.message_id.version == 4
    assert made.priority == DEFAULT_PRIORITY == 128
    assert made.correlation_id is None
    assert asdict(made) == {
        "data": "x",
        "message_id": made.message_id,
        "priority": 128,
        "correlation_id": None,
    }


def test_added_fields_are_keyword_only_and_shown_in_the_signature() -> None:
    signature = inspect.signature(Response)
    assert str(signature) == (
        "(data: str, *, message_id: uuid.UUID = <factory>, priority: int = 128, "
        "correlation_id: uuid.UUID | None = None) -> None"
    )
    with pytest.raises(TypeError, match="positional"):
        Response("x", uuid4())
    assert Response.__match_args__ == ("data",)


def test_only_the_missing_fields_are_added() -> None:
    @message
    class Urgent:
        data: str
        priority: int = 255

    assert Urgent("x").priority == 255
    assert [f.name for f in fields(Urgent)] == ["data", "priority", "message_id", "correlation_id"]
    assert Urgent("x", 3).priority == 3


@ALL
def test_standard_fields_may_be_given(cls: Any) -> None:
    key, other = uuid4(), uuid4()
    made = cls("x", message_id=key, priority=7, correlation_id=other)
    assert (made.message_id, made.priority, made.correlation_id) == (key, 7, other)


def test_field_options_of_a_dataclass_are_kept() -> None:
    @message
    @dataclass(kw_only=True, order=True)
    class Full:
        a: int
        scale: InitVar[int] = 2
        b: list[int] = field(default_factory=list)
        c: int = field(init=False)
        d: int = field(init=False, default=9)
        e: list[int] = field(init=False, default_factory=lambda: [1])
        constant: ClassVar[int] = 5

        def __post_init__(self, scale: int) -> None:
            self.c = self.a * scale

    full = Full(a=2)
    assert (full.a, full.b, full.c, full.d, full.e) == (2, [], 4, 9, [1])
    assert Full(a=2, scale=5).c == 10
    assert full.b is not Full(a=2).b
    assert Full(a=1) < Full(a=2)
    assert repr(full).endswith("Full(a=2, b=[], c=4, d=9, e=[1])")
    with pytest.raises(TypeError):
        Full(2)
    with pytest.raises(TypeError):
        Full(a=2, c=3)


def test_post_init_sees_the_standard_fields() -> None:
    seen: list[Any] = []

    @message
    class Watching:
        data: str

        def __post_init__(self) -> None:
            seen.append((self.priority, self.correlation_id, self.message_id))

    watching: Any = Watching("x")
    assert seen == [(128, None, watching.message_id)]


def test_fields_of_any_name() -> None:
    @message
    class Odd:
        self: int
        cls: int
        factory: int = 3

    odd = Odd(1, 2)
    assert (odd.self, odd.cls, odd.factory) == (1, 2, 3)


def test_generic_and_abstract_bases() -> None:
    class Shape(ABC):
        @abstractmethod
        def area(self) -> float: ...

    @message
    class Box(Shape, Generic[T]):
        item: T

        def area(self) -> float:
            return 1.0

    assert Box[int](3).item == 3
    assert Box("x").area() == 1.0


def test_a_frozen_message() -> None:
    frozen: Any = Frozen("x")
    with pytest.raises(FrozenInstanceError):
        frozen.data = "y"
    with pytest.raises(FrozenInstanceError):
        frozen.priority = 3
    assert frozen.message_id == frozen.message_id
    assert Frozen("x").tags is not Frozen("x").tags

    @message
    @dataclass(frozen=True)
    class Key:
        name: str

    assert len({Key("a"), Key("a"), Key("b")}) == 2


def test_derived_messages_inherit_and_may_restate() -> None:
    assert inspect.signature(Derived).parameters["extra"].default == 0
    assert "message_id" not in vars(Derived("x"))
    assert Derived("x", 3, priority=1).priority == 1

    @dataclass
    class Undecorated(Response):
        more: int = 0

    plain: Any = Undecorated("x", priority=9)
    assert (plain.data, plain.more, plain.priority) == ("x", 0, 9)
    assert isinstance(plain.message_id, UUID)
    assert not is_message_type(Undecorated)

    @message
    class Restated(Response):
        message_id: UUID = field(default_factory=uuid4)
        priority: int = 5

    restated: Any = Restated("x")
    assert isinstance(vars(restated)["message_id"], UUID)
    assert restated.priority == 5


def test_decorating_twice_changes_nothing() -> None:
    assert message(Response) is Response
    assert message(Request) is Request


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Response, Frozen, Derived])
def test_an_added_id_is_made_when_it_is_read(cls: Any) -> None:
    made = cls("x")
    assert "message_id" not in vars(made)
    repr(made)
    assert made == cls("x")
    assert "message_id" not in vars(made)
    key = made.message_id
    assert isinstance(key, UUID)
    assert made.message_id is key
    assert key != cls("x").message_id


def test_a_written_out_id_is_left_to_its_factory() -> None:
    assert isinstance(vars(Request("x"))["message_id"], UUID)
    assert Request("x") != Request("x")


@ALL
def test_copies_have_the_id_of_the_original(cls: Any) -> None:
    for make_copy in (copy.copy, copy.deepcopy, replace, lambda m: pickle.loads(pickle.dumps(m))):
        original = cls("x", priority=3)
        made = make_copy(original)
        assert made.message_id == original.message_id
        assert made == original
        assert made.priority == 3
    assert asdict(original)["message_id"] == original.message_id
    assert replace(original, data="y").message_id == original.message_id


def test_own_pickling_is_left_alone() -> None:
    @message
    class Own:
        data: str

        def __getstate__(self) -> Any:
            return {"data": "own"}

    assert copy.copy(Own("x")).data == "own"


def test_threads_that_read_at_once_get_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Barrier(8)

    def uuid_made_by_all_at_once() -> UUID:
        inside.wait(20)
        return uuid4()

    monkeypatch.setattr("pydotcompute.messages.standard.uuid4", uuid_made_by_all_at_once)
    made: Any = Response("x")
    ids: list[UUID] = []
    threads = [threading.Thread(target=lambda: ids.append(made.message_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert set(ids) == {made.message_id}


def test_a_class_has_no_id_of_its_own() -> None:
    assert not hasattr(Response, "message_id")


@ALL
def test_priority_and_correlation_are_plain_attributes_of_the_message(cls: Any) -> None:
    """CPython reads an attribute slowly when the class has one of that name too."""
    assert vars(cls("x")).keys() >= {"priority", "correlation_id"}
    assert not hasattr(cls, "priority")
    assert not hasattr(cls, "correlation_id")


# -- priority ----------------------------------------------------------------------------------------------------------


class Level(IntEnum):
    HIGH = 200


@ALL
@pytest.mark.parametrize("value", [0, 1, 128, 255, np.uint8(255), np.int64(3), Level.HIGH])
def test_priorities(cls: Any, value: Any) -> None:
    made = cls("x", priority=value)
    assert made.priority == int(value)
    assert type(made.priority) is int


@ALL
@pytest.mark.parametrize("value", [-1, 256, 2**70, True, False, 1.0, "1", None, np.int64(-1), np.float64(1), np.True_])
def test_what_is_no_priority(cls: Any, value: Any) -> None:
    with pytest.raises(PriorityError, match="integer from 0 to 255") as failure:
        cls("x", priority=value)
    assert repr(value) in str(failure.value)


def test_replace_checks_the_priority() -> None:
    with pytest.raises(PriorityError):
        replace(Response("x"), priority=300)


# -- equality and text -------------------------------------------------------------------------------------------------

NAN = float("nan")
TABLE = np.dtype([("a", "i4"), ("b", "f8", (2,))])
ROW = (1, (NAN, 2.0))


@message
class Holder:
    value: Any


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.arange(3), np.arange(3)),
        (np.arange(3), np.arange(3.0)),
        (np.array([1.0, NAN]), np.array([1.0, NAN])),
        (np.array(["2020", "NaT"], "M8[D]"), np.array(["2020", "NaT"], "M8[D]")),
        (np.zeros(0), np.zeros(0)),
        (np.array(3.0), np.array(3.0)),
        (np.array([ROW, ROW], TABLE), np.array([ROW, ROW], TABLE)),
        (np.array([ROW], TABLE)[0], np.array([ROW], TABLE)[0]),
        ([np.arange(3), {"a": (np.arange(2),)}], [np.arange(3), {"a": (np.arange(2),)}]),
        (float("nan"), float("nan")),
        (complex(NAN, 1), complex(NAN, 1)),
        (Holder(np.arange(3)), Holder(np.arange(3))),
    ],
    ids=str,
)
def test_equal(a: Any, b: Any) -> None:
    assert Holder(a) == Holder(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.arange(3), np.arange(4)),
        (np.arange(3), np.array([0, 1, 3])),
        (np.arange(3), [0, 1, 2]),
        (np.array([1]), np.array([[1]])),
        (np.array([1]), 1),
        (np.zeros((0, 2)), np.zeros((2, 0))),
        (np.array([NAN]), np.array([1.0])),
        (np.zeros(2, TABLE), np.ones(2, TABLE)),
        (np.zeros(2, TABLE), np.zeros(2)),
        (np.array(["a"]), np.array([1])),
        ([np.arange(3)], [np.arange(4)]),
        ([1, 2], [1]),
        ([1], (1,)),
        ({"a": np.arange(2)}, {"b": np.arange(2)}),
        (float("nan"), 1.0),
    ],
    ids=str,
)
def test_not_equal(a: Any, b: Any) -> None:
    assert Holder(a) != Holder(b)
    assert Holder(b) != Holder(a)


def test_equality_asks_class_priority_and_correlation_but_not_the_added_id() -> None:
    key = uuid4()
    assert Response("x", message_id=uuid4()) == Response("x", message_id=uuid4())
    assert Response("x", priority=1) != Response("x", priority=2)
    assert Response("x", correlation_id=key) != Response("x")
    assert Response("x") != Derived("x")
    assert Response("x") != "x"
    assert Request("x", key) == Request("x", key)


def test_methods_of_the_user_are_left_alone() -> None:
    @message
    class Own:
        data: str

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "own"

        def reply(self) -> str:
            return "mine"

    @message
    @dataclass(eq=False, repr=False)
    class Identity:
        data: str

    @message
    class WithField:
        reply: str

    assert Own("x") == 3
    assert repr(Own("x")) == "own"
    assert Own("x").reply() == "mine"
    assert Identity("x") != Identity("x")
    assert "object at" in repr(Identity("x"))
    assert WithField("x").reply == "x"


def test_repr_shows_what_tells_something() -> None:
    key = UUID(int=1)
    assert repr(Response("x")) == "Response(data='x')"
    assert repr(Response("x", priority=3)) == "Response(data='x', priority=3)"
    assert repr(Response("x", message_id=key)) == "Response(data='x')"
    assert repr(Response("x", correlation_id=key)) == f"Response(data='x', correlation_id={key!r})"
    assert repr(Request("x", key)) == f"Request(data='x', message_id={key!r})"
    within: Any = Holder([])
    within.value.append(within)
    assert repr(within) == "Holder(value=[...])"


# -- replies -----------------------------------------------------------------------------------------------------------


@ALL
def test_reply_names_the_message_it_answers(cls: Any) -> None:
    request = cls("question")
    answer = request.reply(Response, data="answer", priority=7)
    assert answer == Response("answer", priority=7, correlation_id=request.message_id)
    assert request.reply(Request, "answer").correlation_id == request.message_id


def test_reply_with_a_class_that_is_no_message() -> None:
    class Duck:
        def __init__(self, data: str, correlation_id: UUID | None = None) -> None:
            self.correlation_id = correlation_id

    class Mute:
        pass

    request: Any = Response("x")
    assert request.reply(Duck, "x").correlation_id == request.message_id
    with pytest.raises(MessageTypeError, match=r"Mute takes no correlation_id: put @message on it"):
        request.reply(Mute)


# -- what cannot be a message ------------------------------------------------------------------------------------------


def body_of(**namespace: Any) -> type:
    return type("Wrong", (), {"__annotations__": {}, **namespace})


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (lambda: 0, "on a class, not on"),
        (3, "on a class, not on"),
        (Enum("Colour", "RED"), "is a Enum"),
        (NamedTuple("Pair", [("a", int)]), "is a tuple"),
        (TypedDict("Table", {"a": int}), "is a dict"),
        (type("Listing", (list,), {}), "is a list"),
        (dataclass(slots=True)(body_of()), "leave out slots=True"),
        (body_of(__slots__=("a",)), "leave out slots=True"),
        (body_of(__init__=lambda self, a: None), "writes its own __init__"),
        (dataclass(body_of(__init__=lambda self, a: None)), "writes its own __init__"),
        (dataclass(init=False)(body_of()), "leave out init=False"),
        (body_of(__annotations__={"a": int, "b": int}, a=1), "cannot be made a dataclass: non-default argument"),
        (body_of(__annotations__={"a": list}, a=[]), "cannot be made a dataclass: mutable default"),
        (body_of(priority=200), r"priority must be a field: write `priority: int = ...`"),
        (body_of(priority=property(lambda self: 3)), "priority must be a field"),
        (body_of(message_id=lambda self: 3), r"message_id must be a field: write `message_id: uuid.UUID = ...`"),
        (body_of(__annotations__={"priority": ClassVar[int]}, priority=3), "priority must be a field"),
        (body_of(__annotations__={"priority": InitVar[int]}), "priority must be a field"),
        (body_of(__annotations__={"priority": str}), "must be annotated `int`, not `str`"),
        (body_of(__annotations__={"priority": "float"}), "must be annotated `int`, not `float`"),
        (body_of(__annotations__={"priority": bool}), "must be annotated `int`, not `bool`"),
        (body_of(__annotations__={"priority": int | None}), "must be annotated `int`, not `int | None`"),
        (body_of(__annotations__={"priority": int}, priority=256), "from 0 to 255, not 256"),
        (body_of(__annotations__={"priority": int}, priority=None), "from 0 to 255, not None"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # the same in each process
)
def test_definitions_that_cannot_work(thing: Any, text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        message(thing)


def test_definitions_that_contradict_their_base() -> None:
    with pytest.raises(DefinitionError, match=r"Louder\.priority must be a field"):

        @message
        class Louder(Response):
            priority = 255

    with pytest.raises(DefinitionError, match="cannot inherit non-frozen"):

        @message
        class Thawed(Frozen):
            pass

    with pytest.raises(DefinitionError, match="reply would hide a method"):

        @message
        class Answer(Response):
            reply: str


@pytest.mark.parametrize("annotation", [int, "int", np.uint8, Level, Any, "NotKnownHere"])
def test_annotations_that_a_priority_may_have(annotation: Any) -> None:
    assert message(body_of(__annotations__={"priority": annotation}, priority=3))().priority == 3


# -- the same class again ----------------------------------------------------------------------------------------------


def defined(source: str, module: str = "cells") -> Any:
    """The class `M` of a source text, as if a cell had been run."""
    module_object = sys.modules.setdefault(module, types.ModuleType(module))
    vars(module_object).update(message=message, dataclass=dataclass, np=np)
    exec(textwrap.dedent(source), vars(module_object))
    return vars(module_object)["M"]


POINT = "@message\nclass P:\n    x: int\n"
LINE = POINT + "@message\nclass M:\n    a: P\n    b: list[P | None]\n    c: 'P'\n    d: np.float64 = 1.5\n"


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_a_cell_that_runs_again_makes_the_same_schema(future: str) -> None:
    first, second = defined(future + LINE), defined(future + LINE)
    assert first is not second
    assert same_schema(first, second)
    assert same_schema(second, defined(future + LINE.replace("1.5", "2.5"))), "defaults are no part of it"


def test_a_class_that_names_itself_makes_the_same_schema_again() -> None:
    """From Python 3.14 on, its own name means nothing in the first run of a cell, and the old class in the second."""
    before = "from typing import ForwardRef\n@message\nclass M:\n    child: list[ForwardRef('M')]\n"
    after = "@message\nclass M:\n    child: list[M]\n"
    assert same_schema(defined(before), defined(after))


@pytest.mark.parametrize(
    "other",
    [
        LINE.replace("c: 'P'", "e: 'P'"),
        LINE.replace("a: P", "a: int"),
        LINE.replace("list[P | None]", "list[P]"),
        LINE.replace("    d: np.float64 = 1.5\n", ""),
        LINE.replace("class M", "class N") + "M = N\n",
    ],
)
def test_other_schemas(other: str) -> None:
    assert not same_schema(defined(LINE), defined(other))


def test_schemas_of_other_classes() -> None:
    duck = "class M:\n    pass\n"
    assert not same_schema(defined(LINE), defined(LINE, "other_cells"))
    assert not same_schema(defined(duck), defined(duck))
    assert not same_schema(int, Response)
    assert same_schema(int, int)
    plain = "@dataclass\nclass M:\n    x: int\n"
    assert same_schema(defined(plain), defined(plain))


def test_is_message_type() -> None:
    class Inherits(Response):
        pass

    assert is_message_type(Response)
    assert is_message_type(Request)
    for other in (Inherits, Response("x"), int, 3, dataclass(body_of())):
        assert not is_message_type(other)


def test_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Response.__message_origin__ == f"module {__name__}"
    monkeypatch.setattr("pydotcompute.origin.current_cell", lambda: Cell(7, None))
    assert message(body_of(__module__="__main__")).__message_origin__ == "cell In [7]"
    assert message(body_of(__module__="mymod")).__message_origin__ == "module mymod"


# -- type checkers -----------------------------------------------------------------------------------------------------

# The core-only run has no mypy.
if find_spec("mypy"):

    def test_what_mypy_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mypy import api

        checked = tmp_path / "checked.py"
        checked.write_text(
            textwrap.dedent(
                """\
                from dataclasses import dataclass, field
                from uuid import UUID, uuid4
                from pydotcompute import message

                @message
                @dataclass
                class Request:
                    data: str
                    message_id: UUID = field(default_factory=uuid4)
                    priority: int = 128
                    correlation_id: UUID | None = None

                @message
                class Response:
                    data: str
                    tags: list[str] = field(default_factory=list)

                Request(data="x", priority=3).message_id.hex
                Response(data="x").data.upper()
                Request(data=3)
                Response()
                """
            )
        )
        root = Path(__file__).parents[2]
        monkeypatch.setenv("MYPYPATH", str(root))
        report, _, _ = api.run(
            [
                "--strict",
                "--follow-imports=silent",
                f"--cache-dir={root / '.mypy_cache' / 'tests'}",
                "--config-file=",
                str(checked),
            ]
        )
        lines = checked.read_text().splitlines()
        errors = [line.split(":")[1] for line in report.splitlines() if ": error:" in line]
        assert [lines[int(number) - 1] for number in errors] == ["Request(data=3)", "Response()"], report
