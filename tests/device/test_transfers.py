"""What buffers and pools tell of themselves: which side is the newest, what was copied, which buffers there are."""

import gc
import time

import pytest

from pydotcompute import MemoryPool, UnifiedBuffer
from pydotcompute.exceptions import UnifiedBufferError

from .fake_cupy import Fake, in_place_of_cupy


@pytest.fixture
def fake():
    with in_place_of_cupy(Fake()) as fake:
        yield fake


@pytest.fixture
def no_gpu():
    with in_place_of_cupy(None):
        yield


def counts(buf):
    return buf.transfers.to_device.count, buf.transfers.to_host.count


def test_each_copy_is_counted_with_its_bytes_and_time(fake):
    buf = UnifiedBuffer(100)
    assert counts(buf) == (0, 0)
    assert buf.transfers.to_device.last is None
    before = time.time()
    buf.host[:] = 1
    assert counts(buf) == (0, 0)
    for _ in range(3):
        with buf.read_device():
            pass
    assert counts(buf) == (1, 0)
    assert buf.transfers.to_device.nbytes == 400
    assert before <= buf.transfers.to_device.last <= time.time()
    for value in (2, 3):
        buf.device.fill(value)
        buf.numpy()
    assert counts(buf) == (1, 2)
    assert buf.transfers.to_host.nbytes == 800
    assert fake.copies == [("device", 400), ("host", 400), ("host", 400)]


def test_what_is_overwritten_is_no_transfer(fake):
    buf = UnifiedBuffer(100)
    with buf.write_device() as d:
        d[:] = 1
    with buf.write_host() as h:
        h[:] = 2
    assert counts(buf) == (0, 0)


def test_a_view_tells_of_the_memory_of_its_buffer(fake):
    buf = UnifiedBuffer(100)
    part = buf[10:20]
    with part.read_device():
        pass
    assert buf.transfers == part.transfers
    assert part.transfers.to_device.nbytes == 400


def test_the_newest_side_is_named(fake):
    buf = UnifiedBuffer(10)
    assert not buf.shared
    assert buf.newest == ("host",)
    with buf.read_device():
        assert buf.newest == ("host", "device")
    with buf.write_device():
        assert buf.newest == ("device",)


def test_without_a_gpu_both_sides_are_one_and_nothing_is_copied(no_gpu):
    buf = UnifiedBuffer(10)
    buf.host[:] = 1
    assert buf.device.tolist() == [1] * 10
    assert buf.shared
    assert buf.newest == ("host", "device")
    assert counts(buf) == (0, 0)


def test_a_closed_buffer_says_so():
    buf = UnifiedBuffer(10)
    assert not buf.closed
    buf.close()
    assert buf.closed
    with pytest.raises(UnifiedBufferError, match="closed"):
        _ = buf.transfers


def test_memory_that_is_used_again_begins_to_count_anew(fake):
    pool = MemoryPool()
    buf = pool.empty(100)
    with buf.read_device():
        pass
    assert counts(buf) == (1, 0)
    buf.close()
    again = pool.empty(100)
    assert pool.statistics().reused == 1
    assert counts(again) == (0, 0)


# -- pools -------------------------------------------------------------------------------------------------------------


def test_a_pool_lists_its_buffers_without_keeping_them():
    pool = MemoryPool()
    a, b, c = (pool.empty(n) for n in (1, 2, 3))
    assert pool.buffers == (a, b, c)
    b.close()
    part = c[1:]
    assert pool.buffers == (a, c)
    del c
    gc.collect()
    assert pool.buffers == (a,)
    assert pool.statistics().buffers == 2  # the view holds its memory
    del part


def test_a_pool_counts_the_pieces_that_wait():
    pool = MemoryPool()
    some = [pool.empty(1000) for _ in range(3)]
    assert pool.statistics().kept_blocks == 0
    del some
    gc.collect()
    assert pool.statistics().kept_blocks == 3
    pool.empty((10, 100)).close()
    assert pool.statistics().kept_blocks == 3
    held = pool.empty(1000)
    assert pool.statistics().kept_blocks == 2
    pool.free_all()
    assert pool.statistics().kept_blocks == 0
    del held
