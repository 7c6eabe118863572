"""Ring kernels: mailboxes, life cycle, the runtime that they live in."""

from .context import KernelContext
from .dead_letters import DeadLetter, DeadLetters
from .kernel import RingKernel, RingKernelDefinition, define, definitions, ring_kernel
from .lifecycle import TRANSITIONS, KernelState
from .runtime import RingKernelRuntime, SyncRuntime

__all__ = [
    "TRANSITIONS",
    "DeadLetter",
    "DeadLetters",
    "KernelContext",
    "KernelState",
    "RingKernel",
    "RingKernelDefinition",
    "RingKernelRuntime",
    "SyncRuntime",
    "define",
    "definitions",
    "ring_kernel",
]
