"""`runtime.record()`: what is in the file, what survives, and what a reader makes of any file."""

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgpack
import numpy as np
import pytest

import pydotcompute.runtime.recording as recording_module
from pydotcompute import Record, message
from pydotcompute.exceptions import PyDotComputeError, RecordingError, RuntimeClosedError
from pydotcompute.runtime.recording import (
    MAGIC,
    Damage,
    RecordedEnd,
    RecordedFailure,
    RecordedKernel,
    RecordedLink,
    RecordedMessage,
    RecordedReply,
    RecordingEnd,
    RecordingStart,
    read_log,
)

pytestmark = pytest.mark.may_block  # starting on another loop waits for that loop; tests read files

ROOT = Path(__file__).parent.parent.parent
FORMAT = (1).to_bytes(4, "little")


@message
@dataclass
class Number:
    n: int


@message
class Sample:
    n: np.int64


class Sum(Record):
    n: np.int64


class Duck:
    priority = 128

    def __init__(self, n):
        self.n = n


async def doubled(ctx):
    async for number in ctx:
        await ctx.send(Number(2 * number.n))


async def sink(ctx):
    async for _ in ctx:
        ...


def log_of(*contents):
    """The bytes of a log whose entries have these contents."""
    data, checksum = MAGIC + FORMAT, 0
    for content in contents:
        checksum = crc32(content, checksum)
        data += b"".join(n.to_bytes(4, "little") for n in (len(content), len(content) ^ 0xFFFFFFFF, checksum)) + content
    return data


def entry(*values):
    return msgpack.packb(values)


START = entry(0, "by hand", 0.0)
ALL = [
    START,
    entry(1, 5, "k", "k", "m", None, "module m", "", "", 0, 0),
    entry(2, 6, "k", "j"),
    entry(3, 7, 1, "k", None, 128, True, None, None, b"\x91\xa1x"),
    entry(4, 8, "k", 1, 1, "m.Duck"),
    entry(5, 9, 1),
    entry(6, 10, "k", 1, "ValueError", "no"),
    entry(7, 11),
]
"""One of each kind."""


