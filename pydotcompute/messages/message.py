"""`@message`: makes a class a message, which `decode` knows by its name."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from inspect import formatannotation
from sys import modules
from types import UnionType
from typing import Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import numpy as np

from ..exceptions import DefinitionError, PriorityError
from ..origin import origin
from .standard import (
    STANDARD,
    LazyDtype,
    LazyId,
    added_fields,
    as_html,
    checked_priority,
    is_generated,
    new_eq,
    new_init,
    new_repr,
    reply,
    state_with_id,
)

T = TypeVar("T")

registry: dict[str, type] = {}
"""The message classes by `type_name`, each the one that was defined last."""

# Their instances hold data beside the fields.
_NOT_FOR_MESSAGES = (Enum, tuple, list, dict, set, frozenset, str, bytes, bytearray, int, float, complex, type)


@dataclass_transform(field_specifiers=(field,))
def message(cls: type[T], /) -> type[T]:
    """Make a class a message: a dataclass with the three standard fields, that `encode` and `decode` know.

    A plain class is made a dataclass first; what a ``@dataclass`` below made is kept. Those of the standard fields that
    the class does not write out are added, keyword-only:

    - ``message_id: UUID``: made when it is first read; takes no part in ``==``.
    - ``priority: int = 128``: from 0 to 255, checked when a message is made.
    - ``correlation_id: UUID | None = None``: the `message_id` of the message that this one answers.

    Messages are equal when they are of one class and their fields are equal: arrays by shape and values, and NaN to
    NaN, so that a decoded message equals the one that was encoded. ``request.reply(Response, data="x")`` makes a
    `Response` with its `correlation_id`. Methods that the class writes itself are left alone.

    Messages whose fields all have a fixed size are records too: ``Sample.dtype`` is their NumPy dtype, without the
    standard fields (see `Record`).

    A class of the same module and qualified name that is defined later replaces this one for `decode`.

    Type checkers see the fields that are written out, as in a dataclass; they know nothing of what is added.

    Raises:
        DefinitionError: no dataclass can be made of it, it writes its own ``__init__``, has ``__slots__``, is an enum
            or a subclass of a builtin, or declares a standard field as something that this cannot be.
    """
    if is_message_type(cls):
        return cls
    _refuse_what_cannot_be_a_message(cls)
    target: Any = cls
    if "__dataclass_fields__" not in vars(cls):
        try:
            dataclass(cls)
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"{cls.__qualname__} cannot be made a dataclass: {error}") from error
    if not is_generated(cls, "__init__"):
        raise DefinitionError(
            f"{cls.__qualname__} writes its own __init__, but messages are made from their fields, by `decode` for "
            "one: do its work in __post_init__ or in a classmethod, and leave out init=False"
        )
    _complete_standard_fields(target)
    target.__init__ = new_init(cls)
    if is_generated(cls, "__eq__"):
        target.__eq__ = new_eq(cls)
    if is_generated(cls, "__repr__"):
        target.__repr__ = new_repr(cls)
    if "dtype" not in target.__dataclass_fields__ and not any("dtype" in vars(base) for base in cls.__mro__):
        target.dtype = LazyDtype()
    if "_repr_html_" not in target.__dataclass_fields__ and not hasattr(cls, "_repr_html_"):
        target._repr_html_ = as_html
    target.__message_origin__ = origin(cls.__module__) if cls.__module__ == "__main__" else f"module {cls.__module__}"
    registry[type_name(cls)] = cls
    return cls


def type_name(cls: type) -> str:
    """The name that stands for a class in encoded messages: ``module.QualName``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_message_type(cls: object) -> bool:
    """Whether `@message` was put on this very class, and not only on a base of it."""
    return isinstance(cls, type) and "__message_origin__" in vars(cls)


def same_schema(a: type, b: type) -> bool:
    """Whether messages of one class can stand for those of the other.

    So it is for a class and itself, and for dataclasses of the same module and qualified name whose fields have the
    same names and annotations in the same order: a notebook cell that was run again. Annotations are compared as text,
    so that two classes match although each names its own version of a nested class.
    """
    if a is b:
        return True
    if not (is_dataclass(a) and is_dataclass(b)) or type_name(a) != type_name(b):
        return False
    return _comparable(a) == _comparable(b)


