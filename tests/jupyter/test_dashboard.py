"""The dashboard, with a page that is no browser."""

import asyncio
import inspect
import re
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.exceptions import KernelNotFoundError
from pydotcompute.jupyter import comm, schema
from pydotcompute.runtime import KernelState
from pydotcompute.runtime import kernel as kernel_module
from pydotcompute.runtime.lifecycle import allowed
from pydotcompute.telemetry import STATES
from tests.device.steps import Number
from tests.jupyter.page import PATIENCE, Page, View

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import Dashboard, dashboard

pytestmark = pytest.mark.needs_notebook

module = sys.modules["pydotcompute.jupyter.widgets.live"]
module_of_tests = sys.modules[__name__]
CRASH = """                raise ValueError("no such <unit>: 'kelvinn'")"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingKernelRuntime]:
    monkeypatch.setattr(kernel_module, "_definitions", {})
    runtime = RingKernelRuntime(loop="thread")
    yield runtime
    runtime.sync.close(drain=False, timeout=1)


@pytest.fixture
def board(page: Page, runtime: RingKernelRuntime) -> Iterator[Dashboard]:
    board = dashboard(runtime, hz=20)
    yield board
    board.close()


@pytest.fixture
def start(runtime: RingKernelRuntime) -> Callable[..., None]:
    """Launch and activate kernels of these ids that take whatever comes; `crash` makes them raise."""

    @ring_kernel
    async def taker(ctx):
        async for message in ctx:
            if message == "crash":
                raise ValueError("no such <unit>: 'kelvinn'")
            if message == "reply":
                await ctx.send(message)

    def start(*ids: str) -> None:
        for kernel_id in ids:
            runtime.sync.launch(taker, kernel_id=kernel_id)
            runtime.sync.activate(kernel_id)

    return start


def states(frame: dict) -> list[str]:
    return [STATES[code] for code in frame["columns"]["state"]]


def wait_until(true: Callable[[], object]) -> None:
    """For what announces itself nowhere."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# -- who looks ---------------------------------------------------------------------------------------------------------


def test_nothing_is_sampled_until_somebody_looks_and_after_the_last_has_gone(page, runtime, board):
    assert not runtime.sampler.running
    one, other = page.view(board), page.view(board)
    assert runtime.sampler.running
    one.close()
    assert runtime.sampler.running
    other.close()
    assert not runtime.sampler.running


def test_out_of_sight_the_series_go_on_slowly_and_nothing_is_sent(page, runtime, board):
    rates = []
    listen = runtime.sampler.listen
    runtime.sampler.listen = lambda listener, hz: (rates.append(hz), listen(listener, hz))
    view = page.view(board)
    page.frame()
    view.send("seen", visible=False)
    sent = page.last
    taken = runtime.sampler._take().number  # frames are counted when they are taken
    wait_until(lambda: runtime.sampler._take().number > taken + 2)
    assert rates == [20, 1.0]
    assert page.last == sent
    view.send("seen", visible=True)
    assert page.frame(after=sent)["ids"] == []  # back in sight: everything anew


def test_a_view_that_says_nothing_for_long_is_taken_for_gone(page, runtime, board, monkeypatch):
    monkeypatch.setattr(comm, "SILENT", 0.05)
    monkeypatch.setattr(module, "UNSEEN_HZ", 20.0)
    view = page.view(board)
    page.frame()
    wait_until(lambda: not board._seen(time.monotonic()))
    assert runtime.sampler.running
    monkeypatch.setattr(comm, "GONE", 0.1)
    wait_until(lambda: not runtime.sampler.running)
    last = page.last
    view.send("seen", visible=True)  # it was only asleep
    page.frame(after=last)


def test_frames_go_out_slowly_while_the_browser_does_not_draw_them(page, runtime, board, monkeypatch):
    monkeypatch.setattr(comm, "LATE", 0.2)
    view = page.view(board)
    page.frame(lambda content: content["number"] >= 5)
    begin = time.monotonic()
    page.frame(after=page.last + 1)
    assert time.monotonic() - begin > 0.9
    view.send("received", number=page.last)
    begin = time.monotonic()
    page.frame(after=page.last + 2)
    assert time.monotonic() - begin < 0.9


