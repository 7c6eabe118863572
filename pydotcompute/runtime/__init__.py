"""Ring kernels: mailboxes, life cycle, the runtime that they live in."""

from .compiled import CompiledKernel, InstanceHandle
from .context import KernelContext
from .dead_letters import DeadLetter, DeadLetters, Kind, Letters, Replayed
from .executor import RingPositions, Rings
from .health import Health, KernelHealth
from .kernel import Queued, RingKernel, RingKernelDefinition, define, definition_of, definitions, ring_kernel
from .lifecycle import TRANSITIONS, KernelState
from .runtime import RingKernelRuntime, SyncRuntime
from .step import StepDefinition
from .supervision import Backoff, Restart, SupervisionGroup

__all__ = [
    "TRANSITIONS",
    "Backoff",
    "CompiledKernel",
    "DeadLetter",
    "DeadLetters",
    "Health",
    "InstanceHandle",
    "KernelContext",
    "KernelHealth",
    "KernelState",
    "Kind",
    "Letters",
    "Queued",
    "Replayed",
    "Restart",
    "RingKernel",
    "RingKernelDefinition",
    "RingKernelRuntime",
    "RingPositions",
    "Rings",
    "StepDefinition",
    "SupervisionGroup",
    "SyncRuntime",
    "define",
    "definition_of",
    "definitions",
    "ring_kernel",
]
