"""The dashboard, with a page that is no browser."""

import inspect
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.jupyter import schema
from pydotcompute.runtime import kernel as kernel_module
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
    monkeypatch.setattr(module, "SILENT", 0.05)
    monkeypatch.setattr(module, "UNSEEN_HZ", 20.0)
    view = page.view(board)
    page.frame()
    wait_until(lambda: not board._seen(time.monotonic()))
    assert runtime.sampler.running
    monkeypatch.setattr(module, "GONE", 0.1)
    wait_until(lambda: not runtime.sampler.running)
    last = page.last
    view.send("seen", visible=True)  # it was only asleep
    page.frame(after=last)


def test_frames_go_out_slowly_while_the_browser_does_not_draw_them(page, runtime, board, monkeypatch):
    monkeypatch.setattr(module, "LATE", 0.2)
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


# -- control -----------------------------------------------------------------------------------------------------------


def test_buttons_pause_resume_and_stop(page, runtime, board, start):
    start("a")
    view = page.view(board)
    for verb, state in (("pause", "DEACTIVATED"), ("resume", "ACTIVE"), ("stop", "TERMINATED")):
        outcome = page.result(view.command(verb, "a"))
        assert outcome["ok"], outcome
        assert runtime["a"].state == state
        assert states(page.frame(after=page.last)) == [state]


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
            "verb cannot be 'explode'; possible: pause, resume, restart, stop, step, traceback",
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
        return board.children[1].children[0].value

    runtime.sync.deactivate("g")
    runtime.sync.send_many("g", range(100))
    page.wait(lambda: "busiest 5 of 8" in legend())
    view.send("set", name="kernels", value=["b", "h"])
    page.wait(lambda: "selected" in legend())
    assert [name for name in "abcdefgh" if f">{name}</span>" in legend()] == ["b", "h"]
    view.send("set", name="kernels", value=[])
    page.wait(lambda: "busiest" in legend())
    assert ">g</span>" in legend()


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
    board.close()


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