def resolved_annotation(cls: type, f: Field[Any]) -> Any:
    """The annotation of a field as a type; `Any` when it names what cannot be found, a local class for one."""
    owner = [base for base in cls.__mro__ if vars(base).get("__dataclass_fields__", {}).get(f.name) is f][-1]

    def probe() -> None: ...

    probe.__annotations__ = {f.name: f.type}
    try:
        return get_type_hints(probe, vars(modules[owner.__module__]))[f.name]
    except Exception:  # noqa: BLE001 - it evaluates what the user wrote
        return Any


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of ``int | None``, also behind an alias (``type Number = int | None``); anything else is its own."""
    alias = get_origin(annotation) or annotation
    if hasattr(alias, "__value__"):  # a TypeAliasType, which Python 3.11 does not have
        given = dict(zip(alias.__type_params__, get_args(annotation), strict=False))
        wanted = [given[p] for p in getattr(alias.__value__, "__parameters__", ()) if p in given]
        return union_members(alias.__value__[*wanted] if wanted else alias.__value__)
    if alias in (Union, UnionType):
        return tuple(member for part in get_args(annotation) for member in union_members(part))
    return (annotation,)


def annotation_text(f: Field[Any]) -> str:
    """The annotation of a field as in the source."""
    return f.type if isinstance(f.type, str) else formatannotation(f.type)


def _comparable(cls: Any) -> list[tuple[str, str]]:
    """Names and annotations of the fields. A class of the same module looks the same before and after it is defined."""
    texts = [(f.name, _FORWARD_REF.sub(r"\1", annotation_text(f))) for f in fields(cls)]
    return [(name, text.replace(f"{cls.__module__}.", "")) for name, text in texts]


_FORWARD_REF = re.compile(r"ForwardRef\('([^']*)'[^)]*\)")


def _refuse_what_cannot_be_a_message(cls: Any) -> None:
    if not isinstance(cls, type):
        raise DefinitionError(f"@message goes on a class, not on {cls!r}")
    if issubclass(cls, _NOT_FOR_MESSAGES):
        bases = ", ".join(base.__name__ for base in cls.__bases__)
        raise DefinitionError(f"{cls.__qualname__} cannot be a message since it is a {bases}: write a plain class")
    if "__slots__" in vars(cls):
        raise DefinitionError(
            f"{cls.__qualname__} has __slots__, but the fields that @message adds need room: leave out slots=True"
        )


def _complete_standard_fields(cls: Any) -> None:
    declared = cls.__dataclass_fields__
    real = {f.name: f for f in fields(cls)}
    for name, standard in STANDARD.items():
        on_class = vars(cls).get(name, MISSING)
        if name in real:
            is_field = on_class in (MISSING, real[name].default)
            if is_field and on_class is not MISSING and real[name].init:
                delattr(cls, name)  # every message has its own; a default on the class makes CPython read it slower
        else:
            is_field = name not in declared and not hasattr(cls, name)
            declared.setdefault(name, standard)
        if not is_field:
            raise DefinitionError(
                f"{cls.__qualname__}.{name} must be a field: write `{name}: {annotation_text(standard)} = ...`"
            )
    added = added_fields(cls)
    if "message_id" in added:
        cls.message_id = LazyId()
        if cls.__getstate__ is object.__getstate__:
            cls.__getstate__ = state_with_id
    if "priority" not in added:
        _check_priority_field(cls, declared["priority"])
    if "reply" in declared and declared["reply"].default is reply:
        raise DefinitionError(f"{cls.__qualname__}.reply would hide a method of its base: give the field another name")
    if "reply" not in declared and not hasattr(cls, "reply"):
        cls.reply = reply


def _check_priority_field(cls: type, f: Field[Any]) -> None:
    for member in union_members(resolved_annotation(cls, f)):
        known = isinstance(member, type) and member is not Any  # which is a class too
        if known and (member is bool or not issubclass(member, (int, np.integer))):
            raise DefinitionError(f"{cls.__qualname__}.priority must be annotated `int`, not `{annotation_text(f)}`")
    if f.default is not MISSING:
        try:
            checked_priority(f.default)
        except PriorityError as error:
            raise DefinitionError(f"{cls.__qualname__}: {error}") from None
