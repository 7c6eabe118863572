"""Ring kernels: mailboxes, life cycle, the runtime that they live in."""

from .compiled import CompiledKernel, InstanceHandle
from .context import KernelContext
from .dead_letters import DeadLetter, DeadLetters, Kind, Letters, Replayed
from .kernel import RingKernel, RingKernelDefinition, define, definition_of, definitions, ring_kernel
from .lifecycle import TRANSITIONS, KernelState
from .runtime import RingKernelRuntime, SyncRuntime
from .step import StepDefinition

__all__ = [
    "TRANSITIONS",
    "CompiledKernel",
    "DeadLetter",
    "DeadLetters",
    "InstanceHandle",
    "KernelContext",
    "KernelState",
    "Kind",
    "Letters",
    "Replayed",
    "RingKernel",
    "RingKernelDefinition",
    "RingKernelRuntime",
    "StepDefinition",
    "SyncRuntime",
    "define",
    "definition_of",
    "definitions",
    "ring_kernel",
]