def test_record_samples_without_a_view(page, runtime):
    board = dashboard(runtime, hz=20, record=True)
    assert runtime.sampler.running
    wait_until(lambda: board._rates.moment > 0)
    board.close()
    assert not runtime.sampler.running


def test_what_nobody_has_had_a_view_of_for_long_keeps_no_frames_and_goes_on_when_shown(
    page, runtime, board, start, monkeypatch
):
    start("a")
    view = page.view(board)
    page.frame(lambda content: content["rate"] is not None)
    kept = weakref.ref(board._frame.rows), weakref.ref(board._rates)
    view.close()
    board._check()
    assert all(one() is not None for one in kept)
    with monkeypatch.context() as patch:
        patch.setattr(comm, "GONE", 0.0)
        wait_until(lambda: not any(one() for one in kept))
    assert "1 ring kernel" in board._repr_mimebundle_()["text/html"]
    again = page.view(board)
    frame = page.frame(lambda content: content["ids"] and content["rate"] is not None, after=page.last)
    assert states(frame) == ["ACTIVE"]
    board.window = 300
    again.close()


@pytest.mark.parametrize("what", ["seen", "out of sight", "frozen", "record"])
def test_what_may_still_be_looked_at_is_kept(page, runtime, start, monkeypatch, what):
    start("a")
    board = dashboard(runtime, hz=20, record=what == "record")
    view = page.view(board)
    page.frame()
    if what == "out of sight":
        view.send("seen", visible=False)
    if what == "frozen":
        board.freeze()
    if what in ("frozen", "record"):
        view.close()
    kept = board._frame, board._rates
    monkeypatch.setattr(comm, "GONE", -1.0 if what == "frozen" else 600.0)
    board._replaced = True
    board._check()
    assert board._frame is not None
    assert board._rates is kept[1]
    board.close()


# -- frames ------------------------------------------------------------------------------------------------------------


def test_a_frame_tells_what_each_kernel_does(page, runtime, board, start):
    start("a", "b")
    runtime.sync.deactivate("b")
    for _ in range(10):
        runtime.sync.send("a", 1)
        runtime.sync.send("b", 1)
    page.view(board)
    frame = page.frame()
    assert frame["version"] == schema.VERSION
    assert frame["ids"] == ["a", "b"]
    assert states(frame) == ["ACTIVE", "DEACTIVATED"]
    columns = frame["columns"]
    assert columns["depth"].tolist() == [0, 10]
    assert columns["bound"].tolist() == [1024, 1024]
    assert columns["peak"][1] == 10
    assert frame["deadLetters"] == 0
    runtime.sync.send_many("a", range(500))
    later = page.frame(lambda content: content["rate"] and content["queued"] == 10, after=frame["number"])
    assert later["columns"]["rate"][0] > 0
    assert later["columns"]["rate"][1] == 0
    assert later["rate"] == pytest.approx(later["columns"]["rate"].sum())
    assert later["lag"] is not None


def test_ids_travel_when_the_kernels_change_and_when_they_are_asked_for(page, runtime, board, start):
    start("a")
    view = page.view(board)
    first = page.frame()
    assert first["ids"] == ["a"]
    second = page.frame(after=first["number"])
    assert second["ids"] is None
    assert second["roster"] == first["roster"]
    start("b")
    third = page.frame(lambda content: content["ids"], after=second["number"])
    assert third["ids"] == ["a", "b"]
    assert third["roster"] > first["roster"]
    before = page.last
    view.send("snapshot")
    snapshot = page.frame(lambda content: content["ids"], after=before)
    assert snapshot["ids"] == ["a", "b"]
    history = np.frombuffer(snapshot["buffers"][1], np.float32)
    assert history.shape == (2 * snapshot["points"],)


