"""The definition of a compiled ring kernel: a plain function that handles one message."""

from __future__ import annotations

import inspect
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DefinitionError
from ..messages import Record, is_message_type, layout, to_records
from .checks import is_count, is_number
from .executor import Engine, Program
from .executor import backend as backend_of
from .kernel import RingKernelDefinition, evaluated, unreadable
from .mailbox import Backpressure
from .progress import compiling

MOST_THREADS = 1024
"""Of a block of any GPU that CUDA knows (CUDA C++ Programming Guide, compute capabilities)."""


class StepDefinition(RingKernelDefinition):
    """What `@ring_kernel` makes of ``def step(state, msg, out)``. Call it to test the step on objects of your own."""

    def __init__(
        self,
        body: Callable[..., Any],
        *,
        kernel_id: str | None = None,
        input_type: Any = None,
        output_type: Any = None,
        queue_size: int = 1024,
        backpressure: Backpressure = "block",
        state: Any = None,
        backend: str = "auto",
        instances: int = 1,
        key: str | None = None,
        buffers: Mapping[str, Any] | None = None,
        boundscheck: bool = False,
        quantum: float | Literal["auto"] | None = "auto",
        threads: int = 1,
        device: int | Literal["auto"] = "auto",
        scope: dict[str, Any] | None = None,
    ) -> None:
        self._describe(body, kernel_id, queue_size, backpressure)
        name = self.kernel_id
        if not is_count(instances):
            raise DefinitionError(f"instances of {name!r} must be an integer of at least 1, not {instances!r}")
        if not isinstance(boundscheck, bool):
            raise DefinitionError(f"boundscheck of {name!r} must be True or False, not {boundscheck!r}")
        if quantum is not None and quantum != "auto" and not (is_number(quantum) and 0 < quantum < float("inf")):
            raise DefinitionError(
                f"quantum of {name!r} must be 'auto', None or a number of seconds above 0, not {quantum!r}"
            )
        if not is_count(threads) or (threads > 1 and threads % 32) or threads > MOST_THREADS:
            raise DefinitionError(
                f"threads of {name!r} must be 1 or a multiple of 32 up to {MOST_THREADS}, as a GPU runs them, "
                f"not {threads!r}"
            )
        if threads > 1 and boundscheck:
            raise DefinitionError(
                f"{name!r} has boundscheck=True and threads={threads}: a thread that stops where an index is out of "
                "bounds would leave the others waiting at a barrier. Look for the fault with threads=1"
            )
        if device != "auto" and not is_count(device, least=0):
            raise DefinitionError(f"device of {name!r} must be 'auto' or the number of a GPU from 0 on, not {device!r}")
        if not isinstance(backend, str):
            raise DefinitionError(f"backend of {name!r} must be the name of one, such as 'auto', not {backend!r}")
        self.instances: int = instances
        self.boundscheck = boundscheck
        """Whether an index out of bounds makes the kernel fail, instead of reading and writing elsewhere."""
        self.quantum = quantum
        """Seconds that it keeps a worker while others wait for one, or stays on a GPU at a time; None: without an end;
        ``"auto"`` leaves that to the backend."""
        self.threads: int = threads
        """Threads that share a message on a GPU."""
        self.device = device
        """The GPU that it runs on; ``"auto"``: that which has the least to do."""
        self.buffers: dict[str, Any] = _checked_buffers(buffers, name)
        """What the step gets as further arguments, by the names of its parameters: objects like `UnifiedBuffer`."""
        self.backend = backend
        """The name that was asked for; `backend_name` is the one that it came to be."""

        (mine, state_hint), (msg, taken), (out, sent), *others = _parameters(body, name, list(self.buffers), scope)
        self.buffers = {parameter: self.buffers[parameter] for parameter, _ in others}
        self.message_type: type = _message_class(
            input_type or taken, name, msg, "the messages that it takes", "input_type"
        )
        reply = output_type or sent
        self.reply_type: type | None = (
            None if reply is NoneType else _message_class(reply, name, out, "its replies, or None", "output_type")
        )
        self.input_types = (self.message_type,)
        self.output_types = () if self.reply_type is None else (self.reply_type,)
        self._make_state, self.state_type = _state(state, state_hint, name, mine)
        self.state = state
        self.key = key
        """The field of the message that says, modulo `instances`, which of them it is for."""
        if key is not None:
            self._check_key()
        self._backend = backend_of(backend)
        self._program: Program | None = None
        self._backend.check(self)

    def _check_key(self) -> None:
        dtype = layout(self.message_type).dtype
        names = [field for field in dtype.names or () if dtype[field].kind in "iu"]
        if self.key not in names:
            known = ", ".join(map(repr, names)) or "none"
            raise DefinitionError(
                f"key of {self.kernel_id!r} must be an integer field of {self.message_type.__qualname__} "
                f"(it has: {known}), not {self.key!r}"
            )
        if self.instances == 1:
            raise DefinitionError(f"key={self.key!r} of {self.kernel_id!r} chooses among instances: add instances=")

    def initial(self) -> NDArray[np.void] | None:
        """New states of all instances, shape (instances,), of the dtype of `state_type`; None where there is none.

        Raises:
            DefinitionError: the function that `state` is gave something else than before.
        """
        if self.state_type is None:
            return None
        states = [self._make_state() for _ in range(self.instances)]
        for state in states:
            if type(state) is not self.state_type:
                raise DefinitionError(
                    f"state= of {self.kernel_id!r} must make a {self.state_type.__qualname__} each time; "
                    f"it made {state!r}"
                )
        return to_records(states)

    def build(self) -> Program:
        """The step, ready to run; it is compiled once. Any thread may call it; it may take a second.

        What takes longer than half a second is told at the terminal or below the cell.

        Raises:
            StepError: it cannot be compiled; the text says in which line, and what to write instead.
        """
        if self._program is None:
            with compiling(self.kernel_id):
                self._program = self._backend.build(self)
        return self._program

    @property
    def is_built(self) -> bool:
        """Whether `build` has nothing left to do."""
        return self._program is not None

    def engine(self, loop: AbstractEventLoop) -> Engine:
        """An engine of its backend for the runtime on this event loop."""
        return self._backend.engine(loop)

    @property
    def backend_name(self) -> str:
        """The name of the backend that it runs on."""
        return self._backend.name

    def differences(self, other: StepDefinition) -> list[str]:
        """In what its memory differs from that of another, in words. Where in nothing, one can replace the other."""
        return [what for what, mine in self._memory().items() if mine != other._memory()[what]]

    def _memory(self) -> dict[str, Any]:
        return {
            "backend": self.backend_name,
            "the layout of its state": _dtype(self.state_type),
            "the layout of its messages": _dtype(self.message_type),
            "the layout of its replies": _dtype(self.reply_type),
            "instances": self.instances,
            "key": self.key,
            "queue_size": self.queue_size,
            "device": self.device,
            "buffers": {name: (buffer.shape, buffer.dtype) for name, buffer in self.buffers.items()},
        }


