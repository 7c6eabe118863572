"""The nodes of a cluster, and the links to the hosts there, on the side of the runtime."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import inspect
import logging
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..exceptions import (
    ClusterError,
    DefinitionError,
    MessageDecodeError,
    NodeLostError,
    PyDotComputeError,
    RuntimeClosedError,
)
from ..messages import Record, is_message_type
from ..messages.message import registry
from ..runtime.checks import PROMISES, is_count
from ..runtime.dead_letters import KINDS, DeadLetter
from ..runtime.kernel import RingKernel, RingKernelDefinition, log
from ..runtime.progress import lasting
from ..runtime.step import StepDefinition
from ..telemetry import observer
from ..telemetry.clock import Stamp, process_clock
from ..telemetry.observer import on_behalf_of
from . import wire
from .lane import Lane
from .ray import Engine, Handle, Place
from .remote import RemoteKernel, check_shippable

if TYPE_CHECKING:
    from ..runtime.runtime import RingKernelRuntime

FRAME_BYTES = 2**20
"""How much goes into a frame, but for one message that is larger."""
PARTS = 8
"""Of the time in which a host has to answer; as many have to pass on a loop that moves."""
CREDIT = 0.005
"""Seconds between looks at whether replies were taken, while a host waits for that."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a ring kernel is to run, and what becomes of its messages when that is lost."""

    node: str | None = None
    num_gpus: int = 0
    delivery: str = "at_most_once"
    spread: bool = False
    """Whether instances go to several nodes."""


@dataclass(slots=True)
class Node:
    """A node of the cluster: one host, in a process of its own."""

    name: str
    place: Place = field(repr=False)
    state: str = "starting"
    """``"starting"``, ``"alive"`` or ``"lost"``."""
    pid: int | None = None
    """Of its host, on its machine."""
    gpus: int = 0
    """GPUs that its host may use."""
    reason: str = ""
    """Why it is lost."""
    _link: Link | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Of the machine."""
        return self.place.address

    @property
    def kernels(self) -> list[str]:
        """The ids of the ring kernels that run there."""
        return [lane.kernel.id for lane in self._link.lanes.values()] if self._link is not None else []


class Nodes(Mapping[str, Node]):
    """The nodes of a runtime, by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self._nodes)) or "none"
            raise ClusterError(f"there is no node {name!r} (there are: {known})") from None

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return "\n".join(repr(node) for node in self._nodes.values()) or "no nodes yet: `await runtime.join()`"