def test_tags_say_what_runs_each_kernel(page, runtime, board, start):
    @ring_kernel(backend="interpreted", instances=3, key="n")
    def step(state: None, msg: Number, out: None):
        pass

    start("a", "b")
    runtime.sync.launch(step)
    page.view(board)
    first = page.frame(lambda content: content["ids"])
    assert first["tags"] == ["async", "async", "interpreted ×3"]
    assert page.frame(after=first["number"])["tags"] is None
    runtime.sync.terminate("a")
    runtime.sync.launch(step, kernel_id="a")  # the ids are the same
    later = page.frame(lambda content: content["roster"] > first["roster"], after=first["number"])
    assert later["ids"] == first["ids"]
    assert later["tags"] == ["interpreted ×3", "async", "interpreted ×3"]


def test_a_view_that_joins_late_gets_the_whole_picture(page, board, start):
    start("a")
    page.view(board)
    page.frame(lambda content: content["number"] > 2)
    before = page.last
    page.view(board)
    assert page.frame(lambda content: content["ids"], after=before)["ids"] == ["a"]


@pytest.mark.parametrize(("hz", "shortest", "longest"), [(4, 0.6, 1.5), (20, 0.1, 0.5)])
def test_hz_is_the_number_of_frames_a_second(page, runtime, hz, shortest, longest):
    board = dashboard(runtime, hz=hz)
    page.view(board)
    first = page.frame()["number"]
    begin = time.monotonic()
    page.frame(after=first + 2)
    assert shortest < time.monotonic() - begin < longest
    board.close()


@pytest.mark.parametrize("window", [30, 120])
def test_window_is_what_the_charts_reach_back(page, runtime, window):
    board = dashboard(runtime, window=window)
    page.view(board)
    frame = page.frame()
    assert frame["points"] * frame["step"] == pytest.approx(window)
    assert repr(board) == f"Dashboard(hz=5, window={window})"
    board.close()


def test_what_is_wrong_is_said_in_words(page, runtime, board, start):
    start("fine", "broken")
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("broken", "crash")
    page.view(board)
    frame = page.frame(lambda content: content["notes"])
    (note,) = frame["notes"]
    assert note["kernel"] == "broken"
    assert note["kind"] == "failed"
    assert note["text"] == "failed: ValueError: no such <unit>: 'kelvinn'"
    line = inspect.getsource(module_of_tests).splitlines().index(CRASH) + 1
    assert note["origin"] == f"module {__name__}, line {line}"
    assert note["fate"] == ""


def test_a_kernel_whose_replies_nobody_reads_says_so(page, runtime, board):
    @ring_kernel(queue_size=2)
    async def talker(ctx):
        async for message in ctx:
            await ctx.send(message)

    runtime.sync.launch("talker")
    runtime.sync.activate("talker")
    for message in range(4):
        runtime.sync.send("talker", message)
    page.view(board)
    (note,) = page.frame(lambda content: content["notes"])["notes"]
    assert note["kind"] == "waits"
    assert note["text"].startswith("waiting: replies unread")


def test_percentiles_are_those_of_the_last_seconds(page, runtime, board, start):
    start("a", "idle")
    page.view(board)
    page.frame()
    runtime.sync.send_many("a", range(500))
    columns = page.frame(lambda content: content["number"] > 2 and not np.isnan(board._rates.wait[0, 0]))["columns"]
    later = page.frame(after=page.last)["columns"]
    assert 0 < later["handleP50"][0] < later["handleP99"][0] < 1
    assert 0 < later["waitP50"][0] < later["waitP99"][0] < 10
    assert np.isnan(columns["handleP50"][1])


def test_the_head_tells_what_sums_up_and_how_busy_the_process_is(page, runtime, board, start):
    start("a", "b", "c")
    runtime.sync.deactivate("b")
    runtime.sync.send_many("b", range(7))
    page.view(board)
    frame = page.frame(lambda content: content["cpu"] is not None and content["queued"] == 7)
    assert {STATES[code]: n for code, n in enumerate(frame["counts"]) if n} == {"ACTIVE": 2, "DEACTIVATED": 1}
    assert 0 < frame["cpu"] < 100
    assert frame["gpus"] == []


