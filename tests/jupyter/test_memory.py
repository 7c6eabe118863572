"""The view of buffers, with a page that is no browser."""

import gc
import sys
import time
import warnings
import weakref

import numpy as np
import pytest

from pydotcompute import MemoryPool, UnifiedBuffer
from pydotcompute.exceptions import UnifiedBufferError
from tests.device.fake_cupy import Fake, in_place_of_cupy
from tests.jupyter.page import PATIENCE, Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import memory

pytestmark = pytest.mark.needs_notebook

module = sys.modules["pydotcompute.jupyter.widgets.memory"]


@pytest.fixture
def gpu():
    with in_place_of_cupy(Fake()) as fake:
        yield fake


@pytest.fixture
def no_gpu():
    with in_place_of_cupy(None):
        yield


@pytest.fixture
def shown(page: Page):
    """Show a widget in a view, and close it after the test."""
    boards = []

    def shown(what, **options):
        board = memory(what, **({"hz": 20} | options))
        boards.append(board)
        page.view(board)
        return board

    yield shown
    for board in boards:
        board.close()


def wait_until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def only(frame):
    (row,) = frame["rows"]
    return row


def test_no_two_buffers_have_one_name(page, no_gpu, shown):
    pool = MemoryPool()
    kept = pool.empty(10, np.int32), UnifiedBuffer(10, np.int32)
    shown([pool, kept[1]])
    assert [row["name"] for row in page.frame()["rows"]] == ["buffer 1", "pool 0: buffer 1"]


def test_it_shows_which_side_is_the_newest_and_what_is_copied(page, gpu, shown):
    buf = UnifiedBuffer((10, 10), np.int32)
    shown(buf)
    row = only(page.frame())
    assert (row["name"], row["shape"], row["dtype"], row["bytes"]) == ("UnifiedBuffer", "(10, 10)", "int32", 400)
    assert (row["host"], row["device"], row["allocated"], row["shared"]) == (True, False, False, False)
    assert row["toDevice"] == row["toHost"] == {"count": 0, "bytes": 0, "rate": 0.0}
    with buf.read_device():
        pass
    row = only(page.frame(lambda frame: only(frame)["toDevice"]["count"]))
    assert (row["host"], row["device"], row["allocated"], row["gpu"]) == (True, True, True, 0)
    assert row["toDevice"]["bytes"] == 400
    assert row["toDevice"]["rate"] > 0
    with buf.write_device():
        pass
    row = only(page.frame(lambda frame: not only(frame)["host"]))
    assert (row["device"], row["toHost"]["count"]) == (True, 0)
    buf.numpy()
    assert only(page.frame(lambda frame: only(frame)["toHost"]["count"]))["toHost"]["bytes"] == 400


def test_the_rate_is_that_of_the_last_seconds_and_ends_when_nothing_is_copied(page, gpu, shown, monkeypatch):
    monkeypatch.setattr(module, "CALM", 0.01)
    monkeypatch.setattr(module, "STILL", 0.1)
    buf = UnifiedBuffer(100)
    shown(buf)
    page.frame()
    with buf.read_device():
        pass
    page.frame(lambda frame: only(frame)["toDevice"]["rate"] > 0)
    page.frame(lambda frame: only(frame)["toDevice"]["rate"] == 0.0, after=page.last)


def test_without_a_gpu_it_says_that_both_sides_are_one(page, no_gpu, shown):
    buf = UnifiedBuffer(10)
    board = shown(buf)
    row = only(page.frame())
    assert (row["shared"], row["host"], row["device"], row["allocated"]) == (True, True, True, True)
    assert page.frame()["totals"]["shared"]
    assert "one memory, for there is no GPU: nothing is copied" in board._repr_mimebundle_()["text/html"]


def test_a_view_says_of_what_it_is_a_part(page, gpu, shown):
    buf = UnifiedBuffer(100)
    shown({"head": buf[:10], "all": buf})
    head, whole = page.frame()["rows"]
    assert (head["name"], head["bytes"], head["whole"]) == ("head", 40, 400)
    assert (whole["name"], whole["bytes"], whole["whole"]) == ("all", 400, None)


def test_it_says_which_ring_kernel_works_on_a_buffer(page, gpu, shown):
    buf = UnifiedBuffer(10)
    shown(buf)
    assert only(page.frame())["kernel"] is None
    works = ["stats"]
    buf._lend(lambda: works[0], 0)
    assert only(page.frame(lambda frame: only(frame)["kernel"]))["kernel"] == "stats"
    works[0] = None
    page.frame(lambda frame: only(frame)["kernel"] is None, after=page.last)


