"""Messages: what ring kernels take and send, and their form in bytes."""

from .codec import decode, encode
from .message import is_message_type, message, same_schema
from .standard import DEFAULT_PRIORITY

__all__ = ["DEFAULT_PRIORITY", "decode", "encode", "is_message_type", "message", "same_schema"]
