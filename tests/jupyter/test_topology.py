"""The graph of who sends to whom, with a page that is no browser."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import pytest

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.jupyter.layers import TALLEST, Layers
from pydotcompute.runtime import kernel as kernel_module
from pydotcompute.telemetry import STATES
from tests.jupyter.page import Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import Topology, topology
    from pydotcompute.jupyter.widgets.topology import BOX, LABEL

pytestmark = pytest.mark.needs_notebook

module = sys.modules["pydotcompute.jupyter.widgets.topology"]


# -- places ------------------------------------------------------------------------------------------------------------


def arranged(*edges: str, nodes: str = "") -> Layers:
    """A layout of one-letter nodes; "o" is the first."""
    layers = Layers("o")
    layers.arrange([*dict.fromkeys("".join(edges) + nodes)], [(edge[0], edge[1]) for edge in edges], {})
    return layers


def columns(layers: Layers) -> dict[str, int]:
    return {node: place.column for node, place in layers.places.items()}


def test_each_stands_to_the_right_of_who_sends_to_it():
    assert columns(arranged("oa", "ab", "bc", "ac", "od", "dc")) == {"o": 0, "a": 1, "b": 2, "c": 3, "d": 2}


def test_circles_begin_with_who_gets_messages_from_outside():
    assert columns(arranged("cb", "bc", "ob", "bb")) == {"o": 0, "b": 1, "c": 2}


def test_without_outside_no_one_takes_its_column():
    assert columns(arranged("ab", "ba", "cb")) == {"c": 1, "b": 2, "a": 3}


def test_rows_are_ordered_so_that_arrows_do_not_cross():
    layers = arranged("oa", "ob", "oc", "az", "by", "cx")
    rows = {node: place.row for node, place in layers.places.items()}
    assert (rows["a"] < rows["b"]) == (rows["z"] < rows["y"])
    assert (rows["b"] < rows["c"]) == (rows["y"] < rows["x"])


def test_a_column_that_would_be_too_tall_goes_on_in_the_next():
    layers = Layers("o")
    nodes = ["o", *(f"n{i}" for i in range(2 * TALLEST + 1))]
    layers.arrange(nodes, [("o", node) for node in nodes[1:]], {})
    assert max(columns(layers).values()) == 3
    assert len(set(layers.places.values())) == len(nodes)


def test_nobody_moves_when_others_come_and_edges_appear():
    layers = arranged("oa", "ab", "oc")
    before = dict(layers.places)
    edges = [("o", "a"), ("a", "b"), ("o", "c"), ("c", "a"), ("b", "o"), ("d", "b"), ("b", "e")]
    layers.arrange(["o", "a", "b", "c", *"defghijklmnp"], edges, {})
    assert {node: layers.places[node] for node in before} == before
    assert layers.places["e"].column == layers.places["b"].column + 1
    assert layers.places["d"].column == layers.places["b"].column - 1
    for one, other in combinations(layers.places.values(), 2):
        assert one.column != other.column or abs(one.row - other.row) >= 1
    assert min(place.row for place in layers.places.values()) >= 0


def test_who_has_gone_leaves_its_place_and_all_find_new_ones_when_asked():
    layers = arranged("oa", "ob", "oc")
    layers.arrange(["o", "a", "c"], [("o", "a"), ("o", "c")], {})
    assert set(layers.places) == {"o", "a", "c"}
    kept = dict(layers.places)
    layers.forget()
    layers.arrange(["o", "a", "c"], [("o", "a"), ("o", "c")], {})
    assert layers.places != kept


# -- the widget --------------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingKernelRuntime]:
    monkeypatch.setattr(kernel_module, "_definitions", {})
    runtime = RingKernelRuntime(loop="thread")
    yield runtime
    runtime.sync.close(drain=False, timeout=1)


@pytest.fixture
def start(runtime: RingKernelRuntime) -> Callable[..., None]:
    """Launch and activate kernels of these ids; each tells the kernel that a message names."""

    @ring_kernel(queue_size=10)
    async def teller(ctx):
        async for message in ctx:
            if message == "crash":
                raise ValueError("as asked")
            if message in runtime.kernels:
                await ctx.tell(message, "")

    def start(*ids: str) -> None:
        for kernel_id in ids:
            runtime.sync.launch(teller, kernel_id=kernel_id)
            runtime.sync.activate(kernel_id)

    return start


@pytest.fixture
def graph(page: Page, runtime: RingKernelRuntime) -> Iterator[Topology]:
    graph = topology(runtime, hz=20)
    yield graph
    graph.close()


def named(frame: dict) -> dict[str, dict]:
    """What a frame with a graph says of each node, by name."""
    return {node["name"]: node | numbers for node, numbers in zip(frame["graph"]["nodes"], frame["nodes"], strict=True)}


def sent(frame: dict) -> dict[tuple[str, str], int]:
    name = {node["key"]: node["name"] for node in frame["graph"]["nodes"]}
    arrows = frame["graph"]["arrows"]
    return {(name[a["source"]], name[a["target"]]): n for a, n in zip(arrows, frame["sent"], strict=True)}


def has_graph(content: dict) -> bool:
    return content["graph"] is not None


def test_it_shows_what_was_counted(page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]):
    start("a", "b", "quiet")
    runtime.sync.send_many("a", ["b", "b", "x"])
    runtime.sync.wait_idle()
    runtime.sync.deactivate("b")
    runtime.sync.send_many("b", ["x"] * 5)
    page.view(graph)
    frame = page.frame(has_graph)
    edges = {("outside" if one is None else one, other): n for (one, other), n in runtime.edges().items()}
    assert sent(frame) == edges == {("outside", "a"): 3, ("a", "b"): 2, ("outside", "b"): 5}
    nodes, statistics = named(frame), runtime.statistics()
    for name in ("a", "b", "quiet"):
        one = statistics[name]
        assert nodes[name]["depth"] == one.queue_depth
        assert nodes[name]["bound"] == one.queue_size == 10
        assert nodes[name]["received"] == one.received
        assert nodes[name]["states"][STATES.index(one.state)] == 1
    assert nodes["quiet"]["at"] is None
    assert nodes["outside"]["at"][0] < nodes["a"]["at"][0] < nodes["b"]["at"][0]


def test_places_travel_when_they_change_and_to_whom_asks(
    page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]
):
    start("a", "b")
    runtime.sync.send("a", "b")
    runtime.sync.wait_idle()
    view = page.view(graph)
    first = page.frame(has_graph)
    later = page.frame(lambda content: not has_graph(content), after=first["number"])
    assert later["structure"] == first["structure"]
    start("c")
    runtime.sync.send_many("b", ["c", "a"])
    runtime.sync.wait_idle()
    changed = page.frame(lambda content: has_graph(content) and len(content["sent"]) == 5, after=later["number"])
    before, now = named(first), named(changed)
    assert all(now[name]["at"] == before[name]["at"] for name in before)
    page.frame(lambda content: not has_graph(content), after=changed["number"])
    view.send("snapshot")
    again = page.frame(has_graph, after=changed["number"])
    assert again["graph"] == changed["graph"]


def test_arranging_anew_may_move_all(
    page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]
):
    start("b")
    runtime.sync.send("b", "x")
    runtime.sync.wait_idle()
    view = page.view(graph)
    page.frame(has_graph)
    start("a")
    runtime.sync.send("a", "b")
    runtime.sync.wait_idle()
    drawn = page.frame(lambda content: has_graph(content) and len(content["sent"]) == 3)
    before = named(drawn)
    assert before["a"]["at"][0] == before["b"]["at"][0]
    result = page.result(view.command("arrange", "all"))
    assert result["text"] == "arranged anew"
    after = named(page.frame(has_graph, after=drawn["number"]))
    assert after["a"]["at"][0] < after["b"]["at"][0]


def test_rates_of_arrows(page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]):
    start("a")
    runtime.sync.send("a", "x")
    runtime.sync.wait_idle()
    page.view(graph)
    assert page.frame(has_graph)["rates"] == [None]
    runtime.sync.send_many("a", ["x"] * 30)
    runtime.sync.wait_idle()
    assert page.frame(lambda content: content["rates"][0])["sent"] == [31]


def test_rates_of_who_was_launched_again_begin_anew(
    page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]
):
    def rates(seconds: int) -> dict:
        graph._look(replace(runtime._frame(), time_ns=seconds * 10**9))
        return graph._per_second

    def tell(n: int) -> None:
        runtime.sync.send_many("a", ["b"] * n)
        runtime.sync.wait_idle()

    def again(name: str) -> None:
        runtime.sync.terminate(name)
        start(name)

    start("a", "b")
    tell(5)
    assert rates(100) == {}
    again("a")
    tell(7)
    runtime.sync.send("b", "x")
    runtime.sync.wait_idle()
    assert rates(101) == {(None, "a"): 7, ("a", "b"): 7, (None, "b"): 1}
    again("b")
    tell(9)
    assert rates(102) == {(None, "a"): 8, ("a", "b"): 4.5}


def test_many_alike_are_one_node_that_opens(
    page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]
):
    ids = [f"worker-{i}" for i in range(30)]
    start("sink", *ids)
    for one in ids:
        runtime.sync.send(one, "sink")
    runtime.sync.send_many(ids[7], ["sink"] * 9)
    runtime.sync.wait_idle()
    view = page.view(graph)
    folded = page.frame(has_graph)
    assert sent(folded) == {("outside", "worker-*"): 39, ("worker-*", "sink"): 39}
    assert named(folded)["worker-*"]["kernels"] == 30
    assert sum(named(folded)["worker-*"]["states"]) == 30
    view.send("set", name="open", value=["*worker-"])
    opened = page.frame(lambda content: has_graph(content) and len(content["nodes"]) > 5)
    nodes = named(opened)
    assert nodes["worker-*"]["kernels"] == 18
    assert nodes["worker-*"]["at"] == named(folded)["worker-*"]["at"]
    assert sent(opened)[ids[7], "sink"] == 10
    assert sum(n for (source, _), n in sent(opened).items() if source == "outside") == 39
    view.send("set", name="open", value=[])
    assert "worker-7" not in named(page.frame(has_graph, after=opened["number"]))


def test_of_many_the_busiest_and_the_failed_are_shown_and_one_stands_for_the_rest(
    page: Page, runtime: RingKernelRuntime, start: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MOST", 3)
    start(*"abcdefgh")
    for i, one in enumerate("abcdefgh"):
        runtime.sync.send_many(one, ["x"] * (i + 1))
    runtime.sync.send("a", "crash")
    runtime.sync.wait_ended("a")
    runtime.sync.wait_idle()
    graph = topology(runtime)
    page.view(graph)
    nodes = named(page.frame(has_graph))
    graph.close()
    assert nodes.keys() == {"outside", "a", "g", "h", "others"}
    assert nodes["others"]["kernels"] == 5


def test_arrows_that_are_not_drawn_are_counted(
    page: Page, runtime: RingKernelRuntime, start: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "ARROWS", 2)
    start("a", "b", "c")
    for n, one in enumerate("abc", 1):
        runtime.sync.send_many(one, ["x"] * n)
    runtime.sync.wait_idle()
    graph = topology(runtime)
    page.view(graph)
    frame = page.frame(has_graph)
    graph.close()
    assert sent(frame) == {("outside", "c"): 3, ("outside", "b"): 2}
    assert frame["leftOut"] == 1


def test_routers_and_groups(page: Page, graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]):
    start("a", "b")
    runtime.sync.router("pool", ["a", "b"])
    runtime.sync.supervise("a", "b", strategy="one_for_all")
    runtime.sync.send_many("pool", ["x"] * 4)
    runtime.sync.wait_idle()
    page.view(graph)
    frame = page.frame(has_graph)
    assert sent(frame) == {("outside", "pool"): 4, ("pool", "a"): 2, ("pool", "b"): 2}
    assert named(frame)["pool"]["note"] == "round robin"
    (group,) = frame["graph"]["groups"]
    assert group["name"] == "one for all"


def test_the_picture_that_stays(graph: Topology, runtime: RingKernelRuntime, start: Callable[..., None]):
    assert "0 ring kernels" in topology(runtime)._repr_mimebundle_()["text/html"]
    start("a<b>", "b", "quiet")
    runtime.sync.send_many("a<b>", ["b", "crash"])
    runtime.sync.wait_ended("a<b>")
    html = graph._repr_mimebundle_()["text/html"]
    assert "3 ring kernels" in html
    assert "2 active · 1 failed" in html
    assert re.search(r"a&lt;b&gt;</td><td[^>]*>b</td><td[^>]*>1<", html)
    assert "a<b>" not in html
    assert "no traffic: quiet" in html
    assert "src='data:image/svg+xml;base64," in html


def test_where_nothing_comes_from_outside_there_is_no_place_for_it(page: Page, graph: Topology, runtime, start):
    @ring_kernel
    async def source(ctx):
        await ctx.tell("b", 1)
        async for _ in ctx:
            pass

    start("b")
    for _ in range(2):  # what the first one has sent does not come from outside when the second is there
        runtime.sync.launch(source)
        runtime.sync.activate("source")
        runtime.sync.wait_idle()
        runtime.sync.terminate("source")
    page.view(graph)
    frame = page.frame(has_graph)
    assert sent(frame) == {("source", "b"): 1}
    nodes = named(frame)
    assert nodes["outside"]["at"] is None
    left, _, width, _ = frame["graph"]["view"]
    assert left < nodes["source"]["at"][0] < left + BOX[0]
    assert nodes["b"]["at"][0] < left + width < nodes["b"]["at"][0] + 2 * BOX[0]


def test_rates_are_written_where_they_cover_nothing(page: Page, graph: Topology, runtime, start: Callable[..., None]):
    ids = [f"k{i}x" for i in range(8)]
    start(*ids)
    for one in ids:
        runtime.sync.send_many(one, ids)  # each to each
    runtime.sync.wait_idle()
    page.view(graph)
    frame = page.frame(has_graph)
    arrows, nodes = frame["graph"]["arrows"], [node["at"] for node in frame["graph"]["nodes"] if node["at"]]
    places = [arrow["label"] for arrow in arrows if arrow["free"]]
    assert 20 < len(places) < len(arrows) == 72
    apart = [abs(x - a) >= LABEL[0] or abs(y - b) >= LABEL[1] for (x, y), (a, b) in combinations(places, 2)]
    assert all(apart)
    inside = [abs(x - a) < BOX[0] / 2 and abs(y - b) < BOX[1] / 2 for x, y in places for a, b in nodes]
    assert not any(inside)


def test_what_it_does_not_take(page: Page, graph: Topology, runtime: RingKernelRuntime):
    with pytest.raises(TypeError, match="RingKernelRuntime"):
        topology("runtime")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hz"):
        topology(runtime, hz=0)
    assert repr(topology(runtime, hz=4)) == "Topology(hz=4)"
    assert graph.runtime is runtime
    view = page.view(graph)
    for name, value in (("open", "all"), ("open", [1]), ("other", [])):
        assert view.send("set", name=name, value=value)["refused"]
    assert view.send("command", verb="stop", kernel="a", request="1", arguments={})["refused"]


def test_a_view_that_is_held_keeps_its_places(page: Page, graph: Topology, runtime, start: Callable[..., None]):
    start("a", "b")
    runtime.sync.send_many("a", ["b"])
    runtime.sync.wait_idle()
    view = page.view(graph)
    page.frame(lambda content: content["sent"])
    graph.freeze()
    picture, refused = graph._picture(), view.send("command", verb="arrange", kernel="", request="r", arguments={})
    assert "frozen" in str(refused["refused"])
    assert graph._picture() == picture


def test_a_router_that_is_made_anew_says_how_it_chooses_now(page: Page, graph: Topology, runtime, start):
    start("a")
    router = runtime.sync.router("pool", ["a"])
    page.view(graph)
    assert named(page.frame(has_graph))["pool"]["note"] == "round robin"
    after = page.last
    runtime.sync.call(router.close)
    runtime.sync.router("pool", ["a"], strategy="broadcast")
    assert named(page.frame(has_graph, after=after))["pool"]["note"] == "broadcast"