def test_limit_of_restarts_is_told_and_restarts_are_counted(page, runtime, board):
    @ring_kernel(restart="on_failure", max_restarts=2, backoff=None)
    async def feeble(ctx):
        async for message in ctx:
            raise ValueError(message)

    runtime.sync.launch("feeble")
    runtime.sync.activate("feeble")
    for message in "abc":
        runtime.sync.send("feeble", message)
    page.view(board)
    frame = page.frame(lambda content: content["notes"])
    assert frame["notes"][0]["fate"] == "2 restarts in 60 s, limit reached"
    assert frame["columns"]["restarts"].tolist() == [2]
    assert "2 restarts in 60 s, limit reached" in board._repr_mimebundle_()["text/html"]


def test_notes_are_read_anew_when_something_fails_and_once_a_second(page, runtime, start, monkeypatch):
    start(*"abcd")
    board = dashboard(runtime, hz=20)
    page.view(board)
    page.frame()
    looks = []
    monkeypatch.setattr(
        type(runtime["a"]), "waiting_for", property(lambda kernel: looks.append(kernel.id) or "patience")
    )
    frame = page.frame(lambda content: content["notes"])
    assert [note["text"] for note in frame["notes"]] == ["waiting: patience"] * 4
    page.frame(after=frame["number"] + 10)
    assert len(looks) <= 2 * 4
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("d", "crash")
    begin = time.monotonic()
    frame = page.frame(lambda content: content["notes"] and content["notes"][0]["kind"] == "failed")
    assert frame["notes"][0]["kernel"] == "d"
    assert time.monotonic() - begin < 0.7
    board.close()


# -- control -----------------------------------------------------------------------------------------------------------


def test_buttons_pause_resume_and_stop(page, runtime, board, start):
    start("a")
    view = page.view(board)
    for verb, state in (("pause", "DEACTIVATED"), ("resume", "ACTIVE"), ("stop", "TERMINATED")):
        outcome = page.result(view.command(verb, "a"))
        assert outcome["ok"], outcome
        assert runtime["a"].state == state
        assert states(page.frame(after=page.last)) == [state]


def test_a_step_handles_one_message(page, runtime, board, start):
    start("a")
    view = page.view(board)
    runtime.sync.deactivate("a")
    runtime.sync.send_many("a", ["one", "two"])
    assert page.result(view.command("step", "a"))["text"] == "a handled 'one'"
    assert runtime["a"].queue_depth == 1
    assert runtime["a"].state == "DEACTIVATED"
    assert page.result(view.command("step", "a"))["text"] == "a handled 'two'"
    empty = page.result(view.command("step", "a"))
    assert empty["ok"]
    assert empty["text"] == "a: nothing is queued"


def test_a_step_that_takes_too_long_says_so(page, runtime, board, monkeypatch):
    @ring_kernel
    async def slow(ctx):
        async for _ in ctx:
            await asyncio.Event().wait()

    runtime.sync.launch("slow")
    runtime.sync.activate("slow")
    runtime.sync.deactivate("slow")
    runtime.sync.send("slow", 1)
    monkeypatch.setattr(sys.modules["pydotcompute.jupyter.acts"], "STEP", 0.05)
    outcome = page.result(page.view(board).command("step", "slow"))
    assert not outcome["ok"]
    assert outcome["text"].startswith("QueueTimeoutError: ")


def test_restart_begins_again_also_what_has_failed(page, runtime, board, start):
    start("a", "b")
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("b", "crash")
    view = page.view(board)
    for kernel_id in ("a", "b"):
        assert page.result(view.command("restart", kernel_id))["ok"]
        assert runtime[kernel_id].state == "ACTIVE"
    frame = page.frame(after=page.last)
    assert frame["columns"]["restarts"].tolist() == [1, 0]  # the other one was launched anew
    assert frame["notes"] == []


