"""The live sequence diagram of a trace, with a page that is no browser; the trace is fed by hand."""

import base64
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from pydotcompute import RingKernelRuntime, message
from pydotcompute.telemetry.observer import Delivery, delivery, on_behalf_of
from pydotcompute.telemetry.trace import Trace
from tests.jupyter.page import Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import sequence

pytestmark = pytest.mark.needs_notebook

module = sys.modules["pydotcompute.jupyter.widgets.sequence"]


@message
class Sample:
    value: int = 0
    name: str = ""


@message
class Mean:
    value: float = 0.0


def sent(trace: Trace, kernel_id: str, what: Any = None, *, asks: bool = False) -> Delivery:
    made = delivery((what or Sample(), 0, object() if asks else None), kernel_id)
    trace.sent(made)
    trace.queued(made)
    return made


def handled(trace: Trace, made: Delivery) -> None:
    trace.started(made)
    trace.ended(made)


def tell(trace: Trace, n: int, kernel_id: str = "stats") -> list[Delivery]:
    made = []
    for i in range(n):
        made.append(sent(trace, kernel_id, Sample(i)))
        handled(trace, made[-1])
    return made


def ask_and_tell(trace: Trace) -> list[Delivery]:
    """Outside asks parse, which tells stats."""
    first = sent(trace, "parse", Sample(7, "first"), asks=True)
    trace.started(first)
    with on_behalf_of(first):
        second = sent(trace, "stats", Sample(8))
    trace.replied(first, "parse", Mean(3.5), first)
    trace.ended(first)
    handled(trace, second)
    return [first, second]


@pytest.fixture
def shown(page: Page) -> Any:
    boards: list[Any] = []

    def shown(trace: Any, **options: Any) -> Any:
        board = sequence(trace, **({"hz": 20} | options))
        boards.append((board, page.view(board)))
        board.view = boards[-1][1]
        return board

    yield shown
    for board, _ in boards:
        board.close()