def test_a_pool_shows_its_figures_and_the_buffers_that_come_and_go(page, no_gpu, shown):
    pool = MemoryPool(limit=1 << 20)
    shown(pool)
    frame = page.frame()
    assert frame["rows"] == []
    (figures,) = frame["pools"]
    assert (figures["limit"], figures["inUse"], figures["allocated"]) == (1 << 20, 0, 0)
    some = [pool.empty(64) for _ in range(3)]
    frame = page.frame(lambda frame: len(frame["rows"]) == 3)
    assert [row["name"] for row in frame["rows"]] == ["buffer 0", "buffer 1", "buffer 2"]
    del some[1]
    frame = page.frame(lambda frame: len(frame["rows"]) == 2)
    assert [row["number"] for row in frame["rows"]] == [0, 2]
    again = pool.empty(64)
    (figures,) = page.frame(lambda frame: len(frame["rows"]) == 3, after=frame["number"])["pools"]
    stats = pool.statistics()
    assert figures == {
        "name": "MemoryPool", "inUse": stats.in_use, "kept": stats.kept, "blocks": stats.kept_blocks,
        "peak": stats.peak, "limit": stats.limit, "buffers": 3, "reused": 1, "allocated": 3, "gone": False,
    }  # fmt: skip
    del again


def test_several_pools_and_buffers_have_names(page, no_gpu, shown):
    one, other, buf = MemoryPool(), MemoryPool(), UnifiedBuffer(1)
    held = one.empty(1), other.empty(1)
    shown([one, other, buf])
    frame = page.frame()
    assert [pool["name"] for pool in frame["pools"]] == ["pool 0", "pool 1"]
    assert [row["name"] for row in frame["rows"]] == ["buffer 2", "pool 0: buffer 1", "pool 1: buffer 2"]
    del held


def test_of_many_buffers_the_busiest_are_shown_and_the_others_counted(page, gpu, shown, monkeypatch):
    monkeypatch.setattr(module, "CALM", 0.05)
    pool = MemoryPool()
    some = [pool.empty(64) for _ in range(1000)]
    board = shown(pool)
    frame = page.frame()
    assert len(frame["rows"]) == 24
    assert (frame["totals"]["buffers"], frame["totals"]["more"]) == (1000, 976)
    with some[777].read_device():
        pass
    frame = page.frame(lambda frame: any(row["number"] == 777 for row in frame["rows"]))
    numbers = [row["number"] for row in frame["rows"]]
    assert numbers == sorted(numbers)
    assert "and 976 more" in board._repr_mimebundle_()["text/html"]


# -- its life ----------------------------------------------------------------------------------------------------------


def test_it_keeps_nothing_alive_and_closes_with_the_last(page, no_gpu, shown, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.0)
    buf, other = UnifiedBuffer(10), UnifiedBuffer(20)
    board = shown([buf, other])
    page.frame()
    gone = weakref.ref(buf)
    del buf
    gc.collect()
    assert gone() is None
    assert [row["gone"] for row in page.frame(after=page.last)["rows"]] == [True, False]
    assert board.status == "live"
    other.close()
    wait_until(lambda: board.status == "closed")
    frame = page.frame(lambda frame: frame["status"] == "closed")
    assert [row["gone"] for row in frame["rows"]] == [True, True]
    assert frame["closed"] == "given up"
    wait_until(lambda: board.comm is None)  # the widget itself is closed
    wait_until(lambda: board._sight.sampler.stopped)


def test_a_pool_that_is_gone_leaves_its_last_picture(page, no_gpu, shown):
    pool = MemoryPool()
    held = pool.empty((3, 5))
    board = shown(pool)
    page.frame()
    del pool, held
    gc.collect()
    page.frame(lambda frame: frame["status"] == "closed")
    html = board._repr_mimebundle_()["text/html"]
    assert "(3, 5) float32" in html
    assert html.count("given up") == 2


def test_nothing_is_looked_at_until_somebody_looks(page, no_gpu):
    buf = UnifiedBuffer(10)
    board = memory(buf)
    assert not board._sight.sampler.running
    view = page.view(board)
    assert board._sight.sampler.running
    view.close()
    wait_until(lambda: board._sight.sampler.stopped)
    board.close()


def test_the_rate_of_pictures_is_what_was_asked_for(page, no_gpu):
    buf = UnifiedBuffer(10)
    board = memory(buf, hz=7)
    asked = []
    board._sight.sampler.listen = lambda listener, hz: asked.append(hz)
    page.view(board)
    assert asked == [7]
    board.close()


def test_the_picture_tells_all_in_words(gpu):
    buf = UnifiedBuffer((4, 5), np.float64)
    with buf.write_device():
        pass
    board = memory({"<weights>": buf})
    bundle = board._repr_mimebundle_()
    assert bundle["text/plain"] == "Memory(hz=5)"
    html = bundle["text/html"]
    for text in ("&lt;weights&gt;", "(4, 5) float64 · 160 B", "out of date", "newest", "GPU 0", "→ 0 × · 0 B"):
        assert text in html
    board.close()


@pytest.mark.parametrize("what", [5, "buf", np.zeros(3), [], {}, [1], {"a": None}, {1: MemoryPool()}, None])
def test_something_else_is_refused(page, what):
    with pytest.raises(TypeError, match=r"memory\(\)"):
        memory(what)


def test_a_closed_buffer_and_an_impossible_rate_are_refused(page):
    buf = UnifiedBuffer(3)
    with pytest.raises(ValueError, match="hz must be above 0"):
        memory(buf, hz=0)
    buf.close()
    with pytest.raises(UnifiedBufferError, match="closed"):
        memory(buf)
