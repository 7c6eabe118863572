"""A ring kernel: its definition (`@ring_kernel`) and what runs (`RingKernel`)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import sys
import time
import types
import typing
import warnings
import weakref
from asyncio.tasks import _unregister_task as unregister_task
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from copy import deepcopy
from struct import pack_into
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, overload

import numpy as np
from numpy.typing import NDArray

from ..exceptions import (
    DefinitionError,
    InstanceError,
    KernelFailedError,
    KernelKilledError,
    KernelRedefinedWarning,
    KernelStateError,
    MessageDiscardedError,
    MessageTypeError,
    PyDotComputeError,
    QueueFullError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from ..messages import DEFAULT_PRIORITY, from_records, same_schema, to_records
from ..origin import current_cell, notebook_shell, origin
from ..telemetry import BUCKETS, COUNTERS, STATES, WORDS, KernelStatistics
from ..telemetry.observer import Delivery, Observer, acting, delivery, in_hand
from .checks import checked_id, is_count
from .context import KernelContext
from .dead_letters import DeadLetter, Kind, error_text
from .lifecycle import KernelState, after
from .mailbox import STRATEGIES, Backpressure, Entry, Mailbox, checked_priority
from .scheduler import AWAITED, SET, Wait, clock
from .supervision import (
    MAX_RESTARTS,
    NEVER,
    WINDOW,
    Backoff,
    Limit,
    Policy,
    Restart,
    SupervisionGroup,
    When,
    policy_of,
)
from .supervision import PATIENCE as PATIENCE_TO_RESTART

if TYPE_CHECKING:
    from .compiled import InstanceHandle
    from .executor import Rings
    from .links import Link
    from .runtime import RingKernelRuntime

log = logging.getLogger("pydotcompute")

PATIENCE = 5.0
"""Seconds that a reply waits for room until a warning says so."""

Body = Callable[[KernelContext[Any, Any]], Coroutine[Any, Any, Any]]


class RingKernelDefinition:
    """What `@ring_kernel` makes of a function. Launch it by its `kernel_id`, or by itself; call it to test the body."""

    policy: Policy = NEVER
    """What happens when it fails."""

    def __init__(
        self,
        body: Body,
        *,
        kernel_id: str | None = None,
        input_type: Any = None,
        output_type: Any = None,
        queue_size: int = 1024,
        backpressure: Backpressure = "block",
        state: Callable[[], Any] | None = None,
        scope: dict[str, Any] | None = None,
    ) -> None:
        if inspect.isasyncgenfunction(body):
            raise DefinitionError(f"{body.__name__!r} yields: write an `async def` that replies with ctx.send")
        if not inspect.iscoroutinefunction(body):
            raise DefinitionError(
                f"a ring kernel is an `async def` with one parameter, the context, or a `def step(state, msg, out)`; "
                f"{body!r} is no such function"
            )
        self._describe(body, kernel_id, queue_size, backpressure)
        name = self.kernel_id
        annotation = _context_annotation(body, name, scope)
        if state is not None and not callable(state):
            raise DefinitionError(f"state of {name!r} must be a class or function that makes a state, not {state!r}")
        taken, sent = (*get_args(annotation), None, None)[:2] if annotation is not None else (None, None)
        self.input_types = _checkable(input_type if input_type is not None else taken, name, "input_type")
        self.output_types = _checkable(output_type if output_type is not None else sent, name, "output_type")
        self.state = state

    def _describe(
        self, body: Callable[..., Any], kernel_id: str | None, queue_size: int, backpressure: Backpressure
    ) -> None:
        """What all ring kernels have."""
        name = checked_id(kernel_id if kernel_id is not None else getattr(body, "__name__", None))
        if not is_count(queue_size):
            raise DefinitionError(f"queue_size of {name!r} must be an integer of at least 1, not {queue_size!r}")
        if backpressure not in STRATEGIES:
            raise DefinitionError(
                f"backpressure of {name!r} must be one of {', '.join(STRATEGIES)}; not {backpressure!r}"
            )
        self.kernel_id = name
        self.body = body
        self.queue_size = queue_size
        self.backpressure = backpressure
        self.cell = current_cell()
        self.origin = origin(getattr(body, "__module__", "?"))
        """Where it was defined, in words: ``cell In [7]`` or ``module mymod``."""
        # In a notebook, what a kernel prints belongs below the cell that defines it: the context knows which that is.
        self.context = contextvars.copy_context() if notebook_shell() is not None else None
        functools.update_wrapper(self, body)

    def __call__(self, *args: Any) -> Any:
        return self.body(*args)

    def __repr__(self) -> str:
        return f"<ring kernel definition {self.kernel_id!r} of {self.origin}>"


def _context_annotation(body: Body, name: str, scope: dict[str, Any] | None) -> Any:
    """``KernelContext[In, Out]`` of the body's parameter, or None."""
    try:
        parameters = list(inspect.signature(body).parameters.values())
    except NameError as error:  # annotations are evaluated late from Python 3.14 on
        raise unreadable(name, error) from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not parameters or len(needed) > 1 or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise DefinitionError(f"the body of {name!r} must take one parameter, the context: async def {name}(ctx)")
    annotation = evaluated(parameters[0].annotation, body, name, scope)
    return annotation if get_origin(annotation) is KernelContext else None


def evaluated(annotation: Any, body: Callable[..., Any], name: str, scope: dict[str, Any] | None) -> Any:
    """An annotation of a parameter as what it means; `scope` holds the local names of where the body was defined."""
    while isinstance(annotation, str):  # twice, where annotations are texts anyway and the user writes one in quotes
        function = inspect.unwrap(body)
        try:
            # The text is the user's own source, from `from __future__ import annotations`.
            annotation = eval(annotation, getattr(function, "__globals__", {}), scope)
        except Exception as error:
            raise unreadable(name, error) from error
    return annotation


def unreadable(name: str, error: Exception) -> DefinitionError:
    return DefinitionError(
        f"the types of {name!r} cannot be read ({error}): define them first, or pass input_type= and output_type="
    )


def _checkable(wanted: Any, name: str, parameter: str) -> tuple[type, ...]:
    """The classes that isinstance shall look for; ``(object,)`` when anything goes."""
    if wanted is None or wanted is Any or isinstance(wanted, typing.TypeVar):
        return (object,)
    union = get_origin(wanted) in (typing.Union, types.UnionType)
    if union or (isinstance(wanted, tuple) and wanted):
        members = get_args(wanted) if union else wanted
        return tuple(t for member in members for t in _checkable(member, name, parameter))
    member = get_origin(wanted) or wanted
    try:
        isinstance(None, member)
    except TypeError:
        member = None
    if not isinstance(member, type):
        raise DefinitionError(
            f"{parameter} of {name!r} cannot be checked at run time: {wanted!r}; "
            f"use a class, a union of classes, or Any"
        )
    return (member,)


_UNMADE = object()  # a state that was not read yet
_definitions: dict[str, RingKernelDefinition] = {}
_runtimes: weakref.WeakSet[RingKernelRuntime] = weakref.WeakSet()


def definitions() -> dict[str, RingKernelDefinition]:
    """The latest definition of each kernel id."""
    return dict(_definitions)