def test_what_can_be_done_in_a_state_is_what_the_buttons_offer(runtime, start):
    script = (Path(schema.__file__).parent / "widgets/static/common.js").read_text()
    look = script.partition("const LOOK = {")[2].partition("\n};")[0]
    offered = {
        state: set(re.findall(r'"(\w+)"', verbs))
        for state, verbs in re.findall(r"^  ([A-Z]+): \{.*?verbs: \[(.*?)\]", look, re.DOTALL | re.MULTILINE)
    }
    meant = {"activate": "activate", "deactivate": "pause", "reactivate": "resume", "terminate": "stop"}
    for state in KernelState:
        verbs = allowed(state)
        expected = {meant[verb] for verb in verbs if verb in meant}
        if "reactivate" in verbs:
            expected.add("step")
        if state.over or {"deactivate", "reactivate"} & {*verbs}:
            expected.add("restart")
        assert offered[state] == expected, state


def test_a_traceback_comes_when_it_is_asked_for(page, runtime, board, start):
    start("a", "fine")
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("a", "crash")
    view = page.view(board)
    page.frame()
    assert not any("Traceback" in repr(content) for content, _ in page.frames())
    outcome = page.result(view.command("traceback", "a"))
    lines = outcome["text"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no such <unit>: 'kelvinn'"
    assert CRASH.strip() in outcome["text"]
    assert "pydotcompute/runtime" not in outcome["text"]
    assert page.result(view.command("traceback", "fine"))["text"] == "'fine' is ACTIVE, and has no error"
    refused = view.send("command", verb="traceback", kernel="nobody", request="r", arguments={})["refused"]
    assert refused.startswith("no ring kernel 'nobody'")
    board.freeze()
    assert page.result(view.command("traceback", "a"))["text"] == outcome["text"]


def test_results_are_not_told_for_ever(page, board, start, monkeypatch):
    start("a")
    monkeypatch.setattr(comm, "SAID", 0.2)
    view = page.view(board)
    page.result(view.command("pause", "a"))
    page.frame(lambda content: not content["results"], after=page.last)


def test_what_cannot_be_done_is_told_with_the_next_frame(page, board, start):
    start("a")
    view = page.view(board)
    outcome = page.result(view.command("resume", "a"))
    assert not outcome["ok"]
    assert outcome["text"].startswith("KernelStateError: cannot reactivate 'a': it is ACTIVE")
    outcome = page.result(view.command("pause", "nobody"))
    assert outcome["text"].startswith("KernelNotFoundError: no ring kernel 'nobody'")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"version": 99, "kind": "snapshot"}, "version 99"),
        (
            {
                "version": schema.VERSION,
                "kind": "command",
                "verb": "explode",
                "kernel": "a",
                "request": "r",
                "arguments": {},
            },
            "verb cannot be 'explode'; possible: activate, pause, resume, restart, stop, step, traceback",
        ),
        ("garbage", "not an object"),
        ({"version": schema.VERSION, "kind": "hello"}, "widget is None"),
    ],
)
def test_a_message_that_is_not_understood_is_refused_and_changes_nothing(
    page, runtime, board, start, caplog, data, says
):
    start("a")
    view = page.view(board)
    answer = view.send_raw(data)
    assert answer["kind"] == "acknowledgement"
    assert says in answer["refused"]
    assert runtime["a"].state == "ACTIVE"
    assert not caplog.records
    assert view.send("snapshot")["refused"] is None


def test_a_message_that_makes_its_handler_raise_is_answered_and_logged_once(page, board, monkeypatch, caplog):
    def stumble(name: str, value: object) -> None:
        raise ZeroDivisionError("of all things")

    view = page.view(board)
    monkeypatch.setattr(board, "_set", stumble)
    for _ in range(3):
        told = view.send("set", name="kernels", value=[])
        assert told["kind"] == "acknowledgement"
        assert "ZeroDivisionError: of all things" in told["refused"]
    (record,) = [record for record in caplog.records if record.name == "pydotcompute"]
    assert record.exc_info[0] is ZeroDivisionError
    assert view.send("snapshot")["refused"] is None


@pytest.mark.parametrize("options", [{}, {"layout": "compact"}, {"embed": "a"}])
@pytest.mark.parametrize("kernels", [0, 1])
def test_a_closed_one_leaves_no_widget_open(page, runtime, start, options, kernels):
    if kernels or "embed" in options:
        start("a")
    before = set(_instances)
    board = dashboard(runtime, **options)
    board._repr_mimebundle_()
    assert len(set(_instances) - before) > 3
    board.close()
    assert set(_instances) == before


