"""Every error of the package, one class for each fault.

::

    PyDotComputeError
    ├── DefinitionError (TypeError)            a ring kernel or message class is written wrongly
    │   └── StepError                          a step that cannot be compiled, or does what a GPU cannot
    ├── BackendUnavailableError                compiled ring kernels cannot run here, or not that way
    ├── DeviceError                            the GPU or its driver has failed; `code` is the driver's number for it
    │   └── DeviceMemoryError (MemoryError)    no memory is left, on the GPU or of the kind that it shares
    ├── RuntimeClosedError                     the runtime is closed, or its event loop is gone
    ├── ClusterError                           the cluster cannot be reached, or does not offer what is asked for
    │   └── NodeLostError                      the node that a ring kernel ran on is gone
    ├── RemoteError                            an error of another node, of a class that is not known here
    ├── LoopError                              called from a thread or loop where it would dead-lock
    ├── KernelError
    │   ├── KernelNotFoundError (LookupError)  no ring kernel of that id
    │   ├── InstanceError (LookupError)        no such instance, or none named where there are several
    │   ├── KernelStateError                   not possible in the kernel's present state
    │   ├── KernelFailedError                  the kernel's body raised; `__cause__` is what it raised
    │   └── KernelKilledError                  what a body fails with that was killed
    ├── QueueError
    │   ├── QueueFullError                     the mailbox is full and its strategy refuses or drops
    │   └── QueueTimeoutError (TimeoutError)   nothing came, or no room, within the time allowed
    ├── MessageError
    │   ├── MessageTypeError (TypeError)       not the type that the kernel takes or sends
    │   ├── MessageEncodeError (TypeError)     a value that has no encoding
    │   ├── MessageDecodeError (ValueError)    bytes that are not a message
    │   ├── MessageDiscardedError              somebody took the message out of the mailbox before it was handled
    │   └── PriorityError (ValueError)         a priority outside 0 to 255
    ├── RecordingError                         a file that is no recording, or a damaged one; one that cannot go on
    ├── UnifiedBufferError (ValueError)        a buffer that cannot be, or cannot be used now
    └── PoolLimitError (MemoryError)           a buffer would take a memory pool above its limit

    asyncio.CancelledError
    └── KernelStopped                          raised inside a body that waits in `ctx.receive()` when its kernel
                                               stops or its body is replaced; `except Exception` does not catch it

    UserWarning
    └── KernelRedefinedWarning                 a second cell or module defines a ring kernel of the same id
"""

from asyncio import CancelledError

__all__ = [
    "BackendUnavailableError",
    "ClusterError",
    "DefinitionError",
    "DeviceError",
    "DeviceMemoryError",
    "InstanceError",
    "KernelError",
    "KernelFailedError",
    "KernelKilledError",
    "KernelNotFoundError",
    "KernelRedefinedWarning",
    "KernelStateError",
    "KernelStopped",
    "LoopError",
    "MessageDecodeError",
    "MessageDiscardedError",
    "MessageEncodeError",
    "MessageError",
    "MessageTypeError",
    "NodeLostError",
    "PoolLimitError",
    "PriorityError",
    "PyDotComputeError",
    "QueueError",
    "QueueFullError",
    "QueueTimeoutError",
    "RecordingError",
    "RemoteError",
    "RuntimeClosedError",
    "StepError",
    "UnifiedBufferError",
]


class PyDotComputeError(Exception):
    """Base of all errors of this package."""


class DefinitionError(PyDotComputeError, TypeError):
    """A ring kernel or a message class is written in a way that cannot work."""


class StepError(DefinitionError):
    """A step cannot be compiled, or does what a GPU cannot; the text shows the line and says what to write instead.

    `details` is what the compiler said, for those who know it; empty where it was not asked.
    """

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


class BackendUnavailableError(PyDotComputeError):
    """Compiled ring kernels cannot run here, or not on the backend asked for; the text says what to install."""


class DeviceError(PyDotComputeError):
    """The GPU or its driver has failed; the text says what is known to help.

    `code` is the driver's number for it, a CUresult; 0 where it has none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class DeviceMemoryError(DeviceError, MemoryError):
    """No memory is left, on the GPU or of the kind that host and GPU share; the text says how much was asked for."""


class RuntimeClosedError(PyDotComputeError):
    """The runtime is closed, or the event loop it lived on is gone."""


class ClusterError(PyDotComputeError):
    """The cluster cannot be reached, its nodes do not fit this process, or none offers what is asked for."""


class NodeLostError(ClusterError):
    """The node that a ring kernel ran on is gone, or has not answered for too long."""


class RemoteError(PyDotComputeError):
    """What was raised on another node, of a class that is not known here; a note says where."""


class LoopError(PyDotComputeError):
    """The call would wait for the very loop it runs on, or there is no loop to run on."""


class KernelError(PyDotComputeError):
    """Base of the errors about one ring kernel."""


class KernelNotFoundError(KernelError, LookupError):
    """There is no ring kernel of that id."""


class InstanceError(KernelError, LookupError):
    """The kernel has no such instance, or has several and a message names none of them."""


class KernelStateError(KernelError):
    """What was asked is not possible in the kernel's present state."""


class KernelFailedError(KernelError):
    """The kernel's body raised; the original exception is `__cause__`."""


class KernelKilledError(KernelError):
    """What a body fails with that was killed: by `RingKernelRuntime.kill`, or together with its group."""


class QueueError(PyDotComputeError):
    """Base of the errors about mailboxes."""


class QueueFullError(QueueError):
    """The mailbox is full: the message was refused or dropped, as the kernel's `backpressure` says."""


class QueueTimeoutError(QueueError, TimeoutError):
    """Nothing came, or no room was made, within the time allowed."""


class MessageError(PyDotComputeError):
    """Base of the errors about messages."""


class MessageTypeError(MessageError, TypeError):
    """A message is not of the type that the kernel takes or sends."""


class MessageEncodeError(MessageError, TypeError):
    """A message holds a value that has no encoding."""


class MessageDecodeError(MessageError, ValueError):
    """Bytes that are not an encoded message of a registered type."""


class MessageDiscardedError(MessageError):
    """Somebody has taken the message out of the mailbox before it was handled."""


class PriorityError(MessageError, ValueError):
    """A priority that is not an integer from 0 to 255."""


class RecordingError(PyDotComputeError):
    """A file that is no recording or a damaged one, or a recording that cannot be made or used that way."""


class UnifiedBufferError(PyDotComputeError, ValueError):
    """A buffer of an impossible shape, dtype or device, or one that is closed or in use by a ring kernel."""


class PoolLimitError(PyDotComputeError, MemoryError):
    """A buffer would take a memory pool above its limit."""


class KernelStopped(CancelledError):
    """Raised inside a body that waits in `ctx.receive()` when its kernel stops or its body is replaced.

    It is a `CancelledError`, so that a body which catches `Exception` and goes on cannot swallow it; `finally` blocks
    run.
    """


class KernelRedefinedWarning(UserWarning):
    """A ring kernel was defined again from another cell or module than the one it came from."""
