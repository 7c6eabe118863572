"""Messages: what ring kernels take and send, and their form in bytes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .message import is_message_type, message, same_schema
from .standard import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from .codec import decode, encode
    from .fields import Shape
    from .record import (
        Layout,
        Record,
        checked_records,
        from_record,
        from_records,
        layout,
        to_record,
        to_records,
    )

__all__ = [
    "DEFAULT_PRIORITY",
    "Layout",
    "Record",
    "Shape",
    "checked_records",
    "decode",
    "encode",
    "from_record",
    "from_records",
    "is_message_type",
    "layout",
    "message",
    "same_schema",
    "to_record",
    "to_records",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Async ring kernels of one process need neither bytes nor records.
    home = {"decode": ".codec", "encode": ".codec", "Shape": ".fields"}.get(name, ".record")
    return getattr(import_module(home, __name__), name)
