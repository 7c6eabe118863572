"""The standard fields of a message, and the methods that `@message` writes for a class that has them."""

# No `from __future__ import annotations`: the fields of `_Standard` need types, not their source text.
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import signature, unwrap
from reprlib import recursive_repr
from typing import Any, TypeVar
from uuid import UUID, uuid4

import numpy as np

from ..exceptions import DefinitionError, MessageTypeError, PriorityError

T = TypeVar("T")

DEFAULT_PRIORITY = 128


@dataclass(kw_only=True)
class _Standard:
    message_id: UUID = field(default_factory=uuid4, compare=False, repr=False)
    priority: int = DEFAULT_PRIORITY
    correlation_id: UUID | None = None


STANDARD: dict[str, Field[Any]] = {f.name: f for f in fields(_Standard)}
"""The fields as `@message` adds them, keyword-only; one that the user wrote out is another `Field`."""

_DEFAULTS: dict[str, Any] = _Standard.__init__.__kwdefaults__ or {}


def added_fields(cls: Any) -> dict[str, Field[Any]]:
    """Those of the standard fields that the user did not write out."""
    return {name: f for name, f in STANDARD.items() if cls.__dataclass_fields__[name] is f}


def is_generated(cls: type, name: str) -> bool:
    """Whether `dataclass` wrote this method of the class: then its code is named as that of a known dataclass."""
    code, known = (getattr(unwrap(vars(c).get(name, c)), "__code__", None) for c in (cls, _Standard))
    return code is not None and known is not None and code.co_qualname == known.co_qualname


class LazyId:
    """Makes the `message_id` of a message when it is first read.

    It has no `__set__`, so an id in the message's `__dict__`, once made or given, is found before it.
    """

    def __get__(self, instance: Any, owner: type) -> UUID:
        if instance is None:  # a dataclass that inherits the field must not take this object for its default
            raise AttributeError(f"{owner.__qualname__}.message_id: each message has its own, the class has none")
        made: UUID = instance.__dict__.setdefault("message_id", uuid4())  # atomic: all threads get the same id
        return made


class LazyDtype:
    """The `dtype` of a class: that of its records, worked out when it is first read.

    Objects have none, and leave the name to their fields.
    """

    def __get__(self, instance: Any, owner: type) -> "np.dtype[np.void]":
        from .record import layout  # which knows this module

        if instance is not None:
            raise AttributeError(f"{owner.__qualname__!r} object has no attribute 'dtype'; its class has one")
        try:
            known = layout(owner)
        except DefinitionError as error:
            raise _NoDtypeError(str(error)) from error.__cause__
        if "dtype" in known.fields:
            raise AttributeError(f"{owner.__qualname__}.dtype: each object has its own, the class has none")
        return known.dtype


class _NoDtypeError(DefinitionError, AttributeError):
    """Most messages have no dtype, and `hasattr` must say so."""


def state_with_id(self: Any) -> Any:
    """`__getstate__`, for copies and pickles: they have the id of the original, so it must be made."""
    _ = self.message_id
    return object.__getstate__(self)


