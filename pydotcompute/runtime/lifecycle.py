"""The states of a ring kernel, and the one table of what leads from which to which."""

from __future__ import annotations

from enum import StrEnum

from ..exceptions import KernelStateError


class KernelState(StrEnum):
    """Where a ring kernel is in its life."""

    CREATED = "CREATED"
    LAUNCHED = "LAUNCHED"
    """Allocated; its mailbox takes messages; the body has not been started."""
    ACTIVE = "ACTIVE"
    DEACTIVATED = "DEACTIVATED"
    """Paused: the message in hand is finished and no further one is handed out."""
    TERMINATING = "TERMINATING"
    """No message comes in any more; what is queued is being handled."""
    TERMINATED = "TERMINATED"
    FAILED = "FAILED"

    @property
    def over(self) -> bool:
        """Whether the kernel has ended, in whichever way."""
        return self in (KernelState.TERMINATED, KernelState.FAILED)


_S = KernelState

TRANSITIONS: dict[str, dict[KernelState, KernelState]] = {
    "launch": {_S.CREATED: _S.LAUNCHED},
    "activate": {_S.LAUNCHED: _S.ACTIVE},
    "deactivate": {_S.ACTIVE: _S.DEACTIVATED},
    "reactivate": {_S.DEACTIVATED: _S.ACTIVE},
    "terminate": dict.fromkeys((_S.LAUNCHED, _S.ACTIVE, _S.DEACTIVATED), _S.TERMINATING),
    # What the body does of itself:
    "return": dict.fromkeys((_S.ACTIVE, _S.DEACTIVATED, _S.TERMINATING), _S.TERMINATED),
    "raise": dict.fromkeys((_S.ACTIVE, _S.DEACTIVATED, _S.TERMINATING), _S.FAILED),
}
_ASKED = ("launch", "activate", "deactivate", "reactivate", "terminate")


def allowed(state: KernelState) -> tuple[str, ...]:
    """What a user may ask of a kernel in this state, for example ``("deactivate", "terminate")``."""
    if state.over:
        return ("launch",)
    return tuple(verb for verb in _ASKED if state in TRANSITIONS[verb])


def after(verb: str, state: KernelState, kernel_id: str) -> KernelState:
    """The state that `verb` leads to.

    Raises:
        KernelStateError: not from this state; the text says what is possible from it.
    """
    try:
        return TRANSITIONS[verb][state]
    except KeyError:
        possible = " or ".join(allowed(state)) or "nothing: wait until it has ended"
        raise KernelStateError(f"cannot {verb} {kernel_id!r}: it is {state}; possible now: {possible}") from None
