"""What can be seen of messages and kernels as they go: an `Observer` is told of each step, in order.

Traces, recordings and OpenTelemetry spans are observers. While a runtime has none, nothing of this costs anything:
messages take their short ways. While it has some, each message of the kernels that they look at goes the general way,
inside a `Delivery`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import Stamp

_numbers = count(1)


class Delivery(tuple[Any, int, Any]):
    """One message on its way into one kernel: an entry of its mailbox that can be told from all others.

    The entry itself is (message, `clock()` when it was put or the instance that it is for, where its reply goes).
    """

    number: int
    """Its own, in this process."""
    kernel_id: str
    cause: Delivery | None = None
    """What was being handled where it was sent; None: it came from outside of the kernels, or has been handled."""
    source: str | None = None
    """The id of the kernel that sent it; None: it came from outside of the kernels."""
    attempts: int = 0
    """How often its handling has failed."""

    @property
    def message(self) -> Any:
        return self[0]

    @property
    def is_ask(self) -> bool:
        """Whether its sender waits for the reply."""
        return self[2] is not None

    def __repr__(self) -> str:
        return f"<delivery {self.number} to {self.kernel_id!r}: {self[0]!r}>"


def delivery(entry: tuple[Any, int, Any], kernel_id: str, attempts: int = 0) -> Delivery:
    """An entry as a delivery, caused by what is being handled here and now."""
    made = Delivery(entry)
    made.number, made.kernel_id, made.attempts = next(_numbers), kernel_id, attempts
    made.cause = cause = in_hand.get()
    made.source = acting.get() if cause is None else cause.kernel_id
    return made


in_hand: ContextVar[Delivery | None] = ContextVar("pydotcompute_in_hand", default=None)
"""The delivery that is being handled in this context. Tasks and threads that a body starts inherit it."""


acting: ContextVar[str | None] = ContextVar("pydotcompute_acting", default=None)
"""The id of the kernel whose body runs in this context, or has started what does."""


@contextmanager
def on_behalf_of(cause: Delivery | None, source: str | None = None) -> Iterator[None]:
    """What is sent inside was caused by that delivery, or at least sent by that kernel."""
    tokens = in_hand.set(cause), acting.set(source)
    try:
        yield
    finally:
        in_hand.reset(tokens[0])
        acting.reset(tokens[1])


class Observer:
    """Is told what happens; override what is wanted.

    All methods are called on the runtime's event loop, in the context (`contextvars`) of who acts: `sent` in that of
    the sender, `started`, `replied` and `ended` in that of the body. They must neither block nor raise; one that raises
    is taken off, with the error in the log. Of a compiled ring kernel, `started` says that the message was put into its
    ring, and `replied` and `ended` come when the runtime has got the answer back.

    Messages that were in a mailbox or ring before the observer came may start and end without having been sent.
    """

    kernels: frozenset[str] | None = None
    """The ids of the kernels that it wants to be told of; None: all."""

    def sent(self, delivery: Delivery) -> None:
        """A sender has given it to a kernel, and may have to wait for room."""

    def queued(self, delivery: Delivery) -> None:
        """It is in the mailbox."""

    def started(self, delivery: Delivery) -> None:
        """The body has taken it."""

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        """The kernel has sent a reply while it had `delivery` in hand.

        `answers` is the ask to which the reply went; None: it went to the outbox, or to a connected kernel.
        """

    def ended(self, delivery: Delivery) -> None:
        """It was handled to the end."""

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        """A message or reply has become a dead letter; `kind` is that of `DeadLetter`."""

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        """The body has raised, or was killed, with that delivery in hand."""

    def restarted(self, kernel_id: str, number: int) -> None:
        """A new body begins in place of one that has failed or ended; the kernel's `number`-th restart."""

    def changed(self, kernel_id: str, state: str) -> None:
        """The kernel has come into another state of its life."""

    def elsewhere(self, stamp: Stamp, what: str, *args: Any) -> None:
        """What a ring kernel on another node of a cluster has done, and when it has: word of it comes later.

        `what` is the name of one of the methods above, which is called unless this one is overridden, and `args` are
        its arguments.
        """
        getattr(self, what)(*args)
