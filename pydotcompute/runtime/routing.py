"""A `Router`: one id for a pool of ring kernels, of which each message goes to one, or to all."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from itertools import count, cycle, islice
from operator import attrgetter
from struct import pack
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args
from uuid import UUID

import numpy as np

from ..exceptions import (
    InstanceError,
    KernelStateError,
    MessageTypeError,
    PyDotComputeError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from .checks import checked_id, checked_timeout, is_count
from .kernel import RingKernelDefinition, definitions
from .lifecycle import KernelState
from .links import check_targets, connect, first_error, is_closed, offer, spread
from .runtime import here

if TYPE_CHECKING:
    from .kernel import RingKernel
    from .runtime import RingKernelRuntime

Routing = Literal["round_robin", "least_queue", "hash", "broadcast"]
STRATEGIES: tuple[str, ...] = get_args(Routing)
Key = str | Callable[[Any], Any]


class Placed(TypedDict, total=False):
    """Where kernels are launched: arguments of `RingKernelRuntime.launch` that were given."""

    node: str
    num_gpus: int
    spread: bool
    delivery: str


KEYS = 4096
"""Keys whose kernel is remembered."""


@dataclass(frozen=True, slots=True)
class RouterStatistics:
    """The counters of a router."""

    router_id: str
    strategy: str
    routed: dict[str, int]
    """How many messages each kernel was given, by id; those that were taken out of the pool keep their count."""
    skipped: int
    """How often a kernel was passed over because it takes no more messages."""
    failed: int
    """Messages whose sender got an error."""


class _Routee:
    """One kernel of a pool."""

    __slots__ = ("before", "kernel", "number", "plain", "routed", "seed")

    def __init__(self, kernel: RingKernel, number: int) -> None:
        self.number = number
        self.seed = _hashed(kernel.id)
        self.routed = 0
        self.take(kernel)

    def take(self, kernel: RingKernel) -> None:
        """Another one has come under its id."""
        # What is on the way to another node counts, too.
        self.kernel, self.plain = kernel, kernel._box.plain if kernel._box.counts_plain else kernel._box
        self.before = self.routed
        """How many went to those that had its id before."""


class Router:
    """One id for several ring kernels; `RingKernelRuntime.router` makes it.

    Wherever messages are sent to the id of a kernel, that of a router will do: in ``send``, ``send_many``, ``ask``,
    ``map``, ``ctx.tell``, ``ctx.ask``, as the target of ``connect``, and in ``subscribe``.

    Kernels that have failed or ended, or are about to end, are passed over. One that is paused, or waits to be started
    again, keeps its share of the messages: they wait in its mailbox. A full mailbox holds the sender up, as always.
    """

    def __init__(self, runtime: RingKernelRuntime, router_id: str, strategy: Routing, key: Key | None) -> None:
        self.id = checked_id(router_id)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy of {router_id!r} must be one of {', '.join(STRATEGIES)}; not {strategy!r}")
        if (key is not None) is not (strategy == "hash"):
            raise ValueError(
                f"{router_id!r}: key= says which messages belong together, the name of a field or a function of the "
                f"message, and strategy='hash' needs it; no other strategy takes one"
            )
        if key is not None and not callable(key) and not isinstance(key, str):
            raise TypeError(f"key of {router_id!r} must be the name of a field or a function, not {key!r}")
        self.runtime, self.strategy, self.key = runtime, strategy, key
        self.closed = False
        """Whether it was closed."""
        self._key_of: Callable[[Any], Any] = attrgetter(key) if isinstance(key, str) else key or (lambda message: None)
        self._kernel: str | RingKernelDefinition | None = None  # what it launches
        self._placement: Placed = {}  # and where
        self._routees: tuple[_Routee, ...] = ()
        self._known: dict[str, _Routee] = {}  # also those that were taken out
        self._turns: Iterator[_Routee] = cycle(self._routees)
        self._places: dict[Any, _Routee] = {}  # of the keys that were met
        self._targets: list[RingKernel | Router] = []  # where the replies of its kernels go
        self._skipped = self._failed = 0
        self._spread = 0  # how many messages have gone to each of its kernels
        self._resizing = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self._in_turn, self._to_each = strategy == "round_robin", strategy == "broadcast"
        ways = {"least_queue": self._shortest, "hash": self._by_key}
        self._choose: Callable[[Any], _Routee | None] = ways.get(strategy, self._next)

    # -- what a user asks of it ----------------------------------------------------------------------------------------

    @property
    def kernels(self) -> tuple[RingKernel, ...]:
        """The handles of its kernels, those that have failed or ended among them until the next `resize`."""
        return tuple(routee.kernel for routee in self._routees)

    async def send(self, message: Any) -> None:
        """`RingKernelRuntime.send` to the kernel whose turn it is; with `broadcast` to all, and none waits for others.

        Raises:
            KernelStateError: none of its kernels takes messages.
            TypeError, MessageTypeError: the key of the message is none, or it has no such field.
            What `RingKernelRuntime.send` raises; with `broadcast` when the others have got the message.
        """
        if not here() == self.runtime._here:  # noqa: SIM201 - as in RingKernelRuntime.send
            return await self.runtime._hop(self.send, message)
        if (waiting := self._offer(message)) is not None:
            await waiting

    async def send_many(self, messages: Iterable[Any]) -> None:
        """`send` each of these messages, in order; those before one that raises are sent."""
        if self.runtime._away:
            return await self.runtime._hop(self.send_many, list(messages))
        for message in messages:
            if (waiting := self._offer(message)) is not None:
                await waiting

    async def ask(self, message: Any, timeout: float | None = None, _sent: dict[str, int] | None = None) -> Any:
        """`RingKernelRuntime.ask` of the kernel whose turn it is.

        Returns:
            The reply; with `broadcast` the list of all replies, in the order of `kernels`.

        Raises:
            KernelStateError: none of its kernels takes messages.
            What `send` and `RingKernelRuntime.ask` raise; with `broadcast` when all have replied or failed.
        """
        if self.runtime._away:
            return await self.runtime.ask(self.id, message, timeout)
        runtime = self.runtime
        checked_timeout(timeout)
        routees: Sequence[_Routee] = ()
        reached: dict[str, int] = defaultdict(int)  # which kernels have it in their mailbox
        if _sent is not None:  # before it is in: what has come from nowhere would count as from outside
            _sent[self.id] += 1
        try:
            routees = self._open() if self._to_each else (self._chosen(message),)
            for routee in routees:
                routee.routed += 1
            self._spread += 1
            if not self._to_each:
                return await runtime.ask(routees[0].kernel.id, message, timeout, _sent=reached)
            asks = [runtime.ask(routee.kernel.id, message, timeout, _sent=reached) for routee in routees]
            replies = await asyncio.gather(*asks, return_exceptions=True)
            for reply in replies:
                if isinstance(reply, BaseException):
                    raise reply
            return replies
        except BaseException as error:
            for routee in routees:
                routee.routed -= not reached[routee.kernel.id]
            if not routees or not all(reached[routee.kernel.id] for routee in routees):
                self._spread -= bool(routees)
                if _sent is not None:
                    _sent[self.id] -= 1
            self._failed += isinstance(error, Exception)
            raise

    async def resize(self, size: int, timeout: float | None = None) -> None:
        """Let so many kernels share the messages; synchronous code calls ``runtime.sync.call(pool.resize, size)``.

        More are launched and activated, in place of those that have failed or ended first. Of fewer, the last get no
        more messages from the router, handle what they have, and are terminated then; a paused one resumes for that.
        Replies that were not read can still be received from them. With `hash` only the keys move that have to.

        Args:
            timeout: seconds to wait for those that are to end; None waits as long as it takes.

        Raises:
            KernelStateError: it was closed, or is over kernels that it has not launched.
            QueueTimeoutError: some have not ended in time; they will when they have handled what they have.
            ValueError: a size below 1.
        """
        if self.runtime._away:
            return await self.runtime._hop(self.resize, size, timeout)
        checked_timeout(timeout)
        if not is_count(size):
            raise ValueError(f"size of {self.id!r} must be an integer of at least 1, not {size!r}")
        if self.closed:
            raise self._unusable()
        if self._kernel is None:
            raise KernelStateError(
                f"{self.id!r} is a router over kernels that it has not launched: close it, and make one over others"
            )
        async with self._resizing:
            kept = [routee for routee in self._routees if self._lives(routee)]
            kept, left = kept[:size], kept[size:]
            self._let_share(kept)
            while len(kept) < size:
                launched = await self._launched()
                if self.id not in self.runtime._routers:  # closed meanwhile
                    left.append(launched)
                    break
                kept = sorted([*kept, launched], key=lambda routee: routee.number)
                self._let_share(kept)
        await self._end([routee.kernel for routee in left], timeout)

    async def connect(self, *target_ids: str) -> None:
        """`RingKernelRuntime.connect` each of its kernels, and those that it launches later."""
        await self.runtime.connect(self.id, *target_ids)

    async def disconnect(self, *target_ids: str) -> None:
        """`RingKernelRuntime.disconnect` each of its kernels."""
        await self.runtime.disconnect(self.id, *target_ids)

    async def close(self, timeout: float | None = None) -> None:
        """Take no more messages, and end the kernels that it has launched when they have handled what they have.

        Args:
            timeout: seconds to wait for that; None waits as long as it takes.

        Raises:
            QueueTimeoutError: some have not ended in time; they will.
        """
        if self.runtime._away:
            return await self.runtime._hop(self.close, timeout)
        checked_timeout(timeout)
        if self.closed:
            return
        self.closed, kernels = True, self.kernels
        self._let_share(())
        del self.runtime._routers[self.id]
        self.runtime._sent_before.update(self._given())
        for link in list(self.runtime._links):
            if self in link.targets:
                await link.end(self)
        await self._end(kernels if self._kernel is not None else (), timeout)

    def statistics(self) -> RouterStatistics:
        """Its counters now, frozen. Any thread may ask."""
        routed = {kernel_id: routee.routed for kernel_id, routee in list(self._known.items())}
        return RouterStatistics(self.id, self.strategy, routed, self._skipped, self._failed)

    @property
    def _taken(self) -> int:
        """How many messages it was sent, but for those that failed."""
        return self._spread if self._to_each else sum([one.routed for one in list(self._known.values())])

    def _given(self) -> dict[str, int]:
        """How many messages it has given to each of the kernels that there are."""
        kernels = self.runtime._kernels
        known = list(self._known.items())
        return {name: one.routed - one.before for name, one in known if kernels.get(name) is one.kernel}

    @property
    def _title(self) -> str:
        routed = sum(routee.routed for routee in list(self._known.values()))
        more = "".join(f", {n:,} {what}" for what, n in (("skipped", self._skipped), ("failed", self._failed)) if n)
        kernels = "closed" if self.closed else f"over {len(self._routees)} ring kernel{'s' * (len(self._routees) != 1)}"
        return f"router {self.id!r} {self.strategy} {kernels}, {routed:,} routed{more}"

    def __repr__(self) -> str:
        return f"<{self._title}>"

    def _repr_html_(self) -> str:
        from ..telemetry.html import STATE_WORDS, table_html  # only where somebody looks

        rows = [
            (routee.kernel.id, STATE_WORDS[routee.kernel.state], f"{len(routee.kernel._box):,}", f"{routee.routed:,}")
            for routee in self._routees
        ]
        return table_html(self._title, ("kernel", "state", "queued", "routed"), rows)

    # -- whose turn it is ----------------------------------------------------------------------------------------------

    def _instance(self, instance: int) -> int:
        raise InstanceError(f"{self.id!r} is a router and has no instance {instance!r}: ask one of its kernels")

    def _next(self, message: Any) -> _Routee | None:
        return next(self._turns, None)

    def _shortest(self, message: Any) -> _Routee | None:
        best, least = None, sys.maxsize
        for routee in islice(self._turns, len(self._routees)):
            if (load := len(routee.plain)) >= least:
                continue
            box = routee.kernel._box
            if box.closed is not None:
                if not self._lives(routee):
                    continue
                box = routee.kernel._box
            if routee.kernel._put_now is None:
                load += box._extra + (routee.kernel._ctx._start > 0)
                if box._blocked:
                    load += len(box._blocked)
            else:  # compiled
                load = len(box) + box.blocked
            if not load:
                return routee
            if load < least:
                best, least = routee, load
        return best

    def _by_key(self, message: Any) -> _Routee | None:
        routee: _Routee | None
        try:
            key = self._key_of(message)
        except AttributeError as error:
            raise MessageTypeError(
                f"router {self.id!r} needs the key of each message, and {type(message).__qualname__} has none: {error}"
            ) from None
        routee = self._places.get(key)
        if routee is not None and routee.kernel._box.closed is None:
            return routee
        hashed, left = _hashed(key), self._routees
        while left:
            routee = max(left, key=lambda one: _mixed(hashed ^ one.seed))
            if self._lives(routee):
                if left is self._routees:
                    if len(self._places) >= KEYS:
                        self._places.clear()
                    self._places[key] = routee
                return routee
            left = tuple(one for one in left if one is not routee)
        return None

    def _lives(self, routee: _Routee) -> bool:
        """Whether its kernel takes messages, or the one that was launched under its id since."""
        if routee.kernel._box.closed is not None:
            latest = self.runtime._kernels[routee.kernel.id]
            if latest._box.closed is not None:
                self._skipped += 1
                return False
            routee.take(latest)
        return True

    def _open(self) -> list[_Routee]:
        routees = [routee for routee in self._routees if self._lives(routee)]
        if not routees:
            raise self._none_left()
        return routees

    def _chosen(self, message: Any) -> _Routee:
        for _ in self._routees:
            routee = self._choose(message)
            if routee is not None and (routee.kernel._box.closed is None or self._lives(routee)):
                return routee
        raise self._none_left()

    def _offer(self, message: Any) -> Coroutine[Any, Any, None] | None:
        """Put a message where it goes, on the runtime's loop. None: it is in. Else await this. Errors as in `send`."""
        if self._to_each:
            return self._to_all(message)
        try:
            routee = next(self._turns, None) if self._in_turn else self._choose(message)
            if routee is None or (routee.kernel._box.closed is not None and not self._lives(routee)):
                routee = self._chosen(message)
            waiting = offer(routee.kernel, message)
        except Exception:
            self._failed += 1
            raise
        if waiting is None:
            routee.routed += 1
            return None
        return self._when_room(routee, waiting, message)

    async def _when_room(self, routee: _Routee, waiting: Coroutine[Any, Any, None], message: Any) -> None:
        try:
            await waiting
        except PyDotComputeError:
            if not is_closed(routee.kernel):
                self._failed += 1
                raise
            self._skipped += 1
        else:
            routee.routed += 1
            return
        await self.send(message)  # it has ended before there was room: the turn is another's

    async def _to_all(self, message: Any) -> None:
        try:
            routees = self._open()
            taken, refused = await spread([routee.kernel for routee in routees], message)
            without = [kernel for kernel, _ in refused]
            for routee in routees:
                if routee.kernel not in without:
                    routee.routed += 1
            refused = [(kernel, error) for kernel, error in refused if not is_closed(kernel)]
            self._skipped += len(without) - len(refused)
            if refused:
                raise first_error(refused, taken)
            if not taken:
                raise self._none_left()
            self._spread += 1
        except Exception:
            self._failed += 1
            raise

    def _unusable(self) -> KernelStateError:
        return KernelStateError(f"the router {self.id!r} was closed: make one with `await runtime.router(...)`")

    def _none_left(self) -> KernelStateError:
        if self.closed:
            return self._unusable()
        states = ", ".join(f"{kernel.id} is {kernel.state}" for kernel in self.kernels)
        if self._kernel is not None:
            remedy = f"`await runtime.routers[{self.id!r}].resize({len(self._routees)})` launches others"
        else:
            remedy = "launch and activate one of them again"
        error = KernelStateError(f"no ring kernel of the router {self.id!r} takes messages ({states}): {remedy}")
        error.__cause__ = next((kernel.exception for kernel in self.kernels if kernel.exception is not None), None)
        return error

    # -- its kernels ---------------------------------------------------------------------------------------------------

    async def _connect(self, targets: Sequence[RingKernel | Router]) -> None:
        check_targets(self, targets)
        for kernel in self.kernels:
            await connect(kernel, targets)
        self._targets += targets

    async def _disconnect(self, targets: Sequence[RingKernel | Router]) -> None:
        for target in targets or self._targets or [self]:
            if target not in self._targets:
                other = " and ".join(repr(one.id) for one in self._targets) or "no other kernel"
                whom = f"do not go to {target.id!r}, but to {other}" if targets else f"go to {other}"
                raise KernelStateError(f"replies of {self.id!r} {whom}")
        ended = list(targets or self._targets)
        self._targets = [target for target in self._targets if target not in ended]
        for kernel in self.kernels:
            link = kernel._link
            if link is not None and (own := [target for target in ended if target in link.targets]):
                await link.end(*own)

    def _let_share(self, routees: Sequence[_Routee]) -> None:
        self._routees = tuple(routees)
        self._known.update((routee.kernel.id, routee) for routee in routees)
        self._turns = cycle(self._routees)
        self._places.clear()

    async def _launched(self) -> _Routee:
        """One more kernel, under the next free id."""
        runtime, kernel = self.runtime, self._kernel
        assert kernel is not None
        latest = kernel if isinstance(kernel, str) else definitions().get(kernel.kernel_id, kernel)
        for number in count():
            kernel_id = f"{self.id}-{number}"
            former = runtime._kernels.get(kernel_id)
            if kernel_id not in runtime._routers and (former is None or former.state.over):
                break
        launched = await runtime._launch(latest, kernel_id, **self._placement)
        if targets := [target for target in self._targets if not is_closed(target)]:
            await connect(launched, targets)
        await runtime.activate(kernel_id)
        routee = self._known.get(kernel_id) or _Routee(launched, number)
        routee.take(launched)
        return routee

    async def _end(self, kernels: Sequence[RingKernel], timeout: float | None) -> None:
        """Wait until each of them has handled what it has, and was terminated."""
        ending = [asyncio.ensure_future(self._drained(kernel)) for kernel in kernels]
        self._ending.update(ending)
        for task in ending:
            task.add_done_callback(self._ending.discard)
        if ending:
            _, late = await asyncio.wait(ending, timeout=timeout)
            if late:
                busy = [repr(kernel.id) for kernel, task in zip(kernels, ending, strict=True) if task in late]
                raise QueueTimeoutError(
                    f"{' and '.join(busy)} of the router {self.id!r} have not ended within {timeout:g} s: "
                    f"they will when they have handled what they have"
                )

    async def _drained(self, kernel: RingKernel) -> None:
        if kernel.state is KernelState.DEACTIVATED:
            await kernel.reactivate()
        while not kernel.state.over and (kernel.state is KernelState.TERMINATING or not kernel._idle):
            await kernel._change()
        with suppress(KernelStateError, RuntimeClosedError):  # it has ended
            if not kernel.state.over:
                await kernel._terminate(True, 5.0)