def checked_priority(value: Any) -> int:
    """The priority as a plain `int`.

    Raises:
        PriorityError: not an integer, of Python or NumPy, from 0 to 255.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value <= 255:
        return int(value)
    raise PriorityError(f"priority must be an integer from 0 to 255, not {value!r}")


def new_init(cls: Any) -> Callable[..., None]:
    """`__init__` as `dataclass` wrote it, but that it adds the standard fields, makes no id and checks the priority."""
    declared, real = cls.__dataclass_fields__, {f.name for f in fields(cls)}
    added = added_fields(cls)
    old = vars(cls)["__init__"]
    code = old.__code__
    me, *positional = code.co_varnames[: code.co_argcount]
    keyword = list(code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount])
    keyword += [name for name in added if name not in keyword]  # an inherited one is there already

    scope: dict[str, Any] = {
        "__name__": cls.__module__,
        "__put__": object.__setattr__,
        "__checked__": checked_priority,
        "__usual__": declared["priority"].default,
        "__not_given__": _DEFAULTS["message_id"],
    }
    assign = "__put__({me}, {name!r}, {value})" if cls.__dataclass_params__.frozen else "{me}.{name} = {value}"
    lines = []
    for name in (name for name in declared if name in real):
        f, condition, value = declared[name], "", name
        if f.default_factory is not MISSING:
            scope[f"__make_{name}__"] = f.default_factory
            value = f"__make_{name}__() if {name} is __not_given__ else {name}" if f.init else f"__make_{name}__()"
        elif not f.init:
            continue  # the class has its default, or __post_init__ sets it
        if f is STANDARD["message_id"]:
            condition, value = "if message_id is not __not_given__: ", name
        elif name == "priority":
            value = "priority if priority is __usual__ else __checked__(priority)"
        lines.append(condition + assign.format(me=me, name=name, value=value))
    if hasattr(cls, "__post_init__"):
        only_init = [name for name in declared if name not in real and name in (*positional, *keyword)]
        lines.append(f"{me}.__post_init__({', '.join(only_init)})")

    parameters = [me, *positional, *(["*", *keyword] if keyword else [])]
    source = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines or ["pass"])
    exec(compile(source, f"<@message {cls.__qualname__}>", "exec"), scope)
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {name: declared[name].type for name in (*positional, *keyword)} | {"return": None}
    init.__defaults__ = old.__defaults__
    init.__kwdefaults__ = {name: _DEFAULTS[name] for name in added} | (old.__kwdefaults__ or {})
    new: Callable[..., None] = init
    return new


def new_eq(cls: Any) -> Callable[[Any, Any], Any]:
    """`__eq__` over the compared fields, by `equal_values`."""
    names = [f.name for f in fields(cls) if f.compare]

    def equal(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(equal_values(getattr(self, name), getattr(other, name)) for name in names)

    return equal


def equal_values(a: Any, b: Any) -> bool:
    """``==`` as messages mean it: arrays by shape and values, NaN equal to NaN, also inside lists, tuples and dicts."""
    if a is b:
        return True
    if isinstance(a, _ARRAYS) or isinstance(b, _ARRAYS):
        return isinstance(a, _ARRAYS) and isinstance(b, _ARRAYS) and _equal_arrays(np.asarray(a), np.asarray(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal_values(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(equal_values, a, b))
    return bool(a == b) or bool(a != a and b != b)


_ARRAYS = (np.ndarray, np.void)  # np.void: one element of a structured array


def _equal_arrays(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.names is not None or b.dtype.names is not None:
        return a.dtype == b.dtype and all(_equal_arrays(a[name], b[name]) for name in a.dtype.names or ())
    return bool(np.all((a == b) | ((a != a) & (b != b))))


def new_repr(cls: Any) -> Callable[[Any], str]:
    """`__repr__` as that of a dataclass, but with priority and correlation only where they tell something."""
    shown = [(f.name, f.default if f.name in STANDARD else MISSING) for f in fields(cls) if f.repr]

    @recursive_repr()
    def representation(self: Any) -> str:
        values = [(name, getattr(self, name), usual) for name, usual in shown]
        return f"{type(self).__qualname__}({', '.join(f'{n}={v!r}' for n, v, usual in values if v is not usual)})"

    return representation


def reply(self: Any, reply_type: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Make a message that answers this one: ``request.reply(Response, data="x")``.

    Args:
        reply_type: the class of the answer. The further arguments are those of its constructor.

    Returns:
        ``Response(data="x", correlation_id=request.message_id)``.

    Raises:
        MessageTypeError: the class takes no `correlation_id`.
    """
    fields_of_it = getattr(reply_type, "__dataclass_fields__", {})  # first: a signature takes long to make
    if "correlation_id" not in fields_of_it and "correlation_id" not in signature(reply_type).parameters:
        name = getattr(reply_type, "__qualname__", repr(reply_type))
        raise MessageTypeError(f"{name} takes no correlation_id: put @message on it, or give it such a field")
    return reply_type(*args, correlation_id=self.message_id, **kwargs)


def as_html(self: Any) -> str:
    """Its fields as a table; notebooks ask for it."""
    from .html import message_html  # only where somebody looks

    return message_html(self)
