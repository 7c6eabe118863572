"""What the codec knows of one message class: how to read, check and make its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from enum import Enum
from inspect import signature
from typing import Any, get_args, get_origin

import numpy as np

from .forms import FORMS, PLAIN
from .message import annotation_text, is_message_type, resolved_annotation, type_name, union_members


class Schema:
    """What is known of a message class: how to read, check and make its messages."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # a class that goes to another process is looked at there anew

    def __init__(self, cls: type) -> None:
        known = fields(cls)
        self.cls = cls
        self.names = tuple(f.name for f in known)
        self.header = " ".join((type_name(cls), *self.names))
        self.annotations = {f.name: annotation_text(f) for f in known}
        self.accepts = {f.name: _accepted(resolved_annotation(cls, f)) for f in known}
        self.enums = self.find_enums()
        self.late = [f.name for f in known if not f.init]
        parameters = list(signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
        self.lost = [p.name for p in parameters if p.default is p.empty and p.name not in self.names]

        self.flat: set[tuple[type, ...]] = set()
        """Types of values that are all plain and fit the fields: messages of such, the most, need no further look."""
        scope: dict[str, Any] = {"cls": cls, "header": self.header, "flat": self.flat}
        exec(_fast_ways(self.names), scope)
        self.parts: Callable[[Any], tuple[list[Any], tuple[type, ...]]] = scope["parts"]
        """The header and the values of a message, and the types of the values."""
        self.made: Callable[[list[Any]], Any] = scope["made"]
        """The message of such parts, or None if their types are not in `flat`."""

    def find_enums(self) -> dict[str, type[Enum]]:
        hints = [resolved_annotation(self.cls, f) for f in fields(self.cls)]
        return {type_name(enum): enum for hint in hints for enum in _enums_in(hint)}

    def enum(self, name: str, kind: type[Enum] | None = None) -> type[Enum] | None:
        """The enum of this name, if an annotation has it. `kind`: which one it should be."""
        known = self.enums.get(name)
        if known is None or known is not (kind or known):  # it may have been defined, or defined again, since
            self.enums = self.find_enums()
        return self.enums.get(name)

    def misfit(self, name: str, value: Any) -> str | None:
        """Why a field cannot have this value."""
        accepted = self.accepts[name]
        if accepted is None or not accepted.isdisjoint(map(type_name, type(value).__mro__)):
            return None
        return f"a value of type {type(value).__name__}, but the annotation is `{self.annotations[name]}`"

    def remember(self, types: tuple[type, ...]) -> None:
        if not self.late and PLAIN.issuperset(types) and len(self.flat) < 256:
            self.flat.add(types)


def schema_of(cls: type) -> Schema | None:
    """None for what is not a message class."""
    schema: Schema | None = getattr(cls, "__message_schema__", None)
    if schema is not None and schema.cls is cls:  # and not inherited
        return schema
    if not is_message_type(cls):
        return None
    schema = cls.__message_schema__ = Schema(cls)  # type: ignore[attr-defined]
    return schema


def _fast_ways(names: Sequence[str]) -> str:
    """Source of `Schema.parts` and `Schema.made`: without a loop they take half the time."""
    values = [f"v{i}" for i in range(len(names))]
    together, types = ", ".join(values), ", ".join(f"type({v})" for v in values)
    reads = "; ".join(f"{v} = message.{name}" for v, name in zip(values, names, strict=True))
    arguments = ", ".join(f"{name}={v}" for v, name in zip(values, names, strict=True))
    return (
        f"def parts(message):\n    {reads}\n    return [header, {together}], ({types},)\n"
        f"def made(parts):\n    _, {together} = parts\n"
        f"    return cls({arguments}) if ({types},) in flat else None\n"
    )


_NUMBERS: tuple[tuple[tuple[type, ...], tuple[type, ...]], ...] = (
    ((bool, np.bool_), (bool, np.bool_)),
    ((int, np.integer), (int, np.integer)),
    ((float, np.floating), (float, int, np.floating, np.integer)),
    ((complex, np.complexfloating, np.number), (complex, float, int, np.number)),
)
"""Annotation, and what goes for it: an integer where a float is asked for, NumPy's numbers as Python's."""

_SIMPLE = {list, dict, np.timedelta64, *PLAIN, *FORMS}


def _accepted(hint: Any) -> frozenset[str] | None:
    """The names of the classes one of which a value must be an instance of; None: the annotation is not a simple one.

    By name, so that a class that was defined again goes for the one that an older annotation holds.
    """
    names: set[str] = set()
    for member in union_members(hint):
        kind = get_origin(member) or member
        if not isinstance(kind, type):
            return None
        if kind in (bool, int, float, complex) or (issubclass(kind, np.generic) and kind is not np.timedelta64):
            accepted = next((wide for narrow, wide in _NUMBERS if issubclass(kind, narrow)), (kind,))
        elif kind in _SIMPLE or issubclass(kind, Enum) or is_message_type(kind):
            accepted = (kind,)
        else:
            return None
        names.update(map(type_name, accepted))
    return frozenset(names)


def _enums_in(hint: Any) -> Iterator[type[Enum]]:
    for member in union_members(hint):
        if isinstance(member, type) and issubclass(member, Enum):
            yield member
        elif isinstance(member, Enum):  # Literal[Colour.RED]
            yield type(member)
        else:
            for part in get_args(member):
                yield from _enums_in(part)