class Watch:
    """What a view knows: the latest picture, whether or not the frame brought one."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def picture(self, like: Callable[[dict[str, Any]], Any] = lambda picture: True) -> dict[str, Any]:
        frame = self._page.frame(lambda content: content["picture"] and like(content["picture"]))
        return frame["picture"]


@pytest.fixture
def watch(page: Page) -> Watch:
    return Watch(page)


def of_kind(picture: dict[str, Any], kind: str) -> list[list[Any]]:
    return [item for item in picture["items"] if item[1] == kind]


def names(picture: dict[str, Any]) -> list[str]:
    return [lane["name"] for lane in picture["lanes"]]


def numbers(picture: dict[str, Any]) -> list[int]:
    return [item[7] for item in of_kind(picture, "send")]


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_messages_go_from_lane_to_lane_and_replies_come_back(watch: Watch, shown: Any) -> None:
    trace = Trace()
    first, second = ask_and_tell(trace)
    shown(trace)
    picture = watch.picture()
    assert names(picture) == ["outside", "parse", "stats"]
    (a, b), (reply,) = of_kind(picture, "send"), of_kind(picture, "reply")
    assert (a[3], a[4], a[5], a[7], a[8]) == (0, 1, "Sample", first.number, "handled")
    assert (b[3], b[4], b[5], b[7], b[8]) == (1, 2, "Sample", second.number, "handled")
    assert (reply[3], reply[4], reply[5], reply[7]) == (1, 0, "Mean", first.number)
    started = next(e for e in trace if e.kind == "start")
    assert a[6] == pytest.approx((started.time - trace[0].time) / 1e9)
    replied = next(e for e in trace if e.kind == "reply")
    assert reply[6] == pytest.approx((replied.time - trace[0].time) / 1e9)
    assert [item[1] for item in picture["items"]] == ["send", "start", "send", "reply", "end", "start", "end"]
    assert [trace[item[0]].kind for item in picture["items"]] == [item[1] for item in picture["items"]]


def test_what_has_not_been_taken_waits_and_what_is_taken_is_in_hand(watch: Watch, shown: Any) -> None:
    trace = Trace()
    trace.started(sent(trace, "stats"))
    sent(trace, "stats")
    shown(trace)
    a, b = of_kind(watch.picture(), "send")
    assert (a[8], b[6], b[8]) == ("in hand", None, "waiting")


def test_marks_have_their_words(watch: Watch, shown: Any) -> None:
    trace = Trace()
    one = sent(trace, "stats")
    trace.started(one)
    trace.failed("stats", ValueError("too hot"), one)
    trace.lost("stats", one.message, "failed", "too hot", one)
    trace.restarted("stats", 1)
    trace.changed("stats", "ACTIVE")
    shown(trace)
    picture = watch.picture()
    marks = [(item[1], item[4], item[5]) for item in picture["items"] if item[1] in module._MARKS]
    assert marks == [
        ("crash", one.number, "ValueError: too hot"),
        ("drop", one.number, f"#{one.number} failed: too hot"),
        ("restart", None, "restart 1"),
        ("state", None, "active"),
    ]


def test_the_newest_are_shown_and_the_others_counted(page: Page, watch: Watch, shown: Any) -> None:
    trace = Trace()
    made = tell(trace, 500)
    shown(trace, limit=30)
    frame = page.frame()
    assert numbers(frame["picture"]) == [one.number for one in made[-30:]]
    assert (frame["messages"], frame["picture"]["count"], frame["news"]) == (500, 30, 2000)
    assert not frame["missed"]
    more = tell(trace, 40, "other")
    frame = page.frame(lambda content: content["news"])
    frame = page.frame(lambda content: content["recorded"] == 2160 and content["picture"])
    assert numbers(frame["picture"]) == [one.number for one in more[-30:]]
    assert frame["messages"] == 540
    assert names(frame["picture"]) == ["outside", "stats", "other"]  # as first seen
    assert sum(content["news"] for content, _ in page.frames()) == 2160


def test_of_a_backlog_what_is_handled_now_is_shown(watch: Watch, shown: Any) -> None:
    trace = Trace()
    made = [sent(trace, "stats") for _ in range(1_000)]
    for one in made[:500]:
        handled(trace, one)
    shown(trace, limit=20)
    picture = watch.picture()
    assert picture["count"] == 20
    assert [item[4] for item in of_kind(picture, "start")] == [one.number for one in made[480:500]]
    assert of_kind(picture, "send") == []


def test_only_the_newest_events_are_read(shown: Any, watch: Watch, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace()
    tell(trace, 5_000)
    read = []
    latest = Trace._stretch

    def counted(self: Trace, n: int, until: int | None = None) -> Any:
        found = latest(self, n, until)
        read.append(len(found))
        return found

    monkeypatch.setattr(Trace, "_stretch", counted)
    monkeypatch.setattr(Trace, "_all", None)
    shown(trace, limit=20)
    assert watch.picture()["count"] == 20
    assert max(read) <= 20 * module.DEPTH + 200


def test_a_picture_goes_out_once_and_again_to_who_asks(page: Page, shown: Any) -> None:
    trace = Trace()
    tell(trace, 3)
    board = shown(trace)
    frame = page.frame(lambda content: content["picture"] is None)
    assert frame["revision"] == page.frame()["revision"]
    board.view.send("snapshot")
    again = page.frame(lambda content: content["picture"], after=frame["number"])
    assert again["picture"] == page.frame()["picture"]
    assert again["news"] == 0


def test_many_kernels_share_a_lane(watch: Watch, shown: Any) -> None:
    trace = Trace()
    for i in range(60):
        sent(trace, f"k{i}")
    shown(trace)
    picture = watch.picture()
    assert len(picture["lanes"]) == 1 + module.LANES + 1
    assert names(picture)[-1] == "20 others"
    assert of_kind(picture, "send")[-1][4] == len(picture["lanes"]) - 1
    assert len(picture["kernels"]) == 60


# -- what the reader chooses -------------------------------------------------------------------------------------------


def test_it_goes_back_and_follows_again(watch: Watch, shown: Any) -> None:
    trace = Trace()
    made = tell(trace, 100)
    board = shown(trace, limit=10)
    watch.picture()
    board.view.send("set", name="until", value=200)
    picture = watch.picture(lambda picture: picture["until"] == 200)
    assert numbers(picture) == [one.number for one in made[40:50]]
    assert picture["end"] == 200
    tell(trace, 5)
    board.view.send("set", name="until", value=None)
    picture = watch.picture(lambda picture: picture["until"] is None and picture["end"] == 420)
    assert picture["count"] == 10


def test_a_picture_that_is_held_stays_when_the_trace_forgets_it(page: Page, watch: Watch, shown: Any) -> None:
    trace = Trace(limit=100)
    made = tell(trace, 20)
    board = shown(trace, limit=5)
    board.view.send("set", name="selected", value=60)
    board.view.send("set", name="until", value=80)
    watch.picture(lambda picture: picture["until"] == 80)
    tell(trace, 500)
    page.frame(lambda content: content["recorded"] == 2080)
    number = page.last
    board.view.send("snapshot")
    frame = page.frame(lambda content: content["picture"], after=number)
    assert numbers(frame["picture"]) == [one.number for one in made[-5:]]
    assert frame["picture"]["chosen"]["title"] == f"#{made[15].number} Sample"
    # Of those in between nobody knows: the trace has 25, and the picture has seen what was there when it was drawn.
    assert 45 <= frame["messages"] < 520
    assert frame["missed"]
    left = frame["messages"] - 5
    assert f"at least {left} left out" in board._repr_mimebundle_()["text/html"]


def test_the_number_of_messages_can_be_changed(watch: Watch, shown: Any) -> None:
    trace = Trace()
    tell(trace, 100)
    board = shown(trace, limit=10)
    board.view.send("set", name="limit", value=25)
    assert len(numbers(watch.picture(lambda picture: picture["limit"] == 25))) == 25
    assert board.limit == 25


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        ({"kernel": "parse"}, [0, 1]),  # what it sends, too
        ({"kernel": "stats"}, [1, 2]),
        ({"type": "Mean"}, [3]),
        ({"text": "FIRST"}, [0]),
        ({"kernel": "stats", "text": "first"}, []),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_a_filter_shows_the_messages_that_pass_it(
    watch: Watch, shown: Any, wanted: dict[str, str], passes: list[int]
) -> None:
    trace = Trace()
    made = [*ask_and_tell(trace), *tell(trace, 1), sent(trace, "sink", Mean())]
    board = shown(trace, limit=50)
    board.view.send("set", name="filter", value={"text": "nothing has this"})
    board.view.send("set", name="filter", value=wanted)
    whole = {"kernel": "", "type": "", "text": ""} | wanted
    picture = watch.picture(lambda picture: picture["filter"] == whole)
    assert numbers(picture) == [made[i].number for i in passes]
    assert picture["searched"] == (len(trace) if wanted else None)
    assert bool(of_kind(picture, "reply")) == (0 in passes)
    assert picture["kernels"] == ["parse", "stats", "sink"]
    assert picture["types"] == ["Sample", "Mean"]


def test_a_trace_at_rest_is_searched_deeper_than_one_that_moves(watch: Watch, shown: Any, page: Page) -> None:
    trace = Trace()
    tell(trace, 2, "rare")
    tell(trace, 2_000)
    shown(trace).view.send("set", name="filter", value={"kernel": "rare"})
    assert watch.picture(lambda picture: picture["filter"]["kernel"])["count"] == 2
    assert module.SEARCHED[False] < 2_002 * 4


def test_the_selected_message_tells_all(watch: Watch, shown: Any) -> None:
    trace = Trace()
    first, second = ask_and_tell(trace)
    board = shown(trace)
    board.view.send("set", name="selected", value=0)
    chosen = watch.picture(lambda picture: picture["selected"] == 0)["chosen"]
    assert chosen["title"] == f"#{first.number} Sample"
    assert chosen["text"] == repr(first.message)
    facts = dict(chosen["facts"])
    assert (facts["from"], facts["to"], facts["what became of it"]) == ("outside", "parse", "handled")
    assert (facts["attempts"], facts["answered"]) == ("1", repr(Mean(3.5)))
    assert {"waited", "handled in"} <= facts.keys()
    (caused,) = chosen["caused"]
    assert trace[caused["at"]].number == second.number
    board.view.send("set", name="selected", value=caused["at"])
    chosen = watch.picture(lambda picture: picture["selected"] == caused["at"])["chosen"]
    assert dict(chosen["facts"])["caused by"] == f"#{first.number}"
    board.view.send("set", name="selected", value=None)
    assert watch.picture(lambda picture: picture["items"] and picture["selected"] is None)["chosen"] is None


def test_what_becomes_of_the_selected_message_is_followed(watch: Watch, shown: Any) -> None:
    trace = Trace()
    one = sent(trace, "stats")
    board = shown(trace)
    board.view.send("set", name="selected", value=0)

    def fate(picture: dict[str, Any]) -> str | None:
        return picture["chosen"] and dict(picture["chosen"]["facts"])["what became of it"]

    watch.picture(lambda picture: fate(picture) == "queued")
    trace.started(one)
    trace.failed("stats", ValueError("too hot"), one)
    picture = watch.picture(lambda picture: fate(picture) == "failed")
    assert dict(picture["chosen"]["facts"])["failed"] == "ValueError: too hot"
    handled(trace, one)
    picture = watch.picture(lambda picture: fate(picture) == "handled")
    assert dict(picture["chosen"]["facts"])["attempts"] == "2"


def test_a_mark_and_a_reply_can_be_selected(watch: Watch, shown: Any) -> None:
    trace = Trace()
    ask_and_tell(trace)
    trace.restarted("stats", 1)
    board = shown(trace)
    reply = next(i for i, e in enumerate(trace) if e.kind == "reply")
    board.view.send("set", name="selected", value=reply)
    chosen = watch.picture(lambda picture: picture["selected"] == reply)["chosen"]
    assert (chosen["title"], chosen["text"]) == ("reply Mean", repr(Mean(3.5)))
    board.view.send("set", name="selected", value=len(trace) - 1)
    chosen = watch.picture(lambda picture: picture["selected"] == len(trace) - 1)["chosen"]
    assert dict(chosen["facts"]) == {"kernel": "stats", "what happened": "restart 1"}


def test_a_long_message_is_cut_and_one_that_cannot_be_shown_says_so() -> None:
    class Broken(list):  # type: ignore[type-arg]
        def __repr__(self) -> str:
            raise ValueError

    assert len(module.full_text(Sample(name="x" * 9_000))) == module.LONGEST
    assert "Broken" in module.full_text(Broken())
    assert module.full_text(None) == ""


def test_without_messages_it_says_so(watch: Watch, shown: Any) -> None:
    trace = Trace(messages=False)
    sent(trace, "stats")
    shown(trace).view.send("set", name="selected", value=0)
    assert "keeps no messages" in watch.picture(lambda picture: picture["chosen"])["chosen"]["text"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("limit", 0, "limit must be"),
        ("limit", True, "limit must be"),
        ("limit", 1001, "limit must be"),
        ("until", -1, "until must be"),
        ("until", "5", "until must be"),
        ("filter", "x", "filter has texts"),
        ("filter", {"colour": "red"}, "filter has texts"),
        ("filter", {"kernel": 5}, "filter has texts"),
        ("selected", 99, "select another"),
        ("selected", "0", "select another"),
        ("nonsense", 1, "unknown setting"),
    ],
)
def test_what_cannot_be_set_is_refused(shown: Any, name: str, value: Any, why: str) -> None:
    trace = Trace()
    sent(trace, "stats")
    assert why in shown(trace).view.send("set", name=name, value=value)["refused"]


# -- its life ----------------------------------------------------------------------------------------------------------


def test_events_are_a_still_picture_with_the_same_controls(page: Page, watch: Watch, shown: Any) -> None:
    trace = Trace()
    made = tell(trace, 50)
    board = shown(trace.events, limit=10)
    frame = page.frame()
    assert (frame["live"], frame["still"], frame["messages"]) == ("recorded", True, 50)
    board.view.send("set", name="until", value=100)
    picture = watch.picture(lambda picture: picture["until"] == 100)
    assert numbers(picture) == [one.number for one in made[15:25]]


async def test_it_says_how_a_trace_is(page: Page, shown: Any) -> None:
    async with RingKernelRuntime() as runtime:
        trace = runtime.trace()
        board = shown(trace)
        assert page.frame()["live"] == "not recording"
        trace.start()
        frame = page.frame(lambda content: content["live"] is None)
        trace.stop()
        page.frame(lambda content: content["live"] == "not recording", after=frame["number"])
    page.frame(lambda content: content["status"] == "closed")
    told = board.view.send("set", name="limit", value=7)  # what was recorded can still be looked through
    assert told["refused"] is None
    page.frame(lambda content: content["picture"] and content["picture"]["limit"] == 7)


def test_a_frozen_picture_stays_also_when_the_trace_has_forgotten_it(page: Page, watch: Watch, shown: Any) -> None:
    trace = Trace(limit=40)
    made = tell(trace, 10)
    board = shown(trace, limit=10)
    page.frame()
    board.freeze()
    tell(trace, 100)
    board.view.send("set", name="limit", value=5)
    picture = watch.picture(lambda picture: picture["limit"] == 5)
    assert numbers(picture) == [one.number for one in made[-5:]]
    board.thaw()
    assert watch.picture(lambda picture: picture["end"] == 440)["count"] == 5


def test_the_rate_of_pictures_is_what_was_asked_for(page: Page) -> None:
    board = sequence(Trace(), hz=7)
    asked: list[float] = []
    board._source.sampler.listen = lambda listener, hz: asked.append(hz)
    page.view(board)
    assert asked == [7]
    assert repr(board) == "SequenceView(hz=7, limit=200)"
    board.close()


def test_nothing_is_looked_at_until_somebody_looks(page: Page) -> None:
    board = sequence(Trace())
    assert not board._source.sampler.running
    page.view(board)
    assert board._source.sampler.running
    board.close()


def test_the_picture_that_stays_is_an_image_with_words(page: Page) -> None:
    trace = Trace()
    tell(trace, 300, "<stats>")
    board = sequence(trace, limit=50)
    html = board._repr_mimebundle_()["text/html"]
    assert "50 messages shown, 250 left out" in html
    assert "<svg" not in html  # a page that does not trust the notebook would take it away
    drawn = base64.b64decode(html.partition("base64,")[2].partition("'")[0]).decode()
    assert "&lt;stats&gt;" in drawn
    assert "older events left out" in drawn
    board.close()
    empty = sequence(Trace())
    assert "no message to show" in empty._repr_mimebundle_()["text/html"]
    empty.close()


@pytest.mark.parametrize("what", [None, 5, "trace", [], {}])
def test_something_else_is_refused_and_it_says_how_to_get_a_trace(page: Page, what: Any) -> None:
    with pytest.raises(TypeError, match=r"with runtime\.trace\(\) as trace: sequence\(trace\)"):
        sequence(what)


@pytest.mark.parametrize(("options", "why"), [({"hz": 0}, "hz must be"), ({"limit": 0}, "limit must be an integer")])
def test_impossible_numbers_are_refused(page: Page, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sequence(Trace(), **options)


def test_it_has_nothing_to_do_to_a_kernel(shown: Any) -> None:
    told = shown(Trace()).view.send("command", verb="stop", kernel="k", request="1", arguments={})
    assert "unknown command" in told["refused"]
