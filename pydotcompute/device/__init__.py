"""Memory that the host and the device share."""

from .unified_buffer import UnifiedBuffer

__all__ = ["UnifiedBuffer"]
