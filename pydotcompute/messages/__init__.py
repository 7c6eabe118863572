"""Messages: what ring kernels take and send, and their form in bytes."""

from .message import is_message_type, message, same_schema
from .standard import DEFAULT_PRIORITY

__all__ = ["DEFAULT_PRIORITY", "is_message_type", "message", "same_schema"]
