"""The runtime: where ring kernels live, and the way to them from any loop and any thread."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from importlib import import_module
from itertools import count
from threading import Lock, get_ident
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..exceptions import (
    ClusterError,
    DefinitionError,
    KernelKilledError,
    KernelNotFoundError,
    KernelStateError,
    LoopError,
    PyDotComputeError,
    QueueFullError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from ..messages import DEFAULT_PRIORITY, checked_records, from_records
from ..origin import notebook_shell
from ..telemetry import CounterTable, Frame, KernelStatistics, LoopLag, RuntimeStatistics, Sampler
from ..telemetry.observer import Observer
from .checks import Promise, checked_id, checked_timeout, is_count, is_number
from .compiled import CompiledKernel
from .dead_letters import DeadLetter, DeadLetters
from .executor import REFUSED, Engine
from .health import Health, Probe, awaited
from .kernel import RingKernel, RingKernelDefinition, _runtimes, definitions
from .lifecycle import KernelState
from .links import Link, connect, disconnect
from .loops import LoopThread, unanswered
from .mailbox import Entry, checked_priority
from .progress import bar
from .scheduler import AWAITED, NEW, SET, Scheduler, Wait, clock
from .step import StepDefinition
from .supervision import MAX_RESTARTS, WINDOW, Strategy, SupervisionGroup, group_of

if TYPE_CHECKING:
    from os import PathLike

    from opentelemetry.trace import TracerProvider

    from ..cluster import Cluster, Node, Placement
    from ..telemetry.otel import Spans
    from ..telemetry.prometheus import MetricsServer
    from ..telemetry.trace import Trace
    from .recording import Recording
    from .replay import Replay
    from .routing import Router, Routing
    from .topics import Topics

T = TypeVar("T")

log = logging.getLogger("pydotcompute")

PATIENCE, GRACE = 2.0, 0.5
"""Seconds that a caller on another loop waits until the runtime's loop is looked at, and that it then has to move."""
PARTS = 200
"""How often at most the bar of a batch moves: each time costs tens of microseconds."""

Unclaimed = Callable[[str, Any], None]
"""What becomes of the reply of a kernel whose taker, on another loop, was cancelled as it came."""

_serials = count(1)

here: Callable[[], Any] = get_ident if sys.version_info < (3, 12) else asyncio.get_running_loop
"""What tells, inside a coroutine, whether it is at home: the cheaper of the two."""