def define(definition: RingKernelDefinition, stacklevel: int = 3) -> RingKernelDefinition:
    """Register a definition; kernels that run the former one of that id get the new body between two messages.

    A warning that another place owns the id points to where `stacklevel` says, as that of `warnings.warn`.

    Raises:
        DefinitionError: a kernel that runs the former one cannot go on with this one; it keeps the former, and nothing
            is registered.
    """
    former = _definitions.get(definition.kernel_id)
    runtimes = list(_runtimes) if former is not None else []
    for runtime in runtimes:
        for kernel in list(runtime._kernels.values()):
            if former in (kernel.definition, kernel._successor) and not kernel.state.over:
                kernel._check_successor(definition)
    if former is not None and _owned_elsewhere(former, definition):
        warnings.warn(
            f"ring kernel {definition.kernel_id!r} of {former.origin} is replaced by the one of {definition.origin}; "
            f"give one of them another kernel_id if both are wanted",
            KernelRedefinedWarning,
            stacklevel=stacklevel,
        )
    _definitions[definition.kernel_id] = definition
    if former is not None:
        for runtime in runtimes:
            runtime._redefined(former, definition)
    return definition


def _owned_elsewhere(former: RingKernelDefinition, latter: RingKernelDefinition) -> bool:
    if former.cell is not None and latter.cell is not None:
        return None not in (former.cell.id, latter.cell.id) and former.cell.id != latter.cell.id
    where = [(d.body.__module__, getattr(d.body, "__qualname__", "")) for d in (former, latter)]
    return where[0] != where[1]


_FOR_STEPS: dict[str, Any] = {
    "backend": "auto",
    "instances": 1,
    "key": None,
    "buffers": None,
    "boundscheck": False,
    "quantum": "auto",
    "threads": 1,
    "device": "auto",
}


def definition_of(body: Callable[..., Any], **options: Any) -> RingKernelDefinition:
    """What `ring_kernel` makes of a function with these options, not registered yet. Errors as there."""
    policy = policy_of(str(options.get("kernel_id") or getattr(body, "__name__", body)), options)
    definition = _plain_definition_of(body, options)
    definition.policy = policy
    return definition


def _plain_definition_of(body: Callable[..., Any], options: dict[str, Any]) -> RingKernelDefinition:
    if inspect.isfunction(body) and not (inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body)):
        from .step import StepDefinition  # which knows this module

        return StepDefinition(body, **options)
    for option, usual in _FOR_STEPS.items():
        if options.pop(option, usual) is not usual:
            raise DefinitionError(
                f"{option}= is for compiled ring kernels, `def step(state, msg, out)`, not for an `async def`"
            )
    return RingKernelDefinition(body, **options)


@overload
def ring_kernel(kernel_id: Callable[..., Any], /) -> RingKernelDefinition: ...
@overload
def ring_kernel(
    kernel_id: str | None = None,
    *,
    input_type: Any = None,
    output_type: Any = None,
    queue_size: int = 1024,
    backpressure: Backpressure = "block",
    state: Any = None,
    restart: When = "never",
    max_restarts: int = MAX_RESTARTS,
    window: float = WINDOW,
    max_retries: int = 0,
    backoff: float | Backoff | None = 0.1,
    keep_state: bool = False,
    on_restart: Callable[[Restart], Any] | None = None,
    backend: str = "auto",
    instances: int = 1,
    key: str | None = None,
    buffers: Mapping[str, Any] | None = None,
    boundscheck: bool = False,
    quantum: float | Literal["auto"] | None = "auto",
    threads: int = 1,
    device: int | Literal["auto"] = "auto",
) -> Callable[[Callable[..., Any]], RingKernelDefinition]: ...
def ring_kernel(
    kernel_id: str | Callable[..., Any] | None = None,
    *,
    input_type: Any = None,
    output_type: Any = None,
    queue_size: int = 1024,
    backpressure: Backpressure = "block",
    state: Any = None,
    restart: When = "never",
    max_restarts: int = MAX_RESTARTS,
    window: float = WINDOW,
    max_retries: int = 0,
    backoff: float | Backoff | None = 0.1,
    keep_state: bool = False,
    on_restart: Callable[[Restart], Any] | None = None,
    backend: str = "auto",
    instances: int = 1,
    key: str | None = None,
    buffers: Mapping[str, Any] | None = None,
    boundscheck: bool = False,
    quantum: float | Literal["auto"] | None = "auto",
    threads: int = 1,
    device: int | Literal["auto"] = "auto",
) -> RingKernelDefinition | Callable[[Callable[..., Any]], RingKernelDefinition]:
    """Make a ring kernel of an ``async def body(ctx)``, or a compiled one of a plain ``def step(state, msg, out)``.

    A step handles one message: it reads `msg`, changes `state`, writes its reply to `out`, whose fields are zero at
    first, and returns True if that shall be sent. `msg` and `out` are annotated with classes of ``@message`` whose
    fields have a fixed size, `out` with None if it never replies; `state` with a `Record`, or with None.

    Defining an id again replaces the body of kernels that run under it, between two messages; their mailbox and
    their state are kept.

    Args:
        kernel_id: the name to launch it by; the function's name by default.
        input_type: class, or union or tuple of classes, of the messages that it takes. By default what
            ``KernelContext[In, Out]`` says in the body's signature; unchecked when nothing does. Of a step one class.
        output_type: the same for its replies.
        queue_size: how many messages its mailbox holds, and how many unread replies its outbox.
        backpressure: what happens to a message when the mailbox is full: ``"block"`` makes its sender wait,
            ``"reject"`` raises `QueueFullError` in the sender, ``"drop_oldest"`` drops the oldest message of the lowest
            priority,
            ``"drop_newest"`` drops the new one. What is dropped becomes a dead letter.
        state: called without arguments to make ``ctx.state`` when it is first read. Of a step: a `Record` class, an
            instance of one, or a function that makes one for each instance.

    These say what happens when the kernel fails, that is, when its body or step raises:

    Args:
        restart: ``"never"``: it is FAILED, and what is queued becomes dead letters. ``"on_failure"`` starts it again,
            with what is queued; ``"always"`` also when its body returns, unless it was terminated.
        max_restarts: how many restarts there may be within `window`; with the failure after these it is FAILED.
        window: seconds.
        max_retries: how often the message in hand at a failure is handed out again, ahead of the others of its
            priority; then it is a dead letter. Each time counts as a restart, so `max_restarts` should be more. 0: each
            message is handled at most once, and completely or not at all as far as the kernel goes. An ask stays
            pending meanwhile.
        backoff: seconds before the second restart in the window, twice that before the third, and so on; the first
            comes at once. A `Backoff` says more, None is no waiting.
        keep_state: whether a restart keeps ``ctx.state``, or the state of a step; else it is made anew.
        on_restart: called with a `Restart` before the new body begins, on the runtime's event loop; it may be an
            ``async def``. If it raises, that is a failure of the kernel.

    These are for steps:

    Args:
        backend: ``"cuda"`` runs the compiled step on a GPU, which it does not leave; ``"cpu"`` on threads of this
            process; ``"interpreted"`` in Python on the runtime's event loop, slowly and for debuggers; ``"auto"`` is
            the fastest that can be used here.
        instances: how many actors of this definition there are, each with its own state. A message says which it is
            for by its `key`, or is sent to ``runtime["stats"][3]``.
        key: the integer field of the message that chooses the instance, modulo `instances`.
        buffers: `UnifiedBuffer` objects that the step gets as arrays, by the names of its further parameters.
        boundscheck: makes a kernel fail with an IndexError where it reads or writes outside of an array. Compiled steps
            otherwise do not look.
        quantum: seconds that it keeps a worker thread while other kernels wait for one; on a GPU seconds, 0.5 by
            default, that it stays there at a time: calls of CUDA that need an idle device may wait for so long. None:
            it stays for good, and such calls wait until it is paused.
        threads: how many threads of a GPU run the step on the same message, 1 or a multiple of 32 up to 1024; they
            share the work by `lane`, `width` and `barrier`. Elsewhere one does the work of all.
        device: the number of the GPU that it runs on; by default that which has the least to do. Elsewhere there is
            one device only.

    Raises:
        DefinitionError: not an ``async def`` with one parameter, nor a step, or an argument that cannot be.
        StepError: the step does what no GPU can, or cannot be compiled.
        BackendUnavailableError: the backend cannot be used here.
    """
    frame = sys._getframe(1)
    scope = dict(frame.f_locals) if frame.f_locals is not frame.f_globals else None

    def decorate(body: Callable[..., Any]) -> RingKernelDefinition:
        definition = definition_of(
            body,
            kernel_id=None if callable(kernel_id) else kernel_id,
            input_type=input_type,
            output_type=output_type,
            queue_size=queue_size,
            backpressure=backpressure,
            state=state,
            restart=restart,
            max_restarts=max_restarts,
            window=window,
            max_retries=max_retries,
            backoff=backoff,
            keep_state=keep_state,
            on_restart=on_restart,
            backend=backend,
            instances=instances,
            key=key,
            buffers=buffers,
            boundscheck=boundscheck,
            quantum=quantum,
            threads=threads,
            device=device,
            scope=scope,
        )
        return define(definition, stacklevel=4 if callable(kernel_id) else 3)

    return decorate(kernel_id) if callable(kernel_id) else decorate