def of(log, *kinds):
    return [entry for entry in log if isinstance(entry, kinds)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pdclog"


# -- what is recorded --------------------------------------------------------------------------------------------------


async def test_each_message_and_reply_is_in_the_file_in_order(runtime, start, path):
    await start(doubled)
    asked, sent = Number(1), Number(2, priority=200)
    with runtime.record(path) as recording:
        assert recording.recording
        await runtime.ask("doubled", asked)
        await runtime.send("doubled", sent)
        await runtime.receive("doubled")
        await runtime.wait_idle()
    assert not recording.recording
    log = read_log(path, strict=True)
    entries = list(log)
    assert [type(one) for one in entries] == [
        RecordingStart,
        RecordedKernel,
        *(RecordedMessage, RecordedReply, RecordedEnd) * 2,
        RecordingEnd,
    ]
    times = [one.time for one in entries[1:]]
    assert times == sorted(times)
    assert times[0] >= 0
    first, second = of(log, RecordedMessage)
    assert (first.message, first.message.message_id) == (asked, asked.message_id)
    assert (first.is_ask, second.is_ask) == (True, False)
    assert (first.priority, second.priority) == (128, 200)
    assert {(one.kernel_id, one.instance, one.cause, one.source) for one in (first, second)} == {
        ("doubled", None, None, None)
    }
    assert first.type == f"{Number.__module__}.Number"
    replies = of(log, RecordedReply)
    assert [reply.message.n for reply in replies] == [2, 4]
    assert [(reply.handling, reply.answers) for reply in replies] == [
        (first.number, first.number),
        (second.number, None),
    ]
    assert [end.number for end in of(log, RecordedEnd)] == [first.number, second.number]
    assert (log.messages, log.replies, log.failures, log.stopped, log.damage) == (2, 2, 0, True, None)
    assert (recording.messages, recording.replies) == (2, 2)
    assert "2 messages, 2 replies" in repr(recording)
    assert "2 messages, 2 replies, 0 failures, 1 kernel" in repr(log)


async def test_it_says_what_the_kernels_are_and_where_they_come_from(runtime, start, path):
    await start(doubled, "twice", input_type=Number, output_type=Number)
    await runtime.ask("twice", Number(1))
    with runtime.record(path):
        await runtime.launch(runtime["twice"].definition, kernel_id="again")
        await runtime.activate("again")
        await runtime.ask("again", Number(1))
    log = read_log(path)
    assert log.start.software.startswith("pydotcompute ")
    twice, again = log.kernels["twice"], log.kernels["again"]
    name = f"{Number.__module__}.Number"
    assert (twice.definition_id, twice.takes, twice.sends, twice.instances, twice.handled) == (
        "twice",
        name,
        name,
        0,
        1,
    )
    assert (again.kernel_id, again.definition_id, again.handled) == ("again", "twice", 0)
    assert twice.module == doubled.__module__
    assert Path(twice.file).name == "test_record.py"


async def test_what_a_kernel_has_sent_to_another_names_its_cause(runtime, start, path):
    async def passing(ctx):
        async for number in ctx:
            await ctx.tell("sink", number)
            await ctx.send(number)

    await start(sink)
    await start(passing)
    await start(doubled)
    await runtime.connect("passing", "doubled")
    with runtime.record(path):
        await runtime.send("passing", Number(1))
        await runtime.receive("doubled")
        await runtime.wait_idle()
    log = read_log(path)
    messages = {one.kernel_id: one for one in of(log, RecordedMessage)}
    number = messages["passing"].number
    assert messages["passing"].cause is None
    for target in ("sink", "doubled"):
        assert (messages[target].cause, messages[target].source) == (number, "passing")
    assert [(one.kernel_id, one.target_id) for one in of(log, RecordedLink)] == [("passing", "doubled")]
    assert log.links == {("passing", "doubled")}


async def test_a_kernel_that_sends_with_nothing_in_hand_is_known_all_the_same(runtime, start, path, settle):
    async def ticking(ctx):
        await ctx.tell("sink", Number(1))
        async for _ in ctx:
            ...

    await start(sink, queue_size=1)
    with runtime.record(path):
        await start(ticking)
        await settle()
    [tick] = of(read_log(path), RecordedMessage)
    assert (tick.cause, tick.source) == (None, "ticking")


async def test_who_waits_for_room_is_the_sender_and_not_who_makes_room(runtime, start, path, gate, settle):
    go = gate()

    async def slow(ctx):
        await go.wait()
        async for _ in ctx:
            ...

    await start(slow, queue_size=1)
    with runtime.record(path):
        sends = [asyncio.ensure_future(runtime.send("slow", Number(n))) for n in range(3)]
        await settle()
        go.open()
        await asyncio.gather(*sends)
        await runtime.wait_idle()
    messages = of(read_log(path), RecordedMessage)
    assert [(one.message.n, one.source) for one in messages] == [(0, None), (1, None), (2, None)]


async def test_failures_are_recorded(runtime, start, path):
    async def failing(ctx):
        async for number in ctx:
            raise ValueError(f"not {number.n}")

    await start(failing, restart="on_failure", backoff=None, max_retries=1)
    with runtime.record(path):
        await runtime.send("failing", Number(3))
        await runtime.wait_idle()
    log = read_log(path)
    [failed] = of(log, RecordedMessage)
    assert [(one.number, one.error, one.text) for one in of(log, RecordedFailure)] == [
        (failed.number, "ValueError", "not 3")
    ] * 2
    assert log.failures == 2


async def test_only_named_kernels_are_recorded(runtime, start, path):
    for kernel_id in ("a", "b"):
        await start(doubled, kernel_id)
    with runtime.record(path, kernels=["b", "later"]):
        for kernel_id in ("a", "b"):
            await runtime.ask(kernel_id, Number(1))
        await start(doubled, "later")
        await runtime.ask("later", Number(1))
    log = read_log(path)
    assert list(log.kernels) == ["b", "later"]
    assert [one.kernel_id for one in of(log, RecordedMessage)] == ["b", "later"]
    with runtime.record(path, kernels="a", overwrite=True):
        for kernel_id in ("a", "b"):
            await runtime.ask(kernel_id, Number(1))
    assert list(read_log(path).kernels) == ["a"]
    with pytest.raises(TypeError, match="texts, not 3"):
        runtime.record(path, kernels=[3])


async def test_what_was_queued_before_or_put_in_by_hand_is_recorded_when_its_turn_comes(runtime, start, path):
    await start(sink, activate=False)
    await runtime.send("sink", Number(1))
    with runtime.record(path):
        runtime["sink"].inject(Number(0))
        await runtime.activate("sink")
        await runtime.wait_idle()
    log = read_log(path)
    messages = of(log, RecordedMessage)
    assert [one.message.n for one in messages] == [0, 1]
    assert [end.number for end in of(log, RecordedEnd)] == [one.number for one in messages]


async def test_a_kernel_that_is_launched_again_is_described_again(runtime, start, path):
    await start(doubled, "k")
    with runtime.record(path):
        await runtime.ask("k", Number(1))
        await runtime.terminate("k")
        await start(doubled, "k")
        await runtime.ask("k", Number(1))
    kernels = of(read_log(path), RecordedKernel)
    assert [(one.kernel_id, one.handled) for one in kernels] == [("k", 0), ("k", 0)]


async def test_of_what_has_no_encoding_the_class_is_recorded(runtime, start, path, caplog):
    async def quacking(ctx):
        async for duck in ctx:
            await ctx.send(duck)

    await start(quacking)
    with caplog.at_level(logging.WARNING), runtime.record(path) as recording:
        for n in range(3):
            await runtime.ask("quacking", Duck(n))
    name = f"{Duck.__module__}.Duck"
    assert recording.skipped == {name: 6}
    assert "6 without their content" in repr(recording)
    [warning] = caplog.records
    assert name in warning.getMessage()
    assert "put @message on its class" in warning.getMessage()
    messages = of(read_log(path), RecordedMessage, RecordedReply)
    assert {one.content for one in messages} == {name}
    assert {one.type for one in messages} == {name}
    with pytest.raises(RecordingError, match=r"holds no .*Duck: put @message on that class"):
        _ = messages[0].message


async def test_plain_values_are_recorded(runtime, start, path):
    async def echo(ctx):
        async for what in ctx:
            await ctx.send(what)

    await start(echo)
    values = ["text", 3, 2.5, b"bytes", ("a", 1), {"k": [1, 2]}, np.arange(3), True]
    with runtime.record(path) as recording:
        for value in values:
            await runtime.ask("echo", value)
    assert not recording.skipped
    recorded = of(read_log(path), RecordedMessage)
    assert [repr(one.message) for one in recorded] == [repr(value) for value in values]
    assert [one.type for one in recorded] == [type(value).__name__ for value in values]
    assert (await runtime.replay(path)).ok


async def test_objects_that_cannot_be_looked_at_disturb_nobody(runtime, start, path):
    @message
    class Thorny:
        n: int = 0

        def __getattribute__(self, name):
            if name == "n":
                raise RuntimeError("leave me alone")
            return super().__getattribute__(name)

    await start(sink)
    with runtime.record(path) as recording:
        await runtime.send("sink", Thorny())
        await runtime.wait_idle()
        assert recording.recording
    assert sum(recording.skipped.values()) == 1


async def interpreted_sum(start, **options):
    def summed(state: Sum, msg: Sample, out: Sample) -> bool:
        state.n += msg.n
        out.n = state.n
        return True

    await start(summed, "summed", state=Sum, instances=2, **options)


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_messages_of_compiled_kernels_name_their_instance(runtime, start, path, backend):
    await interpreted_sum(start, backend=backend)
    with runtime.record(path):
        assert (await runtime.ask("summed", Sample(1), instance=1)).n == 1
        await runtime.send("summed", Sample(2), instance=0)
        await runtime.receive("summed")
        await runtime.wait_idle()
    log = read_log(path)
    messages = of(log, RecordedMessage)
    assert [(one.instance, one.is_ask, one.message.n) for one in messages] == [(1, True, 1), (0, False, 2)]
    replies = of(log, RecordedReply)
    assert [(one.handling, one.message.n) for one in replies] == [(messages[0].number, 1), (messages[1].number, 2)]
    assert len(of(log, RecordedEnd)) == 2
    assert log.kernels["summed"].instances == 2


# -- from and until when -----------------------------------------------------------------------------------------------


async def test_a_file_that_is_there_is_not_lost_by_mistake(runtime, start, path):
    await start(doubled)
    with runtime.record(path):
        await runtime.ask("doubled", Number(1))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"run.pdclog' is there already: .*overwrite=True"):
        runtime.record(path).start()
    assert path.read_bytes() == before
    with runtime.record(path, overwrite=True):
        pass
    assert read_log(path).messages == 0