async def router(
    runtime: RingKernelRuntime,
    router_id: str,
    kernels: str | RingKernelDefinition | Iterable[str],
    size: int | None,
    strategy: Routing,
    key: Key | None,
    placement: Placed,
) -> Router:
    """`RingKernelRuntime.router`."""
    made = Router(runtime, router_id, strategy, key)
    if isinstance(kernels, (str, RingKernelDefinition)):
        if size is None:
            raise ValueError(f"size of {router_id!r} must say how many kernels to launch")
        if not is_count(size):
            raise ValueError(f"size of {router_id!r} must be an integer of at least 1, not {size!r}")
        if isinstance(kernels, str) and kernels not in definitions():
            raise runtime._unknown(kernels)
        made._kernel, made._placement = kernels, placement
    elif size is not None:
        raise ValueError(f"{router_id!r}: size= is for a kernel to launch; these kernels were launched already")
    elif placement:
        names = " and ".join(f"{name}=" for name in placement)
        raise ValueError(f"{router_id!r}: {names} say where to launch kernels; these were launched already")
    if router_id in runtime._routers or router_id in runtime._kernels:
        what = "a router" if router_id in runtime._routers else f"a ring kernel ({runtime._kernels[router_id].state})"
        raise KernelStateError(f"{router_id!r} is the id of {what} already: choose another")
    runtime._routers[router_id] = made
    for other in runtime._kernels.values():  # to one that was closed
        other._sent.pop(router_id, None)
    runtime._sent_before.pop(router_id, None)
    try:
        if made._kernel is not None:
            assert size is not None
            await made.resize(size)
        else:
            assert not isinstance(kernels, (str, RingKernelDefinition))
            found = [runtime._find(kernel_id) for kernel_id in dict.fromkeys(kernels)]
            if not found:
                raise ValueError(f"{router_id!r} needs at least one ring kernel")
            made._let_share([_Routee(kernel, number) for number, kernel in enumerate(found)])
            made._open()
    except BaseException:
        await made.close()
        raise
    return made


