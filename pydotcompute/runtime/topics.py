"""Topics: `publish` a message to all ring kernels that have subscribed to patterns which its topic matches.

A topic is words with dots between them, ``sensors.berlin.temperature``. In a pattern ``*`` stands for one word and
``#`` for none or more, as in the topic exchange of AMQP 0-9-1 (section 3.1.3.3 of its specification).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..exceptions import KernelStateError
from .dead_letters import DeadLetter
from .links import Full, Refused, first_error, is_closed, put_into, spread, wait_for_room

if TYPE_CHECKING:
    from .kernel import RingKernel
    from .routing import Router
    from .runtime import RingKernelRuntime

log = logging.getLogger("pydotcompute")

TOPICS = 4096
"""Topics whose subscribers are remembered until a subscription changes."""


class _Node:
    """A place in the tree of patterns: which words lead on from here, and who has subscribed to what leads here."""

    __slots__ = ("following", "is_many", "subscribers")

    def __init__(self, is_many: bool = False) -> None:
        self.following: dict[str, _Node] = {}
        self.subscribers: dict[str, int] = {}
        self.is_many = is_many
        """Whether it is a ``#``, which takes further words."""


class Patterns:
    """Who has subscribed to which patterns. Thousands of them take no longer to match than a few."""

    def __init__(self) -> None:
        self._root = _Node()
        self._all: dict[tuple[str, str], int] = {}  # (pattern, id) and a number, in the order in which they came
        self._last = 0

    def add(self, pattern: str, kernel_id: str) -> None:
        """Subscribe; again does nothing."""
        if (pattern, kernel_id) not in self._all:
            node = self._root
            for word in pattern.split("."):
                following = node.following.get(word)
                if following is None:
                    following = node.following[word] = _Node(word == "#")
                node = following
            self._last += 1
            node.subscribers[kernel_id] = self._all[pattern, kernel_id] = self._last

    def remove(self, pattern: str, kernel_id: str) -> bool:
        """Unsubscribe. False: it has not subscribed."""
        if self._all.pop((pattern, kernel_id), None) is None:
            return False
        words, path = pattern.split("."), [self._root]
        for word in words:
            path.append(path[-1].following[word])
        del path[-1].subscribers[kernel_id]
        while words and not (path[-1].subscribers or path[-1].following):
            path.pop()
            del path[-1].following[words.pop()]
        return True

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each pattern with the id that has subscribed to it, in the order of the subscriptions."""
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def matching(self, topic: str) -> list[str]:
        """The ids, each once, in the order in which they have subscribed."""
        places = _with_none([self._root])
        for word in topic.split("."):
            reached: list[_Node] = []
            for node in places:
                if node.is_many:
                    reached.append(node)
                for step in (node.following.get(word), node.following.get("*")):
                    if step is not None:
                        reached.append(step)
            places = _with_none(reached)
        found: dict[str, int] = {}
        for node in places:
            for kernel_id, number in node.subscribers.items():
                found[kernel_id] = min(number, found.get(kernel_id, number))
        return sorted(found, key=found.__getitem__)


def _with_none(places: list[_Node]) -> list[_Node]:
    """These, and where a ``#`` leads from them that stands for no word."""
    for node in places:  # which grow
        step = node.following.get("#")
        if step is not None and step not in places:
            places.append(step)
    return places