class RingKernel:
    """A ring kernel of a runtime, and the handle to it: ``runtime["stats"]``.

    Its methods do what those of the runtime do with its id.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_aside",
        "_aside_limit",
        "_ask_now",
        "_asked_by",
        "_begun",
        "_box",
        "_breakpoint",
        "_ctx",
        "_dead_letters",
        "_errors",
        "_gave_up",
        "_group",
        "_handled",
        "_input_types",
        "_killed",
        "_launch",
        "_limit",
        "_link",
        "_marker",
        "_observers",
        "_out",
        "_output_types",
        "_place",
        "_put_now",
        "_renewal",
        "_replied",
        "_restarting",
        "_retried",
        "_row",
        "_scheduler",
        "_sent",
        "_stale",
        "_stepping",
        "_stopped_before",
        "_successor",
        "_task",
        "_told",
        "_told_of",
        "_unfinished",
        "_user_state",
        "_waited",
        "_watchers",
        "definition",
        "exception",
        "history",
        "id",
        "last_exception",
        "restarted",
        "restarts",
        "runtime",
        "state",
        "version",
    )

    def __init__(self, runtime: RingKernelRuntime, definition: RingKernelDefinition, kernel_id: str) -> None:
        self.id = kernel_id
        self.runtime = runtime
        self.definition = definition
        self.version = 1
        self.exception: BaseException | None = None
        """What the body raised, if that has ended the kernel; None while it is not FAILED."""
        self.last_exception: BaseException | None = None
        """What the body raised last, also if the kernel was started again."""
        self.restarts = 0
        """How often it was started again, by its policy, its group or by hand."""
        self.restarted: list[tuple[float, str]] = []
        """When it was started again (seconds since the epoch), and what its body had raised, in words; empty: nothing,
        as when it was asked for. The last 100."""
        self.state = KernelState.CREATED
        self.history: list[tuple[KernelState, float]] = [(KernelState.CREATED, time.time())]
        """Every state it has been in, with the time (seconds since the epoch) at which it came there; the last 100."""
        self._launch = runtime._launches  # a number that no other kernel of the runtime has
        self._scheduler = runtime._scheduler_of_loop()
        self._box = Mailbox(self, self._scheduler, definition.queue_size, definition.backpressure)
        self._out = Mailbox(self, self._scheduler, definition.queue_size, tells=False)
        self._input_types, self._output_types = definition.input_types, definition.output_types
        self._waited, self._handled = [0] * BUCKETS, [0] * BUCKETS  # log2 histograms
        self._sent: defaultdict[str, int] = defaultdict(int)  # to kernels and routers, by their ids
        self._unfinished = self._replied = self._errors = self._dead_letters = self._retried = 0
        self._observers: tuple[Observer, ...] = ()
        self._told_of: dict[str, tuple[Callable[..., None], ...]] = {}  # their methods, by name
        self._asked_by: dict[Wait, Delivery] | None = None  # of the asks put aside while it was observed
        self._aside: dict[Any, list[Wait]] | None = (
            None  # asks whose message went out of hand unanswered, by message id
        )
        self._aside_limit = 1024
        # Compiled kernels have shorter ways for `send` and `ask`.
        self._put_now: Callable[[Any, int | None], bool] | None = None
        self._ask_now: Callable[[Any, int | None], Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._successor: RingKernelDefinition | None = None
        self._abandoned = False
        self._told = False  # that its replies are unread
        # Of supervision:
        self._begun = 0  # clock() when the present body began
        self._killed: BaseException | None = None  # what the body is being cancelled for
        self._renewal: bool | None = None  # a new body shall begin after the message in hand; True: it keeps the state
        # While it waits to be started again: the timer, what for, and what it will call.
        self._restarting: tuple[asyncio.TimerHandle, str, Callable[[], None]] | None = None
        self._limit: Limit | None = None
        self._group: SupervisionGroup | None = None
        self._gave_up = ""  # why it was not started again
        # Of stepping:
        self._stepping = False
        self._breakpoint: Callable[[Any], Any] | None = None
        self._stopped_before: Entry | None = None  # where the breakpoint has stopped it; it does not stop there again
        self._watchers: list[Wait] | None = None
        self._link: Link | None = None
        """Where its replies go instead of to `receive`."""
        self._user_state: Any = _UNMADE
        self._place, self._row = runtime._table.allocate()
        self._marker: tuple[int, ...] | None = None  # what the row was written at; None: write it anew
        self._stale = False  # the histograms in the row are older than the rest of it
        self._ctx: KernelContext[Any, Any] = KernelContext(self)

    # -- what a user asks of it ----------------------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """`RingKernelRuntime.send` to this kernel."""
        await self.runtime.send(self.id, message)

    async def send_many(self, messages: Iterable[Any]) -> None:
        """`RingKernelRuntime.send_many` to this kernel."""
        await self.runtime.send_many(self.id, messages)

    async def ask(self, message: Any, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.ask` of this kernel."""
        return await self.runtime.ask(self.id, message, timeout)

    send_and_receive = ask

    def map(
        self, messages: Any, *, window: int = 64, timeout: float | None = None, progress: bool = False
    ) -> AsyncIterator[Any]:
        """`RingKernelRuntime.map` over this kernel."""
        return self.runtime.map(self.id, messages, window=window, timeout=timeout, progress=progress)

    async def receive(self, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.receive` from this kernel."""
        return await self.runtime.receive(self.id, timeout)

    async def send_batch(self, records: NDArray[np.void], *, progress: bool = False) -> None:
        """`RingKernelRuntime.send_batch` to this kernel."""
        await self.runtime.send_batch(self.id, records, progress=progress)

    async def receive_batch(self, max_n: int = 4096, timeout: float | None = None) -> NDArray[np.void]:
        """`RingKernelRuntime.receive_batch` from this kernel."""
        return await self.runtime.receive_batch(self.id, max_n, timeout)

    async def connect(self, *target_ids: str) -> None:
        """`RingKernelRuntime.connect` of this kernel to others."""
        await self.runtime.connect(self.id, *target_ids)

    async def disconnect(self, *target_ids: str) -> None:
        """`RingKernelRuntime.disconnect` of this kernel."""
        await self.runtime.disconnect(self.id, *target_ids)

    async def snapshot(self) -> Any:
        """`RingKernelRuntime.snapshot` of this kernel."""
        return await self.runtime.snapshot(self.id)

    def __getitem__(self, instance: int) -> InstanceHandle:
        """The handle to one instance of a compiled ring kernel.

        Raises:
            InstanceError: there is no such instance.
        """
        from .compiled import InstanceHandle  # which knows this module

        return InstanceHandle(self, self._instance(instance))

    async def activate(self) -> None:
        """`RingKernelRuntime.activate` this kernel."""
        await self.runtime.activate(self.id)

    async def deactivate(self) -> None:
        """`RingKernelRuntime.deactivate` this kernel."""
        await self.runtime.deactivate(self.id)

    async def reactivate(self) -> None:
        """`RingKernelRuntime.reactivate` this kernel."""
        await self.runtime.reactivate(self.id)

    async def terminate(self, drain: bool = True, timeout: float = 5.0) -> None:
        """`RingKernelRuntime.terminate` this kernel."""
        await self.runtime.terminate(self.id, drain, timeout)

    async def restart(self, *, keep_state: bool = False, timeout: float = 5.0) -> None:
        """`RingKernelRuntime.restart` this kernel."""
        await self.runtime.restart(self.id, keep_state=keep_state, timeout=timeout)

    async def kill(self, error: BaseException | None = None) -> None:
        """`RingKernelRuntime.kill` this kernel."""
        await self.runtime.kill(self.id, error)

    # -- stepping ------------------------------------------------------------------------------------------------------

    async def step(self, n: int = 1, timeout: float | None = None) -> list[Any]:
        """`RingKernelRuntime.step` this kernel."""
        return await self.runtime.step(self.id, n, timeout)

    async def wait_paused(self, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.wait_paused` of this kernel."""
        return await self.runtime.wait_paused(self.id, timeout)

    def queue(self) -> list[Queued]:
        """What is queued, in the order in which it will be handed out. Any thread may call it.

        Messages of a compiled ring kernel are copies, equal in the fields of their layout.

        Raises:
            KernelStateError: a compiled ring kernel is not paused: its messages are in its ring, and on the move.
        """
        return self.runtime._at_home(self._queue)

    def peek(self) -> Any:
        """The message that will be handed out next; None if nothing is queued. Errors as in `queue`."""
        return next((queued.message for queued in self.queue()), None)

    def inject(self, message: Any, at: int = 0) -> None:
        """Put a message at a place of the queue of a paused kernel: 0, the next, up to the length, the last.

        It takes the priority of its neighbours. Any thread may call it.

        Raises:
            KernelStateError: the kernel is not paused.
            IndexError: there is no such place.
            QueueFullError: the mailbox is full.
            MessageTypeError, PriorityError: as in `send`.
        """
        self.runtime._at_home(lambda: self._inject(message, at))

    def move(self, index: int, to: int) -> None:
        """Move a queued message of a paused kernel to another place. Errors as in `inject`."""
        self.runtime._at_home(lambda: self._move_queued(index, to))

    def discard(self, index: int = 0) -> Any:
        """Take a message of a paused kernel out of the queue and make a dead letter of it; the message.

        An ask for it fails with `MessageDiscardedError`. Other errors as in `inject`.
        """
        return self.runtime._at_home(lambda: self._discard(index))

    def break_when(self, predicate: Callable[[Any], Any] | None) -> None:
        """Pause the kernel before it is handed a message for which `predicate` is true; None: no longer.

        `step` and `reactivate` go on with that message. A predicate that raises pauses the kernel too, with the error
        in the log. A compiled ring kernel gets its messages one by one meanwhile, which takes it longer.

        Raises:
            TypeError: not a function.
        """
        if predicate is not None and not callable(predicate):
            raise TypeError(f"break_when takes a function of a message, or None, not {predicate!r}")
        self.runtime._at_home(lambda: self._set_breakpoint(predicate))

    def rings(self) -> Rings:
        """Where the rings of a compiled ring kernel stand. Any thread may ask, and the kernel does not notice.

        What other compiled kernels that are connected to it send lies in rings of theirs. While it is paused, `queue`
        takes what is in its ring back into the mailbox, where it can be seen and moved.

        Raises:
            KernelStateError: an async ring kernel, which has a mailbox and no ring.
        """
        raise KernelStateError(
            f"{self.id!r} is an async ring kernel: it has a mailbox and no ring; queue() shows what is in it"
        )

    def _handed_over(self) -> dict[str, int]:
        """How many messages it has sent to whom."""
        return dict(self._sent)

    @property
    def node(self) -> str | None:
        """The name of the node of the cluster that it runs on; None: in this process, or on none just now."""
        return None

    def _where(self) -> dict[str, Any]:
        """The arguments of `launch` that say where one in its place is to run."""
        return {}

    @property
    def queue_depth(self) -> int:
        """Messages in the mailbox."""
        return len(self._box)

    @property
    def busy(self) -> bool:
        """Whether the body has a message in hand."""
        return self._ctx._start > 0

    @property
    def unanswered(self) -> int:
        """Asks whose message the body took and put aside without a reply so far."""
        return sum(sink.state <= AWAITED for sinks in (self._aside or {}).values() for sink in sinks)

    @property
    def waiting_for(self) -> str:
        """What keeps it from going on, in words; empty when nothing does."""
        if self._out.blocked:
            return f"replies unread: {len(self._out)} in the outbox, take them with receive()"
        if self._restarting is not None:
            handle, what, _ = self._restarting
            return f"{what}, in {max(handle.when() - self._scheduler.loop.time(), 0):.1f} s"
        if self._successor is not None:
            return f"the message in hand, before version {self.version + 1} takes over"
        if self.state is KernelState.LAUNCHED:
            return "activate()"
        if self.state is KernelState.DEACTIVATED:
            stopped = self._stopped_before
            return f"step() or reactivate(), before {_short(stopped[0])}" if stopped is not None else "reactivate()"
        return ""

    @property
    def outlook(self) -> str:
        """Its state in a few words, for errors: ``ACTIVE, 3 queued, handling a message``."""
        deaf = self.state is KernelState.ACTIVE and len(self._box) > 0
        doing = "handling a message" if self.busy else "not receiving" if deaf else "idle"
        words = [self.state.value, f"{len(self._box)} queued", doing]
        return ", ".join(words) + (f", waiting for {self.waiting_for}" if self.waiting_for else "")

    @property
    def user_state(self) -> Any:
        """``ctx.state`` of the body."""
        if self._user_state is _UNMADE:
            self._user_state = (self.definition.state or types.SimpleNamespace)()
        return self._user_state

    @user_state.setter
    def user_state(self, value: Any) -> None:
        self._user_state = value

    def _instance(self, instance: Any) -> int:
        """The number of an instance.

        Raises:
            InstanceError: there is no such instance.
        """
        raise InstanceError(f"{self.id!r} is an async ring kernel: only compiled ones have instances")

    async def _snapshot(self, instance: int | None) -> Any:
        """A copy of its state; None if it has none."""
        if self._user_state is _UNMADE and self.definition.state is None:
            return None
        return deepcopy(self.user_state)

    def statistics(self) -> KernelStatistics:
        """Its counters now. Any thread may ask."""
        self._publish()
        self._publish_histograms()
        return KernelStatistics.from_row(self.id, np.array(self._row).view(COUNTERS)[0], self.waiting_for)

    def __repr__(self) -> str:
        version = f" v{self.version}" if self.version > 1 else ""
        return f"<ring kernel {self.id!r}{version} {self.state}, {len(self._box)} queued>"

    def _repr_html_(self) -> str:
        from ..telemetry.html import kernels_html  # only where somebody looks

        return kernels_html([self.statistics()])

    # -- its life: only on the runtime's loop --------------------------------------------------------------------------

    def _move(self, verb: str) -> None:
        self.state = after(verb, self.state, self.id)
        if self._observers:
            self.seen("changed", self.id, self.state.value)
        self.history.append((self.state, time.time()))
        del self.history[:-100]
        self._marker = None
        if self.state is KernelState.TERMINATING or self.state.over:
            for link in self._links_here():
                if link.task is not None:
                    link.let_go(self)
        self._tell_watchers()

    def _links_here(self) -> list[Link]:
        """Those that bring it the replies of other kernels."""
        return [link for link in self.runtime._links if self in link.targets]

    def _tell_watchers(self) -> None:
        watchers, self._watchers = self._watchers, None
        for wait in watchers or ():
            wait.set(None)

    async def _change(self) -> None:
        """Wait until the kernel becomes idle or comes into another state."""
        await self._move_or_idle()

    async def _move_or_idle(self) -> None:
        """`_change` for who does not wait for idleness: a compiled kernel that is idle says so at once, and again."""
        wait = self._scheduler.wait()
        if self._watchers is None:
            self._watchers = []
        self._watchers.append(wait)
        try:
            await wait
        finally:
            if self._watchers and wait in self._watchers:
                self._watchers.remove(wait)

    def _retire(self) -> None:
        """Another kernel takes its id and its row: keep counters of its own for who still holds the handle."""
        while (entry := self._out.pull()) is not None:
            self.bury(entry, "the reply was unread when the kernel was launched again", "unread")
        self._row = memoryview(bytearray(self._row)).cast("q")
        self.runtime._table.release(self._place)

    @property
    def _idle(self) -> bool:
        """Nothing queued and nothing in hand (what has ended is idle), and all replies are where they go."""
        if self._link is not None and self._link.busy:
            return False
        return self.state.over or not (len(self._box) or self.busy or self._box.blocked)

    @property
    def _processed(self) -> int:
        """How many messages it has handled."""
        return sum(self._handled)

    def _start_body(self, restart: Restart | None = None) -> None:
        """Run the body of the present definition in a task of its own."""
        definition = self.definition
        if restart is not None:
            self._box.halt(False)
        self._begun = clock()
        self._ctx = KernelContext(self, self._ctx)
        self._ctx.should_terminate = self._box.closed is not None and not len(self._box)
        body = self._body()
        if restart is not None and (hook := definition.policy.on_restart) is not None:
            body = _after(hook, restart, body)
        if definition.context is not None:
            context, body = definition.context.copy(), self._contained(body)
        else:
            context = contextvars.copy_context()
        context.run(in_hand.set, None)  # it acts on nobody's behalf yet
        context.run(acting.set, self.id)
        # Not by `create_task`: a loop whose tasks begin eagerly would run the body before this kernel knows its task.
        self._task = asyncio.Task(body, loop=self._scheduler.loop, name=self.id, context=context)
        self._task.add_done_callback(self._ended, context=context)

    def _body(self) -> Coroutine[Any, Any, Any]:
        """What runs between two restarts."""
        body: Coroutine[Any, Any, Any] = self.definition.body(self._ctx)
        return body

    async def _contained(self, body: Coroutine[Any, Any, Any]) -> Any:
        """A body in a notebook: an exit in it ends the kernel, and not the loop and the notebook with it."""
        try:
            return await body
        except (SystemExit, KeyboardInterrupt) as error:
            self.exception = error

    def _check_successor(self, definition: RingKernelDefinition) -> None:
        """Raise `DefinitionError` if this kernel cannot go on with that definition. Any thread may call it."""
        if type(definition) is not type(self.definition):
            kinds = ["a compiled", "an async"]
            new, old = kinds if type(self.definition) is RingKernelDefinition else reversed(kinds)
            raise self._cannot_replace(f"it is {old} ring kernel and that is {new} one")

    def _cannot_replace(self, why: str) -> DefinitionError:
        return DefinitionError(
            f"{self.id!r} goes on as it was, for it cannot be replaced while it runs: {why}. To start afresh, use "
            f"`%%ring_kernel --restart`, or `await runtime.terminate({self.id!r})`, define it and launch it again"
        )

    def _replace(self, definition: RingKernelDefinition) -> None:
        """Let a new definition take over when the message in hand is done."""
        if self.state.over or self.state is KernelState.TERMINATING:
            return
        if self._task is None:
            self._adopt(definition)
            return
        self._successor = definition
        self._box.halt(True)

    def _renew(self, keep_state: bool) -> None:
        """Let a new body begin when the message in hand is done, or at the latest when its time for that is over."""
        task = self._task
        if task is None or self._renewal is not None or self.state is KernelState.TERMINATING:
            return  # it has not begun, or waits to begin again, or is to end
        self._renewal = keep_state

        def hurry() -> None:
            if self._task is task and self._renewal is not None and not task.done():
                self._kill(
                    KernelKilledError(f"{self.id!r} was to begin again and did not come to the end of a message")
                )

        self._scheduler.loop.call_later(PATIENCE_TO_RESTART, hurry)
        self._box.halt(True)

    def _kill(self, error: BaseException) -> None:
        """Let the body fail with this error where it stands."""
        if self._task is None:
            self._die(error)
            return
        self._killed, task = error, self._task
        waits_for = task._fut_waiter  # type: ignore[attr-defined]

        def again() -> None:
            if task is self._task:
                self._kill(error)

        if isinstance(waits_for, Wait) and waits_for.state == SET:
            # What it waited for has come, a reply or room for what it sends: that is not to be undone.
            self._scheduler.loop.call_soon(again)
        elif not task.done():
            task.cancel()

    def _die(self, error: BaseException) -> None:
        """FAILED, without a body."""
        if self._restarting is not None:
            self._restarting[0].cancel()
            self._restarting = None
        self.exception = self.last_exception = error
        self._errors += 1
        self._move("raise")
        self._finish(self._ctx)
        self._report(error)

    def _adopt(self, definition: RingKernelDefinition) -> None:
        self.definition = definition
        self._successor = None
        self._input_types, self._output_types = definition.input_types, definition.output_types
        self._box.halt(False)
        self._limit = None
        self._box.resize(definition.queue_size, definition.backpressure)
        self._out.resize(definition.queue_size, "block")
        self.version += 1
        self._tell_watchers()
        self._marker = None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """The body has returned, raised, or was stopped, cancelled or killed."""
        ctx = self._ctx
        killed, self._killed = self._killed, None
        failure = killed if task.cancelled() else task.exception() or self.exception or killed
        self.exception = None
        if failure is None and not task.cancelled() and task.result() is not None:
            log.warning(
                "the body of %r returned a value, which goes nowhere: reply with `await ctx.send(...)`", self.id
            )
        if failure is not None:
            _trim(failure)
            self._errors += 1
            if self._observers:
                self.seen("failed", self.id, failure, ctx.delivery if ctx._start else None)
        renewal, self._renewal = self._renewal, None
        wait = self._wait_before_restart(failure, task.cancelled(), renewal)
        message = ctx._msg if ctx._start else None
        if ctx._start:
            spent = clock() - ctx._start
            ctx._busy_ns += spent
            ctx._start = 0
            if failure is not None:
                if wait is None or not self._retry(ctx):
                    self._unfinished += 1
                    sink, ctx._sink = (ctx._sink, None) if wait is not None else (None, ctx._sink)
                    entry = ctx.delivery or (message, 0, None)
                    self.bury(entry, "the kernel failed while it had it in hand", "failed", failure)
                    if sink is not None:
                        sink.fail(self._failure_of_message(failure))
            elif task.cancelled():
                self._unfinished += 1
                self.bury(
                    ctx.delivery or (message, 0, None), "the body was cancelled while it had it in hand", "failed"
                )
            else:
                self._handled[min(spent.bit_length(), BUCKETS - 1)] += 1
                if self._observers and ctx.delivery is not None:
                    self.seen_end(ctx.delivery)
        if self._successor is not None and (failure is None or wait is not None):
            if ctx._sink is not None:
                self._set_aside(ctx)
            self._adopt(self._successor)
            if wait is None:
                self._start_body()
                return
        self._successor = None
        if wait is not None:
            keep = renewal if renewal is not None else self.definition.policy.keep_state
            self._restart_after(wait, Restart(self, self.restarts + 1, failure, message), keep)
            return
        self.exception = failure
        if failure is not None:
            self.last_exception = failure
        self._move("return" if failure is None else "raise")
        self._finish(ctx)
        if failure is not None:
            self._report(failure)
            if self._gave_up and self._group is not None:
                self._group.give_up(self)

    # -- supervision ---------------------------------------------------------------------------------------------------

    def _wait_before_restart(
        self, failure: BaseException | None, cancelled: bool, renewal: bool | None
    ) -> float | None:
        """Seconds until it is started again, as its body has ended that way; None: it is not."""
        policy = self.definition.policy
        if self.state is KernelState.TERMINATING or self._gave_up:
            return None
        if renewal is not None:
            if failure is not None:
                self.last_exception = failure
                self._report(failure, "and is started again, as was to happen anyway")
            return 0.0
        if failure is None and (policy.restart != "always" or cancelled or self._successor is not None):
            return None
        if policy.restart == "never":
            return None
        if self._limit is None:
            self._limit = Limit(policy.max_restarts, policy.window)
        now = self._scheduler.loop.time()
        number = self._limit.next(now)
        if number is None:
            self._gave_up = f"after {self._limit}"
            return None
        group = self._group
        if group is not None and not group.restarts_others(self, now):
            self._gave_up = f"after {group.limit} of its group"
            return None
        self._limit.count(now)
        wait = policy.backoff.wait(number)
        if failure is not None:
            self.last_exception = failure
            when = f" in {wait:.3g} s" if wait else ""
            self._report(
                failure, f"and is started again{when} ({number} of {policy.max_restarts} in {policy.window:g} s)"
            )
        return wait

    def _retry(self, ctx: KernelContext[Any, Any]) -> bool:
        """Put the message in hand back into the mailbox. False: it was tried often enough."""
        former = ctx.delivery
        attempts = former.attempts + 1 if former is not None else 1
        if attempts > self.definition.policy.max_retries:
            return False
        priority = getattr(ctx._msg, "priority", None)
        self._put_back(
            (ctx._msg, clock(), ctx._sink), former, attempts, DEFAULT_PRIORITY if priority is None else priority
        )
        ctx._sink = None
        return True

    def _put_back(self, entry: Entry, former: Delivery | None, attempts: int, priority: int) -> None:
        again = delivery(entry, self.id, attempts)
        if former is not None:
            again.number, again.cause, again.source = former.number, former.cause, former.source
        self._box.put_first(again, priority)
        self._retried += 1
        self._marker = None

    def _failure_of_message(self, failure: BaseException) -> KernelFailedError:
        """For who asked, when the kernel goes on without the message."""
        failed = KernelFailedError(
            f"{self.id!r} failed on this message, and goes on with the next: {type(failure).__name__}: {failure}"
        )
        failed.__cause__ = failure
        return failed

    def _restart_after(self, wait: float, restart: Restart, keep_state: bool) -> None:
        """Begin again in so many seconds."""
        if not keep_state:
            self._user_state = _UNMADE
            # The asks that the former body has put aside are unknown to the new one.
            failed = KernelFailedError(f"{self.id!r} was started again before it had replied")
            failed.__cause__ = restart.exception
            for sinks in (self._aside or {}).values():
                for sink in sinks:
                    sink.fail(failed)
            self._aside = self._asked_by = None
        self._task = None
        self._marker = None

        def begin() -> None:
            self._restarting = None
            self.restarts = restart.number
            self.restarted.append((time.time(), error_text(restart.exception)))
            del self.restarted[:-100]
            self._marker = None
            if self._observers:
                self.seen("restarted", self.id, restart.number)
            self._start_body(restart)
            self._tell_watchers()

        if wait > 0:
            limit = self._limit
            what = f"restart {restart.number}" + (f" ({limit} at most)" if limit is not None else "")
            self._restarting = (self._scheduler.loop.call_later(wait, begin), what, begin)
            self._tell_watchers()
        else:
            begin()

    def _report(self, failure: BaseException, fate: str = "") -> None:
        """Say why it failed, in the context of where it was defined, and what becomes of it."""
        fate = fate or (f"for good, {self._gave_up}" if self._gave_up else "")
        log.error(
            "ring kernel %r failed%s (%s)",
            self.id,
            f" {fate}" if fate else "",
            self.definition.origin,
            exc_info=failure,
            extra={"failed_kernel": self.id} if self.state is KernelState.FAILED else {},
        )

    def _finish(self, ctx: KernelContext[Any, Any]) -> None:
        """Leave nobody waiting: close both queues, bury what was not handled, fail what was asked."""
        self._box.close(self._unusable)
        self._out.close(self._unusable)
        self._box.bury_all(f"the kernel is {self.state}: it was not handled")
        asked = [sink for sinks in (self._aside or {}).values() for sink in sinks]
        for sink in (ctx._sink, *asked):
            if sink is not None:
                sink.fail(self._unusable())
        ctx._sink = ctx._msg = self._aside = self._asked_by = None

    async def _terminate(self, drain: bool, timeout: float) -> None:
        if self._task is not None and asyncio.current_task() is self._task:
            raise KernelStateError(f"{self.id!r} cannot wait for its own end: return from the body instead")
        begun = self.state is not KernelState.LAUNCHED
        self._move("terminate")
        if self._task is None:
            if self._restarting is not None:
                self._restarting[0].cancel()
                self._restarting = None
            self._box.close(self._unusable)
            when = "while it waited to be started again" if begun else "before the kernel was activated"
            self._box.bury_all(f"terminated {when}")
            self._move("return")
            self._finish(self._ctx)
            return
        self._successor = self._renewal = None
        self._box.halt(False)
        self._box.close(self._unusable)
        await self._end(drain, timeout)

    async def _end(self, drain: bool, timeout: float) -> None:
        """Wait for the end of a body whose intake has stopped."""
        if not drain:
            self._box.bury_all("terminated without draining")
        self._ctx.should_terminate = not len(self._box)
        # A caller that is cancelled leaves the time limit in force, else the kernel could stay TERMINATING for ever.
        await asyncio.shield(asyncio.ensure_future(self._cancel_after(timeout)))

    async def _cancel_after(self, timeout: float) -> None:
        task = self._task
        assert task is not None
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            log.warning(
                "the body of %r did not end within %g s and is cancelled: it should leave when ctx.should_terminate",
                self.id,
                timeout,
            )
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        if not (task.done() or self.state.over):
            self._abandon(task)

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        """Give a body up that swallows its cancellation: it gets no message any more, and nobody waits for it."""
        log.warning("the body of %r swallows its cancellation and is given up: let CancelledError pass", self.id)
        self._abandoned = True
        task.remove_done_callback(self._ended)
        # `asyncio.run` waits at its end for every task that it knows of, and would wait for this one for ever.
        unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if self._ctx._start:
            self._unfinished += 1
            entry = self._ctx.delivery or (self._ctx._msg, 0, None)
            self.bury(entry, "the body was given up with it in hand", "failed")
            self._ctx._start = 0
        self._move("return")
        self._finish(self._ctx)

    # -- stepping: only on the runtime's loop --------------------------------------------------------------------------

    async def _step(self, n: int, timeout: float | None) -> list[Any]:
        """Handle so many messages of the paused kernel, and list them."""
        if self._stepping:
            raise KernelStateError(f"{self.id!r} is being stepped by another call: await that first")
        self._stepping = True
        handled: list[Any] = []
        try:
            async with asyncio.timeout(timeout):
                await self._steps(n, handled)
        except TimeoutError:
            done = len(handled) - self.busy  # the last may be in hand
            raise QueueTimeoutError(
                f"{self.id!r} handled {done} of {n} messages within {timeout:g} s; it is {self.outlook}"
            ) from None
        finally:
            self._stepping = False
        if self.state is KernelState.FAILED:
            raise self._unusable()
        return handled

    async def _steps(self, n: int, handled: list[Any]) -> None:
        box = self._box
        await self._until_stop()
        self._stopped_before = None
        box.allow(n)
        box.stepped = handled
        try:
            while self.state is KernelState.DEACTIVATED and (box.steps or self.busy):
                await self._change()
        finally:
            box.steps = 0

    async def _until_stop(self) -> None:
        """Until the kernel, which is paused, has nothing in hand."""
        while self.busy and not self.state.over:
            await self._change()

    async def _after_pause(self) -> None:
        """What `deactivate` waits for."""

    def _is_paused(self) -> bool:
        return self.state in (KernelState.DEACTIVATED, KernelState.LAUNCHED)

    def _queue(self, most: int | None = None) -> list[Queued]:
        """`queue`, or no more than the first so many."""
        now = clock()
        return [
            Queued(
                entry[0],
                priority,
                self._age(entry, now),
                entry[2] is not None,
                entry.attempts if type(entry) is Delivery else 0,
            )
            for entry, priority in self._box.entries(most)
        ]

    def _age(self, entry: Entry, now: int) -> float | None:
        """Seconds since it was put."""
        return (now - entry[1]) * 1e-9

    def _editable(self, index: Any, places: int) -> int:
        """An index into its queue; negative ones count from the end.

        Raises:
            KernelStateError: it is not paused, so that the queue moves.
            IndexError: there is no such place.
        """
        if not self._is_paused():
            raise KernelStateError(
                f"{self.id!r} is {self.state}: pause it first, with `await runtime.deactivate({self.id!r})`"
            )
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"a place in a queue is an integer, not {index!r}")
        if not -places <= index < places:
            raise IndexError(f"there is no place {index} in the queue of {self.id!r}, which holds {len(self._box)}")
        return index % places

    def _inject(self, message: Any, at: int) -> None:
        box = self._box
        at = self._editable(at, len(self._queue()) + 1)
        if not isinstance(message, self._input_types):
            self._admit_input(message)
        priority = getattr(message, "priority", None)
        priority = DEFAULT_PRIORITY if priority is None else checked_priority(priority, message)
        if len(box) >= box.capacity:
            raise QueueFullError(f"the mailbox of {self.id!r} is full ({box.capacity}): discard a message first")
        entry = self._injected(message)
        if self._observers:
            entry = delivery(entry, self.id)
            self.seen("sent", entry)
        box.insert(at, entry, priority)
        if self._observers:
            self.seen("queued", entry)
        self._tell_watchers()

    def _injected(self, message: Any) -> Entry:
        return (message, clock(), None)

    def _move_queued(self, index: int, to: int) -> None:
        places = len(self._queue())
        index, to = self._editable(index, places), self._editable(to, places)
        self._stopped_before = None
        entry, priority = self._box.remove(index)
        self._box.insert(to, entry, priority)

    def _discard(self, index: int) -> Any:
        entry, _ = self._box.remove(self._editable(index, len(self._queue())))
        self._stopped_before = None
        self._box.unhandled += 1
        self.bury(entry, "discarded by hand", "discarded")
        return entry[0]

    def _set_breakpoint(self, predicate: Callable[[Any], Any] | None) -> None:
        self._breakpoint, self._stopped_before = predicate, None
        self._box.stop_before(None if predicate is None else self._stops_before)

    def _stops_before(self, entry: Entry) -> bool:
        """Whether the breakpoint keeps an entry from being handed out; the kernel is paused then."""
        if self.state is not KernelState.ACTIVE or self._breakpoint is None:
            return False
        if entry is self._stopped_before:
            self._stopped_before = None
            return False
        try:
            stops = bool(self._breakpoint(entry[0]))
        except Exception:
            log.exception("the breakpoint of %r raised at %s, and stops it there", self.id, _short(entry[0]))
            stops = True
        if stops:
            self._stopped_before = entry
            self._box.pause(True)
            self._move("deactivate")
        return stops

    # -- messages: only on the runtime's loop --------------------------------------------------------------------------

    def _unusable(self) -> KernelFailedError | KernelStateError | RuntimeClosedError:
        """The error for whoever wants something of it now that its queues are closed."""
        if self._scheduler.loop.is_closed():
            return RuntimeClosedError("the event loop that the runtime lived on is gone: make a new RingKernelRuntime")
        if self.exception is not None:
            final = f" for good, {self._gave_up}" if self._gave_up else ""
            failed = KernelFailedError(f"{self.id!r} failed{final}: {type(self.exception).__name__}: {self.exception}")
            failed.__cause__ = self.exception
            return failed
        hint = "; launch it again to start afresh" if self.state.over else ""
        returned = self.state.over and self.history[-2][0] is not KernelState.TERMINATING
        return KernelStateError(
            f"{self.id!r} is {self.state}{', its body has returned' if returned else ''}: "
            f"it takes no more messages and sends no more replies{hint}"
        )

    def bury(self, entry: Entry, reason: str, kind: Kind = "unhandled", exception: BaseException | None = None) -> None:
        """Make a dead letter of a message, and fail the ask that it belongs to."""
        message, mark, sink = entry
        self._dead_letters += 1
        self._marker = None
        if exception is None and self.state is KernelState.FAILED:
            exception = self.exception
        is_reply = kind in ("late", "unread", "undeliverable")
        instance = None if is_reply else self._instance_of(mark)
        self.runtime.dead_letters.add(
            DeadLetter(self.id, message, reason, exception, kind=kind, is_reply=is_reply, instance=instance)
        )
        if self._observers:
            self.seen("lost", self.id, message, kind, reason, entry if type(entry) is Delivery else None)
        if type(entry) is Delivery:
            entry.cause = None
        if sink is not None and kind != "failed":  # who asked for one that it failed with hears why from elsewhere
            if self._box.closed:
                sink.fail(self._unusable())
            else:
                error = MessageDiscardedError if kind == "discarded" else QueueFullError
                sink.fail(error(f"{self.id!r}: {reason}"))

    def _instance_of(self, mark: int) -> int | None:
        """The instance that an entry with that mark is for; None: it names none."""
        return None

    def seen(self, what: str, *args: Any) -> None:
        """Tell those who observe it; `what` is the name of a method of `Observer`."""
        for tell in self._told_of[what]:
            try:
                tell(*args)
            except Exception:
                observer: Any = getattr(tell, "__self__", tell)
                log.exception("%r, which observes ring kernels, raised and is taken off", observer)
                self.runtime._take_off(observer)

    def seen_end(self, handled: Delivery) -> None:
        """Tell that a message was handled to the end."""
        self.seen("ended", handled)
        handled.cause = None  # else each would keep all alive that led to it

    def _observe(self, observers: tuple[Observer, ...]) -> None:
        """Be observed by those that want to be told of this kernel."""
        self._observers = tuple(one for one in observers if one.kernels is None or self.id in one.kernels)
        if self._observers:
            self._told_of = {
                name: tuple(tell for one in self._observers if (tell := getattr(one, name)) and not _is_idle(tell))
                for name in _EVENTS
            }
        self._box.observe(bool(self._observers))
        self._out.observe(bool(self._observers))

    def _admit_input(self, message: Any) -> None:
        self._input_types = self._admit(message, self._input_types, "takes")

    def _admit_output(self, reply: Any) -> None:
        self._output_types = self._admit(reply, self._output_types, "sends")

    def _admit(self, message: Any, wanted: tuple[type, ...], verb: str) -> tuple[type, ...]:
        """The wanted types, with that of the message if it is one of them defined again with the same fields."""
        got = type(message)
        if any(same_schema(got, known) for known in wanted):
            return (*wanted, got)
        text = (
            f"{self.id!r} {verb} {' or '.join(dict.fromkeys(t.__qualname__ for t in wanted))}, not {got.__qualname__}"
        )
        if any((got.__module__, got.__qualname__) == (t.__module__, t.__qualname__) for t in wanted):
            where = getattr(got, "__message_origin__", "another place")
            text += (
                f": {got.__qualname__} was defined again with other fields ({where}); "
                f"run the definition of {self.id!r} again ({self.definition.origin})"
            )
        raise MessageTypeError(text)

    def _pull_records(self, max_n: int) -> NDArray[np.void] | None:
        """Up to that many unread replies as records, shape (n,); None: there are none now."""
        entries: list[Entry] = []
        while len(entries) < max_n and (entry := self._out.pull()) is not None:
            entries.append(entry)
        try:
            return to_records(entry[0] for entry in entries) if entries else None
        except PyDotComputeError:
            for entry in reversed(entries):
                self._out.put_back(entry)
            raise

    async def _put_batch(self, records: NDArray[np.void], instance: int | None) -> None:
        """Send records, which have the dtype of the messages that it takes."""
        await self.runtime.send_many(self.id, from_records(self._input_types[0], records))

    def _set_aside(self, ctx: KernelContext[Any, Any]) -> None:
        """An asked message goes out of hand unanswered: a reply that names it by correlation_id may still answer it."""
        sink = ctx._sink
        assert sink is not None
        ctx._sink = None
        if self._observers and (asked := ctx.delivery) is not None:
            if self._asked_by is None:
                self._asked_by = {}
            self._asked_by[sink] = asked
        if self._aside is None:
            self._aside = {}
        key = getattr(ctx._msg, "message_id", None)
        # A message without an id cannot be named: it stays listed so that its ask fails when the kernel ends.
        same = self._aside.setdefault(id(sink) if key is None else key, [])
        same.append(sink)
        if max(len(self._aside), len(same)) > self._aside_limit:
            # Those that timed out are kept for a while, to know a late reply.
            kept = {k: [s for s in sinks if s.state <= AWAITED] for k, sinks in self._aside.items()}
            self._aside = {k: sinks for k, sinks in kept.items() if sinks}
            if self._asked_by is not None:
                self._asked_by = {one: asked for one, asked in self._asked_by.items() if one.state <= AWAITED}
            self._aside_limit = max(1024, 2 * sum(map(len, self._aside.values())))

    def _correlated(self, ctx: KernelContext[Any, Any], correlation: Any) -> Wait | None:
        """The ask that a reply names by its correlation_id."""
        sink = ctx._sink
        if sink is not None and getattr(ctx._msg, "message_id", None) == correlation:
            if sink.state <= AWAITED:
                ctx._sink = None
            return sink
        sinks = (self._aside or {}).get(correlation)
        if not sinks:
            return None
        sink = next((sink for sink in sinks if sink.state <= AWAITED), None)
        if sink is None:
            return sinks[0]
        sinks.remove(sink)
        if not sinks:
            assert self._aside is not None
            del self._aside[correlation]
        return sink

    async def _send_when_room(self, reply: Any) -> None:
        """The general way into the outbox."""
        wait = self._out.put_at(DEFAULT_PRIORITY, reply)
        if wait is not None:
            alarm = self._scheduler.loop.call_later(PATIENCE, self._say_unread)
            try:
                await self._out.accepted(wait)
            except asyncio.CancelledError:
                if wait.state != SET:  # else it was let in just now
                    self.bury((reply, 0, None), "the body was cancelled while its replies were unread", "unread")
                raise
            finally:
                alarm.cancel()

    _way_out = "ask instead of sending, or do not ctx.send what nobody reads"

    def _say_unread(self) -> None:
        """Tell once why a kernel stands still that nobody takes the replies of."""
        if not self._told and self.state is not KernelState.TERMINATING:
            self._told = True
            log.warning(
                "ring kernel %r stands still: nobody takes its replies (%d unread). Take them with receive(), %s",
                self.id,
                len(self._out),
                self._way_out,
            )

    # -- telemetry -----------------------------------------------------------------------------------------------------

    def _publish_histograms(self) -> None:
        """Write the histograms into this kernel's row of the table, if they have changed. Any thread may call it."""
        if self._stale:
            self._stale = False
            pack_into(_HISTOGRAMS, self._row, _HISTOGRAMS_AT, *self._waited, *self._handled)

    def _publish(self) -> None:
        """Write the other counters there, if they have changed. Any thread may call it."""
        box, ctx, out = self._box, self._ctx, self._out
        marker = (ctx._busy_ns, ctx._start, self._replied, len(box.plain), box._extra)
        if marker != self._marker:
            self._marker = marker
            self._stale = True
            depth, processed = len(box), sum(self._handled)
            pack_into(
                _SCALARS,
                self._row,
                0,
                CODES[self.state],
                self.version,
                box.capacity,
                depth,
                max(box.peak, depth),
                len(out.plain),
                processed + self._unfinished + (ctx._start > 0) + depth + box.unhandled,
                processed,
                self._replied,
                box.dropped,
                self._dead_letters,
                self._errors,
                self.restarts,
                self._retried,
                ctx._busy_ns,
            )


_EVENTS = tuple(name for name, value in vars(Observer).items() if inspect.isfunction(value))


def _is_idle(method: Any) -> bool:
    """Whether it is a method of `Observer` itself, which does nothing: all but `elsewhere` do."""
    return method.__name__ != "elsewhere" and getattr(method, "__func__", None) is getattr(
        Observer, method.__name__, method
    )


class Queued(NamedTuple):
    """A message in a mailbox."""

    message: Any
    priority: int
    waits: float | None
    """Seconds that it has been in there; None where nobody knows: of a compiled ring kernel."""
    is_ask: bool
    """Whether its sender waits for a reply."""
    attempts: int
    """How often its handling has failed."""


def _short(message: Any, length: int = 80) -> str:
    try:
        text = repr(message)
    except Exception:  # noqa: BLE001 - whatever a user's class does
        text = f"a {type(message).__name__}"
    return text if len(text) <= length else text[: length - 1] + "…"


def _trim(failure: BaseException) -> None:
    """Let the traceback begin at the user's body."""
    ours = (RingKernel._contained.__code__, _after.__code__)
    while failure.__traceback__ is not None and failure.__traceback__.tb_frame.f_code in ours:
        failure.__traceback__ = failure.__traceback__.tb_next


async def _after(hook: Callable[[Restart], Any], restart: Restart, body: Coroutine[Any, Any, Any]) -> Any:
    """A body, after the hook."""
    try:
        done = hook(restart)
        if inspect.isawaitable(done):
            await done
    except BaseException:
        body.close()
        raise
    return await body


CODES = {KernelState(name): code for code, name in enumerate(STATES)}
_HISTOGRAMS = f"={2 * BUCKETS}q"
_HISTOGRAMS_AT = 8 * (WORDS - 2 * BUCKETS)  # bytes; the histograms are the last two fields of a row
_SCALARS = f"={WORDS - 2 * BUCKETS}q"