def _hashed(key: Any) -> int:
    """64 bits that are the same in every process, and for keys that are equal."""
    return int.from_bytes(blake2b(_canonical(key), digest_size=8).digest())


def _canonical(key: Any) -> bytes:
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, (int, np.integer, np.bool_)):
        return b"i%d" % int(key)
    if isinstance(key, (float, np.floating)):
        number = float(key)
        return b"i%d" % int(number) if number.is_integer() else b"f" + pack("<d", number)
    if isinstance(key, UUID):
        return b"u" + key.bytes
    if isinstance(key, tuple):
        parts = [_canonical(part) for part in key]
        return b"t" + b"".join(b"%d:%s" % (len(part), part) for part in parts)
    if isinstance(key, Enum):
        return b"e" + f"{type(key).__qualname__}.{key.name}".encode()
    if key is None:
        return b"n"
    raise TypeError(
        f"a key must be a text, bytes, a number, a UUID, an enum member, None or a tuple of these, not {key!r}: let "
        f"key= be a function that makes one"
    )


_ALL = (1 << 64) - 1


def _mixed(word: int) -> int:
    """The score of a key at a kernel. The largest wins: a key moves only from a kernel that goes, or to one that comes.

    Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions
    on Networking 6 (1), 1998. The mixing is the finaliser of SplitMix64: Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014.
    """
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _ALL
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _ALL
    return word ^ (word >> 31)