async def test_it_is_started_and_stopped_once(runtime, start, path):
    await start(doubled)
    recording = runtime.record(path)
    assert "not started" in repr(recording)
    await runtime.ask("doubled", Number(1))
    assert recording.start() is recording.start() is recording
    await runtime.ask("doubled", Number(2))
    recording.stop()
    recording.stop()
    await runtime.ask("doubled", Number(3))
    assert [one.message.n for one in of(read_log(path), RecordedMessage)] == [2]
    with pytest.raises(RecordingError, match="is over: make another one"):
        recording.start()
    assert runtime._observers == ()


async def test_a_file_that_cannot_be_made_is_an_error(runtime, tmp_path):
    with pytest.raises(FileNotFoundError):
        runtime.record(tmp_path / "no" / "folder" / "run.pdclog").start()


async def test_a_closed_runtime_is_not_recorded(loop_mode, path):
    from pydotcompute import RingKernelRuntime

    runtime = await RingKernelRuntime(loop=loop_mode).__aenter__()
    recording = runtime.record(path).start()
    await runtime.close()
    recording.stop()
    assert read_log(path).stopped
    with pytest.raises(RuntimeClosedError):
        runtime.record(path, overwrite=True).start()


async def test_what_was_handled_before_this_pass_of_the_loop_is_in_the_file(runtime, start, path, settle):
    await start(doubled)
    with runtime.record(path):
        for n in range(5):
            await runtime.ask("doubled", Number(n))
            await settle(2)
            log = read_log(path)
            assert [one.message.n for one in of(log, RecordedReply)] == [2 * i for i in range(n + 1)]
            assert not log.stopped
            assert "not stopped" in repr(log)


