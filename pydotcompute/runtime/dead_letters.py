"""What could not be delivered or was not handled, and why."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, overload

Kind = Literal["dropped", "unhandled", "failed", "late", "unread", "undeliverable", "discarded"]
"""What has become of it: `dropped` by back-pressure; `unhandled`: the kernel ended before it; `failed`: the body raised,
was killed or cancelled with it in hand; `late`: a reply whose ask had ended; `unread`: a reply that nobody took;
`undeliverable`: nobody was there for it, or a connected kernel refused it; `discarded` by hand."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that was not handled, or one reply that found nobody."""

    kernel_id: str
    message: Any
    reason: str
    exception: BaseException | None = None
    """What the body raised while it had the message in hand."""
    time: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    kind: Kind = field(default="unhandled", kw_only=True)
    is_reply: bool = field(default=False, kw_only=True)
    """Whether the kernel has sent it; else it was sent to the kernel."""
    instance: int | None = field(default=None, kw_only=True)
    """The instance of a compiled ring kernel that it was for; None: its key says which, or there is but one."""


class DeadLetters(Sequence[DeadLetter]):
    """The latest dead letters, oldest first; `total` counts all there ever were."""

    def __init__(self, limit: int) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=limit)
        self.total = 0

    def add(self, letter: DeadLetter) -> None:
        self._letters.append(letter)
        self.total += 1

    @property
    def limit(self) -> int:
        """How many are kept."""
        return self._letters.maxlen or 0

    def __len__(self) -> int:
        return len(self._letters)

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...
    @overload
    def __getitem__(self, index: slice) -> list[DeadLetter]: ...
    def __getitem__(self, index: int | slice) -> DeadLetter | list[DeadLetter]:
        return self._letters[index] if isinstance(index, int) else list(self._letters)[index]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(list(self._letters))

    def __repr__(self) -> str:
        return f"<{self.total} dead letters, the latest {len(self)} kept>"
