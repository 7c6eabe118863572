"""What happens when a ring kernel fails: it is started again, within limits, alone or together with others.

The words are those of Erlang/OTP's supervisors: restart policies, a limit of restarts in a window of time, and the
strategies `one_for_one` and `one_for_all` of a group.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..exceptions import DefinitionError, KernelKilledError, KernelStateError
from .checks import is_count, is_number

if TYPE_CHECKING:
    from .kernel import RingKernel
    from .runtime import RingKernelRuntime

When = Literal["never", "on_failure", "always"]
Strategy = Literal["one_for_one", "one_for_all"]

MAX_RESTARTS, WINDOW, LONGEST_WAIT = 3, 60.0, 30.0
PATIENCE = 5.0
"""Seconds that a kernel which is to be started again has for the message in hand; then its body is cancelled."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart, in seconds. The first one in a window comes at once.

    The wait before the n-th is ``first * factor ** (n - 2)``, but `limit` at most, less a part chosen at random: up to
    `jitter` (0 to 1) of it, so that kernels that failed together do not all come back at the same moment.
    """

    first: float = 0.1
    factor: float = 2.0
    limit: float = LONGEST_WAIT
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("first", 0, math.inf),
            ("factor", 1, math.inf),
            ("limit", 0, math.inf),
            ("jitter", 0, 1),
        ):
            value = getattr(self, name)
            if not (is_number(value) and low <= value <= high):
                bounds = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
                raise DefinitionError(f"{name} of a Backoff must be a number {bounds}, not {value!r}")
        if self.first > self.limit:
            raise DefinitionError(f"limit of a Backoff must be at least first={self.first:g}, not {self.limit:g}")

    def wait(self, number: int) -> float:
        """Seconds before the `number`-th restart of a window, which is at least 1."""
        if number < 2:
            return 0.0
        try:
            longest = min(self.first * self.factor ** (number - 2), self.limit)
        except OverflowError:
            longest = self.limit
        return longest * (1 - self.jitter * random.random())


NO_WAIT = Backoff(0.0)


@dataclass(frozen=True, slots=True)
class Restart:
    """What `on_restart` is told."""

    kernel: RingKernel
    """The kernel that begins again; ``restart.kernel.user_state`` is its new state, or the one it kept."""
    number: int
    """How often it has been started again, this time included."""
    exception: BaseException | None
    """What its body raised; None if it returned, or begins again with its group, or because it was asked to."""
    message: Any
    """The message that it had in hand; None if there was none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The options of `ring_kernel` about restarts."""

    restart: When = "never"
    max_restarts: int = MAX_RESTARTS
    window: float = WINDOW
    max_retries: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    keep_state: bool = False
    on_restart: Callable[[Restart], Any] | None = None


NEVER = Policy()
OPTIONS: dict[str, Any] = {
    "restart": "never",
    "max_restarts": MAX_RESTARTS,
    "window": WINDOW,
    "max_retries": 0,
    "backoff": 0.1,
    "keep_state": False,
    "on_restart": None,
}
"""The options of `ring_kernel` that make a `Policy`, and what they usually are."""


def policy_of(name: str, options: dict[str, Any]) -> Policy:
    """Take the options of a policy out of those of the ring kernel of that name.

    Raises:
        DefinitionError: one of them cannot be; or is given although the kernel is never started again.
    """
    given = {option: options.pop(option, usual) for option, usual in OPTIONS.items()}
    restart = given["restart"]
    if restart not in get_args(When):
        raise DefinitionError(f"restart of {name!r} must be one of {', '.join(get_args(When))}; not {restart!r}")
    if restart == "never":
        for option, usual in OPTIONS.items():
            if given[option] is not usual and given[option] != usual:
                raise DefinitionError(
                    f"{option}= of {name!r} is for kernels that are started again: add restart='on_failure'"
                )
        return NEVER
    for option in ("max_restarts", "max_retries"):
        if not is_count(given[option], least=0):
            raise DefinitionError(f"{option} of {name!r} must be an integer of at least 0, not {given[option]!r}")
    window, backoff, hook = given["window"], given["backoff"], given["on_restart"]
    if not (is_number(window) and window > 0):
        raise DefinitionError(f"window of {name!r} must be a number of seconds above 0, not {window!r}")
    if backoff is None:
        backoff = NO_WAIT
    elif not isinstance(backoff, Backoff):
        if not (is_number(backoff) and 0 <= backoff < math.inf):
            raise DefinitionError(
                f"backoff of {name!r} must be a number of seconds, a Backoff, or None for no waiting; not {backoff!r}"
            )
        backoff = Backoff(float(backoff), limit=max(float(backoff), LONGEST_WAIT))
    if not isinstance(given["keep_state"], bool):
        raise DefinitionError(f"keep_state of {name!r} must be True or False, not {given['keep_state']!r}")
    if hook is not None and not callable(hook):
        raise DefinitionError(f"on_restart of {name!r} must be a function of one Restart, not {hook!r}")
    return Policy(
        restart, given["max_restarts"], float(window), given["max_retries"], backoff, given["keep_state"], hook
    )


class Limit:
    """At most `most` restarts within `window` seconds."""

    __slots__ = ("_times", "most", "window")

    def __init__(self, most: int, window: float) -> None:
        self.most, self.window = most, window
        self._times: deque[float] = deque()

    def next(self, now: float) -> int | None:
        """The number that a restart at `now` has in the window, counted from 1; None: it would be one too many."""
        times = self._times
        while times and times[0] <= now - self.window:
            times.popleft()
        if len(times) >= self.most:
            return None
        return len(times) + 1

    def count(self, now: float) -> None:
        """There is a restart at `now`."""
        self._times.append(now)

    def __str__(self) -> str:
        return f"{self.most} restart{'s' * (self.most != 1)} in {self.window:g} s"


class SupervisionGroup:
    """Kernels that are started again together (`one_for_all`), or under a common limit (`one_for_one`).

    `RingKernelRuntime.supervise` makes one. A kernel is in one group at most. Its own policy decides whether its
    failure leads to a restart; a kernel with ``restart="never"`` may be in a group, and begins again with the others.
    """

    def __init__(
        self, runtime: RingKernelRuntime, kernels: Sequence[RingKernel], strategy: Strategy, limit: Limit
    ) -> None:
        self._runtime = runtime
        self.limit = limit
        self.strategy: Strategy = strategy
        self.kernel_ids = tuple(kernel.id for kernel in kernels)
        self.restarts = 0
        """How often a failure of one of them has led to a restart."""
        for kernel in kernels:
            kernel._group = self

    @property
    def max_restarts(self) -> int:
        """How many such restarts there may be in a window; the next failure is final, of all in `one_for_all`."""
        return self.limit.most

    @property
    def window(self) -> float:
        """Seconds."""
        return self.limit.window

    @property
    def kernels(self) -> list[RingKernel]:
        """Those of its kernels that have not been launched anew since."""
        known = (self._runtime._kernels.get(kernel_id) for kernel_id in self.kernel_ids)
        return [kernel for kernel in known if kernel is not None and kernel._group is self]

    def __repr__(self) -> str:
        return (
            f"<supervision group {self.strategy} of {', '.join(map(repr, self.kernel_ids))}, {self.restarts} restarts>"
        )

    def restarts_others(self, kernel: RingKernel, now: float) -> bool:
        """A kernel begins again at `now`, and the others too if the strategy says so. False: there were too many."""
        if self.limit.next(now) is None:
            return False
        self.limit.count(now)
        self.restarts += 1
        if self.strategy == "one_for_all":
            for other in self._others(kernel):
                other._renew(other.definition.policy.keep_state)
        return True

    def give_up(self, kernel: RingKernel) -> None:
        """A kernel has failed for good: in `one_for_all` that ends the others too."""
        if self.strategy == "one_for_all":
            for other in self._others(kernel):
                if not other._gave_up and other._begun:
                    other._gave_up = f"together with {kernel.id!r}, which failed {kernel._gave_up}"
                    error = KernelKilledError(f"its one_for_all group is given up, with {kernel.id!r}")
                    error.__cause__ = kernel.exception
                    other._kill(error)

    def _others(self, kernel: RingKernel) -> list[RingKernel]:
        return [other for other in self.kernels if other is not kernel and not other.state.over]


def group_of(
    runtime: RingKernelRuntime, kernels: Sequence[RingKernel], strategy: Any, max_restarts: Any, window: Any
) -> SupervisionGroup:
    """A new group.

    Raises:
        ValueError: an argument that cannot be.
        KernelStateError: one of the kernels has ended, or is in another group.
    """
    if not kernels:
        raise ValueError("name at least one ring kernel to supervise")
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}; not {strategy!r}")
    if not is_count(max_restarts):
        raise ValueError(f"max_restarts must be an integer of at least 1, not {max_restarts!r}")
    if not (is_number(window) and window > 0):
        raise ValueError(f"window must be a number of seconds above 0, not {window!r}")
    for kernel in kernels:
        if kernel.state.over:
            raise kernel._unusable()
        if kernel._group is not None and len(kernel._group.kernels) > 1:
            raise KernelStateError(f"{kernel.id!r} is in a group already: {kernel._group!r}")
    return SupervisionGroup(runtime, kernels, strategy, Limit(max_restarts, float(window)))
