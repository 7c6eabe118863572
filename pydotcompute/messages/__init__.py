"""Messages: what ring kernels take and send, and their form in bytes."""

from typing import TYPE_CHECKING, Any

from .message import is_message_type, message, same_schema
from .standard import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from .codec import decode, encode

__all__ = ["DEFAULT_PRIORITY", "decode", "encode", "is_message_type", "message", "same_schema"]


def __getattr__(name: str) -> Any:
    if name in ("decode", "encode"):  # ring kernels of one process need no bytes
        from . import codec

        return getattr(codec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