async def test_a_long_pass_of_the_loop_is_written_in_parts(runtime, start, path, monkeypatch):
    monkeypatch.setattr(recording_module, "MAX_BUFFER", 100)
    await start(sink, activate=False, queue_size=100)
    with runtime.record(path) as recording:
        await runtime.send_many("sink", [Number(n) for n in range(100)])
        assert len(recording._buffer) <= 300
    assert read_log(path, strict=True).messages == 100


async def test_sync_waits_for_the_disk(runtime, start, path, monkeypatch):
    files = []
    monkeypatch.setattr(recording_module.os, "fsync", files.append)
    await start(doubled)
    with runtime.record(path):
        await runtime.ask("doubled", Number(1))
    assert files == []
    with runtime.record(path, overwrite=True, sync=True):
        await runtime.ask("doubled", Number(1))
    assert len(files) >= 2


KILLED = """
import asyncio, os, signal, sys
from pydotcompute import RingKernelRuntime, message, ring_kernel

@message
class Number:
    n: int

@ring_kernel
async def doubled(ctx):
    async for number in ctx:
        await ctx.send(Number(2 * number.n))

async def main():
    async with RingKernelRuntime() as runtime:
        await (await runtime.launch("doubled")).activate()
        runtime.record(sys.argv[1]).start()
        for n in range(100_000):
            await runtime.ask("doubled", Number(n))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if n == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(1, f"{n}\\n".encode())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_all_that_was_handled_survives_kill_9(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), "300"], env=environment, capture_output=True, timeout=60
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    log = read_log(path, strict=True)
    assert len(of(log, RecordedReply)) == log.messages == 301
    assert not log.stopped
    # And at any moment, by somebody else:
    path.unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), "-1"], env=environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        last = [process.stdout.readline() for _ in range(400)][-1]
        process.kill()
        last = process.stdout.read().splitlines()[-1:] or [last]
    log = read_log(path)
    assert log.damage is None or log.damage.torn
    replies = of(log, RecordedReply)
    assert len(replies) > int(last[0].split()[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_a_disk_that_takes_no_more_ends_the_recording_and_nothing_else(
    runtime, start, path, caplog, eventually, settle
):
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    await start(doubled)
    recording = runtime.record(path, overwrite=True).start()
    assert (await runtime.ask("doubled", Number(1))).n == 2
    await settle()
    written = os.read(reader, 2**20)
    assert written.startswith(MAGIC)
    assert b"doubled" in written
    os.close(reader)
    assert [(await runtime.ask("doubled", Number(n))).n for n in range(10)] == [2 * n for n in range(10)]
    await eventually(lambda: recording.error is not None and not runtime._observers)
    assert not recording.recording
    assert isinstance(recording.error, BrokenPipeError)
    assert "stopped by an error" in repr(recording)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "has stopped, and holds what came before: " in record.getMessage()
    recording.stop()
    assert (await runtime.ask("doubled", Number(1))).n == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_so_does_one_that_is_full_from_the_start(runtime, start, caplog):
    await start(doubled)
    with runtime.record("/dev/full", overwrite=True) as recording:
        assert "No space left" in str(recording.error)
        assert (await runtime.ask("doubled", Number(1))).n == 2
    assert len(caplog.records) == 1
    assert runtime._observers == ()


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole():
    return log_of(*ALL)


def read(path, data):
    """What a log of these bytes holds, and its damage."""
    path.write_bytes(data)
    log = read_log(path)
    return list(log), log.damage


def test_entries_of_all_kinds_are_read(path, whole):
    entries, damage = read(path, whole)
    assert damage is None
    assert len({type(one) for one in entries}) == len(entries) == 8
    assert entries[3].type == "x"
    with pytest.raises(PyDotComputeError):
        _ = entries[3].message  # no message of a known class


def test_of_a_torn_log_all_but_the_last_entry_is_read(path, whole):
    entries, _ = read(path, whole)
    ends = len(log_of(*ALL[:-1]))
    for length in range(ends, len(whole)):
        found, damage = read(path, whole[:length])
        assert found == entries[:-1]
        assert (damage is None) is (length == ends)
        if damage is not None:
            assert damage == Damage(ends, "the file ends inside an entry", True)
            with pytest.raises(RecordingError, match=rf"torn at byte {ends:,}: the file ends"):
                read_log(path, strict=True)
    assert f"torn at byte {ends:,}" in repr(read_log(path))


def test_zeros_at_the_end_are_a_torn_entry_too(path, whole):
    entries, damage = read(path, whole + bytes(4096))
    assert len(entries) == 8
    assert damage is not None
    assert damage.torn


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (entry(8, 12), "an entry of a kind that is not known, 8"),
        (entry(-1, 12), "an entry of a kind that is not known, -1"),
        (entry(7), "not a RecordingEnd"),
        (entry(7, 1.5), "not a RecordingEnd"),
        (entry(7, 1, 2), "not a RecordingEnd"),
        (entry("7", 1), "not an entry"),
        (entry(), "not an entry"),
        (entry(3, 7, 1, "k", None, 128, 1, None, None, b""), "not a RecordedMessage"),
        (entry(5, 9, {1: 2}), "not an entry: ValueError"),
        (entry(5, 9, msgpack.ExtType(1, b"xx")), "not an entry: ValueError"),
        (entry(5, *range(40)), "not an entry: ValueError"),
    ],
)
def test_what_no_recording_writes_is_damage(path, whole, content, what):
    entries, damage = read(path, log_of(*ALL, content, entry(7, 13)))
    assert len(entries) == 8
    assert (damage.offset, damage.torn) == (len(whole), False)
    assert damage.what.startswith(what)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00" + b"x" * 20, "not the head of an entry"),
        (b"\x00\x00\x00\x80\xff\xff\xff\x7f\x00\x00\x00\x00" + b"x" * 20, "not the head of an entry"),
        (log_of(START)[12:], "its checksum is wrong"),
    ],
)
def test_damage_is_told_and_what_comes_before_is_read(path, whole, data, what):
    entries, damage = read(path, whole + data)
    assert len(entries) == 8
    assert damage == Damage(len(whole), what, False)
    with pytest.raises(RecordingError, match=f"damaged at byte {len(whole):,}: {what}"):
        read_log(path, strict=True)


def test_no_entry_can_be_missing_or_in_another_place(path, whole):
    places = [len(log_of(*ALL[:i])) for i in range(9)]
    assert read(path, whole[: places[3]] + whole[places[4] :])[1].offset == places[3]
    swapped = whole[: places[3]] + whole[places[4] : places[5]] + whole[places[3] : places[4]] + whole[places[5] :]
    assert read(path, swapped)[1].offset == places[3]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no log of a recording: runtime.record"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no log of a recording"),
        (MAGIC[:-1], "is no log"),
        (MAGIC + FORMAT[:2], "it ends inside its head"),
        (
            MAGIC + (2).to_bytes(4, "little") + log_of(START)[12:],
            "has format 2, and this version of pydotcompute reads 1",
        ),
        (MAGIC + FORMAT, "holds nothing that can be read"),
        (log_of(START)[:-1], "holds nothing that can be read: damaged at byte 12: the file ends"),
        (log_of(entry(7, 1), START), "it does not begin with the start of a recording"),
    ],
)
def test_what_is_no_log_is_an_error(path, data, told):
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=told):
        read_log(path)
    with pytest.raises(FileNotFoundError):
        read_log(path.with_name("other"))


def test_a_file_that_changes_while_it_is_read_is_an_error(path, whole):
    path.write_bytes(whole)
    log = read_log(path)
    path.write_bytes(whole[:-1] + b"\x00")
    with pytest.raises(RecordingError, match="has changed"):
        list(log)
    path.write_bytes(whole[:20])
    with pytest.raises(RecordingError, match="has changed"):
        list(log)


def test_whatever_the_bytes_are_there_is_a_good_prefix_or_a_clear_error(path, whole):
    entries, _ = read(path, whole)
    dice = random.Random(20260)
    lengths = set()
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 1, 2, 8))):
            place = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[place] ^= 1 << dice.randrange(8)
                case 1:
                    data[place] = dice.choice((0, 0x7F, 0x80, 0xFF))
                case 2:
                    del data[place : place + dice.randrange(1, 20)]
                case _:
                    data[place:place] = dice.randbytes(dice.randrange(1, 20))
        try:
            found, damage = read(path, data)
        except RecordingError:
            continue
        assert found == entries[: len(found)]
        assert damage is not None or len(found) == len(entries) or bytes(data) == whole[: len(data)]
        lengths.add(len(found))
    assert len(lengths) > 5
    for _ in range(300):
        body = dice.randbytes(dice.randrange(200))
        found, damage = read(path, log_of(START) + body)
        assert len(found) == 1
        assert damage is not None or not body


def test_whatever_a_content_with_the_right_checksum_is(path):
    dice = random.Random(7)
    good = [list(range(8)), ["k", 1, None, True, b"x", 1.5]]
    for _ in range(600):
        if dice.random() < 0.5:
            content = dice.randbytes(dice.randrange(1, 30))
        else:
            content = msgpack.packb([dice.choice(good[0]), *(dice.choice(good[1]) for _ in range(dice.randrange(11)))])
        found, damage = read(path, log_of(START, content))
        assert (damage is None) is (len(found) == 2)
        for one in found[1:]:
            repr(one)
            if isinstance(one, RecordedMessage | RecordedReply):
                assert isinstance(one.type, str)
                with pytest.raises(PyDotComputeError):
                    _ = one.message


def test_lengths_that_lie_take_no_memory(path):
    import tracemalloc

    nested = b"\xdd\xff\xff\xff\xff" * 1000
    path.write_bytes(log_of(START, nested))
    tracemalloc.start()
    try:
        assert read_log(path).damage is not None
        torn = (2**26).to_bytes(4, "little") + (2**26 ^ 0xFFFFFFFF).to_bytes(4, "little") + bytes(4)
        path.write_bytes(log_of(START) + torn + b"x" * 100)
        assert read_log(path).damage.torn
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