def test_a_hello_to_a_dashboard_that_is_gone_is_refused(page, board, caplog):
    view = View(page, board, widget="no such")
    (answer,) = page.on(view.id)
    assert "run its cell again" in answer["refused"]
    assert not caplog.records


def test_every_message_is_answered_on_its_comm_and_nothing_else_goes_there(page, board, start):
    start("a")
    view = page.view(board)
    view.send("received", number=1)
    view.command("pause", "a")
    page.frame(lambda content: content["results"])
    answers = page.on(view.id)
    assert [answer["kind"] for answer in answers] == ["acknowledgement"] * 4  # hello, seen, received, command


def test_a_page_that_opens_no_comms_sends_the_same_with_the_widget(page, runtime, board, start):
    start("a")
    table = board.children[0].model_id

    def send(kind: str, **fields: object) -> None:
        content = {"version": schema.VERSION, "kind": kind, **fields}
        data = {"method": "custom", "content": content}
        page.manager.comm_msg(None, "", {"content": {"comm_id": table, "data": data}, "buffers": []})

    send("hello", widget=board.children[0].key)
    send("seen", visible=True)
    page.frame()
    send("command", verb="pause", kernel="a", request="r", arguments={})
    assert page.result("r")["ok"]
    send("explode")
    page.wait(lambda: any("unknown message" in str(data["content"].get("refused")) for data in page.on(table)))


def test_the_charts_show_the_busiest_or_what_is_selected(page, runtime, board, start):
    start(*"abcdefgh")
    view = page.view(board)

    def legend() -> str:
        return board.children[1].children[0].value if len(board.children) > 1 else ""

    runtime.sync.deactivate("g")
    runtime.sync.send_many("g", range(100))
    page.wait(lambda: "busiest 5 of 8" in legend())
    view.send("set", name="kernels", value=["b", "h"])
    page.wait(lambda: "selected" in legend())
    assert [name for name in "abcdefgh" if f">{name}</span>" in legend()] == ["b", "h"]
    view.send("set", name="kernels", value=[])
    page.wait(lambda: "busiest" in legend())
    assert ">g</span>" in legend()


def test_the_view_sets_rate_and_window(page, board, start):
    start("a")
    view = page.view(board)
    frame = page.frame(lambda content: content["rate"] is not None)
    assert (frame["hz"], frame["window"]) == (20, 60)
    assert view.send("set", name="hz", value=2)["refused"] is None
    assert page.frame(lambda content: content["hz"] == 2)
    assert board.hz == 2
    board.hz = 20
    before = page.last
    assert view.send("set", name="window", value=300)["refused"] is None
    frame = page.frame(lambda content: content["window"] == 300, after=before)
    assert frame["points"] * frame["step"] == pytest.approx(300)
    history = np.frombuffer(frame["buffers"][1], np.float32)
    assert np.isfinite(history[-1])  # that window was kept too
    assert board.window == 300
    wait_until(lambda: board._charts._charts[0]._x.min == -5)  # minutes
    for value in (4, 4000, "60", None, True):
        assert "window must be 5 to 3600" in view.send("set", name="window", value=value)["refused"]
    assert "unknown setting 'colour'" in view.send("set", name="colour", value=1)["refused"]


def test_a_window_that_nobody_offers_can_be_set(page, board, start):
    start("a")
    page.view(board)
    page.frame(lambda content: content["rate"] is not None)
    board.window = 77
    frame = page.frame(lambda content: content["window"] == 77)
    assert len(frame["buffers"][1]) == 4 * frame["points"]
    with pytest.raises(ValueError, match="window must be 5 to 3600 seconds, not 1"):
        board.window = 1


# -- one line, one kernel ----------------------------------------------------------------------------------------------