class Cluster:
    """The cluster of one runtime. All of it runs on the runtime's loop."""

    def __init__(
        self, runtime: RingKernelRuntime, address: str | None, nodes: int | None, timeout: float, silence: float
    ) -> None:
        self.runtime = runtime
        self.nodes = Nodes()
        self.silence = silence
        self.refused: Counter[str] = Counter()
        """Frames that a host has refused, and that were refused here, by the name of the node."""
        self._engine = Engine(address)
        self._wanted, self._timeout = nodes, timeout
        self._joining: asyncio.Future[None] | None = None
        self._replacing: asyncio.Future[Node] | None = None
        self._closed = False
        self._gpu_nodes = count(1)

    async def join(self) -> None:
        """Start or find the cluster, and a host on each of its nodes."""
        if self._closed:
            raise RuntimeClosedError("the runtime is closed, or being closed: join and launch in a new one")
        joining = self._joining
        if joining is None or (joining.done() and joining.exception() is not None):
            joining = self._joining = asyncio.ensure_future(self._join())
        try:
            await asyncio.shield(joining)
        except asyncio.CancelledError:
            if joining.cancelled():  # and not the caller
                text = "the runtime was closed while the cluster was being started"
                raise RuntimeClosedError(text) from None
            raise

    async def _join(self) -> None:
        with lasting("starting the cluster:", "the cluster has started in", "the cluster could not be started, after"):
            places = await self._engine.start(asyncio.get_running_loop(), self._timeout)
            n = len(places) if self._wanted is None else self._wanted
            named = [Node(f"node-{i + 1}", places[i % len(places)]) for i in range(n)]
            self.nodes._nodes = {node.name: node for node in named}
            begun = await asyncio.gather(*(self._begin(node, 0) for node in named), return_exceptions=True)
            if failed := [error for error in begun if error is not None]:
                await asyncio.gather(*(node._link.close() for node in named if node._link is not None))
                raise failed[0]

    async def _begin(self, node: Node, num_gpus: int) -> None:
        """Start its host."""
        handle = self._engine.host(node.name, node.place, num_gpus)
        try:
            hello = await self._greeted(node, handle, num_gpus)
        except BaseException as error:
            node.state, node.reason = "lost", str(error) or "it was given up while it started"
            self._engine.kill(handle)
            raise
        node.pid, node.gpus, node.state = hello["pid"], num_gpus, "alive"
        node._link = Link(self, node, handle)

    async def _greeted(self, node: Node, handle: Handle, num_gpus: int) -> dict[str, Any]:
        """What a host is that has started, and fits this process."""
        hello: dict[str, Any]
        try:
            async with asyncio.timeout(self._timeout):
                hello = await handle.call("hello")
        except TimeoutError:
            raise ClusterError(
                f"the host of {node.name} on {node.address} has not started within {self._timeout:g} s: see whether "
                f"that machine has {'GPUs' if num_gpus else 'memory'} left that nobody uses, or pass a longer "
                "start_timeout="
            ) from None
        except Exception as error:
            raise ClusterError(f"the host of {node.name} on {node.address} does not start: {error}") from error
        mine = {"pydotcompute": __version__, "python": sys.version.split()[0], "wire": wire.VERSION}
        minor = [str(version).rpartition(".")[0] for version in (mine["python"], hello["python"])]
        if hello["pydotcompute"] != __version__ or hello["wire"] != wire.VERSION or minor[0] != minor[1]:
            raise ClusterError(
                f"{node.name} on {node.address} has pydotcompute {hello['pydotcompute']} and Python {hello['python']}, "
                f"this process has {__version__} and {mine['python']}: install the same on both"
            )
        return hello

    async def check(self, placement: Placement) -> None:
        """Raise `ClusterError` for a node that is not there, or for more GPUs than any has."""
        if placement.num_gpus:
            await self._places_with_gpus(placement.num_gpus)
        if placement.node is not None and (node := self.nodes[placement.node]).state != "alive":
            alive = ", ".join(repr(other.name) for other in self.nodes.values() if other.state == "alive") or "none"
            raise ClusterError(f"{node.reason}: launch it on another node (there are: {alive}), or with spread=True")

    async def place(self, kernel: RemoteKernel) -> list[Lane]:
        """Lanes to the node, or the nodes, that this kernel is to run on."""
        wanted = kernel.placement
        if wanted.num_gpus:
            nodes = await self._nodes_with_gpus(wanted.num_gpus, kernel.most_nodes)
        elif wanted.node is not None and self.nodes[wanted.node].state == "alive":
            nodes = [self.nodes[wanted.node]]
        else:
            alive = [node for node in self.nodes.values() if node.state == "alive" and not node.gpus]
            if not alive:
                alive = [await self._another()]
            nodes = sorted(alive, key=lambda node: node._link.load if node._link is not None else 0)
            nodes = nodes[: kernel.most_nodes]
        return [node._link.lane(kernel) for node in nodes if node._link is not None]

    async def _another(self) -> Node:
        """A host in place of those that are lost, where a machine is left; one for all who want it."""
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.ensure_future(self._replace_lost())
        return await asyncio.shield(self._replacing)

    async def _replace_lost(self) -> Node:
        places = await self._engine.places(asyncio.get_running_loop())
        if not places:
            raise ClusterError("no node of the cluster is left: start another one, and then the ring kernel")
        name = f"node-{1 + sum(not node.gpus for node in self.nodes.values())}"
        node = self.nodes._nodes[name] = Node(name, places[0])
        await self._begin(node, 0)
        return node

    async def _places_with_gpus(self, num_gpus: int) -> list[Place]:
        """The machines that have so many GPUs each."""
        places = await self._engine.places(asyncio.get_running_loop())
        found = [place for place in places if place.gpus >= num_gpus]
        if not found:
            total = sum(place.gpus > 0 for place in places)
            raise ClusterError(
                f"no node offers {num_gpus} GPU{'s' * (num_gpus != 1)}: {total} of {len(places)} nodes have any"
            )
        return found

    async def _nodes_with_gpus(self, num_gpus: int, most: int) -> list[Node]:
        """A host, or hosts, with so many GPUs each that no other host has."""
        places = await self._places_with_gpus(num_gpus)
        taken: Counter[str] = Counter()
        for node in self.nodes.values():
            if node.state != "lost":
                taken[node.place.id] += node.gpus
        # On the machines in turn: first on that where most are left.
        free = sorted(
            (place.gpus - taken[place.id] - i * num_gpus, place.id)
            for place in places
            for i in range((place.gpus - taken[place.id]) // num_gpus)
        )
        if not free:
            raise ClusterError(
                f"no node has {num_gpus} GPU{'s' * (num_gpus != 1)} left: "
                + "; ".join(
                    f"{node.gpus} of {node.address} {'are' if node.gpus > 1 else 'is'} taken by {_listed(node.kernels)}"
                    for node in self.nodes.values()
                    if node.gpus and node.state != "lost"
                )
            )
        by_id = {place.id: place for place in places}
        nodes = [Node(f"gpu-{next(self._gpu_nodes)}", by_id[name], gpus=num_gpus) for _, name in free[::-1][:most]]
        self.nodes._nodes |= {node.name: node for node in nodes}
        begun = await asyncio.gather(*(self._begin(node, num_gpus) for node in nodes), return_exceptions=True)
        if failed := [error for error in begun if error is not None]:
            await asyncio.gather(*(self.leave(node) for node in nodes if node.state == "alive"))
            raise failed[0]
        return nodes

    async def leave(self, node: Node) -> None:
        """End the host of a node that has nothing left to do: its GPUs are for others."""
        self.nodes._nodes.pop(node.name, None)
        if node._link is not None:
            await node._link.close()

    def lost(self, node: Node, reason: str) -> None:
        node.state, node.reason = "lost", reason
        log.warning("%s", reason)

    async def close(self) -> None:
        self._closed = True
        for beginning in (self._joining, self._replacing):
            if beginning is not None and not beginning.done():
                beginning.cancel()
                await asyncio.wait({beginning})
        await asyncio.gather(*(node._link.close() for node in self.nodes.values() if node._link is not None))
        await self._engine.stop()


Cause = tuple[observer.Delivery | None, str]
"""What a body on a node has in hand, if that is known, and the id of its kernel."""


class Sent(NamedTuple):
    """What a body on a node has sent to a kernel elsewhere, or asked of it."""

    blob: bytes
    instance: int | None
    cause: Cause | None = None
    """None: nobody observes the kernel."""
    timeout: float | None = None
    token: int | None = None
    """Of an ask."""


class Link:
    """The way to the host of one node, and back."""

    def __init__(self, cluster: Cluster, node: Node, handle: Handle) -> None:
        self._cluster, self.node, self._handle = cluster, node, handle
        self.lost: str | None = None
        """Why the host is gone."""
        self.lanes: dict[int, Lane] = {}
        self._expected: set[Lane] = set()  # that are to begin here, or have
        self._numbers, self._tokens = count(1), count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._items: deque[list[Any]] = deque()
        self._sent = self._received = 0  # frames
        self._early: dict[int, list[list[Any]]] = {}  # those that came before their predecessors
        self._flying = 0
        self._something = asyncio.Event()
        self._known: set[type] = set()  # classes of messages that the host has
        self._waiting: dict[str, deque[Sent]] = {}  # what bodies there have sent elsewhere, by target
        self._carried = asyncio.Event()  # all that waited for one of the targets has come there
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        loop = asyncio.get_running_loop()
        self._sender = loop.create_task(self._send())
        self._collector = loop.create_task(self._collect())
        self._crediting: asyncio.TimerHandle | None = None
        self._credits: dict[int, int] = {}
        self._clock = process_clock()
        self._has_time = True  # the clock of the host is near that of this machine

    # -- out -----------------------------------------------------------------------------------------------------------

    def say(self, *item: Any) -> None:
        """Have an item in the next frame."""
        if self.lost is None:
            self._items.append(list(item))
            self._something.set()

    def teach(self, *kinds: type) -> None:
        """See to it that the host knows these classes of messages, and all that were written in the notebook by now."""
        if kinds and self._known.issuperset(kinds):
            return
        engine = self._cluster._engine
        packed: list[bytes] = []
        for cls in {*kinds, *filter(engine.is_by_value, registry.values())} - self._known:
            self._known.add(cls)
            if is_message_type(cls) or issubclass(cls, Record):
                try:
                    _evaluate(cls)
                    packed.append(engine.packed(cls))
                except Exception as error:  # noqa: BLE001 - whatever hangs on a class of the user's
                    log.debug("%r cannot go to %s: %s", cls, self.node.name, error)
        if packed:
            self.say("teach", packed)

    async def call(self, number: int, verb: str, arguments: bytes) -> Any:
        """Have the host do something, and wait until it is done.

        Raises:
            NodeLostError: the host is gone.
            What it has raised.
        """
        if self.lost is not None:
            raise NodeLostError(self.lost)
        return await self._called(number, verb, arguments)

    def _called(self, number: int, verb: str, arguments: bytes) -> asyncio.Future[Any]:
        """Say at once what is to be done, so that it keeps its place among messages and other calls."""
        token = next(self._tokens)
        future = self._calls[token] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._calls.pop(token, None))
        self.say("call", token, number, verb, arguments)
        return future

    def start_call(self, number: int, verb: str, arguments: bytes) -> None:
        """`call`, and let nobody wait for it."""

        def look(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                log.debug("%s of a ring kernel on %s: %s", verb, self.node.name, error)

        if self.lost is None:
            self._called(number, verb, arguments).add_done_callback(look)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lane(self, kernel: RemoteKernel) -> Lane:
        """A lane for a kernel that is to run there."""
        lane = Lane(kernel, self)
        self._expected.add(lane)
        return lane

    @property
    def load(self) -> int:
        """How many kernels are there, or about to begin."""
        return len(self._expected)

    async def launch(self, lane: Lane, paused: bool) -> int:
        """Start a kernel there; its number."""
        number, kernel = next(self._numbers), lane.kernel
        self.lanes[number] = lane
        self.teach(*_classes(kernel.definition))
        booked = kernel.placement.delivery == "at_least_once"
        code = self._packed(kernel, (kernel.id, _shipped(kernel.definition), paused, booked))
        await self.call(number, "launch", code)
        return number

    def replace(self, lane: Lane) -> None:
        """Another definition of a kernel."""
        self.teach(*_classes(lane.kernel.definition))
        self.start_call(lane.number, "replace", self._packed(lane.kernel, _shipped(lane.kernel.definition)))

    def _packed(self, kernel: RemoteKernel, code: Any) -> bytes:
        try:
            return self._cluster._engine.packed(code)
        except Exception as error:
            raise DefinitionError(
                f"the code of {kernel.id!r} cannot go to {self.node.name} ({error}): what it uses of this process, "
                "such as a lock, a file or a connection, has to be made in its body, or by state="
            ) from error

    def forget(self, lane: Lane) -> None:
        """A kernel is there no more."""
        self._expected.discard(lane)
        for number in [number for number, other in self.lanes.items() if other is lane]:
            del self.lanes[number]
            self._credits.pop(number, None)
            if not lane.has_ended:  # it, or what is being made of it there
                self.start_call(number, "drop", b"")
        if self.node.gpus and self.lost is None and not self._expected:
            self._spawn(self._cluster.leave(self.node))

    async def _send(self) -> None:
        try:
            await self._send_all()
        except Exception as error:  # noqa: BLE001 - nothing more would ever go there
            log.exception("what is for %s cannot be sent", self.node.name)
            self._lose(error)

    async def _send_all(self) -> None:
        """Fill frames with what there is, and have a few of them on the way."""
        while True:
            if not self._items:
                self._something.clear()
                await self._something.wait()
                await asyncio.sleep(0)  # let who else is awake add to it
            while self._flying >= wire.FRAMES:
                self._something.clear()
                await self._something.wait()
            items: list[list[Any]] = []
            size = 0
            while self._items and size < FRAME_BYTES:
                item = self._items.popleft()
                if item[0] == "messages":
                    size += sum(map(len, item[3]))
                elif item[0] == "records":
                    size += len(item[4])
                items.append(item)
            if not items:
                continue
            self._sent += 1
            self._flying += 1
            self._spawn(self._deliver(*wire.packed(self._sent, items, wire.TO_HOST, self._clock.tick())))
            await asyncio.sleep(0)

    async def _deliver(self, data: bytes, beside: list[bytes]) -> None:
        try:
            # As arrays the engine takes them from the memory where they are.
            refused, *answer = await self._handle.call(
                "deliver", data, *(np.frombuffer(one, np.uint8) for one in beside)
            )
        except Exception as error:  # noqa: BLE001 - of the engine: whatever it is, the host is gone
            self._lose(error)
            return
        finally:
            self._flying -= 1
            self._something.set()
        if refused is not None:
            self._cluster.refused[self.node.name] += 1
            self._lose(ClusterError(f"it refuses a frame: {refused}"))
        elif answer[0]:
            self._come(*answer)

    # -- in ------------------------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        silence = self._cluster.silence
        while self.lost is None:
            calling = asyncio.ensure_future(self._handle.call("collect"))
            try:
                # In parts: while a body blocks the loop here, at most one of them passes, and the host is not to blame.
                for _ in range(PARTS):
                    if (await asyncio.wait({calling}, timeout=silence / PARTS))[0]:
                        break
                else:
                    self._lose(TimeoutError(f"it has not answered for {silence:g} s"))
                    return
                data, *beside = calling.result()
            except Exception as error:  # noqa: BLE001 - of the engine: whatever it is, the host is gone
                self._lose(error)
                return
            finally:
                calling.cancel()
            if data:
                self._come(data, *beside)

    def _come(self, data: bytes, *beside: NDArray[np.uint8]) -> None:
        """A frame has come, perhaps before its predecessor."""
        if self.lost is not None:
            return
        try:
            number, items, heard = wire.unpacked(data, wire.FROM_HOST, beside)
            self._hear(*heard)
            wire.expect(number, self._received + 1, self._received + 1 + wire.FRAMES)
            self._early[number] = items
            while self._received + 1 in self._early:
                self._received += 1
                for kind, *fields in self._early.pop(self._received):
                    self._take(kind, fields)
        except Exception as error:  # noqa: BLE001 - whatever a field that makes no sense leads to
            self._cluster.refused[self.node.name] += 1
            what = error if isinstance(error, MessageDecodeError) else f"{type(error).__name__}: {error}"
            self._lose(ClusterError(f"a frame of it is refused: {what}"))

    def _hear(self, wall: int, logical: int) -> None:
        """Bring the clock here to no less than that of the host."""
        if not self._has_time:
            return
        try:
            self._clock.update(Stamp(wall, logical, self.node.name))
        except ValueError as error:
            self._has_time = False
            log.warning("traces show what happens on %s when word of it comes: %s", self.node.name, error)

    def stamp(self, wall: int, logical: int) -> Stamp | None:
        """When something happened on the host; None: its clock is wrong."""
        return Stamp(wall, logical, self.node.name) if self._has_time else None

    def _take(self, kind: str, fields: list[Any]) -> None:
        if kind == "result":
            token, well, value = fields
            future = self._calls.get(token)
            if future is not None and not future.done():
                if well:
                    future.set_result(value)
                else:
                    future.set_exception(wire.restored(value, self.node.name))
        elif kind == "tell":
            target, blob, instance, sender = fields
            self._take_sent(target, Sent(blob, instance, self._cause(sender)))
        elif kind == "find":
            self._spawn(self._find(*fields))
        elif kind == "publish":
            token, topic, blob, sender = fields
            self._spawn(self._publish(token, topic, blob, self._cause(sender)))
        elif kind == "ask":
            token, target, blob, instance, timeout, sender = fields
            self._take_sent(target, Sent(blob, instance, self._cause(sender), timeout, token))
        else:
            lane = self.lanes.get(fields[0])
            if kind == "log":
                self._log(None if lane is None else lane.kernel, fields[1], fields[2])
            elif lane is not None:
                self._take_of(lane, kind, fields)

    def _take_of(self, lane: Lane, kind: str, fields: list[Any]) -> None:
        if kind == "done":
            lane.done(fields[1])
        elif kind == "answers":
            for number, well, value in fields[1]:
                lane.answer(number, well, value)
        elif kind == "replies":
            lane.replies(fields[1])
            self._credit_soon()
        elif kind == "records":
            lane.reply_records(fields[1], fields[2])
            self._credit_soon()
        elif kind == "seen":
            lane.see(fields[1])
        elif kind == "counters":
            lane.count(*fields[1:])
        elif kind == "restarted":
            error = None if fields[3] is None else wire.restored(fields[3], self.node.name)
            lane.restarted(fields[1], fields[2], error)
        elif kind == "ended":
            lane.ended(None if fields[1] is None else wire.restored(fields[1], self.node.name), fields[2])
        elif kind == "print":
            context = lane.kernel.definition.context or contextvars.copy_context()
            context.copy().run(_print, fields[1])
        elif kind == "letter":
            self._take_letter(lane.kernel, *fields[1:])

    def _cause(self, sender: list[int] | None) -> Cause | None:
        """What a body there had in hand when it sent something, and the id of its kernel."""
        lane = None if sender is None else self.lanes.get(sender[0])
        return None if lane is None or sender is None else (lane.in_hand(sender[1]), lane.kernel.id)

    def _log(self, kernel: RemoteKernel | None, level: int, text: str) -> None:
        def write() -> None:
            log.log(
                level if level in (logging.WARNING, logging.ERROR) else logging.WARNING, "%s: %s", self.node.name, text
            )

        context = kernel.definition.context if kernel is not None else None
        (context or contextvars.copy_context()).copy().run(write)

    def _take_letter(
        self, kernel: RemoteKernel, blob: Any, reason: str, kind: Any, error: Any, is_reply: bool, instance: Any
    ) -> None:
        if kind not in KINDS:
            raise MessageDecodeError(f"no kind of dead letter: {kind!r:.50}")
        try:
            message = wire.decoded(blob) if isinstance(blob, bytes) else blob
        except PyDotComputeError as problem:
            message = f"<{problem}>"
        exception = None if error is None else wire.restored(error, self.node.name)
        kernel._dead_letters += 1
        kernel._marker = None
        self._cluster.runtime.dead_letters.add(
            DeadLetter(kernel.id, message, reason, exception, kind=kind, is_reply=is_reply, instance=instance)
        )

    # -- replies that were taken ---------------------------------------------------------------------------------------

    def _credit_soon(self) -> None:
        if self._crediting is None:
            self._crediting = asyncio.get_running_loop().call_later(CREDIT, self._credit)

    def _credit(self) -> None:
        """Tell the host how many replies were taken."""
        self._crediting = None
        unread = False
        for number, lane in self.lanes.items():
            if (credit := lane.credit) != self._credits.get(number, 0):
                self._credits[number] = credit
                self.say("credit", number, credit)
            unread |= len(lane.kernel._out) > 0
        if unread and self.lost is None:
            self._credit_soon()

    # -- what bodies there send elsewhere ------------------------------------------------------------------------------

    def _take_sent(self, target: str, sent: Sent) -> None:
        queue = self._waiting.get(target)
        if queue is None:
            queue = self._waiting[target] = deque()
            self._spawn(self._carry(target, queue))
        queue.append(sent)

    async def _carry(self, target: str, queue: deque[Sent]) -> None:
        """Send what came for one target, in order, until there is no more."""
        runtime = self._cluster.runtime
        while queue:
            done = 0
            failed: BaseException | None = None
            while queue and done < 256 and failed is None:
                sent = queue.popleft()
                if sent.token is not None:
                    self._spawn(self._ask(target, sent))
                    await asyncio.sleep(0)  # it comes into the mailbox before what is behind it
                    continue
                message: Any = None
                try:
                    message = wire.decoded(sent.blob)
                    with on_behalf_of(*sent.cause) if sent.cause is not None else nullcontext():
                        await runtime.send(target, message, sent.instance)
                except Exception as error:  # noqa: BLE001 - told to who has sent it; the others wait behind it
                    failed = error
                    runtime.dead_letters.add(
                        DeadLetter(target, message, str(error), kind="undeliverable", instance=sent.instance)
                    )
                done += 1
            if done:
                self.say("sent", target, done, None if failed is None else wire.described(failed))
        del self._waiting[target]
        self._carried.set()

    async def _find(self, token: int, target: str) -> None:
        runtime = self._cluster.runtime
        found = runtime._target(target)
        if found is None:
            self.say("answer", token, False, wire.described(runtime._unknown(target)))
        elif isinstance(found, RingKernel) and found._box.closed:
            self.say("answer", token, False, wire.described(found._unusable()))
        else:
            self.say("answer", token, True, None)

    async def _publish(self, token: int, topic: str, blob: bytes, cause: Cause | None) -> None:
        runtime = self._cluster.runtime
        sent: Counter[str] = Counter()
        try:
            # What the bodies there have sent before comes first.
            while not self._waiting.keys().isdisjoint(runtime.topics.matching(topic)):
                self._carried.clear()
                await self._carried.wait()
            with on_behalf_of(*cause) if cause is not None else nullcontext():
                count = await runtime.publish(topic, wire.decoded(blob), sent)
            self.say("answer", token, True, wire.encoded((count, dict(sent))))
        except Exception as error:  # noqa: BLE001 - told to who has published
            self.say("answer", token, False, wire.described(error))

    async def _ask(self, target: str, sent: Sent) -> None:
        try:
            with on_behalf_of(*sent.cause) if sent.cause is not None else nullcontext():
                reply = await self._cluster.runtime.ask(target, wire.decoded(sent.blob), sent.timeout, sent.instance)
            self.teach(type(reply))
            self.say("answer", sent.token, True, None if reply is None else wire.encoded(reply))
        except Exception as error:  # noqa: BLE001 - told to who has asked
            self.say("answer", sent.token, False, wire.described(error))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _lose(self, error: BaseException) -> None:
        """The host is gone."""
        if self.lost is not None or self._closing:
            return
        self.lost = f"{self.node.name} on {self.node.address} is lost ({_short(error)})"
        self._cluster.lost(self.node, self.lost)
        self._cluster._engine.kill(self._handle)  # if it lives after all, it must not go on
        self._end()

    def _end(self) -> None:
        for task in (self._sender, self._collector):
            if task is not asyncio.current_task():
                task.cancel()
        if self._crediting is not None:
            self._crediting.cancel()
        for future in list(self._calls.values()):
            if not future.done():
                future.set_exception(NodeLostError(self.lost or f"{self.node.name} is closed"))
        for lane in list(self._expected):
            lane.kernel.go_on()

    async def close(self) -> None:
        if self.lost is not None:
            return
        self._closing = True
        try:
            async with asyncio.timeout(2.0):
                await self._handle.call("leave")
        except Exception as error:  # noqa: BLE001 - it is killed below
            log.debug("%s does not leave: %s", self.node.name, error)
        self.lost = f"{self.node.name} is closed"
        self._end()
        self._cluster._engine.kill(self._handle)


def _print(text: str) -> None:
    """Write what a body has printed; what cannot be written here harms nobody."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
    except Exception as error:  # noqa: BLE001 - a stream of the user's, or one that is closed
        log.debug("%r cannot be printed: %s", text, error)


def _short(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__name__


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "a kernel that begins"


def _classes(definition: RingKernelDefinition) -> Iterator[type]:
    """Classes of fixed layout that a definition names."""
    if isinstance(definition, StepDefinition):
        yield from (cls for cls in (definition.message_type, definition.reply_type, definition.state_type) if cls)


def _evaluate(cls: Any) -> None:
    """Write what its annotations mean in place of their texts: what they name is known here, and perhaps not there."""
    written = inspect.get_annotations(cls)
    if any(isinstance(annotation, str) for annotation in written.values()):
        hints = get_type_hints(cls, include_extras=True)
        cls.__annotations__ = {name: hints[name] for name in written}


def _shipped(definition: RingKernelDefinition) -> RingKernelDefinition:
    """The definition as it goes to another node: without what belongs to this process."""
    shipped = copy.copy(definition)
    shipped.context = shipped.cell = None
    shipped.backpressure = "block"  # the mailbox here has decided already
    if isinstance(shipped, StepDefinition):
        shipped._backend, shipped._program = None, None  # type: ignore[assignment]
    return shipped


def checked_placement(
    definition: RingKernelDefinition, node: str | None, num_gpus: int, spread: bool, delivery: str
) -> Placement:
    """Where a kernel is to run.

    Raises:
        ValueError: what contradicts itself, or is none of what there is.
        DefinitionError: the kernel cannot run on another node.
    """
    if delivery not in PROMISES:
        raise ValueError(f"delivery must be one of {', '.join(map(repr, PROMISES))}; not {delivery!r}")
    if not is_count(num_gpus, least=0):
        raise ValueError(f"num_gpus must be an integer of at least 0, not {num_gpus!r}")
    if node is not None and (num_gpus or spread):
        raise ValueError("node= names a node: leave num_gpus= and spread= out, which choose one")
    check_shippable(definition)
    return Placement(node, num_gpus, delivery, spread)


__all__ = ["Cluster", "Node", "Nodes", "Placement", "checked_placement"]