def _dtype(cls: type | None) -> np.dtype[np.void] | None:
    return layout(cls).dtype if cls is not None else None


def _parameters(
    body: Callable[..., Any], name: str, buffers: list[str], scope: dict[str, Any] | None
) -> list[tuple[str, Any]]:
    """The parameters, and what the first three are annotated with: a class, or None where nothing is written."""
    try:
        parameters = list(inspect.signature(body).parameters.values())
    except NameError as error:  # annotations are evaluated late from Python 3.14 on
        raise unreadable(name, error) from error
    usual = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    if len(parameters) < 3 or len(usual) < len(parameters) or {p.name for p in parameters[3:]} != set(buffers):
        wanted = ", ".join(["state", "msg", "out", *buffers])
        raise DefinitionError(
            f"the step of {name!r} must be `def {body.__name__}({wanted})`: three parameters, then one for each buffer "
            f"in buffers= under its name, none with a default; it has ({', '.join(p.name for p in parameters)}). "
            f"A body that waits for its messages is an `async def {body.__name__}(ctx)`"
        )
    found: list[tuple[str, Any]] = []
    for p in parameters[:3]:
        hint = None if p.annotation is p.empty else evaluated(p.annotation, body, name, scope) or NoneType
        found.append((p.name, hint))
    return found + [(p.name, None) for p in parameters[3:]]


def _message_class(hint: Any, name: str, parameter: str, whose: str, option: str) -> type:
    if hint is None:
        raise DefinitionError(
            f"parameter {parameter!r} of {name!r} has no annotation: write the class of {whose}, or pass {option}="
        )
    if not is_message_type(hint):
        raise DefinitionError(
            f"parameter {parameter!r} of {name!r} must be annotated with the class of {whose}: one with @message, "
            f"not {_shown(hint)}"
        )
    cls: type = hint
    layout(cls)  # raises where a field has no fixed size
    return cls


def _state(state: Any, hint: Any, name: str, parameter: str) -> tuple[Callable[[], Any], type[Record] | None]:
    """What makes the state of an instance, and its class; by ``state=`` or by the annotation of the first parameter."""
    if state is None and hint is None:
        raise DefinitionError(
            f"parameter {parameter!r} of {name!r} has no annotation: write a class that inherits from Record, "
            f"or None if it keeps no state, or pass state="
        )
    if hint is NoneType:
        if state is not None:
            raise DefinitionError(f"{name!r} has state=, but its parameter {parameter!r} is annotated with None")
        return lambda: None, None
    given = hint if state is None else state
    is_other_class = isinstance(given, type) and not issubclass(given, Record)
    make = given if callable(given) and not is_other_class else lambda: given
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise DefinitionError(f"state= of {name!r} is called without arguments: {error}") from None
    made = make()
    if not isinstance(made, Record):
        raise DefinitionError(
            f"the state of {name!r} must be a class that inherits from Record, an instance of one, or a function that "
            f"makes one; not {_shown(made)}"
        )
    if hint is not None and type(made) is not hint:
        raise DefinitionError(
            f"the state of {name!r} is {_shown(hint)} where parameter {parameter!r} is annotated, "
            f"but {type(made).__qualname__} by state="
        )
    return make, type(made)


def _shown(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def _checked_buffers(buffers: Any, name: str) -> dict[str, Any]:
    if buffers is None:
        return {}
    if not isinstance(buffers, Mapping):
        raise DefinitionError(f"buffers of {name!r} must be a dict of names and UnifiedBuffers, not {buffers!r}")
    for parameter, buffer in buffers.items():
        if isinstance(buffer, np.ndarray) or not hasattr(buffer, "write_host"):
            raise DefinitionError(
                f"buffer {parameter!r} of {name!r} must be a UnifiedBuffer, not {type(buffer).__qualname__}: "
                f"UnifiedBuffer.from_array(...) makes one of an array"
            )
        if not buffer.contiguous:
            raise DefinitionError(
                f"buffer {parameter!r} of {name!r} is a view with gaps: UnifiedBuffer.from_array(view) makes a buffer "
                "of its own"
            )
    return dict(buffers)