class RingKernelRuntime:
    """Launches ring kernels and carries messages to and from them.

    Use it as ``async with RingKernelRuntime() as runtime``, or call it and later `close` it. Every coroutine may be
    awaited from any event loop; ``runtime.sync`` has a blocking twin of each.

    Args:
        loop: ``"current"`` runs the kernels on the event loop of the first caller; ``"thread"`` on a loop in a thread
            that the runtime owns, so that they go on while the caller blocks; ``"auto"`` is ``"thread"`` in a
            notebook and ``"current"`` elsewhere.
        dead_letter_limit: how many dead letters are kept; all are counted.
        cluster: ``"ray"`` lets `launch` place ring kernels on the nodes of a Ray cluster (extra `ray`). Without it, and
            for kernels that are not placed, everything stays in this process.
        address: ``"host:port"`` of the head of a running cluster, or ``"auto"`` for one on this machine; None takes the
            one that the environment variable ``RAY_ADDRESS`` names, or starts one on this machine.
        nodes: how many hosts there are to be; None: one on each machine of the cluster. Several on one machine are
            processes of their own, too.
        start_timeout: seconds in which the cluster, and each host, has to start.
        node_timeout: seconds after which a node that does not answer is lost.

    Raises:
        ValueError: another value of `loop` or `cluster`, a limit or a number of nodes below 1, a timeout that is no
            number above 0, or one of the last four without a cluster.
    """

    def __init__(
        self,
        loop: Literal["auto", "current", "thread"] = "auto",
        *,
        dead_letter_limit: int = 1000,
        cluster: Literal["ray"] | None = None,
        address: str | None = None,
        nodes: int | None = None,
        start_timeout: float = 60.0,
        node_timeout: float = 5.0,
    ) -> None:
        if loop not in ("auto", "current", "thread"):
            raise ValueError(f"loop must be 'auto', 'current' or 'thread', not {loop!r}")
        if not is_count(dead_letter_limit):
            raise ValueError(f"dead_letter_limit must be an integer of at least 1, not {dead_letter_limit!r}")
        if cluster not in (None, "ray"):
            raise ValueError(f"cluster must be 'ray' or None, not {cluster!r}")
        if cluster is None and (address is not None or nodes is not None):
            raise ValueError("address= and nodes= are for a runtime with cluster='ray'")
        if nodes is not None and not is_count(nodes):
            raise ValueError(f"nodes must be an integer of at least 1, not {nodes!r}")
        for name, seconds in (("start_timeout", start_timeout), ("node_timeout", node_timeout)):
            if not is_number(seconds) or not 0 < seconds < float("inf"):
                raise ValueError(f"{name} must be a number of seconds above 0, not {seconds!r}")
        if loop == "auto":
            loop = "thread" if notebook_shell() is not None else "current"
        self.loop_mode: Literal["current", "thread"] = loop
        """Where the kernels run: ``"current"`` or ``"thread"``."""
        self.dead_letters = DeadLetters(dead_letter_limit, self)
        self.sync = SyncRuntime(self)
        self.sampler = Sampler(self._frame, self._poke)
        """Calls listeners with frames of counters while there are any."""
        self._home = 0  # thread of the runtime's loop, once there is one
        self._here: Any = None  # what `here()` is there
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: LoopThread | None = None
        self._scheduler: Scheduler | None = None
        self._engines: dict[str, Engine] = {}  # of compiled kernels, by the name of the backend
        self._links: set[Link] = set()
        self._routers: dict[str, Router] = {}
        self._topics: Topics | None = None
        self._serial = next(_serials)  # which runtime of the process it is, from 1
        self._starting = Lock()
        self._closed = False
        self._closing: asyncio.Future[None] | None = None
        self._kernels: dict[str, RingKernel] = {}
        self._table = CounterTable()
        self._frames = self._framed = self._part = 0
        self._launches = 0
        # What was sent to whom by kernels whose ids others have now, and by closed routers: not from outside.
        self._sent_before: Counter[str] = Counter()
        # What a frame is made from, and the number of launches that it was made at:
        self._roster: tuple[int, list[RingKernel], tuple[str, ...], list[int], NDArray[np.int64]] | None = None
        self._lag: LoopLag | None = None
        self._caller_lag: LoopLag | None = None
        self._observers: tuple[Observer, ...] = ()
        self._rewiring: set[asyncio.Task[None]] = set()
        self._posted: dict[Future[Any], int] = {}  # what other threads asked for, and which of them stand still for it
        self._probe = Probe(self)
        self._servers: list[MetricsServer] = []
        # By name: what knows nodes stands above the runtime.
        self._cluster: Cluster | None = (
            None
            if cluster is None
            else import_module("pydotcompute.cluster").Cluster(self, address, nodes, start_timeout, node_timeout)
        )
        self._blamed: WeakSet[asyncio.Task[Any]] = WeakSet()  # bodies that were found to block the loop
        self._meet_caller()
        _runtimes.add(self)

    # -- where it lives ------------------------------------------------------------------------------------------------

    def _meet_caller(self) -> None:
        """Remember the loop that the runtime is used from, to tell how late it is."""
        with suppress(RuntimeError):  # synchronous code
            self._caller_lag = LoopLag(asyncio.get_running_loop())

    def _start(self) -> None:
        with self._starting:
            if self._loop is not None:
                return
            if self.loop_mode == "thread":
                self._thread = LoopThread()
                loop, self._home = self._thread.loop, self._thread.ident
            else:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    raise LoopError(
                        "there is no running event loop to live on: use the runtime inside a coroutine, "
                        "or make it with RingKernelRuntime(loop='thread')"
                    ) from None
                self._home = get_ident()
            self._scheduler = Scheduler(loop)
            self._lag = LoopLag(loop)
            if self._caller_lag is None:
                self._meet_caller()
            self._here = self._home if here is get_ident else loop
            self._loop = loop  # last: other threads go ahead when they see it

    def _scheduler_of_loop(self) -> Scheduler:
        assert self._scheduler is not None
        return self._scheduler

    def _post(
        self,
        method: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        unclaimed: Unclaimed | None = None,
        blocks: bool = False,
    ) -> Future[T]:
        """Run a coroutine on the runtime's loop from another thread, which `blocks` until it is done.

        `unclaimed(kernel_id, result)`, of the first of `args`, is called there if nobody waits for the result any more.
        """
        loop = self._loop
        if loop is None or loop.is_closed() or self._closed:
            raise _closed_error()
        if self._thread is None and not loop.is_running():
            raise RuntimeClosedError(
                "the event loop that the runtime lives on is not running: keep it running, or make the runtime "
                "with loop='thread'"
            )
        future: Future[T] = Future()
        task: asyncio.Task[None] | None = None
        caller = get_ident()

        def begin() -> None:
            nonlocal task
            if blocks:  # it stands still from now on; until now it was at work to get here
                self._posted[future] = caller
            if future.cancelled():
                self._posted.pop(future, None)
            else:
                task = loop.create_task(carry())

        async def carry() -> None:
            try:
                result = await method(*args)
            except (asyncio.CancelledError, GeneratorExit):  # by `stop` below, or the loop is coming to its end
                future.cancel()
                raise
            except BaseException as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                if future.set_running_or_notify_cancel():
                    future.set_result(result)
                elif unclaimed is not None:
                    unclaimed(args[0], result)

        def stop(_: Future[T]) -> None:
            self._posted.pop(future, None)
            if future.cancelled():
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(lambda: task is not None and task.cancel())

        future.add_done_callback(stop)
        self._posted[future] = 0
        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:  # it was closed just now
            del self._posted[future]
            raise _closed_error() from None
        if self._thread is not None:
            self._thread.answer_at_end(future)
        return future

    def _give_up(self, future: Future[T], kernel_id: str, unclaimed: Unclaimed | None) -> None:
        """Wait for what was posted no longer."""

        def give_back(done: Future[T]) -> None:
            if not done.cancelled() and done.exception() is None and self._loop is not None:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(unclaimed, kernel_id, done.result())  # type: ignore[arg-type]

        if not future.cancel() and unclaimed is not None:
            future.add_done_callback(give_back)

    def _put_back(self, kernel_id: str, reply: Any) -> None:
        """Somebody has taken a reply, but had gone when it came."""
        kernel = self._kernels[kernel_id]
        if self._closing is None:
            kernel._out.put_back((reply, 0, None))
            kernel._marker = None
        else:
            kernel.bury((reply, 0, None), "the reply was unread when the runtime closed", "unread")

    def _put_back_batch(self, kernel_id: str, records: NDArray[np.void]) -> None:
        cls: type[Any] = self._kernels[kernel_id]._output_types[0]
        for reply in reversed(from_records(cls, records)):
            self._put_back(kernel_id, reply)

    def _bury_reply(self, kernel_id: str, reply: Any) -> None:
        reason = "the asker was cancelled when its reply came"
        if kernel_id in self._kernels:
            self._kernels[kernel_id].bury((reply, 0, None), reason, "late")
        else:  # of a router
            self.dead_letters.add(DeadLetter(kernel_id, reply, reason, kind="late", is_reply=True))

    async def _hop(
        self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, unclaimed: Unclaimed | None = None
    ) -> T:
        """Run `method` on the runtime's loop, from whichever loop this is; also where a runtime starts."""
        __tracebackhide__ = True  # IPython then shows the error where it belongs: in the cell
        if self._loop is None and not self._closed:
            self._start()
            if not self._away:
                return await method(*args)
        future = self._post(method, *args, unclaimed=unclaimed)
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(PATIENCE, self._suspect, loop)
        try:
            result: T = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and not me.cancelling():
                raise unanswered() from None
            if not future.cancelled():
                self._give_up(future, args[0], unclaimed)
            raise
        except PyDotComputeError as error:
            # The way through the other loop tells nobody anything.
            raise error.with_traceback(None) from error.__cause__
        finally:
            alarm.cancel()
        return result

    def _suspect(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Somebody, on that loop, has waited for long: see whether the runtime's loop still moves."""
        if self._lag is not None:
            self._lag.poke()
        if loop is not None:
            loop.call_later(GRACE, self._name_blocker)

    def _name_blocker(self) -> None:
        """Warn, once for each body, of one that does not let the runtime's loop move."""
        lag = self._lag.seconds if self._lag is not None else None
        if self._closed or self._loop is None or lag is None or lag < GRACE / 2:
            return
        task = asyncio.current_task(self._loop)
        kernel = next((kernel for kernel in self._kernels.values() if kernel._task is task), None)
        if kernel is not None and task is not None and task not in self._blamed:
            self._blamed.add(task)
            log.warning(
                "ring kernel %r (%s) does not let the others run: its body computes or blocks without an `await`. Put "
                "`await asyncio.sleep(0)` between its steps, or `await asyncio.to_thread(...)` around what takes long; "
                "one that never ends needs a restart of the process (in a notebook: of its kernel)",
                kernel.id,
                kernel.definition.origin,
            )

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def waits_for_caller(self) -> bool:
        """Whether the loop of the kernels is the calling thread's own: synchronous code there must not wait for it."""
        return self.loop_mode == "current" and self._home in (0, get_ident())

    @property
    def _away(self) -> bool:
        """Whether the running loop is not the one that the kernels run on."""
        return self._closed or asyncio.get_running_loop() is not self._loop

    async def __aenter__(self) -> Self:
        if self._closed:
            raise _closed_error()
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(drain=error is None)

    async def close(self, drain: bool = True, timeout: float = 5.0) -> None:
        """Terminate every kernel and end the runtime; a second call does nothing.

        Args:
            drain: let the kernels handle what is queued first; replies that nobody took become dead letters, as does
                what was not handled.
            timeout: seconds for that; then the bodies are cancelled.
        """
        checked_timeout(timeout)
        if self._closed:
            return
        if self._loop is not None and not self._loop.is_closed():
            if self._away:
                await self._hop(self._close, drain, timeout)
            else:
                await self._close(drain, timeout)
        on_thread = self._thread is not None and get_ident() == self._home
        self._closed, self._home, self._here = True, 0, None
        if on_thread or (self._thread is None and self.sampler.stopped and not (self._engines or self._servers)):
            self._stop_threads()
        else:
            await asyncio.to_thread(self._stop_threads)  # it waits for them, which would block this loop

    def _stop_threads(self) -> None:
        self.sampler.close()
        while self._servers:
            self._servers.pop().close()
        self._close_engines()
        if self._thread is not None:
            self._thread.stop()

    def _close_engines(self) -> None:
        while self._engines:
            self._engines.popitem()[1].close()

    async def _close(self, drain: bool, timeout: float) -> None:
        for kernel in self._kernels.values():
            if kernel._task is not None and kernel._task is asyncio.current_task():
                raise KernelStateError(
                    f"{kernel.id!r} cannot close the runtime that it runs on: return from the body instead"
                )
        if self._closing is None:  # else another call is at it
            self._closing = asyncio.ensure_future(self._end_all(drain, timeout))
        await asyncio.shield(self._closing)

    async def _end_all(self, drain: bool, timeout: float) -> None:
        kernels = [kernel for kernel in self._kernels.values() if not kernel.state.over]
        clock = self._scheduler_of_loop().loop.time
        end = clock() + timeout
        for kernel in kernels:
            kernel._set_breakpoint(None)
            # Nobody reads replies any more; an outbox that is full shall not hold its kernel up.
            kernel._out.resize(1 << 62, "block")
        if drain:
            # Kernels may send to one another while they drain: intake stops when all of them are idle, not before.
            for kernel in kernels:
                if kernel.state is KernelState.DEACTIVATED:
                    await self.reactivate(kernel.id)
            running = [kernel.id for kernel in kernels if kernel.state is not KernelState.LAUNCHED]
            if running:
                with suppress(QueueTimeoutError):  # what is left goes to the dead letters below
                    await self.wait_idle(*running, timeout=timeout)
        left = max(end - clock(), 0.05)

        async def terminate(kernel: RingKernel) -> None:
            if kernel.state is KernelState.TERMINATING:
                await kernel._end(drain, left)
            elif not kernel.state.over:  # it may have ended while the others did
                await kernel._terminate(drain, left)

        await asyncio.gather(*map(terminate, kernels))
        if self._cluster is not None:
            await self._cluster.close()
        for kernel in self._kernels.values():
            while (entry := kernel._out.pull()) is not None:
                kernel.bury(entry, "the reply was unread when the runtime closed", "unread")

    # -- kernels -------------------------------------------------------------------------------------------------------

    @property
    def kernels(self) -> Mapping[str, RingKernel]:
        """All kernels that were launched, by id; those that have ended stay until their id is launched again."""
        return MappingProxyType(self._kernels)

    def __getitem__(self, kernel_id: str) -> RingKernel:
        """The handle of a kernel.

        Raises:
            KernelNotFoundError: none of that id was launched.
        """
        return self._find(kernel_id)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._kernels)

    def _find(self, kernel_id: str) -> RingKernel:
        try:
            return self._kernels[kernel_id]
        except (KeyError, TypeError):
            raise self._unknown(kernel_id) from None

    def _unknown(self, kernel_id: Any) -> Exception:
        if not isinstance(kernel_id, str):
            name = getattr(kernel_id, "kernel_id", None) or getattr(kernel_id, "id", None)
            hint = f"its id, {name!r}" if isinstance(name, str) else "its id, a text"
            return TypeError(f"name a ring kernel by {hint}, not by {kernel_id!r}")
        if kernel_id in self._routers:
            own = ", ".join(repr(kernel.id) for kernel in self._routers[kernel_id].kernels[:10])
            return KernelNotFoundError(f"{kernel_id!r} is a router and no ring kernel: name one of {own}")
        launched = ", ".join(map(repr, list(self._kernels)[:10])) or "none"
        if kernel_id in definitions():
            what = f"it is defined: await runtime.launch({kernel_id!r}) first"
        elif close := _closest(kernel_id, [*self._kernels, *self._routers, *definitions()]):
            what = f"did you mean {close!r}?"
        else:
            what = "define and launch it first, or check the spelling"
        return KernelNotFoundError(f"no ring kernel {kernel_id!r} (launched: {launched}); {what}")

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes of its cluster, by name; none before `join`, or the first kernel that is placed on one.

        Raises:
            ClusterError: the runtime has no cluster.
        """
        return self._the_cluster().nodes

    def _the_cluster(self) -> Cluster:
        if self._cluster is None:
            raise ClusterError("this runtime has no cluster: make it with RingKernelRuntime(cluster='ray')")
        return self._cluster

    async def join(self) -> None:
        """Start the cluster, or connect to it, and start a host on each node; a second call does nothing.

        `launch` does it for the first kernel that is placed.

        Raises:
            ClusterError: there is none, it cannot be reached, or its nodes do not fit this process.
        """
        if self._away:
            return await self._hop(self.join)
        self._scheduler_of_loop()
        await self._the_cluster().join()

    async def launch(
        self,
        kernel: str | RingKernelDefinition,
        *,
        kernel_id: str | None = None,
        node: str | None = None,
        num_gpus: int = 0,
        spread: bool = False,
        delivery: Promise = "at_most_once",
    ) -> RingKernel:
        """Phase 1: allocate, compile. The mailbox takes messages from now on; nothing runs before `activate`.

        Args:
            kernel: a kernel id that was defined with `ring_kernel`, or the definition itself.
            kernel_id: launch it under this id instead, so that one definition can run several times.
            node: the name of the node of the cluster that it is to run on, one of `nodes`. Should that be lost, and
                its policy let it begin again, it does so on another one.
            num_gpus: let it run on a node that offers so many GPUs, which are its own.
            spread: let it run on the node with the fewest kernels; the `instances` of a compiled one are shared among
                all nodes, or with `num_gpus` among all GPUs that are left. Without any of these three it runs in this
                process.
            delivery: what becomes of messages that are on a node when that is lost: ``"at_most_once"`` makes dead
                letters of them, ``"at_least_once"`` sends them again where the kernel begins again, and the last of
                them may be handled twice.

        Returns:
            The kernel's handle.

        Raises:
            KernelNotFoundError: nothing was defined under that id.
            KernelStateError: a kernel of that id runs already.
            StepError: its step cannot be compiled.
            ClusterError: it is to run on a node, and the runtime has no cluster, or there is no such node.
            ValueError: placements that contradict each other, or no such delivery.
            RuntimeClosedError: the runtime is closed, or being closed.
        """
        arguments = kernel, kernel_id, node, num_gpus, spread, delivery
        if self._away:
            return await self._hop(self._launch, *arguments)
        return await self._launch(*arguments)

    async def _launch(
        self,
        kernel: str | RingKernelDefinition,
        kernel_id: str | None = None,
        node: str | None = None,
        num_gpus: int = 0,
        spread: bool = False,
        delivery: str = "at_most_once",
    ) -> RingKernel:
        if isinstance(kernel, RingKernelDefinition):
            definition = kernel
        elif isinstance(kernel, str):
            known = definitions()
            if kernel not in known:
                close = _closest(kernel, known)
                hint = f"did you mean {close!r}?" if close else "decorate its function with @ring_kernel first"
                raise KernelNotFoundError(f"no ring kernel {kernel!r} is defined; {hint}")
            definition = known[kernel]
        else:
            raise DefinitionError(f"launch takes a kernel id or what @ring_kernel made, not {kernel!r}")
        name = definition.kernel_id if kernel_id is None else checked_id(kernel_id)
        placement: Placement | None = None
        if node is not None or num_gpus or spread or delivery != "at_most_once":
            self._the_cluster()
            placement = import_module("pydotcompute.cluster").checked_placement(
                definition, node, num_gpus, spread, delivery
            )
            await self.join()
            await self._the_cluster().check(placement)
        elif isinstance(definition, StepDefinition) and not definition.is_built:
            # In this context: what it shows while it compiles belongs to the cell that launches.
            build = partial(copy_context().run, definition.build)
            await self._scheduler_of_loop().loop.run_in_executor(None, build)
        if self._closing is not None:
            raise RuntimeClosedError("the runtime is being closed: launch in a new RingKernelRuntime")
        if name in self._routers:
            raise KernelStateError(
                f"{name!r} is the id of a router: launch it under another kernel_id=, or close the router first"
            )
        former = self._kernels.get(name)
        if former is not None:
            if not former.state.over:
                raise KernelStateError(
                    f"{name!r} was launched already and is {former.state}: terminate it first, "
                    f"or launch it under another kernel_id="
                )
            former._retire()
            for other in self._kernels.values():
                other._sent.pop(name, None)
            self._sent_before.pop(name, None)
            self._sent_before.update(former._handed_over())
        launched: RingKernel
        if placement is not None:
            launched = import_module("pydotcompute.cluster").RemoteKernel(
                self, definition, name, self._cluster, placement
            )
        elif isinstance(definition, StepDefinition):
            launched = CompiledKernel(self, definition, name, self._engine(definition))
        else:
            launched = RingKernel(self, definition, name)
        launched._observe(self._observers)
        launched._move("launch")
        self._kernels[name] = launched
        self._launches += 1
        return launched

    def _engine(self, definition: StepDefinition) -> Engine:
        """What runs the steps of this definition's backend here."""
        name = definition.backend_name
        if name not in self._engines:
            self._engines[name] = definition.engine(self._scheduler_of_loop().loop)
        return self._engines[name]

    async def activate(self, kernel_id: str) -> None:
        """Phase 2: start the body.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: not in state LAUNCHED.
        """
        if self._away:
            return await self._hop(self.activate, kernel_id)
        kernel = self._find(kernel_id)
        kernel._move("activate")
        kernel._start_body()

    async def deactivate(self, kernel_id: str) -> None:
        """Pause: the message in hand is finished and no further one is handed out until `reactivate`.

        A compiled ring kernel with buffers has given them back when this returns.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: not in state ACTIVE.
        """
        if self._away:
            return await self._hop(self.deactivate, kernel_id)
        kernel = self._find(kernel_id)
        kernel._move("deactivate")
        kernel._box.pause(True)
        await kernel._after_pause()

    async def reactivate(self, kernel_id: str) -> None:
        """Go on after `deactivate`.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: not in state DEACTIVATED.
        """
        if self._away:
            return await self._hop(self.reactivate, kernel_id)
        kernel = self._find(kernel_id)
        kernel._move("reactivate")
        kernel._box.pause(False)

    async def terminate(self, kernel_id: str, drain: bool = True, timeout: float = 5.0) -> None:
        """Stop intake, let the kernel handle what is queued, and end it.

        Args:
            drain: False makes dead letters of what is queued instead.
            timeout: seconds until the body is cancelled.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: it has ended, is ending, or asks for its own end.
        """
        if self._away:
            return await self._hop(self.terminate, kernel_id, drain, timeout)
        checked_timeout(timeout)
        await self._find(kernel_id)._terminate(drain, timeout)

    async def wait_idle(self, *kernel_ids: str, timeout: float | None = None) -> None:
        """Wait until these kernels (by default all) have nothing queued and nothing in hand, all at the same time.

        Raises:
            KernelNotFoundError: none of that id was launched.
            QueueTimeoutError: one of them is still busy after `timeout` seconds; the text says which.
        """
        if self._away:
            return await self._hop(lambda: self.wait_idle(*kernel_ids, timeout=timeout))
        checked_timeout(timeout)
        kernels = [self._find(kernel_id) for kernel_id in kernel_ids] or list(self._kernels.values())
        busy: RingKernel | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    # Compiled kernels go on, and hand replies over, while one after the other is looked at: they have
                    # been idle at the same time if none has handled a message meanwhile.
                    before = [kernel._processed for kernel in kernels]
                    busy = next((kernel for kernel in kernels if not kernel._idle), None)
                    if busy is not None:
                        await busy._change()
                    elif before == [kernel._processed for kernel in kernels]:
                        return
                    else:
                        await asyncio.sleep(0)
        except TimeoutError:
            busy = busy or kernels[0]
            wait = busy.waiting_for or awaited(busy)
            why = f", waiting for {wait}" if wait else ""
            raise QueueTimeoutError(f"still busy after {timeout:g} s: {busy!r}{why}") from None

    async def wait_ended(self, kernel_id: str, timeout: float | None = None) -> KernelState:
        """Wait until a kernel has ended; TERMINATED or FAILED.

        Raises:
            KernelNotFoundError: none of that id was launched.
            QueueTimeoutError: it has not ended within `timeout` seconds.
        """
        if self._away:
            return await self._hop(self.wait_ended, kernel_id, timeout)
        checked_timeout(timeout)
        kernel = self._find(kernel_id)
        try:
            async with asyncio.timeout(timeout):
                while not kernel.state.over:
                    await kernel._move_or_idle()
        except TimeoutError:
            raise QueueTimeoutError(f"{kernel!r} has not ended within {timeout:g} s") from None
        return kernel.state

    # -- stepping ------------------------------------------------------------------------------------------------------

    async def step(self, kernel_id: str, n: int = 1, timeout: float | None = None) -> list[Any]:
        """Let a kernel handle exactly `n` messages, and pause it.

        One that runs is paused first, and one that was only launched is activated. While fewer are queued it waits for
        more. An attempt that fails, and is tried again, counts as a message.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            The messages, in the order in which they were handled; fewer than `n` if it was reactivated or terminated
            meanwhile.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: it stops or has ended, or another call steps it.
            KernelFailedError: it failed for good.
            QueueTimeoutError: not all of them in time; those that were handled are.
            ValueError: `n` is below 1.
        """
        if self._away:
            return await self._hop(self.step, kernel_id, n, timeout)
        checked_timeout(timeout)
        if not is_count(n):
            raise ValueError(f"n must be an integer of at least 1, not {n!r}")
        kernel = self._find(kernel_id)
        if kernel._task is not None and kernel._task is asyncio.current_task():
            raise KernelStateError(f"{kernel_id!r} cannot step itself: it has a message in hand")
        if kernel.state.over:
            raise kernel._unusable()
        if kernel.state is KernelState.LAUNCHED:
            kernel._box.pause(True)
            await self.activate(kernel_id)
        if kernel.state is not KernelState.DEACTIVATED:
            await self.deactivate(kernel_id)
        return await kernel._step(n, timeout)

    async def wait_paused(self, kernel_id: str, timeout: float | None = None) -> Any:
        """Wait until a kernel is paused, by `deactivate` or a breakpoint, and has nothing in hand.

        Returns:
            The message that it will be handed next; None if nothing is queued.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError, KernelFailedError: it has ended.
            QueueTimeoutError: it is not paused within `timeout` seconds.
        """
        if self._away:
            return await self._hop(self.wait_paused, kernel_id, timeout)
        checked_timeout(timeout)
        kernel = self._find(kernel_id)
        try:
            async with asyncio.timeout(timeout):
                while kernel.state is not KernelState.DEACTIVATED:
                    if kernel.state.over:
                        raise kernel._unusable()
                    await kernel._move_or_idle()
                await kernel._until_stop()
        except TimeoutError:
            raise QueueTimeoutError(f"{kernel!r} was not paused within {timeout:g} s") from None
        return kernel.peek()

    # -- supervision ---------------------------------------------------------------------------------------------------

    async def restart(self, kernel_id: str, *, keep_state: bool = False, timeout: float = 5.0) -> None:
        """End a kernel's body between two messages and begin a new one; what is queued is kept.

        A kernel that has ended is launched again from its latest definition and activated, with an empty mailbox.

        Args:
            keep_state: whether its state is kept; one that has ended makes it anew. A kernel that waits to begin again
                anyway does so at once, with the state that its policy gives it.
            timeout: seconds to wait until it has begun again. A body that does not come back from the message in hand
                within 5 s is cancelled, which is a failure with that message.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: it was not activated yet, or is about to end.
            QueueTimeoutError: it has not begun again in time; it will when the message in hand is done.
        """
        if self._away:
            return await self._hop(lambda: self.restart(kernel_id, keep_state=keep_state, timeout=timeout))
        checked_timeout(timeout)
        kernel = self._find(kernel_id)
        if kernel.state.over:
            latest = definitions().get(kernel.definition.kernel_id, kernel.definition)
            await self._launch(latest, kernel_id, **kernel._where())
            return await self.activate(kernel_id)
        if kernel.state in (KernelState.LAUNCHED, KernelState.TERMINATING):
            raise KernelStateError(
                f"{kernel_id!r} is {kernel.state}: "
                + ("activate it" if kernel.state is KernelState.LAUNCHED else "wait")
            )
        if kernel._task is not None and kernel._task is asyncio.current_task():
            raise KernelStateError(
                f"{kernel_id!r} cannot wait for its own restart: raise, and restart= begins it again"
            )
        before = kernel.restarts
        if kernel._restarting is not None:  # it waits to begin again anyway
            timer, _, begin = kernel._restarting
            timer.cancel()
            begin()
        else:
            kernel._renew(keep_state)
        try:
            async with asyncio.timeout(timeout):
                while kernel.restarts == before and not kernel.state.over:
                    await kernel._move_or_idle()
        except TimeoutError:
            raise QueueTimeoutError(f"{kernel!r} has not begun again within {timeout:g} s") from None
        if kernel.state.over:
            raise kernel._unusable()

    async def kill(self, kernel_id: str, error: BaseException | None = None) -> None:
        """Let a kernel fail now, wherever its body stands, as if that had raised; its policy decides what comes then.

        For tests of how a system bears failures. A compiled ring kernel finishes the message in hand first; a step that
        does not come back cannot be killed.

        Args:
            error: what it fails with; a `KernelKilledError` by default.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: it was not activated yet, waits to be started again, or has ended.
            TypeError: `error` is no exception.
        """
        if self._away:
            return await self._hop(self.kill, kernel_id, error)
        kernel = self._find(kernel_id)
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception, such as ValueError('...'), not {error!r}")
        if kernel.state is KernelState.LAUNCHED:
            raise KernelStateError(f"{kernel_id!r} is LAUNCHED and has no body that could fail: activate it first")
        if kernel._restarting is not None:
            raise KernelStateError(f"{kernel_id!r} has no body that could fail: it waits for {kernel.waiting_for}")
        if kernel.state.over:
            raise kernel._unusable()
        kernel._kill(error or KernelKilledError(f"{kernel_id!r} was killed"))

    async def supervise(
        self,
        *kernel_ids: str,
        strategy: Strategy = "one_for_one",
        max_restarts: int = MAX_RESTARTS,
        window: float = WINDOW,
    ) -> SupervisionGroup:
        """Let kernels share a limit of restarts, and with `one_for_all` each restart.

        Args:
            strategy: ``"one_for_one"`` starts the kernel again that has failed; ``"one_for_all"`` also the others, each
                when the message that it has in hand is done.
            max_restarts: how many failures of all of them together may lead to a restart within `window`. After these a
                failure is final: for the kernel itself, in `one_for_all` for all.
            window: seconds.

        Raises:
            KernelNotFoundError: one of the ids was not launched.
            KernelStateError: one of them has ended, or is in another group.
            ValueError: no id, or another argument that cannot be.
        """
        if self._away:
            return await self._hop(
                lambda: self.supervise(*kernel_ids, strategy=strategy, max_restarts=max_restarts, window=window)
            )
        kernels = list(dict.fromkeys(map(self._find, kernel_ids)))
        return group_of(self, kernels, strategy, max_restarts, window)

    # -- observers -----------------------------------------------------------------------------------------------------

    def observe(self, observer: Observer) -> None:
        """Tell an observer from now on what happens. Any thread may call it; it waits for the runtime's loop.

        Raises:
            TypeError: it is no `Observer`.
            ValueError: it observes this runtime already.
            RuntimeClosedError: the runtime is closed.
        """
        if not isinstance(observer, Observer):
            raise TypeError(f"an observer is an instance of a class that inherits from Observer, not {observer!r}")
        if observer in self._observers:
            raise ValueError(f"{observer!r} observes this runtime already")
        self._at_home(lambda: self._observed_by((*self._observers, observer)))

    def unobserve(self, observer: Observer) -> None:
        """Tell it no longer; does nothing where it was not told. Any thread may call it."""
        if observer in self._observers and not self._closed:
            self._at_home(lambda: self._take_off(observer))

    def _take_off(self, observer: Observer) -> None:
        self._observed_by(tuple(one for one in self._observers if one is not observer))

    def _observed_by(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        for kernel in self._kernels.values():
            if not kernel.state.over or kernel._observers:
                kernel._observe(observers)

    def _at_home(self, function: Callable[[], T]) -> T:
        """Call a function on the thread of the runtime's loop, at once if it has none yet."""
        if self._closed:
            raise _closed_error()
        if self._loop is None or get_ident() == self._home:
            return function()

        async def call() -> T:
            return function()

        return self.sync.call(call)

    def _redefined(self, former: RingKernelDefinition, latter: RingKernelDefinition) -> None:
        """Give the kernels of a former definition the body of the latter. Any thread may call it."""
        loop = self._loop
        if loop is None or self._closed or loop.is_closed():
            return

        def replace() -> None:
            for kernel in self._kernels.values():
                if former in (kernel.definition, kernel._successor):
                    kernel._replace(latter)

        if get_ident() == self._home:
            replace()
        else:
            loop.call_soon_threadsafe(replace)

    # -- tracing -------------------------------------------------------------------------------------------------------

    def trace(self, *, limit: int = 100_000, kernels: Iterable[str] | None = None, messages: bool = True) -> Trace:
        """A recorder of what happens to messages and kernels: ``with runtime.trace() as trace: ...``, then look at it.

        It records inside the ``with``, or between its `start` and `stop`. A trace shows itself as a sequence diagram in
        a notebook; `Trace` tells what else can be done with it.

        Args:
            limit: how many events are kept, the latest ones.
            kernels: ids of those that are recorded, also of such as will be launched later; by default all.
            messages: keep the messages themselves, which then live as long as their events; else only the names of
                their classes, and their ids, where they have one by then.

        Raises:
            ValueError: the limit is below 1.
            TypeError: an id is not a text.
        """
        from ..telemetry.trace import Trace  # only where somebody traces

        return Trace(self, limit=limit, kernels=kernels, messages=messages)

    # -- recordings ----------------------------------------------------------------------------------------------------

    def record(
        self,
        path: str | PathLike[str],
        *,
        kernels: Iterable[str] | None = None,
        sync: bool = False,
        overwrite: bool = False,
    ) -> Recording:
        """Write each message that kernels get and each reply that they send to a file, in order, for `replay`.

        It records inside ``with runtime.record("run.pdclog") as recording``, or between its `start` and `stop`. Of
        messages without an encoding, whose class has no ``@message``, the name of their class is recorded. A disk that
        is full ends the recording and disturbs no kernel: ``recording.error``.

        Args:
            path: a file that is made, with any suffix.
            kernels: ids of those that are recorded, also of such as will be launched later; by default all.
            sync: wait for the disk each time, so that no loss of power loses what was handled. All kernels wait for it,
                some milliseconds each time. Without it the loss of the process, but not of the machine, is survived.
            overwrite: whether a file of that name may be replaced.

        Raises:
            TypeError: an id is not a text.
        """
        from .recording import Recording  # which needs msgpack

        return Recording(self, path, kernels=kernels, sync=sync, overwrite=overwrite)

    async def replay(
        self,
        path: str | PathLike[str],
        *,
        speed: float | None = None,
        kernels: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        timeout: float | None = 30.0,
    ) -> Replay:
        """Send what kernels got in a recording to those of the same ids, and compare their replies with the recorded.

        Messages that came from outside are sent, asks as asks, in the order in which they were handled; those that one
        of these kernels has sent to another come of themselves. What was not handled when recorded is left out. The
        kernels should be in the state that they had then: launched afresh, as a rule.

        Replies that go to the outbox are taken out of there, unless somebody else receives them.

        Args:
            path: a file that `record` has written.
            speed: 1.0 sends in the recorded rhythm, 2.0 twice as fast; None as fast as the kernels take the messages.
            kernels: ids of those to be replayed; what others have sent them is sent then too. By default all.
            ignore: names of fields of replies that are not compared, a time for one; as those of the message's ids.
            timeout: seconds in which nothing happens until it gives up.

        Returns:
            What differs: replies, failures, and messages among the kernels. It is true if nothing does.

        Raises:
            RecordingError: the file is no recording, or is damaged elsewhere than at its end, or does not have the
                kernels named.
            MessageDecodeError: a class of its messages is unknown, or has other fields now. Nothing was sent.
            KernelNotFoundError, KernelStateError: kernels of the recording are not launched, or not active.
            QueueTimeoutError: nothing has happened for `timeout` seconds, and yet a kernel is busy.
            OSError: the file cannot be read.
            ValueError: the speed is no number above 0.
        """
        from .replay import replay  # which needs msgpack

        if self._away:
            return await self._hop(replay, self, path, speed, kernels, ignore, timeout)
        return await replay(self, path, speed, kernels, ignore, timeout)

    # -- messages ------------------------------------------------------------------------------------------------------

    async def send(self, kernel_id: str, message: Any, instance: int | None = None) -> None:
        """Put a message into a kernel's mailbox; with back-pressure `block`, waits while it is full.

        Args:
            instance: the number of the instance of a compiled ring kernel that it is for.

        Raises:
            KernelNotFoundError: none of that id was launched.
            InstanceError: it has no such instance, or has several and neither `instance` nor its key says which.
            MessageTypeError: not of the kernel's input type, or a field holds what the layout of a compiled one cannot.
            PriorityError: its priority is not an integer from 0 to 255.
            QueueFullError: full, and the kernel's back-pressure is `reject`.
            KernelStateError, KernelFailedError: the kernel stops or has ended, or failed.
        """
        if not here() == self._here:  # noqa: SIM201 - of two loops, == is cheaper than !=
            return await self._send_from_afar(kernel_id, message, instance)
        try:
            kernel = self._kernels[kernel_id]
        except (KeyError, TypeError):
            if (waiting := self._put_by_router(kernel_id, message, instance)) is not None:
                await waiting
            return
        if instance is not None:
            instance = kernel._instance(instance)
        if not isinstance(message, kernel._input_types):
            kernel._admit_input(message)
        if (put_now := kernel._put_now) is not None and put_now(message, instance):
            return
        box = kernel._box
        plain = box.plain
        n = len(plain)
        try:
            # Python has one 128; whatever only equals it (128.0, an array) is looked at on the general way.
            fits = n < box.room and message.priority is DEFAULT_PRIORITY
        except AttributeError:
            fits = False
        if fits:
            plain.append((message, clock(), None))
            if n >= box.peak:
                box.peak = n + 1
            if box.getter is not None:
                box.wake()
        else:
            task = kernel._task
            if task is not None and task is asyncio.current_task() and box.would_block:
                raise QueueFullError(f"{kernel.id!r} would wait for ever for room in its own mailbox ({box.capacity})")
            if (blocked := box.put(message, None, instance)) is not None:
                await box.accepted(blocked)

    def _direct(self, kernel_id: Any) -> CompiledKernel | None:
        """The compiled kernel of that id, which this thread, away from the runtime's loop, may put messages into."""
        kernel = self._kernels.get(kernel_id) if isinstance(kernel_id, str) else None
        return kernel if isinstance(kernel, CompiledKernel) and get_ident() != self._home else None

    def _put_directly(self, kernel_id: Any, message: Any, instance: int | None) -> bool:
        """Put a message into a compiled kernel from another thread. False: it has to go by the runtime's loop."""
        kernel = self._direct(kernel_id)
        return kernel is not None and kernel._put_directly(message, instance)

    def _put_batch_directly(
        self, kernel_id: Any, records: NDArray[np.void], instance: int | None
    ) -> NDArray[np.void] | None:
        """The same with records; those that have to go by the runtime's loop, if any have."""
        kernel = self._direct(kernel_id)
        return records if kernel is None else kernel._put_batch_directly(records, instance)

    async def _send_from_afar(self, kernel_id: str, message: Any, instance: int | None) -> None:
        __tracebackhide__ = True
        if not self._put_directly(kernel_id, message, instance):
            await self._hop(self.send, kernel_id, message, instance)

    async def send_many(self, kernel_id: str, messages: Iterable[Any], instance: int | None = None) -> None:
        """`send` each of these messages, in order. Errors as in `send`.

        All are checked before the first is sent; those for a router each in its turn.
        """
        if self._away:
            return await self._hop(self.send_many, kernel_id, list(messages), instance)
        kernel = self._find_target(kernel_id)
        if not isinstance(kernel, RingKernel):
            return await self._router(kernel_id, instance).send_many(messages)
        if instance is not None:
            instance = kernel._instance(instance)
        if not isinstance(messages, (list, tuple)):
            messages = list(messages)
        if not all(issubclass(kind, kernel._input_types) for kind in set(map(type, messages))):
            for message in messages:
                if not isinstance(message, kernel._input_types):
                    kernel._admit_input(message)
        try:
            usual = not any([m.priority is not DEFAULT_PRIORITY for m in messages])  # noqa: C419 - a generator is slower
        except AttributeError:
            usual = False
        if not usual:
            for message in messages:
                if (priority := getattr(message, "priority", None)) is not None:
                    checked_priority(priority, message)
        if isinstance(kernel, CompiledKernel):
            records = kernel._box.packed(messages)
            if usual:
                return await self._send_records(kernel, records, lambda done: messages[done:], instance)
        done = 0
        while done < len(messages):
            took = kernel._box.put_many(messages, done) if usual and instance is None else 0
            if not took:
                await self.send(kernel_id, messages[done], instance)
                took = 1
            done += took
            if took > 1 and done < len(messages):
                await asyncio.sleep(0)  # those that are in there may go on their way

    async def _send_records(
        self,
        kernel: CompiledKernel,
        records: NDArray[np.void],
        messages: Callable[[int], Iterable[Any]],
        instance: int | None,
    ) -> None:
        """Send records; those from an index on as these `messages` where they cannot go into the ring."""
        box, done = kernel._box, 0
        while done < len(records):
            taken = box.put_records(records[done:], instance)
            done += taken
            if not taken:
                if box.takes_rests:
                    return await box.put_rest(records[done:], instance)
                for message in messages(done):
                    await self.send(kernel.id, message, instance)
                return

    async def send_batch(
        self, kernel_id: str, records: NDArray[np.void], instance: int | None = None, *, progress: bool = False
    ) -> None:
        """`send` each of these records, in order, as a message of default priority.

        Args:
            records: of shape (n,) and the dtype of the messages that the kernel takes: ``Sample.dtype``.
            instance: as in `send`.
            progress: show how many are sent, as `map` does.

        Raises:
            DefinitionError: the kernel does not take one class of messages whose fields all have a fixed size.
            MessageTypeError: not such an array. Nothing was sent.
            ModuleNotFoundError: progress without tqdm.
            What `send` raises.
        """
        if progress:
            return await self._send_batch(kernel_id, records, instance)
        if self._away:
            if (left := self._put_batch_directly(kernel_id, records, instance)) is not None:
                await self._hop(self.send_batch, kernel_id, left, instance)
            return
        kernel = self._find(kernel_id)
        if instance is not None:
            instance = kernel._instance(instance)
        await kernel._put_batch(checked_records(kernel._input_types[0], records), instance)

    async def _send_batch(self, kernel_id: str, records: NDArray[np.void], instance: int | None) -> None:
        """`send_batch` with a bar, which moves at every part."""
        records = checked_records(self._find(kernel_id)._input_types[0], records)
        shown = bar(kernel_id, len(records))
        part = -(-len(records) // PARTS) or 1
        try:
            for first in range(0, len(records), part):
                some = records[first : first + part]
                await self.send_batch(kernel_id, some, instance)
                shown.update(len(some))
        finally:
            shown.close()

    async def ask(
        self,
        kernel_id: str,
        message: Any,
        timeout: float | None = None,
        instance: int | None = None,
        _sent: dict[str, int] | None = None,
    ) -> Any:
        """Send a message and wait for the reply to it: None if the step of a compiled ring kernel sends none.

        Args:
            timeout: seconds, for room in the mailbox and for the reply together; None waits for both. A reply that
                comes later becomes a dead letter.
            instance: as in `send`.

        Raises:
            QueueTimeoutError: no room or no reply in time.
            KernelFailedError, KernelStateError: the kernel failed or ended before it replied.
            KernelNotFoundError, MessageTypeError, PriorityError, QueueFullError: as in `send`; also when the message is
                dropped later to make room.
        """
        if not here() == self._here:  # noqa: SIM201 - as in send
            return await self._ask_from_afar(kernel_id, message, timeout, instance)
        try:
            kernel = self._kernels[kernel_id]
        except (KeyError, TypeError):
            return await self._ask_by_router(self._router(kernel_id, instance), message, timeout, _sent)
        if instance is not None:
            instance = kernel._instance(instance)
        if not isinstance(message, kernel._input_types):
            kernel._admit_input(message)
        if timeout is not None:
            checked_timeout(timeout)
        if _sent is not None:  # before it is in: what has come from nowhere would count as from outside
            _sent[kernel_id] += 1
        if (ask_now := kernel._ask_now) is not None:
            try:
                answer = ask_now(message, instance)
            except BaseException:
                if _sent is not None:
                    _sent[kernel_id] -= 1
                raise
            if isinstance(answer, Wait):
                return await self._pending(kernel_id, answer, timeout)
            if answer is not REFUSED:
                return answer
        left = timeout
        box = kernel._box
        plain = box.plain
        n = len(plain)
        scheduler = kernel._scheduler
        wait = scheduler._wait_type()
        wait.state = NEW
        try:
            fits = n < box.room and message.priority is DEFAULT_PRIORITY
        except AttributeError:
            fits = False
        try:
            getter, task = box.getter, kernel._task
            if getter is None and task is not None and task is asyncio.current_task():
                if _sent is not None:
                    _sent[kernel_id] -= 1
                raise KernelStateError(
                    f"{kernel.id!r} asks itself and would wait for ever: use ctx.tell, or call a function of your own"
                )
            if fits:
                now = clock()
                plain.append((message, now, wait))
                if n >= box.peak:
                    box.peak = n + 1
                if getter is not None and getter.state == AWAITED and not box.paused:
                    box.getter = None
                    if now < scheduler.slice_end:
                        scheduler.hand_over(getter)
                        if wait.state == SET:
                            return wait.value
                    else:
                        getter.set(None)
            else:
                try:
                    if (blocked := box.put(message, wait, instance)) is not None:
                        begun = scheduler.loop.time()
                        await box.accepted(blocked, timeout)
                except BaseException:
                    if _sent is not None:
                        _sent[kernel_id] -= 1
                    raise
                if blocked is not None and timeout is not None:
                    left = max(begun + timeout - scheduler.loop.time(), 0)
            return await (wait if left is None else scheduler.within(wait, left))
        except asyncio.CancelledError:
            if wait.state == SET:
                kernel.bury((wait.value, 0, None), "the asker was cancelled when its reply came", "late")
            elif wait.state == NEW:
                wait.cancel()
            raise
        except QueueTimeoutError:
            raise _no_answer(kernel, wait, timeout) from None

    send_and_receive = ask

    async def _ask_from_afar(self, kernel_id: str, message: Any, timeout: float | None, instance: int | None) -> Any:
        __tracebackhide__ = True
        checked_timeout(timeout)
        answer = self._ask_directly(kernel_id, message, instance)
        if answer is REFUSED:
            return await self._hop(self.ask, kernel_id, message, timeout, instance, unclaimed=self._bury_reply)
        if not isinstance(answer, Wait):
            return answer
        try:
            return await self._hop(self._pending, kernel_id, answer, timeout, unclaimed=self._bury_reply)
        except asyncio.CancelledError:
            self._forget(answer)
            raise

    def _ask_directly(self, kernel_id: Any, message: Any, instance: int | None) -> Any:
        """Ask a compiled kernel from another thread: the reply; a `Wait` for `_pending`; or `REFUSED`."""
        kernel = self._direct(kernel_id)
        return REFUSED if kernel is None else kernel._ask_directly(message, instance)

    async def _pending(self, kernel_id: str, wait: Wait, timeout: float | None) -> Any:
        """The reply to an ask that another thread has begun."""
        kernel = self._find(kernel_id)
        assert isinstance(kernel, CompiledKernel)
        kernel._look_for_answers()
        try:
            return await (wait if timeout is None else kernel._scheduler.within(wait, timeout))
        except asyncio.CancelledError:
            if wait.state == SET:
                self._bury_reply(kernel_id, wait.value)
            raise
        except QueueTimeoutError:
            raise _no_answer(kernel, wait, timeout) from None

    def _forget(self, wait: Wait) -> None:
        """Its asker has gone, perhaps before anybody waited for the reply."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(wait.cancel)

    async def map(
        self, kernel_id: str, messages: Any, *, window: int = 64, timeout: float | None = None, progress: bool = False
    ) -> AsyncIterator[Any]:
        """Ask for each of many messages and yield the replies in the order of the messages.

        ``async for reply in runtime.map("square", numbers): ...``

        Args:
            messages: an iterable or asynchronous iterable.
            window: how many asks may be in flight.
            timeout: seconds for each ask.
            progress: show how many are answered, once it takes more than half a second: at the terminal, or below the
                cell; nowhere if standard error is no terminal, or ``TQDM_DISABLE=1``. Needs the package tqdm.

        Raises:
            ValueError: a window below 1.
            ModuleNotFoundError: progress without tqdm.
            What `ask` raises, at the place of the message that it is about; asks in flight are then cancelled.
        """
        if not is_count(window):
            raise ValueError(f"window must be an integer of at least 1, not {window!r}")
        total = len(messages) if hasattr(messages, "__len__") else None
        shown = bar(kernel_id, total) if progress else None
        flying: deque[asyncio.Task[Any]] = deque()
        try:
            async for message in _each(messages):
                flying.append(asyncio.ensure_future(self.ask(kernel_id, message, timeout)))
                if len(flying) >= window:
                    yield await flying.popleft()
                    if shown is not None:
                        shown.update()
            while flying:
                yield await flying.popleft()
                if shown is not None:
                    shown.update()
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
            if shown is not None:
                shown.close()

    async def receive(self, kernel_id: str, timeout: float | None = None) -> Any:
        """The oldest reply of a kernel that no ask was waiting for.

        Args:
            timeout: seconds to wait; None waits until there is one.

        Raises:
            KernelNotFoundError: none of that id was launched.
            QueueTimeoutError: nothing came in time.
            KernelFailedError, KernelStateError: the kernel failed or ended, and no reply is left.
        """
        if not here() == self._here:  # noqa: SIM201 - as in send
            return await self._hop(self.receive, kernel_id, timeout, unclaimed=self._put_back)
        kernel = self._find(kernel_id)
        checked_timeout(timeout)
        pull = kernel._out.pull
        entry: Entry = pull() or await self._wait_for_reply(kernel, pull, timeout)  # type: ignore[assignment]
        kernel._marker = None  # fewer replies are unread
        return entry[0]

    async def receive_batch(self, kernel_id: str, max_n: int = 4096, timeout: float | None = None) -> NDArray[np.void]:
        """The oldest replies of a kernel that no ask was waiting for: those that are there, but at least one.

        Args:
            max_n: how many at most.
            timeout: seconds to wait for the first; None waits until there is one.

        Returns:
            Array of shape (n,), n from 1 to `max_n`, and the dtype of the kernel's replies: ``Stats.dtype``.

        Raises:
            DefinitionError, MessageTypeError: the replies are not of one class whose fields all have a fixed size.
            ValueError: `max_n` is below 1.
            What `receive` raises.
        """
        if self._away:
            return await self._hop(self.receive_batch, kernel_id, max_n, timeout, unclaimed=self._put_back_batch)
        kernel = self._find(kernel_id)
        checked_timeout(timeout)
        if not is_count(max_n):
            raise ValueError(f"max_n must be an integer of at least 1, not {max_n!r}")
        records = await self._wait_for_reply(kernel, partial(kernel._pull_records, max_n), timeout)
        kernel._marker = None
        return records

    async def _wait_for_reply(self, kernel: RingKernel, pull: Callable[[], T | None], timeout: float | None) -> T:
        out, left, loop = kernel._out, timeout, kernel._scheduler.loop
        end: float | None = None
        while (found := pull()) is None:
            if out.closed is not None:
                raise out.closed()
            if kernel._link is not None:
                raise KernelStateError(
                    f"replies of {kernel.id!r} go to {kernel._link.names}: to receive them, "
                    f"disconnect({kernel.id!r}) first"
                )
            if timeout is not None and end is None:
                end = loop.time() + timeout
            wait = kernel._scheduler.wait()
            out.join(wait)
            try:
                await (wait if left is None else kernel._scheduler.within(wait, left))
            except QueueTimeoutError:
                out.leave(wait)
                raise QueueTimeoutError(
                    f"no reply from {kernel.id!r} within {timeout:g} s; it is {kernel.outlook}"
                ) from None
            except BaseException:
                out.leave(wait)
                raise
            if end is not None:  # another receiver may have been quicker
                left = max(end - loop.time(), 0)
        return found

    async def connect(self, kernel_id: str, *target_ids: str) -> None:
        """Make the replies of a kernel that belong to no ask the messages of others, until `disconnect`.

        Each of the targets gets every reply, those named by an earlier call too, in the order of the replies. A full
        one holds the kernel up. When one ends the others go on; when none is left, replies can be received again.

        Either may be a router. As a target, one of its kernels gets each reply, or all do, as its strategy says; of one
        to connect, the replies of all of its kernels go there, also of those that it launches later.

        Replies of one compiled kernel go straight into the ring of another if that is its only target. Among several,
        or while somebody observes one of them, the host carries them over.

        Raises:
            TypeError: no target is named.
            KernelNotFoundError: none of that id was launched.
            MessageTypeError: a target takes other messages.
            InstanceError: a target has several instances, and no key that says which one a message is for.
            KernelStateError, KernelFailedError: one of them stops or has ended, or two are connected already.
        """
        if self._away:
            return await self._hop(self.connect, kernel_id, *target_ids)
        source, targets = self._find_target(kernel_id), [self._find_target(target_id) for target_id in target_ids]
        await (connect(source, targets) if isinstance(source, RingKernel) else source._connect(targets))

    async def disconnect(self, kernel_id: str, *target_ids: str) -> None:
        """Let the replies of a kernel go to these targets no longer. Where none is left, they can be received again.

        Args:
            target_ids: kernels and routers; all by default.

        Raises:
            KernelNotFoundError: none of that id was launched.
            KernelStateError: it is not connected, or not to those.
        """
        if self._away:
            return await self._hop(self.disconnect, kernel_id, *target_ids)
        source, targets = self._find_target(kernel_id), [self._find_target(target_id) for target_id in target_ids]
        await (disconnect(source, targets) if isinstance(source, RingKernel) else source._disconnect(targets))

    # -- routers and topics --------------------------------------------------------------------------------------------

    @property
    def routers(self) -> Mapping[str, Router]:
        """All routers, by id."""
        return MappingProxyType(self._routers)

    async def router(
        self,
        router_id: str,
        kernels: str | RingKernelDefinition | Iterable[str],
        *,
        size: int | None = None,
        strategy: Routing = "round_robin",
        key: str | Callable[[Any], Any] | None = None,
        node: str | None = None,
        num_gpus: int = 0,
        spread: bool = False,
        delivery: Promise = "at_most_once",
    ) -> Router:
        """Let several kernels share the messages that are sent to one id.

        ``pool = await runtime.router("workers", "work", size=4)`` launches and activates four kernels of that
        definition under the ids ``workers-0`` to ``workers-3``, or the next ones that are free. From then on
        ``runtime.send("workers", message)``, ``ask`` and ``ctx.tell`` go to one of them; ``pool.resize(8)`` adds four.

        Args:
            router_id: no kernel may have it.
            kernels: the id of a definition, or a definition, to launch; or the ids of kernels that were launched.
            size: how many to launch.
            strategy: ``"round_robin"``: one after the other, and each waits for room in the mailbox of its turn;
                ``"least_queue"``: the one with the least in its mailbox and in hand; ``"hash"``: messages of one key go
                to one kernel, which only changes when that one ends or, for a share of the keys, when others come;
                ``"broadcast"``: all of them, and `ask` gives a list.
            key: for ``"hash"``: the name of a field, or a function of the message. It gives a text, bytes, a number, a
                UUID, an enum member, None or a tuple of these.
            node, num_gpus, spread, delivery: where to launch them, as in `launch`: with ``spread=True`` each on the
                node that has the fewest, with ``num_gpus=1`` each on a GPU of its own.

        Raises:
            KernelStateError: a router or kernel has that id.
            KernelNotFoundError: nothing was defined, or no kernel was launched, under one of the ids.
            ValueError: another argument that cannot be.
            What `launch` raises.
        """
        if self._away:
            return await self._hop(
                lambda: self.router(
                    router_id,
                    kernels,
                    size=size,
                    strategy=strategy,
                    key=key,
                    node=node,
                    num_gpus=num_gpus,
                    spread=spread,
                    delivery=delivery,
                )
            )
        from .routing import Placed, router  # only where there are some

        placement: Placed = {}
        if node is not None:
            placement["node"] = node
        if num_gpus:
            placement["num_gpus"] = num_gpus
        if spread:
            placement["spread"] = True
        if delivery != "at_most_once":
            placement["delivery"] = delivery
        return await router(self, router_id, kernels, size, strategy, key, placement)

    def _target(self, kernel_id: Any) -> RingKernel | Router | None:
        """The kernel or router of that id."""
        return (self._kernels.get(kernel_id) or self._routers.get(kernel_id)) if isinstance(kernel_id, str) else None

    def _find_target(self, kernel_id: Any) -> RingKernel | Router:
        target = self._target(kernel_id)
        if target is None:
            raise self._unknown(kernel_id)
        return target

    def _router(self, kernel_id: Any, instance: int | None = None) -> Router:
        """The router of an id that no kernel has."""
        try:
            router = self._routers[kernel_id]
        except (KeyError, TypeError):
            raise self._unknown(kernel_id) from None
        if instance is not None:
            router._instance(instance)
        return router

    def _put_by_router(self, kernel_id: Any, message: Any, instance: int | None) -> Coroutine[Any, Any, None] | None:
        """Put a message where a router says. None: it is in. Else await this."""
        router = self._router(kernel_id, instance)
        try:
            waiting = router._offer(message)
        except Exception as error:
            raise error from error.__cause__  # that it is no kernel tells nobody anything
        return None if waiting is None else self._wait_for_router(waiting)

    async def _wait_for_router(self, waiting: Coroutine[Any, Any, None]) -> None:
        try:
            await waiting
        except Exception as error:
            raise error from error.__cause__

    async def _ask_by_router(
        self, router: Router, message: Any, timeout: float | None, sent: dict[str, int] | None
    ) -> Any:
        try:
            return await router.ask(message, timeout, sent)
        except Exception as error:
            raise error from error.__cause__

    @property
    def topics(self) -> Topics:
        """Who has subscribed to what, and how much was published."""
        if self._topics is None:
            from .topics import Topics  # only where there are some

            self._topics = Topics(self)
        return self._topics

    async def subscribe(self, pattern: str, kernel_id: str) -> None:
        """Let a kernel or router get the messages that are published to the topics which a pattern matches.

        Topics and patterns are words with dots between them. In a pattern ``*`` stands for exactly one word, and ``#``
        for none or more, as in AMQP: ``sensors.*.temperature`` matches ``sensors.berlin.temperature``, and
        ``sensors.#`` also ``sensors``. Who has subscribed to several patterns that match gets the message once. A
        subscription ends with `unsubscribe`, or when something is published after its kernel has ended for good.

        Raises:
            ValueError: not such a pattern.
            KernelNotFoundError: no kernel or router has that id.
            KernelStateError, KernelFailedError: it stops or has ended.
        """
        if self._away:
            return await self._hop(self.subscribe, pattern, kernel_id)
        self.topics.subscribe(pattern, kernel_id)

    async def unsubscribe(self, pattern: str, kernel_id: str) -> None:
        """End a subscription to exactly that pattern.

        Raises:
            KernelStateError: there is none.
        """
        if self._away:
            return await self._hop(self.unsubscribe, pattern, kernel_id)
        self.topics.unsubscribe(pattern, kernel_id)

    async def publish(self, topic: str, message: Any, _sent: dict[str, int] | None = None) -> int:
        """Send a message to all who have subscribed to patterns that the topic matches.

        Full mailboxes are waited for when all others have got it; the messages of one publisher come to each subscriber
        in their order. A message that finds nobody is a dead letter, with the topic in place of the kernel's id.

        Returns:
            How many have got it.

        Raises:
            ValueError: not a topic, or a pattern.
            MessageTypeError, PriorityError, QueueFullError: a subscriber does not take it, for what `send` would raise
                that. The others have got it, and the notes of the error say how many.
        """
        if not here() == self._here:  # noqa: SIM201 - as in send
            return await self._hop(self.publish, topic, message)
        return await (self._topics or self.topics).publish(topic, message, _sent)

    async def snapshot(self, kernel_id: str, instance: int | None = None) -> Any:
        """A copy of a kernel's state, of a compiled one between two messages; None if it has no state.

        Returns:
            Of an async ring kernel a deep copy of ``ctx.state``. Of a compiled one an object of its `Record` class;
            with several instances, unless one is named, all of them: an array of shape (instances,) and the dtype of
            that class.

        Raises:
            KernelNotFoundError: none of that id was launched.
            InstanceError: it has no such instance.
            KernelStateError: the kernel was ended while its step did not come back.
        """
        if self._away:
            return await self._hop(self.snapshot, kernel_id, instance)
        kernel = self._find(kernel_id)
        return await kernel._snapshot(None if instance is None else kernel._instance(instance))

    # -- health --------------------------------------------------------------------------------------------------------

    def health(self, stalled_after: float = 5.0) -> Health:
        """Whether the runtime lives and its kernels do their work. Any thread may ask; it waits half a second at most.

        Args:
            stalled_after: a kernel is stalled when messages are queued and it has taken none for so many seconds. Of a
                compiled ring kernel that is known from one look to the next: ask from time to time.

        Raises:
            ValueError: not a number of seconds of at least 0.
        """
        return self._probe.look(stalled_after)

    def serve_metrics(self, port: int = 0, address: str = "127.0.0.1") -> MetricsServer:
        """Answer Prometheus, in a thread, until the server that this returns is closed or the runtime is.

        Nothing else of this package listens on a port for it. `pydotcompute.telemetry.prometheus.collector` adds the
        counters to a registry of one's own instead.

        Args:
            port: 0 takes a free one; the server's `url` says which.
            address: who can reach it; by default this machine alone.

        Raises:
            ModuleNotFoundError: the package prometheus-client is missing.
            OSError: the address is not one of this machine, or the port is taken.
            RuntimeClosedError: the runtime is closed.
        """
        from ..telemetry.prometheus import MetricsServer  # which needs another package

        if self._closed:
            raise _closed_error()
        server = MetricsServer(self, port, address)
        self._servers.append(server)
        return server

    @contextmanager
    def otel_spans(
        self, tracer_provider: TracerProvider | None = None, kernels: Iterable[str] | None = None
    ) -> Iterator[Spans]:
        """Make an OpenTelemetry span of each handling of a message, while the ``with`` block lasts.

        Args:
            tracer_provider: where spans go; by default the global one.
            kernels: the ids of the kernels that it is about; None: all.

        Raises:
            ModuleNotFoundError: the package opentelemetry-api is missing.
            RuntimeClosedError: the runtime is closed.
        """
        from ..telemetry.otel import Spans  # which needs another package

        spans = Spans(tracer_provider, kernels)
        self.observe(spans)
        try:
            yield spans
        finally:
            self.unobserve(spans)
            spans.close()

    # -- telemetry -----------------------------------------------------------------------------------------------------

    def statistics(self) -> RuntimeStatistics:
        """The counters of all kernels now, frozen. Any thread may ask."""
        kernels = list(self._kernels.values())
        for kernel in kernels:
            kernel._publish()
            kernel._publish_histograms()
        rows = self._table.copy([kernel._place for kernel in kernels])
        sampled = self.sampler.running  # else what was measured last may be of yesterday
        return RuntimeStatistics(
            {k.id: KernelStatistics.from_row(k.id, row, k.waiting_for) for k, row in zip(kernels, rows, strict=True)},
            self.dead_letters.total,
            self._lag.seconds if self._lag is not None and sampled else None,
            self._caller_lag.seconds if self._caller_lag is not None and sampled else None,
        )

    def edges(self) -> dict[tuple[str | None, str], int]:
        """How many messages went from whom to whom until now. Any thread may ask.

        It is counted what bodies send with ``ctx.tell``, ``ctx.ask`` and ``ctx.publish``, and what goes over from one
        kernel to another that it is connected to. A router stands between those who send to its id and its kernels:
        what it was sent and what it gave to each of them are edges of their own. Replies that go back to who has asked
        are no edges; what a body sends by other means, such as ``runtime.send``, counts as from outside.

        Returns:
            (source, target) and the count, above 0, for each pair of ids. Source None: from outside the kernels.
            Messages that wait for room in a full mailbox may be among them. The counts of a kernel that was launched
            again under its id begin anew, those of what was sent to it too: what the former one has sent is in none of
            them, and so it is with a router that was closed since.
        """
        kernels, routers = dict(self._kernels), dict(self._routers)
        for kernel in kernels.values():
            kernel._publish()
        rows = self._table.copy([kernel._place for kernel in kernels.values()])
        # These first: in doubt something seems to have come from a kernel, and not from outside.
        left = dict(zip(kernels, rows["received"].tolist(), strict=True))
        edges: dict[tuple[str | None, str], int] = {}
        for router_id, router in routers.items():
            left[router_id] = router._taken
            edges.update({(router_id, kernel_id): n for kernel_id, n in router._given().items()})
        for kernel_id, kernel in kernels.items():
            edges.update({(kernel_id, target): n for target, n in kernel._handed_over().items() if target in left})
        for (_, target), n in edges.items():
            left[target] -= n
        for target, n in dict(self._sent_before).items():
            if target in left:
                left[target] -= n
        edges.update({(None, target): n for target, n in left.items()})
        return {edge: n for edge, n in edges.items() if n > 0}

    def _frame(self) -> Frame:
        if self._roster is None or self._roster[0] != self._launches:
            launches, kernels = self._launches, list(self._kernels.values())
            own = np.array([k._launch for k in kernels], np.int64)
            self._roster = launches, kernels, tuple(k.id for k in kernels), [k._place for k in kernels], own
        _, kernels, ids, places, own = self._roster
        now = clock()
        for kernel in kernels:
            kernel._publish()
        # Histograms are most of a row: of many kernels only a part is written each time, all of them once a second.
        part = max(100, len(kernels) * (now - self._framed) // 1_000_000_000 + 1)
        for kernel in kernels[self._part : self._part + part]:
            kernel._publish_histograms()
        self._part = self._part + part if self._part + part < len(kernels) else 0
        self._framed, self._frames = now, self._frames + 1
        return Frame(
            self._frames,
            now,
            ids,
            self._table.copy(places),
            self._lag.seconds if self._lag is not None else None,
            self._caller_lag.seconds if self._caller_lag is not None else None,
            self.dead_letters.total,
            own,
        )

    def _poke(self) -> None:
        for lag in (self._lag, self._caller_lag):
            if lag is not None:
                lag.poke()

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for kernel in self._kernels.values():
            counts[kernel.state.value] = counts.get(kernel.state.value, 0) + 1
        states = ", ".join(f"{n} {state}" for state, n in counts.items()) or "none"
        closed = ", closed" if self._closed else ""
        return f"<RingKernelRuntime loop={self.loop_mode!r}, kernels: {states}{closed}>"

    def _repr_html_(self) -> str:
        from ..telemetry.html import runtime_html  # only where somebody looks

        return runtime_html(self.statistics())


def _no_answer(kernel: RingKernel, wait: Wait, timeout: float | None) -> QueueTimeoutError:
    """The error for an ask whose time is over."""
    what = "room in the mailbox of" if wait.state == NEW else "reply from"
    silent = any(wait in asked for asked in (kernel._aside or {}).values())
    hint = "; it took the message and went on without a reply: `await ctx.send(...)` replies" if silent else ""
    return QueueTimeoutError(f"no {what} {kernel.id!r} within {timeout:g} s; it is {kernel.outlook}{hint}")


def _closest(word: str, known: Iterable[str]) -> str | None:
    import difflib  # only after a mistake

    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def _closed_error() -> RuntimeClosedError:
    own = "; `%ring status` brings back the notebook's own" if notebook_shell() is not None else ""
    return RuntimeClosedError(f"the runtime is closed: make a new RingKernelRuntime{own}")


async def _each(messages: Any) -> AsyncIterator[Any]:
    if hasattr(messages, "__aiter__"):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message


class SyncRuntime:
    """Blocking twins of the coroutines of a runtime: ``runtime.sync.ask(...)``.

    They are for synchronous cells, magics and threads. Arguments, results and errors are those of the coroutines. Each
    raises `LoopError` on the runtime's own loop, where it would wait for itself.
    """

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime

    def call(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, unclaimed: Unclaimed | None = None) -> T:
        """Run ``method(*args)`` on the runtime's loop and wait for its result."""
        __tracebackhide__ = True  # IPython then shows the error where it belongs: in the cell
        runtime = self._runtime
        if runtime._loop is None and not runtime._closed:
            if runtime.loop_mode == "current":
                raise LoopError(
                    "the runtime has no event loop yet: enter it with `async with`, "
                    "or make it with RingKernelRuntime(loop='thread')"
                )
            runtime._start()
        if runtime._loop is not None and asyncio._get_running_loop() is runtime._loop:
            name = getattr(method, "__name__", "it").strip("_")
            raise LoopError(
                f"runtime.sync.{name} would wait for the loop that it runs on: write `await runtime.{name}(...)` here, "
                f"or make the runtime with RingKernelRuntime(loop='thread')"
            )
        future = runtime._post(method, *args, unclaimed=unclaimed, blocks=True)
        try:
            try:
                future.exception(PATIENCE)
            except TimeoutError:
                runtime._suspect()
                with suppress(TimeoutError):
                    future.exception(GRACE)
                runtime._name_blocker()
            result: T = future.result()
            return result
        except PyDotComputeError as error:
            raise error.with_traceback(None) from error.__cause__
        except CancelledError:
            raise unanswered() from None
        except KeyboardInterrupt as stop:
            # An interrupted cell gives its request up; the kernels go on.
            runtime._give_up(future, args[0] if args else "", unclaimed)
            raise stop.with_traceback(None)  # noqa: B904 - where it waited tells nobody anything
        except BaseException:
            runtime._give_up(future, args[0] if args else "", unclaimed)
            raise

    def join(self) -> None:
        """`RingKernelRuntime.join`."""
        self.call(self._runtime.join)

    def launch(
        self,
        kernel: str | RingKernelDefinition,
        *,
        kernel_id: str | None = None,
        node: str | None = None,
        num_gpus: int = 0,
        spread: bool = False,
        delivery: Promise = "at_most_once",
    ) -> RingKernel:
        """`RingKernelRuntime.launch`."""
        return self.call(self._runtime._launch, kernel, kernel_id, node, num_gpus, spread, delivery)

    def activate(self, kernel_id: str) -> None:
        """`RingKernelRuntime.activate`."""
        self.call(self._runtime.activate, kernel_id)

    def deactivate(self, kernel_id: str) -> None:
        """`RingKernelRuntime.deactivate`."""
        self.call(self._runtime.deactivate, kernel_id)

    def reactivate(self, kernel_id: str) -> None:
        """`RingKernelRuntime.reactivate`."""
        self.call(self._runtime.reactivate, kernel_id)

    def terminate(self, kernel_id: str, drain: bool = True, timeout: float = 5.0) -> None:
        """`RingKernelRuntime.terminate`."""
        self.call(self._runtime.terminate, kernel_id, drain, timeout)

    def step(self, kernel_id: str, n: int = 1, timeout: float | None = None) -> list[Any]:
        """`RingKernelRuntime.step`."""
        return self.call(self._runtime.step, kernel_id, n, timeout)

    def wait_paused(self, kernel_id: str, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.wait_paused`."""
        return self.call(self._runtime.wait_paused, kernel_id, timeout)

    def restart(self, kernel_id: str, *, keep_state: bool = False, timeout: float = 5.0) -> None:
        """`RingKernelRuntime.restart`."""

        async def restart() -> None:
            await self._runtime.restart(kernel_id, keep_state=keep_state, timeout=timeout)

        self.call(restart)

    def kill(self, kernel_id: str, error: BaseException | None = None) -> None:
        """`RingKernelRuntime.kill`."""
        self.call(self._runtime.kill, kernel_id, error)

    def supervise(
        self,
        *kernel_ids: str,
        strategy: Strategy = "one_for_one",
        max_restarts: int = MAX_RESTARTS,
        window: float = WINDOW,
    ) -> SupervisionGroup:
        """`RingKernelRuntime.supervise`."""

        async def supervise() -> SupervisionGroup:
            return await self._runtime.supervise(
                *kernel_ids, strategy=strategy, max_restarts=max_restarts, window=window
            )

        return self.call(supervise)

    def send(self, kernel_id: str, message: Any, instance: int | None = None) -> None:
        """`RingKernelRuntime.send`."""
        if not self._runtime._put_directly(kernel_id, message, instance):
            self.call(self._runtime.send, kernel_id, message, instance)

    def send_many(self, kernel_id: str, messages: Iterable[Any], instance: int | None = None) -> None:
        """`RingKernelRuntime.send_many`."""
        self.call(self._runtime.send_many, kernel_id, list(messages), instance)

    def send_batch(
        self, kernel_id: str, records: NDArray[np.void], instance: int | None = None, *, progress: bool = False
    ) -> None:
        """`RingKernelRuntime.send_batch`."""
        if progress:
            self.call(self._runtime._send_batch, kernel_id, records, instance)
        elif (left := self._runtime._put_batch_directly(kernel_id, records, instance)) is not None:
            self.call(self._runtime.send_batch, kernel_id, left, instance)

    def ask(self, kernel_id: str, message: Any, timeout: float | None = None, instance: int | None = None) -> Any:
        """`RingKernelRuntime.ask`."""
        runtime = self._runtime
        checked_timeout(timeout)
        answer = runtime._ask_directly(kernel_id, message, instance)
        if answer is REFUSED:
            return self.call(runtime.ask, kernel_id, message, timeout, instance, unclaimed=runtime._bury_reply)
        if not isinstance(answer, Wait):
            return answer
        try:
            return self.call(runtime._pending, kernel_id, answer, timeout, unclaimed=runtime._bury_reply)
        except KeyboardInterrupt:
            runtime._forget(answer)
            raise

    send_and_receive = ask

    def map(
        self, kernel_id: str, messages: Any, *, window: int = 64, timeout: float | None = None, progress: bool = False
    ) -> list[Any]:
        """All replies of `RingKernelRuntime.map`, as a list."""

        async def collect() -> list[Any]:
            replies = self._runtime.map(kernel_id, messages, window=window, timeout=timeout, progress=progress)
            return [reply async for reply in replies]

        return self.call(collect)

    def receive(self, kernel_id: str, timeout: float | None = None) -> Any:
        """`RingKernelRuntime.receive`."""
        return self.call(self._runtime.receive, kernel_id, timeout, unclaimed=self._runtime._put_back)

    def receive_batch(self, kernel_id: str, max_n: int = 4096, timeout: float | None = None) -> NDArray[np.void]:
        """`RingKernelRuntime.receive_batch`."""
        runtime = self._runtime
        return self.call(runtime.receive_batch, kernel_id, max_n, timeout, unclaimed=runtime._put_back_batch)

    def connect(self, kernel_id: str, *target_ids: str) -> None:
        """`RingKernelRuntime.connect`."""
        self.call(self._runtime.connect, kernel_id, *target_ids)

    def disconnect(self, kernel_id: str, *target_ids: str) -> None:
        """`RingKernelRuntime.disconnect`."""
        self.call(self._runtime.disconnect, kernel_id, *target_ids)

    def router(
        self,
        router_id: str,
        kernels: str | RingKernelDefinition | Iterable[str],
        *,
        size: int | None = None,
        strategy: Routing = "round_robin",
        key: str | Callable[[Any], Any] | None = None,
        node: str | None = None,
        num_gpus: int = 0,
        spread: bool = False,
        delivery: Promise = "at_most_once",
    ) -> Router:
        """`RingKernelRuntime.router`."""

        async def router() -> Router:
            return await self._runtime.router(
                router_id,
                kernels,
                size=size,
                strategy=strategy,
                key=key,
                node=node,
                num_gpus=num_gpus,
                spread=spread,
                delivery=delivery,
            )

        return self.call(router)

    def subscribe(self, pattern: str, kernel_id: str) -> None:
        """`RingKernelRuntime.subscribe`."""
        self.call(self._runtime.subscribe, pattern, kernel_id)

    def unsubscribe(self, pattern: str, kernel_id: str) -> None:
        """`RingKernelRuntime.unsubscribe`."""
        self.call(self._runtime.unsubscribe, pattern, kernel_id)

    def publish(self, topic: str, message: Any) -> int:
        """`RingKernelRuntime.publish`."""
        return self.call(self._runtime.publish, topic, message)

    def snapshot(self, kernel_id: str, instance: int | None = None) -> Any:
        """`RingKernelRuntime.snapshot`."""
        return self.call(self._runtime.snapshot, kernel_id, instance)

    def wait_idle(self, *kernel_ids: str, timeout: float | None = None) -> None:
        """`RingKernelRuntime.wait_idle`."""

        async def wait_idle() -> None:
            await self._runtime.wait_idle(*kernel_ids, timeout=timeout)

        self.call(wait_idle)

    def wait_ended(self, kernel_id: str, timeout: float | None = None) -> KernelState:
        """`RingKernelRuntime.wait_ended`."""
        return self.call(self._runtime.wait_ended, kernel_id, timeout)

    def replay(
        self,
        path: str | PathLike[str],
        *,
        speed: float | None = None,
        kernels: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        timeout: float | None = 30.0,
    ) -> Replay:
        """`RingKernelRuntime.replay`."""

        async def replay() -> Replay:
            return await self._runtime.replay(path, speed=speed, kernels=kernels, ignore=ignore, timeout=timeout)

        return self.call(replay)

    def close(self, drain: bool = True, timeout: float = 5.0) -> None:
        """`RingKernelRuntime.close`."""
        checked_timeout(timeout)
        if not self._runtime._closed:
            if self._runtime._loop is not None and not self._runtime._loop.is_closed():
                self.call(self._runtime._close, drain, timeout)
            self._runtime._closed, self._runtime._home, self._runtime._here = True, 0, None
            self._runtime._stop_threads()


@atexit.register
def _close_engines() -> None:
    """End the threads of compiled kernels; those that run loops are ended after them."""
    for runtime in list(_runtimes):
        runtime._close_engines()