def test_in_one_line_sums_are_sent_and_no_rows(page, runtime, start):
    start(*"abcd")
    runtime.sync.deactivate("b")
    runtime.sync.send_many("b", range(5))
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("d", "crash")
    board = dashboard(runtime, hz=20, layout="compact")
    assert repr(board) == "Dashboard(hz=20, window=60, layout='compact')"
    assert len(board.children) == 1
    page.view(board)
    page.frame()
    runtime.sync.send_many("a", range(300))
    frame = page.frame(lambda content: content["rate"])
    assert "roster" not in frame
    assert frame["queued"] == 5
    assert frame["counts"] == [0, 0, 2, 1, 0, 0, 1]
    assert frame["notes"][0]["kernel"] == "d"
    (total,) = frame["buffers"]
    values = np.frombuffer(total, np.float32)
    assert values.shape == (frame["points"],)
    assert values[-1] == pytest.approx(frame["rate"])
    html = board._repr_mimebundle_()["text/html"]
    assert "4 ring kernels" in html
    assert "2 active · 1 paused · 1 failed" in html
    assert "<b>5</b> queued" in html
    assert "d failed: ValueError" in html
    assert "<table" not in html
    board.close()


@pytest.mark.parametrize("by", ["id", "handle"])
def test_one_kernel_can_be_shown_alone(page, runtime, start, by):
    start("a", "b")
    for kernel_id in "ab":
        with pytest.raises(Exception, match="kelvinn"):
            runtime.sync.ask(kernel_id, "crash")
    board = dashboard(runtime, hz=20, embed="b" if by == "id" else runtime["b"])
    assert repr(board) == "Dashboard(hz=20, window=60, embed='b')"
    assert board.children[0].kernel == "b"
    view = page.view(board)
    frame = page.frame()
    assert frame["ids"] == ["b"]
    assert states(frame) == ["FAILED"]
    assert [note["kernel"] for note in frame["notes"]] == ["b"]
    page.wait(lambda: ">b</span>" in board._charts._legend.value)
    assert page.result(view.command("restart", "b"))["ok"]
    assert states(page.frame(after=page.last)) == ["ACTIVE"]
    page.wait(lambda: np.isfinite(board._rates.series(["b"])[1]).sum() > 1)
    html = board._repr_mimebundle_()["text/html"]
    assert "title='b'" in html
    assert "title='a'" not in html
    assert html.count("<img") == 2
    board.close()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"layout": "tall"}, ValueError, "layout must be 'full' or 'compact', not 'tall'"),
        ({"embed": "nobody"}, KernelNotFoundError, "no ring kernel 'nobody'"),
        ({"embed": 7}, TypeError, "embed takes the id of a kernel, or its handle"),
        ({"embed": "a", "layout": "compact"}, ValueError, "give one of them"),
        ({"window": True}, ValueError, "window"),
    ],
)
def test_wrong_layouts_say_what_to_do(page, runtime, start, arguments, error, says):
    start("a")
    with pytest.raises(error, match=re.escape(says)):
        dashboard(runtime, **arguments)


def test_a_definition_or_a_kernel_of_another_runtime_cannot_be_shown_alone(page, runtime, start):
    start("a")
    with pytest.raises(TypeError, match=r"its id is 'taker'"):
        dashboard(runtime, embed=runtime["a"].definition)
    other = RingKernelRuntime(loop="thread")
    with pytest.raises(ValueError, match="'a' is a kernel of another runtime"):
        dashboard(other, embed=runtime["a"])


# -- the picture that stays --------------------------------------------------------------------------------------------


def test_a_frozen_dashboard_keeps_its_picture(page, runtime, board, start):
    start("a")
    page.view(board)
    page.frame()
    board.freeze()
    assert board.status == "frozen"
    wait_until(lambda: not runtime.sampler.running)
    frozen = page.frame(lambda content: content["status"] == "frozen")
    runtime.sync.deactivate("a")
    page.view(board)  # who comes later sees the same
    late = page.frame(lambda content: content["ids"], after=frozen["number"])
    assert late["status"] == "frozen"
    assert states(late) == ["ACTIVE"]
    wait_until(lambda: not runtime.sampler.running)
    board.thaw()
    assert states(page.frame(lambda content: content["status"] == "live", after=late["number"])) == ["DEACTIVATED"]


