"""What could not be delivered or was not handled, and why: to look at, to write to a file, to send again."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from reprlib import Repr
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from ..exceptions import PyDotComputeError
from .checks import is_count

if TYPE_CHECKING:
    from os import PathLike

    import pandas

    from .runtime import RingKernelRuntime

Kind = Literal["dropped", "unhandled", "failed", "late", "unread", "undeliverable", "discarded"]
"""What has become of it: `dropped` by back-pressure; `unhandled`: the kernel ended before it; `failed`: the body
raised, was killed or cancelled with it in hand; `late`: a reply whose ask had ended; `unread`: a reply that nobody
took; `undeliverable`: nobody was there for it, or a connected kernel refused it; `discarded` by hand."""
KINDS: tuple[Kind, ...] = get_args(Kind)

ROWS = 100
"""How many of the latest a table in a page shows; one of text a fifth of that."""
MAX_DEPTH = 20
"""How deep messages are looked into when they are written to a file; what lies deeper is written as text."""


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


class Letters(Sequence[DeadLetter]):
    """Dead letters, oldest first, that a notebook shows as a table."""

    def __init__(self, letters: Iterable[DeadLetter] = ()) -> None:
        self._letters = OrderedDict((id(letter), letter) for letter in letters)
        # The runtime's loop adds while other threads look; reentrant, for what goes with a letter may have a `__del__`.
        self._lock = RLock()

    def _all(self) -> list[DeadLetter]:
        with self._lock:
            return list(self._letters.values())

    def __len__(self) -> int:
        return len(self._letters)

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...
    @overload
    def __getitem__(self, index: slice) -> list[DeadLetter]: ...
    def __getitem__(self, index: int | slice) -> DeadLetter | list[DeadLetter]:
        return self._all()[index]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self._all())

    @property
    def counts(self) -> dict[Kind, int]:
        """How many there are of each kind."""
        counts = Counter(letter.kind for letter in self._all())
        return {kind: counts[kind] for kind in KINDS}

    def of(self, kernel_id: str | None = None, kind: Kind | None = None) -> Letters:
        """Those of one kernel, of one kind, or both.

        Raises:
            ValueError: there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}; not {kind!r}")
        return Letters(
            letter
            for letter in self._all()
            if (kernel_id is None or letter.kernel_id == kernel_id) and (kind is None or letter.kind == kind)
        )

    # -- to look at ----------------------------------------------------------------------------------------------------

    def _title(self, counts: Mapping[Kind, int], more: str = "") -> str:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items() if n)
        total = sum(counts.values())
        return f"{total:,} dead letter{'s' * (total != 1)}" + (f" ({kinds})" if kinds else "") + more

    @property
    def _caption(self) -> str:
        return self._title(self.counts)

    def __repr__(self) -> str:
        latest = self._all()[-ROWS // 5 :]
        rows = [("time", "kernel", "kind", "message", "reason"), *map(_cells, latest)]
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows] if latest else []
        left_out = len(self) - len(latest)
        return "\n".join([self._caption, *lines[:1], *["..."] * (left_out > 0), *lines[1:]])

    def _repr_html_(self) -> str:
        from ..telemetry.html import table_html  # only where somebody looks

        letters = self._all()
        left_out = len(letters) - ROWS
        return table_html(
            self._caption,
            ("time", "kernel", "kind", "message", "reason"),
            [_cells(letter) for letter in letters[-ROWS:]],
            f"{left_out:,} older not shown" if left_out > 0 else "",
        )

    # -- to take elsewhere ---------------------------------------------------------------------------------------------

    def to_pandas(self) -> pandas.DataFrame:
        """A frame with one row for each; `message` and `exception` hold the objects, `time` is in UTC.

        Raises:
            ModuleNotFoundError: pandas is missing.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas() needs the package pandas: pip install pandas") from error
        letters = self._all()
        columns: dict[str, Any] = {
            "time": pandas.to_datetime([letter.time for letter in letters], unit="s", utc=True),
            **{
                name: pandas.Series([getattr(letter, name) for letter in letters], dtype=object)
                for name in ("kernel_id", "kind", "is_reply", "instance", "message", "reason", "exception")
            },
        }
        return pandas.DataFrame(columns).astype({"is_reply": bool})

    def export(self, path: str | PathLike[str]) -> int:
        """Write them to a file, which is replaced: ``.jsonl``, one JSON object in each line, or ``.csv``.

        Both have the columns time (ISO 8601, UTC), kernel_id, kind, is_reply, instance, message_type, message, reason,
        and exception. A message is written as its fields, in a .csv as JSON; what JSON does not have as text, and of an
        array its shape and dtype.

        Returns:
            How many were written.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in (".jsonl", ".csv"):
            raise ValueError(f"dead letters are written as .jsonl or .csv: give {path.name!r} one of these suffixes")
        rows = [_exported(letter) for letter in self._all()]
        # JSON escapes what UTF-8 has not, half of a surrogate pair, in the very way in which this does.
        with path.open(
            "w", encoding="utf-8", errors="backslashreplace", newline="" if suffix == ".csv" else "\n"
        ) as file:
            if suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                for row in rows:
                    row["message"] = json.dumps(row["message"], ensure_ascii=False)
                    row["is_reply"] = str(row["is_reply"]).lower()
                    writer.writerow(row.values())
        return len(rows)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What has become of dead letters that were to be sent again."""

    sent: int
    """How many are in the mailbox of a kernel now, and dead letters no more."""
    refused: Mapping[str, int]
    """Why others could not be sent, and how many for that reason: they stay."""


class DeadLetters(Letters):
    """The latest dead letters of a runtime, oldest first; `total` and `counts` count all there ever were.

    Any thread may use it.
    """

    def __init__(self, limit: int, runtime: RingKernelRuntime) -> None:
        super().__init__()
        self.limit = limit
        """How many are kept."""
        self.total = 0
        self._runtime = runtime
        self._counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._leaving: set[int] = set()  # ids of those that are being sent again

    def add(self, letter: DeadLetter) -> None:
        with self._lock:
            self._letters[id(letter)] = letter
            self._counts[letter.kind] += 1
            self.total += 1
            if len(self._letters) > self.limit:
                self._letters.popitem(last=False)

    def clear(self) -> None:
        """Forget those that are kept; they remain counted."""
        with self._lock:
            self._letters.clear()

    @property
    def counts(self) -> dict[Kind, int]:
        """How many there ever were of each kind."""
        with self._lock:
            return dict(self._counts)

    @property
    def _caption(self) -> str:
        with self._lock:
            kept = f", {len(self):,} kept" if len(self) < self.total else ""
            return self._title(self._counts, kept)

    async def replay(
        self,
        kernel_id: str | None = None,
        *,
        kind: Kind | None = None,
        where: Callable[[DeadLetter], Any] | None = None,
        to: str | None = None,
        limit: int | None = None,
    ) -> Replayed:
        """Send messages again, oldest first. Those that were sent are dead letters no more.

        Replies are left alone. One pass is made over what is there now: a message that dies again is a dead letter
        again. An ask that has failed stays so; the reply to its message goes to the kernel's outbox. `replay_sync`
        is the blocking twin.

        Args:
            kernel_id: only those of this kernel.
            kind: only those of this kind.
            where: only those for which it returns what is true.
            to: the kernel or router that gets them; by default each goes to its own.
            limit: how many at most are tried.

        Returns:
            How many were sent; and why others were not and stay: the kernel has ended or takes other messages, for one.

        Raises:
            KernelNotFoundError: there is no kernel or router `to`.
            ValueError: there is no such kind, or the limit is below 1.
            RuntimeClosedError: the runtime is closed.
        """
        chosen = self._chosen(kernel_id, kind, where, limit)
        if self._runtime._away:
            return await self._runtime._hop(self._send_again, chosen, to)
        return await self._send_again(chosen, to)

    def replay_sync(
        self,
        kernel_id: str | None = None,
        *,
        kind: Kind | None = None,
        where: Callable[[DeadLetter], Any] | None = None,
        to: str | None = None,
        limit: int | None = None,
    ) -> Replayed:
        """`replay` for synchronous cells and threads.

        Raises:
            LoopError: on the runtime's own loop.
            What `replay` raises.
        """
        return self._runtime.sync.call(self._send_again, self._chosen(kernel_id, kind, where, limit), to)

    def _chosen(
        self, kernel_id: str | None, kind: Kind | None, where: Callable[[DeadLetter], Any] | None, limit: int | None
    ) -> list[DeadLetter]:
        if limit is not None and not is_count(limit):
            raise ValueError(f"limit must be an integer of at least 1, not {limit!r}")
        messages = (letter for letter in self.of(kernel_id, kind) if not letter.is_reply)
        return [letter for letter in messages if where is None or where(letter)][:limit]

    async def _send_again(self, letters: list[DeadLetter], to: str | None) -> Replayed:
        runtime = self._runtime
        if to is not None:
            runtime._find_target(to)
        sent, refused = 0, Counter[str]()
        for letter in letters:
            key = id(letter)
            with self._lock:
                if self._letters.get(key) is not letter or key in self._leaving:
                    continue  # somebody else has sent it meanwhile, or is at it
                self._leaving.add(key)
            try:
                if to is None:
                    await runtime.send(letter.kernel_id, letter.message, letter.instance)
                else:
                    await runtime.send(to, letter.message)
            except PyDotComputeError as error:
                refused[str(error)] += 1
            else:
                sent += 1
                with self._lock:
                    self._letters.pop(key, None)
            finally:
                self._leaving.discard(key)
        return Replayed(sent, dict(refused))


# -- letters as text ---------------------------------------------------------------------------------------------------

_COLUMNS = (
    "time",
    "kernel_id",
    "kind",
    "is_reply",
    "instance",
    "message_type",
    "message",
    "reason",
    "exception",
)

_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    """A row of a table to look at, in local time."""
    error = error_text(letter.exception)
    return (
        datetime.fromtimestamp(letter.time).strftime("%H:%M:%S.%f")[:-3],
        _line(letter.kernel_id, 40) + ("" if letter.instance is None else f"[{letter.instance}]"),
        letter.kind + " reply" * letter.is_reply,
        _line(_message_text(letter.message), 80),
        _line(letter.reason + (f": {error}" if error and error not in letter.reason else ""), 160),
    )


def _message_text(message: Any) -> str:
    try:
        return _short.repr(message)
    except Exception:  # noqa: BLE001 - an object of the user's, which may do anything
        return f"<{type(message).__qualname__}>"


def _line(text: str, length: int) -> str:
    """It in one line of at most that length, that any page and terminal takes."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= length else text[: length - 1] + "…"


def error_text(error: BaseException | None) -> str:
    """``"ValueError: no such city"``; empty for None."""
    if error is None:
        return ""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of the user's, which may do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _exported(letter: DeadLetter) -> dict[str, Any]:
    """A row of a file."""
    values = (
        datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="microseconds"),
        letter.kernel_id,
        letter.kind,
        letter.is_reply,
        letter.instance,
        type(letter.message).__qualname__,
        _as_json(letter.message),
        letter.reason,
        error_text(letter.exception) or None,
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _as_json(value: Any, depth: int = 0) -> Any:
    """What JSON has, as it is; all else as text."""
    kind = type(value)
    if value is None or kind in (bool, str, int) or (kind is float and np.isfinite(value)):
        return value
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    if depth < MAX_DEPTH:
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            return _as_json(value.item(), MAX_DEPTH)  # what is no Python number, longdouble for one, stays what it is
        if kind is list or kind is tuple:
            return [_as_json(item, depth + 1) for item in value]
        if kind is dict:
            return {str(key): _as_json(item, depth + 1) for key, item in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: _as_json(getattr(value, f.name, None), depth + 1) for f in fields(value)}
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object of the user's, which may do anything
        return f"<{kind.__qualname__}>"
