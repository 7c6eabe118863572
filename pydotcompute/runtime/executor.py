"""What the runtime asks of whatever runs the steps of compiled ring kernels.

A **backend** (`pydotcompute.device`) compiles a step into a **program**; one **engine** of it for each runtime owns
what its kernels share, threads for one; an **executor** is one ring kernel on that engine. The runtime knows these
protocols alone, and finds the backends by name when the first compiled ring kernel is defined: importing it needs no
compiler.

One message: `Executor.put` packs it into the kernel's ring, from where the persistent loop takes it and runs the step.
The answer to an ask comes back under the **ticket** that the message went with; every other reply waits in the ring of
replies for `take`, unless that ring is another kernel's inbox. The loop tells the runtime by `notify`, once for each
`arm`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .step import StepDefinition


class _Word:
    """A value that is only itself, with a name for those who debug."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


REFUSED: Final = _Word("REFUSED")
"""`Executor.ask` has not taken the message."""
PENDING: Final = _Word("PENDING")
"""`Executor.ask` has taken the message; its answer will be among `Executor.answers`."""
NOTHING: Final = _Word("NOTHING")
"""`Executor.take`: no reply is there."""

BY_KEY = -1
"""The instance of a message that names none: its key says which, or there is only one."""


class Event:
    """What the runtime may wait for: bits of an int. (Python's own flags take ten times as long.)"""

    ANSWER: Final = 1
    """There are answers."""
    REPLY: Final = 2
    """There are replies to `take`."""
    ROOM: Final = 4
    """The ring has room for a message."""
    IDLE: Final = 8
    """Nothing is in the ring and nothing in hand."""
    FAILURE: Final = 16
    """The step failed. It is always armed."""


class RingPositions(NamedTuple):
    """Where a ring stands. Positions count up, and each lies at the place of its remainder.

    They never come again while the ring is there. On the CPU `connect` and `disconnect` may give a kernel a new ring of
    replies, whose positions begin at 0.
    """

    places: int
    """Slots; a power of two, but for the backend ``"interpreted"``."""
    limit: int
    """How many of them may be taken at once."""
    head: int
    """The position that is read next."""
    tail: int
    """The position that is written next."""


class Rings(NamedTuple):
    """The rings of a compiled ring kernel on the side of the host."""

    messages: RingPositions
    """Messages that wait for the loop; on a GPU, for the way there."""
    replies: RingPositions
    """Replies that wait for `receive`, or for a kernel that is connected."""


class Program(Protocol):
    """A step that is ready to run."""

    definition: StepDefinition


