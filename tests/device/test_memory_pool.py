"""Memory that is used again; `test_two_sides.py` is about pools where there is a GPU."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import MemoryPool, UnifiedBuffer
from pydotcompute.device.memory_pool import SMALLEST, PoolStatistics, size_class
from pydotcompute.exceptions import PoolLimitError, PyDotComputeError, UnifiedBufferError

from .fake_cupy import in_place_of_cupy


@pytest.fixture(autouse=True)
def no_gpu():
    with in_place_of_cupy(None):
        yield


@given(st.integers(0, 1 << 50))
def test_a_size_holds_what_is_asked_with_little_to_spare(nbytes):
    size = size_class(nbytes)
    assert size >= nbytes
    assert size == SMALLEST or size < nbytes * 1.25
    assert size % 64 == 0
    assert size_class(size) == size


def test_four_sizes_to_a_power_of_two():
    sizes = sorted({size_class(nbytes) for nbytes in range(1025, 2049)})
    assert sizes == [1280, 1536, 1792, 2048]


def test_a_buffer_of_a_pool_is_like_any_other():
    buf = MemoryPool().empty((2, 3), np.int16)
    assert isinstance(buf, UnifiedBuffer)
    assert (buf.shape, buf.dtype, buf.nbytes) == ((2, 3), np.int16, 12)
    assert buf.host.ctypes.data % 64 == 0
    buf.fill(4)
    assert buf.device.tolist() == [[4, 4, 4], [4, 4, 4]]
    assert MemoryPool().empty(0).size == 0


def test_memory_of_a_buffer_that_is_gone_is_used_again():
    pool = MemoryPool()
    buf = pool.empty(1000)
    address = buf.host.ctypes.data
    del buf
    again = pool.empty((10, 102))  # another one of the same size
    assert again.host.ctypes.data == address
    assert pool.empty(1000).host.ctypes.data != address
    assert pool.statistics() == PoolStatistics(
        in_use=4096, kept=4096, kept_blocks=1, peak=8192, limit=None, buffers=1, reused=1, allocated=2
    )


def test_a_closed_buffer_gives_its_memory_back_though_it_is_known():
    pool = MemoryPool()
    buf = pool.empty(1000)
    buf.close()
    assert pool.statistics().buffers == 0


@pytest.mark.parametrize(
    "take",
    [
        lambda buf: buf.host,
        lambda buf: buf.host[::2],
        lambda buf: buf.numpy()[1:],
        np.asarray,
        lambda buf: np.asarray(buf)[1:],
        np.from_dlpack,
        lambda buf: buf[2:],
        lambda buf: memoryview(buf.host),
    ],
)
@pytest.mark.parametrize("closes", [True, False])
def test_memory_stays_with_whatever_was_taken_from_a_buffer(take, closes):
    pool = MemoryPool()
    buf = pool.empty(100, np.int64)
    buf.fill(7)
    mine = take(buf)
    if closes:
        buf.close()
    else:
        del buf
    gc.collect()
    pool.empty(100, np.int64).fill(0)
    assert np.all(np.asarray(mine) == 7)
    assert pool.statistics().buffers == 1
    buf = mine = None
    assert pool.statistics().buffers == 0


def test_a_limit_says_what_is_asked_and_what_is_in_use():
    pool = MemoryPool(limit=10_000)
    buf = pool.empty(1024)
    other = pool.empty(1024)
    with pytest.raises(
        PoolLimitError,
        match=r"4\.9 KiB were asked.* may have 9\.8 KiB.* 8\.0 KiB are in use by 2 buffers.*close\(\).*5\.0 KiB",
    ) as raised:
        pool.empty(1250)
    assert isinstance(raised.value, MemoryError)
    assert isinstance(raised.value, PyDotComputeError)
    assert pool.statistics().in_use == 8192
    buf.close()
    del other
    assert pool.empty(1250).size == 1250


def test_memory_that_is_kept_makes_room_for_another_size():
    pool = MemoryPool(limit=10_000)
    for count in (1, 1000, 1500, 2000):
        pool.empty(count)
        now = pool.statistics()
        assert now.in_use + now.kept <= 10_000
    assert pool.statistics().kept == 8448  # the largest went first
    assert pool.statistics().allocated == 4


def test_what_is_kept_can_be_given_back():
    pool = MemoryPool()
    buf = pool.empty(1000)
    pool.empty(5000)
    pool.free_all()
    now = pool.statistics()
    assert (now.kept, now.buffers) == (0, 1)
    buf.host[:] = 1
    pool.free_all()
    assert np.all(buf.host == 1)


def test_memory_that_the_machine_cannot_give_counts_for_nothing():
    pool = MemoryPool()
    with pytest.raises(MemoryError, match="needs 4"):
        pool.empty(1 << 60)
    assert pool.statistics() == MemoryPool().statistics()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"limit": -1}, UnifiedBufferError),
        ({"limit": 0}, UnifiedBufferError),
        ({"limit": 1.5}, TypeError),
        ({"limit": "1GB"}, TypeError),
        ({"limit": True}, TypeError),
        ({"device": -1}, UnifiedBufferError),
        ({"device": None}, TypeError),
    ],
)
def test_impossible_pools_are_refused(options, error):
    with pytest.raises(error) as caught:
        MemoryPool(**options)
    if "limit" in options:
        assert "limit= of a pool is a whole number of bytes" in str(caught.value)


@pytest.mark.parametrize(("shape", "dtype"), [((-1,), np.float32), (3, object)])
def test_impossible_buffers_are_refused(shape, dtype):
    pool = MemoryPool()
    with pytest.raises(UnifiedBufferError):
        pool.empty(shape, dtype)
    assert pool.statistics().buffers == 0


def test_buffers_may_outlive_their_pool():
    buf = MemoryPool().empty(3)
    gc.collect()
    buf.fill(1)
    assert buf.host.tolist() == [1, 1, 1]
    del buf
    gc.collect()


def test_threads_share_a_pool():
    """No two buffers in use have the same memory, and in the end all of it is back."""
    pool = MemoryPool()
    wrong = []

    def use(seed):
        rng = np.random.default_rng(seed)
        mine = []
        for i in range(300):
            buf = pool.empty(int(rng.integers(1, 2000)), np.int64)
            buf.fill(seed * 1000 + i)
            mine.append((buf, seed * 1000 + i))
            if len(mine) > 5:
                old, value = mine.pop(int(rng.integers(len(mine))))
                if not np.all(old.host == value):
                    wrong.append(value)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    now = pool.statistics()
    assert (now.in_use, now.buffers) == (0, 0)
    assert now.reused + now.allocated == 1200
    assert now.kept >= now.peak


def test_a_buffer_that_dies_while_the_pool_is_at_work_is_no_deadlock(monkeypatch):
    """The garbage collector runs where it likes, also below the pool's lock."""
    pool = MemoryPool()
    dies = [pool.empty(1000)]
    take_back = pool._take_back
    monkeypatch.setattr(pool, "_take_back", lambda: (dies.clear(), take_back()))
    assert pool.statistics().buffers == 0


def test_text_and_html_say_how_much_is_in_use():
    pool = MemoryPool(limit=1 << 20)
    bufs = [pool.empty(1000), pool.empty(1000)]
    bufs.pop()
    assert repr(pool) == "MemoryPool(in use: 4.0 KiB, kept: 4.0 KiB, limit: 1.0 MiB)"
    assert repr(MemoryPool()) == "MemoryPool(in use: 0 B, kept: 0 B)"
    page = pool._repr_html_()
    assert '<table aria-label="MemoryPool">' in page
    for shown in ("4.0 KiB in 1 buffer<", "8.0 KiB", "1.0 MiB", "0 of 2 times"):
        assert shown in page
