"""Exercises of the tutorial "GPU actors"; no GPU takes part in their judgement."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import block
from ..messages import layout
from ..runtime import RingKernelRuntime
from ..runtime.dead_letters import error_text
from . import Wrong, exercise
from ._trial import TIMEOUT, launched, reply, some_step

_CELLS = 1024
_WIDTH = 32


@exercise(
    "gpu.1",
    hints=(
        "Let each thread find the highest of its own share, and note it in `state.part` at a place of its own.",
        "What others have noted can be read after a `barrier()`, to which all threads come. There are `width()` notes.",
        "Begin a search at a number that was measured: all may be below zero. The first thread fills `out`.",
    ),
    solution="""
        @message
        class Picture:
            celsius: Annotated[NDArray[np.float32], Shape(1024)]


        @message
        class Warmest:
            celsius: np.float32


        class Parts(Record):
            part: Annotated[NDArray[np.float32], Shape(1024)]


        @ring_kernel(threads=256)
        def warmest(state: Parts, msg: Picture, out: Warmest) -> bool:
            highest = msg.celsius[lane()]
            for i in range(lane(), 1024, width()):
                highest = max(highest, msg.celsius[i])
            state.part[lane()] = highest
            barrier()
            if lane() == 0:
                for n in range(width()):
                    highest = max(highest, state.part[n])
                out.celsius = highest
            return True
    """,
    after="It was tried with 1 thread and with 32, and no thread reads what another may be writing.",
)
async def warmest(runtime: RingKernelRuntime, warmest: Any) -> None:
    """The highest of many values, by threads that share the work."""
    step = some_step(warmest, replies=True)
    if step.threads == 1:
        raise Wrong("On a GPU one thread would do all the work: write `@ring_kernel(threads=256)`.")
    message, reply_type = layout(step.message_type).dtype, step.reply_type
    if "celsius" not in (message.names or ()) or message["celsius"].shape != (_CELLS,):
        raise Wrong(
            f"{step.message_type.__name__} has no `celsius` of {_CELLS} values: take the classes that are given."
        )
    if reply_type is None or "celsius" not in (layout(reply_type).dtype.names or ()):
        raise Wrong("Its replies have no `celsius`: take the classes that are given.")
    random = np.random.default_rng(8)
    pictures = [np.round(random.normal(-20, 2, _CELLS), 1).astype(np.float32) for _ in range(3)]
    pictures[1][_CELLS - 1] = -2  # the last cell
    for width in (_WIDTH, 1):
        state = step.initial()
        for celsius in pictures:
            record, out = np.zeros((), message), np.zeros((), layout(reply_type).dtype)
            record["celsius"] = celsius
            tried = _Block(width, message=record, out=out, state=None if state is None else state[0])
            returned = tried.run(step.body)
            if not returned:
                raise Wrong("The first thread does not return True, and so there is no reply.")
            if out["celsius"] != celsius.max():
                raise Wrong(
                    f"With {width} thread{'s' * (width > 1)} it replies {out['celsius']:g} °C, and the warmest cell "
                    f"has {celsius.max():g} °C; all of them are below zero."
                )
            if width > 1 and tried.most_read > 2 * _CELLS // width + 2:
                raise Wrong(
                    f"That is right, but one of {width} threads looks at {tried.most_read} cells: let each look at its "
                    f"share, `range(lane(), {_CELLS}, width())`."
                )
    kernel = await launched(runtime, step)
    for celsius in pictures:
        answer = await reply(kernel, step.message_type(celsius=celsius))
        if answer.celsius != celsius.max():
            raise Wrong(f"Compiled, it replies {answer.celsius:g} °C, and the warmest cell has {celsius.max():g} °C.")


_NEEDED, _PORTION, _REGISTERS, _THREADS, _MULTIPROCESSORS = 84, 8, 65_536, 2048, 132


@exercise(
    "gpu.2",
    hints=(
        "First one multiprocessor: how many registers does a block take, and how often does that go into 65,536?",
        "84 is not a multiple of 8. And a block lies on one multiprocessor: what is left on several does not add up.",
    ),
    solution="""
        wide, narrow = 264, 660
    """,
    after="Half the threads, and more than twice the rooms: 5 blocks leave less unused than 2 do.",
)
def rooms(wide: Any, narrow: Any) -> None:
    """How many blocks of 256 and of 128 threads are on a GPU at the same time."""
    portion = -(-_NEEDED // _PORTION) * _PORTION
    for name, answer, threads in (("wide", wide, 256), ("narrow", narrow, 128)):
        blocks = _REGISTERS // (portion * threads)
        right = _MULTIPROCESSORS * blocks
        if answer == right:
            continue
        if answer == blocks:
            raise Wrong(f"{name}: {answer} are on one multiprocessor, and there are {_MULTIPROCESSORS}.")
        if answer == _MULTIPROCESSORS * (_THREADS // threads):
            raise Wrong(f"{name}: so many threads have room, but not their registers.")
        if answer == _MULTIPROCESSORS * _REGISTERS // (portion * threads):
            raise Wrong(f"{name}: not {answer}, for that would need blocks that lie on two multiprocessors.")
        if threads == 256 and answer == _MULTIPROCESSORS * (_REGISTERS // (_NEEDED * threads)):
            raise Wrong(f"{name}: {answer} would do if registers were handed out one by one.")
        raise Wrong(f"{name}: {answer!r} it is not.")


class _Stopped(BaseException):
    """Ends the threads of a block of which one has failed."""


class _Block:
    """A step run by several threads, one after the other from barrier to barrier.

    Each access to `state`, `msg` and `out` is noted: between two barriers no thread may touch what another one writes.
    """

    def __init__(self, width: int, *, message: NDArray[Any], out: NDArray[Any], state: Any) -> None:
        self.width = width
        self.most_read = 0
        """Accesses to the message by the thread that has most of them."""
        self._lane = 0
        self._touched: dict[tuple[str, int], tuple[set[int], set[int]]] = {}  # lanes that have read, and written
        self._reads = [0] * width
        self._arguments = (
            None if state is None else _Watched("state", state, self._note),
            _Watched("msg", message, self._note_message),
            _Watched("out", out, self._note),
        )
        self._turns = [threading.Semaphore(0) for _ in range(width)]
        self._done = threading.Semaphore(0)
        self._is_stopped = False

    def run(self, body: Callable[..., Any]) -> Any:
        """What the first thread returns.

        Raises:
            Wrong: two threads touch the same at the same time, one does not come to a barrier, or the step fails.
        """
        step = self._told(body)
        results: list[Any] = [None] * self.width
        failures: list[BaseException] = []
        ended = [False] * self.width

        def live(lane: int) -> None:
            self._turns[lane].acquire()
            try:
                if not self._is_stopped:
                    results[lane] = step(*self._arguments)
            except _Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 - of the student's code
                failures.append(error)
            ended[lane] = True
            self._done.release()

        threads = [threading.Thread(target=live, args=(lane,), daemon=True) for lane in range(self.width)]
        for thread in threads:
            thread.start()
        try:
            while not all(ended):
                self._touched.clear()
                for lane, turn in enumerate(self._turns):
                    self._lane = lane
                    turn.release()
                    if not self._done.acquire(timeout=TIMEOUT):
                        failures.append(
                            Wrong(f"Within {TIMEOUT:g} s it does not come to an end: is there a loop without?")
                        )
                    if failures:
                        break
                if failures:
                    break
                if any(ended) and not all(ended):
                    failures.append(
                        Wrong(
                            f"Thread {ended.index(False)} waits at a barrier to which thread {ended.index(True)} does "
                            f"not come: on a GPU it would wait for ever."
                        )
                    )
                    break
        finally:
            self._is_stopped = True
            for turn in self._turns:
                turn.release()
            for thread in threads:
                thread.join(0.1)
        if failures:
            if isinstance(failures[0], Wrong):
                raise failures[0]
            raise Wrong(f"It failed: {error_text(failures[0])}.") from failures[0]
        self.most_read = max(self._reads)
        return results[0]

    def _told(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """The step, and the functions that it calls, with the `lane`, `width` and `barrier` of this block."""
        own = {block.lane: lambda: self._lane, block.width: lambda: self.width, block.barrier: self._barrier}
        given = inspect.unwrap(body).__globals__
        names = dict(given)

        def told(function: FunctionType) -> FunctionType:
            return FunctionType(
                function.__code__, names, function.__name__, function.__defaults__, function.__closure__
            )

        for name, value in given.items():
            if isinstance(value, FunctionType):
                names[name] = own[value] if value in own else told(value) if value.__globals__ is given else value
        return told(body)  # type: ignore[arg-type]

    def _barrier(self) -> None:
        lane = self._lane
        self._done.release()
        self._turns[lane].acquire()
        if self._is_stopped:
            raise _Stopped

    def _note_message(self, where: str, places: Any, is_write: bool) -> None:
        self._reads[self._lane] += len(places)
        self._note(where, places, is_write)

    def _note(self, where: str, places: Any, is_write: bool) -> None:
        me = self._lane
        for place in places:
            read, written = self._touched.setdefault((where, place), (set(), set()))
            for lanes, verb in ((written, "writes"), (read if is_write else set(), "reads")):
                if others := lanes - {me}:
                    raise Wrong(
                        f"Thread {min(others)} {verb} `{where.format(place)}`, and thread {me} "
                        f"{'writes' if is_write else 'reads'} it, with no barrier between: on a GPU it is chance "
                        f"who comes first."
                    )
            (written if is_write else read).add(me)


class _Watched:
    """A record that tells who touches its fields."""

    def __init__(self, name: str, record: Any, note: Callable[[str, Any, bool], None]) -> None:
        object.__setattr__(self, "_parts", (name, record, note))

    def __getattr__(self, field: str) -> Any:
        name, record, note = self._parts
        if field not in record.dtype.names:
            raise AttributeError(f"{name} has no field {field!r}")
        if record.dtype[field].shape:
            return _WatchedArray(f"{name}.{field}[{{}}]", record[field], note)
        note(f"{name}.{field}", (0,), False)
        return record[field][()]

    def __setattr__(self, field: str, value: Any) -> None:
        name, record, note = self._parts
        if field not in record.dtype.names:
            raise AttributeError(f"{name} has no field {field!r}")
        note(f"{name}.{field}", (0,), True)
        record[field] = value


class _WatchedArray:
    """An array that tells who touches its elements."""

    def __init__(self, where: str, array: NDArray[Any], note: Callable[[str, Any, bool], None]) -> None:
        self._where, self._array, self._note = where, array, note
        self._places = np.arange(array.size).reshape(array.shape)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        self._note(self._where, np.ravel(self._places[index]).tolist(), False)
        return self._array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._note(self._where, np.ravel(self._places[index]).tolist(), True)
        self._array[index] = value

    def __array__(self, *args: Any, **options: Any) -> NDArray[Any]:
        return np.array(self[...])

    def __getattr__(self, name: str) -> Any:
        return getattr(self[...], name)