class Executor(Protocol):
    """One ring kernel on its backend, made in the state in which it does not run.

    `put_records` and what ends in ``_from_afar`` may be called by any thread, and must not let another see them half
    done; `depth` and `unread` may be read by any. These, `put`, `feed`, `ask` and `take` may still be called after
    `close`. The other methods are for the runtime's loop alone. None of them may block or take long.
    """

    patience: int
    """How many passes of the event loop an answer that is pending is worth looking for before arming for it."""

    # -- messages in ---------------------------------------------------------------------------------------------------

    def put(self, message: Any, instance: int, ticket: int = 0) -> bool:
        """Put a message into the ring. False: the gate is closed, or there are `queue_size` messages already.

        The message must be of the program's message type; `instance` one that exists, or `BY_KEY`. A ticket other than
        0 asks for an answer under that number.

        Raises:
            MessageTypeError: a field holds what its type cannot; nothing was put.
        """

    def feed(self, message: Any, instance: int, ticket: int = 0) -> bool:
        """`put` past a closed gate: for those that have waited in the mailbox."""

    def put_records(self, records: NDArray[np.void], instance: int) -> int:
        """Put as many as there is room for; how many, or -1 where the gate is closed.

        `records` is C-contiguous, of shape (n,) and the dtype of the program's message type; the caller has checked it.
        """

    def feed_records(self, records: NDArray[np.void], instance: int) -> int:
        """`put_records` past a closed gate."""

    def ask(self, message: Any, instance: int, ticket: int) -> Any:
        """`put` and, if that promises to be quicker than the event loop, wait a few microseconds for the answer.

        The reply; None if the step sent none; `PENDING`; or `REFUSED` when `put` would have said False.
        """

    def put_from_afar(self, message: Any, instance: int, ticket: int = 0) -> bool:
        """`put` by another thread than that of the runtime's loop."""

    def ask_from_afar(self, message: Any, instance: int, ticket: int) -> Any:
        """`ask` by another thread."""

    def open_gate(self, is_open: bool) -> None:
        """Whether `put`, `put_records` and `ask`, also from afar, are let through. Closed at first."""

    @property
    def depth(self) -> int:
        """Messages that are in the ring, those in hand included. One that leaves has been counted as processed."""

    def rings(self) -> Rings:
        """Where its rings stand just now; any thread may ask, and the loop does not notice."""

    # -- messages out --------------------------------------------------------------------------------------------------

    def answers(self) -> Sequence[tuple[int, Any]]:
        """Take the answers that are there: tickets, and each one's reply or None."""

    def take(self) -> Any:
        """Take the oldest reply that belongs to no ask, or `NOTHING`."""

    def take_records(self, max_n: int) -> NDArray[np.void]:
        """Take up to that many of them as an array of its own, dtype that of the program's reply type."""

    @property
    def unread(self) -> int:
        """Replies that wait for `take`; at most `queue_size`. Without room for another the loop takes only asks."""

    def arm(self, events: int) -> int:
        """Ask for one call of `notify` when one of these events comes. Those that have come already are returned.

        If any have, nothing is armed. Arming again adds to what is armed.
        """

    def connect(self, target: Executor) -> bool:
        """Let replies that belong to no ask go straight into the ring of `target`; only while `resting`.

        False: this backend cannot, or not now.
        """

    @property
    def handed(self) -> int:
        """Replies that went to the target since `connect`; 0 while there is none. Any thread may ask."""

    def disconnect(self) -> None:
        """Let replies be taken with `take` again; only while `resting`. Those on their way are the target's."""

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the loop handle messages: to start, and to go on after `pause`."""

    def pause(self) -> None:
        """Let it finish the message in hand and take no other."""

    @property
    def resting(self) -> bool:
        """Whether it has no message in hand and takes none: it is paused, or has failed. Then it rests until `run`."""

    def refusal(self, program: Program) -> str | None:
        """Why `swap` is not possible with a program although the layouts are the same; None if it is."""

    def swap(self, program: Program) -> None:
        """Another step on the same rings and state; only while `resting`. The layouts are the same."""

    def states(self) -> NDArray[np.void]:
        """A copy of the state of all instances, shape (instances,); only while `resting`."""

    def retrieve(self) -> Sequence[tuple[Any, int, int]]:
        """Take all messages back that were not handled, each with the instance and the ticket that it was put with.

        Only while `resting`: then the ring is empty, and they may be put again, or others. What another kernel that was
        connected to it has sent is among them, by key and unasked; the one that it failed with is the first. Where the
        step does not come back, they are there to be looked at, and stay.
        """

    @property
    def failure(self) -> BaseException | None:
        """Why the loop has ended by itself. The message that it failed with is the first that `retrieve` gives."""

    def renew(self, keep_states: bool) -> None:
        """Forget that it has failed, if it has and that was told; only while `resting`, and when all was retrieved.

        The states are made anew by the definition of the present program, or kept as the step has left them. Replies
        and answers that are there, connections and the program stay. It rests until `run`.

        Raises:
            DeviceError: the device has nothing left that could go on; `failure` stays what it was.
            Exception: what the function that makes a state has raised; nothing was changed.
        """

    def close(self) -> None:
        """Give everything back. Replies that were not taken are gone; messages are refused as if the gate was closed.

        If it is not `resting`, the step does not come back: what that uses is kept until it does.
        """


class Engine(Protocol):
    """What the kernels of one runtime share on one backend."""

    def executor(self, program: Program, row: memoryview, notify: Callable[[int], None]) -> Executor:
        """Memory and a place for one kernel.

        `row` is its row of counters, int64 words as `telemetry.COUNTERS` lays them out. The loop itself writes
        `processed`, `replied`, `busy_ns`, `waited` and `handled`; the last two count a sample of messages.

        `notify` is called on the event loop of the runtime with what has happened, once for each `arm`.
        """

    def close(self) -> None:
        """End all threads and give everything back; waits for them. Any thread may call it, also at exit."""


class Backend(Protocol):
    """A way to run steps."""

    name: str

    def check(self, definition: StepDefinition) -> None:
        """Refuse what no backend could run, quickly and without compiling.

        Raises:
            BackendUnavailableError: this backend cannot be used here; the text says why and what to install.
            StepError: with the line and what to write instead.
        """

    def build(self, definition: StepDefinition) -> Program:
        """Compile. Any thread may call it; it may take a second. Errors as in `check`."""

    def engine(self, loop: AbstractEventLoop) -> Engine:
        """An engine for the runtime on this event loop."""


def backend(name: str) -> Backend:
    """The backend of that name; ``"auto"`` is the fastest that can be used here.

    Raises:
        BackendUnavailableError: none can be used, or not that one; the text says why and what to install.
    """
    # By name: what runs steps stands above the runtime and knows it.
    choose: Callable[[str], Backend] = import_module("pydotcompute.device.backend").choose
    return choose(name)
