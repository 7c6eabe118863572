"""GPU actors (ring kernels) that live in a notebook.

The names below load when they are first used: importing the package starts nothing, and needs nothing but the standard
library.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import exceptions as exceptions
    from .device.accelerator import Accelerator as Accelerator
    from .device.block import barrier as barrier
    from .device.block import lane as lane
    from .device.block import width as width
    from .device.doctor import doctor as doctor
    from .device.memory_pool import MemoryPool as MemoryPool
    from .device.unified_buffer import UnifiedBuffer as UnifiedBuffer
    from .jupyter import dashboard as dashboard
    from .jupyter import lifecycle as lifecycle
    from .jupyter import load_ipython_extension as load_ipython_extension
    from .jupyter import mailbox as mailbox
    from .jupyter import memory as memory
    from .jupyter import sequence as sequence
    from .jupyter import topology as topology
    from .jupyter import unload_ipython_extension as unload_ipython_extension
    from .messages import Record as Record
    from .messages import Shape as Shape
    from .messages import decode as decode
    from .messages import encode as encode
    from .messages import message as message
    from .runtime import Backoff as Backoff
    from .runtime import KernelContext as KernelContext
    from .runtime import RingKernelRuntime as RingKernelRuntime
    from .runtime import ring_kernel as ring_kernel
    from .runtime.recording import read_log as read_log
    from .telemetry.observer import Observer as Observer

_HOME = {
    "Accelerator": ".device.accelerator",
    "Backoff": ".runtime",
    "KernelContext": ".runtime",
    "MemoryPool": ".device.memory_pool",
    "Observer": ".telemetry.observer",
    "Record": ".messages",
    "RingKernelRuntime": ".runtime",
    "Shape": ".messages",
    "UnifiedBuffer": ".device.unified_buffer",
    "barrier": ".device.block",
    "dashboard": ".jupyter",
    "decode": ".messages",
    "doctor": ".device.doctor",
    "encode": ".messages",
    "exceptions": ".exceptions",
    "lane": ".device.block",
    "lifecycle": ".jupyter",
    "load_ipython_extension": ".jupyter",
    "mailbox": ".jupyter",
    "memory": ".jupyter",
    "message": ".messages",
    "read_log": ".runtime.recording",
    "ring_kernel": ".runtime",
    "sequence": ".jupyter",
    "topology": ".jupyter",
    "unload_ipython_extension": ".jupyter",
    "width": ".device.block",
}

__all__ = [
    "Accelerator",
    "Backoff",
    "KernelContext",
    "MemoryPool",
    "Observer",
    "Record",
    "RingKernelRuntime",
    "Shape",
    "UnifiedBuffer",
    "barrier",
    "dashboard",
    "decode",
    "doctor",
    "encode",
    "exceptions",
    "lane",
    "lifecycle",
    "mailbox",
    "memory",
    "message",
    "read_log",
    "ring_kernel",
    "sequence",
    "topology",
    "width",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name], __name__)
    value = module if name == "exceptions" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


if "IPython" in sys.modules:  # perhaps a notebook, whose front end may look for ring kernels
    from .origin import notebook_shell

    if notebook_shell() is not None:
        import_module(".jupyter", __name__).announce()