def test_the_freeze_button_does_the_same(page, runtime, board):
    view = page.view(board)
    page.frame()
    view.send("freeze", on=True)
    page.frame(lambda content: content["status"] == "frozen")
    view.send("freeze", on=False)
    page.frame(lambda content: content["status"] == "live", after=page.last)


def test_a_frozen_picture_outlives_the_runtime(page, runtime, board, start):
    start("a")
    page.view(board)
    page.frame()
    board.freeze()
    runtime.sync.close()
    assert board.status == "frozen"
    board.thaw()
    page.frame(lambda content: content["status"] == "closed")


def test_freezing_what_nobody_looks_at_makes_a_picture_too(page, runtime, board, start):
    start("a")
    board.freeze()
    assert not page.frames() or page.frames()[-1][0]["status"] == "frozen"
    wait_until(lambda: not runtime.sampler.running)
    page.view(board)
    assert page.frame(lambda content: content["ids"])["status"] == "frozen"


def test_when_the_runtime_closes_the_last_picture_stays(page, runtime, board, start):
    start("a")
    view = page.view(board)
    page.frame()
    runtime.sync.close()
    frame = page.frame(lambda content: content["status"] == "closed")
    assert states(frame) == ["TERMINATED"]
    wait_until(lambda: not runtime.sampler.running)
    assert board.status == "closed"
    view.command("pause", "a")
    before = page.last
    page.view(board)
    late = page.frame(after=before)
    assert late["status"] == "closed"
    assert late["results"][-1]["text"].startswith("RuntimeClosedError")
    board.thaw()
    assert board.status == "closed"


def test_closing_ends_everything(page, runtime, board, start):
    start("a")
    page.view(board)
    page.frame()
    board.close()
    board.close()
    assert not runtime.sampler.running
    assert runtime["a"].state == "ACTIVE"
    assert board.comm is None
    last = page.last
    view = View(page, board)
    (answer,) = page.on(view.id)
    assert "run its cell again" in answer["refused"]
    assert page.last == last


def test_the_notebook_gets_a_picture_beside_the_live_view(page, runtime, start):
    start("a", "<b>bold</b>")
    with pytest.raises(Exception, match="kelvinn"):
        runtime.sync.ask("<b>bold</b>", "crash")
    board = dashboard(runtime)
    bundle = board._repr_mimebundle_()
    assert bundle["text/plain"] == repr(board) == "Dashboard(hz=5, window=60)"
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == board.model_id
    html = bundle["text/html"]
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "no such &lt;unit&gt;" in html
    assert "failed" in html
    assert html.count(">async</span>") == 2
    assert ">restarts</th>" in html
    board.close()


def test_the_picture_is_that_of_the_last_frame(page, runtime, board, start):
    start("a")
    page.view(board)
    page.frame()
    board.freeze()
    runtime.sync.terminate("a")
    html = board._repr_mimebundle_()["text/html"]
    assert "1 active" in html
    assert "ended" not in html


def test_the_picture_has_the_charts_that_were_shown(page, runtime, board, start):
    start("a")
    page.view(board)
    page.wait(lambda: board._rates.moment >= 0 and np.isfinite(board._rates.series(["a"])[1]).sum() > 1)
    html = board._repr_mimebundle_()["text/html"]
    assert html.count("<img") == 2
    assert "Queue depth" in html
    assert "Throughput" in html


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"hz": 0}, {"hz": 21}, {"window": 4}, {"window": 4000}, {"hz": float("nan")}])
def test_arguments_out_of_range_are_refused(page, runtime, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        dashboard(runtime, **arguments)


def test_it_shows_runtimes_only(page):
    with pytest.raises(TypeError, match="takes a RingKernelRuntime, not 'stats'"):
        dashboard("stats")


def test_without_the_widget_libraries_it_says_what_to_install():
    code = """
import sys
sys.modules["bqplot"] = None
import pydotcompute.jupyter
try:
    pydotcompute.jupyter.dashboard
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr == ""
    assert "needs the package bqplot: pip install ipywidgets anywidget bqplot" in run.stdout