class Topics:
    """Who has subscribed to what in a runtime, and how much was published: ``runtime.topics``."""

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime
        self._patterns = Patterns()
        self._known: dict[str, list[RingKernel | Router]] = {}  # the subscribers of topics
        self.published = 0
        """How many messages were published."""
        self.delivered = 0
        """How many have got into a mailbox: one message for each of its subscribers."""
        self.undelivered = 0
        """How many of those published found no subscriber."""

    @property
    def subscriptions(self) -> tuple[tuple[str, str], ...]:
        """Each pattern with the id of the kernel or router that has subscribed to it, the oldest first."""
        return tuple(self._patterns)

    def matching(self, topic: str) -> tuple[str, ...]:
        """The ids of who would get a message of this topic."""
        return tuple(self._patterns.matching(checked_topic(topic)))

    def subscribe(self, pattern: str, kernel_id: str) -> None:
        """`RingKernelRuntime.subscribe`, on the runtime's loop."""
        checked_pattern(pattern)
        target = self._runtime._find_target(kernel_id)
        if is_closed(target):
            raise target._unusable()
        self._patterns.add(pattern, target.id)
        self._known.clear()

    def unsubscribe(self, pattern: str, kernel_id: str) -> None:
        """`RingKernelRuntime.unsubscribe`, on the runtime's loop."""
        checked_pattern(pattern)
        if not self._patterns.remove(pattern, kernel_id):
            own = ", ".join(repr(one) for one, subscriber in self._patterns if subscriber == kernel_id) or "nothing"
            raise KernelStateError(f"{kernel_id!r} has not subscribed to {pattern!r}, but to {own}")
        self._known.clear()

    async def publish(self, topic: str, message: Any, sent: dict[str, int] | None = None) -> int:
        """`RingKernelRuntime.publish`, on the runtime's loop; `sent` counts who has got it."""
        try:
            targets = self._known.get(topic)
        except TypeError:  # it is no text, which will be said
            targets = None
        if targets is None:
            targets = self._subscribers(checked_topic(topic))
        refused: Refused = []
        full: Full = []
        taken = put_into(targets, message, refused, full)
        self.published += 1
        if sent is not None:  # before others are waited for, which may be given up
            beyond = [target for target, _ in (*refused, *full)]
            for target in targets:
                if target not in beyond:
                    sent[target.id] += 1
        if full:
            waited = [target for target, _ in full]
            taken += await wait_for_room(full, refused)
            if sent is not None:
                missed = [target for target, _ in refused]
                for target in waited:
                    if target not in missed:
                        sent[target.id] += 1
        if refused and (ended := [target for target, _ in refused if is_closed(target)]):
            refused = [(target, error) for target, error in refused if target not in ended]
            again, refused_again = await spread(self._drop(ended), message)
            taken, refused = taken + again, refused + refused_again
        self.delivered += taken
        if refused:
            raise first_error(refused, taken)
        if not taken:
            self.undelivered += 1
            nobody = "nobody has subscribed to it" if not targets else "all who had subscribed to it have ended"
            letter = DeadLetter(topic, message, f"published, but {nobody}", kind="undeliverable")
            self._runtime.dead_letters.add(letter)
        return taken

    def _subscribers(self, topic: str) -> list[RingKernel | Router]:
        if len(self._known) >= TOPICS:
            self._known.clear()
        find = self._runtime._find_target
        targets = self._known[topic] = [find(kernel_id) for kernel_id in self._patterns.matching(topic)]
        return targets

    def _drop(self, ended: list[RingKernel | Router]) -> list[RingKernel | Router]:
        """Those that were launched again under the id of one that has ended; the others' subscriptions are dropped."""
        self._known.clear()
        relaunched = []
        for target in ended:
            latest = self._runtime._target(target.id)
            if latest is not None and not is_closed(latest):
                relaunched.append(latest)
                continue
            for pattern, kernel_id in self._patterns:
                if kernel_id == target.id:
                    self._patterns.remove(pattern, kernel_id)
                    log.info("%r has ended and is subscribed to %r no longer", kernel_id, pattern)
        return relaunched

    def __repr__(self) -> str:
        return f"<topics: {self._title}>"

    @property
    def _title(self) -> str:
        n = len(self._patterns)
        return (
            f"{n:,} subscription{'s' * (n != 1)}, {self.published:,} published, {self.delivered:,} delivered, "
            f"{self.undelivered:,} undelivered"
        )

    def _repr_html_(self) -> str:
        from ..telemetry.html import table_html  # only where somebody looks

        return table_html(self._title, ("pattern", "subscriber"), self.subscriptions)


def checked_topic(topic: Any) -> str:
    """A topic.

    Raises:
        TypeError: it is no text.
        ValueError: it has an empty word, or is a pattern.
    """
    for word in _words(topic, "a topic"):
        if "*" in word or "#" in word:
            raise ValueError(f"{topic!r} is a pattern, to subscribe to; publish to a topic, without '*' and '#'")
    return str(topic)


def checked_pattern(pattern: Any) -> str:
    """A pattern.

    Raises:
        TypeError: it is no text.
        ValueError: it has an empty word, or one that ``*`` or ``#`` is only a part of.
    """
    for word in _words(pattern, "a pattern"):
        if word not in ("*", "#") and ("*" in word or "#" in word):
            raise ValueError(f"in {pattern!r}, '*' and '#' stand for whole words: 'a.*.c' or 'a.#', not {word!r}")
    return str(pattern)


def _words(text: Any, what: str) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a text such as 'sensors.berlin.temperature', not {text!r}")
    words = text.split(".")
    if not all(words):
        raise ValueError(f"{what} is words with a dot between each two, and none is empty; not {text!r}")
    return words
