"""Buffers where there is a GPU: neither side ever shows stale elements.

Most tests use a CuPy with memory and streams of its own but no GPU, which does what it is asked as late as it may.
"""

import asyncio
import gc
import threading
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pydotcompute import MemoryPool, UnifiedBuffer
from pydotcompute.exceptions import BackendUnavailableError, DeviceMemoryError, UnifiedBufferError

from .fake_cupy import Array, Event, Fake, in_place_of_cupy


@pytest.fixture
def fake():
    with in_place_of_cupy(Fake()) as fake:
        yield fake


def test_elements_written_on_the_host_are_on_the_device(fake):
    buf = UnifiedBuffer((2, 3), np.int64)
    assert buf.host.ctypes.data % 64 == 0
    assert buf.device.get().tolist() == [[0, 0, 0], [0, 0, 0]]
    buf.host[:] = [1, 2, 3]
    assert isinstance(buf.device, Array)
    assert buf.device.get().tolist() == [[1, 2, 3], [1, 2, 3]]


def test_elements_written_on_the_device_are_on_the_host(fake):
    buf = UnifiedBuffer(3, np.int64)
    buf.device[:] = [1, 2, 3]
    assert buf.host.tolist() == [1, 2, 3]
    buf.device[1] = 9
    assert np.asarray(buf).tolist() == [1, 9, 3]
    buf.device = [4, 5, 6]
    assert buf.numpy().tolist() == [4, 5, 6]


def test_nothing_is_copied_that_is_there_already(fake):
    buf = UnifiedBuffer(100)
    buf.host[:] = 1
    for _ in range(3):
        with buf.read_device():
            pass
    for _ in range(3):
        buf.numpy()
        np.asarray(buf)
        with buf.read_host():
            pass
    assert fake.copies == [("device", 400)]
    buf.device.fill(2)
    for _ in range(3):
        buf.numpy()
    assert fake.copies == [("device", 400), ("host", 400)]


def test_what_is_overwritten_is_not_copied_before(fake):
    buf = UnifiedBuffer(100)
    with buf.write_device() as d:
        d[:] = 1
    with buf.write_host() as h:
        h[:] = 2
    with buf.write_device() as d:
        d[:] = 3
    assert fake.copies == []
    assert buf.host.tolist() == [3] * 100


def test_only_a_part_is_overwritten_and_the_rest_is_copied(fake):
    buf = UnifiedBuffer(6, np.int64)
    buf.device[:] = [0, 1, 2, 3, 4, 5]
    with buf[2:4].write_host() as h:
        h[:] = 9
    with buf[::5].write_device() as d:
        d[:] = 7
    assert buf.host.tolist() == [7, 1, 9, 9, 4, 7]


def test_an_array_counts_as_written_while_it_lives(fake):
    buf = UnifiedBuffer(3, np.int64)
    mine = buf.host
    for i in range(3):
        mine[i] = i + 1
        with buf.read_device() as d:
            assert d.get()[i] == i + 1
    part = buf.host[1:]  # the array it is made from is gone
    del mine
    gc.collect()
    part[0] = 50
    with buf.read_device() as d:
        assert d.get().tolist() == [1, 50, 3]
    part[1] = 60
    with buf.read_device() as d:
        assert d.get().tolist() == [1, 50, 60]
    ours = buf.device[1:]
    ours[0] = 70
    assert buf.numpy().tolist() == [1, 70, 60]
    ours[1] = 80
    assert buf.numpy().tolist() == [1, 70, 80]


def test_a_host_array_refuses_writes_that_would_be_lost(fake):
    buf = UnifiedBuffer(3, np.int64)
    mine = buf.host
    mine[:] = 1
    buf.device[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        mine[1] = 3
    buf.numpy()
    copies = len(fake.copies)
    buf.numpy()  # nothing can have been written, although `mine` is still there
    assert len(fake.copies) == copies
    buf.host[1] = 3
    assert buf.device.get().tolist() == [2, 3, 1]


def test_after_their_block_arrays_do_not_count(fake):
    buf = UnifiedBuffer(3, np.int64)
    with buf.write_host() as h:
        h[:] = 1
        with buf.read_device() as d:
            assert d.get().tolist() == [1, 1, 1]
        h[:] = 2
    with buf.read_device() as d:
        assert d.get().tolist() == [2, 2, 2]
    copies = len(fake.copies)
    with buf.read_device():
        pass
    assert len(fake.copies) == copies
    with pytest.raises(ValueError, match="read-only"):
        h[:] = 3


def test_the_host_waits_before_it_writes_what_is_still_being_copied(fake):
    buf = UnifiedBuffer(3, np.int64)
    buf.host[:] = 1
    with buf.read_device() as d:
        buf.host[:] = 2  # the copy has not begun
        assert d.get().tolist() == [1, 1, 1]


def test_the_device_is_read_before_the_host_writes_again(fake):
    buf, seen = UnifiedBuffer(3, np.int64), UnifiedBuffer(3, np.int64)
    buf.host[:] = 1
    with buf.read_device() as d:
        buf.host[:] = 2
        buf.device  # noqa: B018 - a copy in the midst of the block
        buf.host[:] = 3
        with seen.write_device() as target:
            target[:] = d
    asyncio.run(buf.to_device())
    assert seen.host.tolist() == [2, 2, 2]


def test_streams_see_each_others_work_through_the_buffer(fake):
    buf = UnifiedBuffer(3, np.int64)
    one, other = fake.cuda.Stream(non_blocking=True), fake.cuda.Stream(non_blocking=True)
    with one.use():
        buf.device[0] = 1
    with other.use():
        buf.device[1] = 2
        assert buf.device.get().tolist() == [1, 2, 0]
    with one.use():
        buf.device[2] = 3
    assert buf.numpy().tolist() == [1, 2, 3]


async def test_copies_that_keep_no_loop_waiting(fake):
    buf, other = UnifiedBuffer(3, np.int64), UnifiedBuffer(3, np.int64)
    loop_thread, waited_on = threading.get_ident(), []
    synchronize = Event.synchronize
    Event.synchronize = lambda self: (waited_on.append(threading.get_ident()), synchronize(self))[1]
    try:
        buf.host[:] = 1
        other.device[:] = 2
        waited_on.clear()
        device, host = await asyncio.gather(buf.to_device(), other.to_host())
    finally:
        Event.synchronize = synchronize
    assert waited_on
    assert loop_thread not in waited_on
    assert host.tolist() == [2, 2, 2]
    assert device.get().tolist() == [1, 1, 1]
    device[:] = 5
    assert buf.numpy().tolist() == [5, 5, 5]


def test_fill_and_copy_from_stay_on_the_device(fake):
    one, two = UnifiedBuffer(3, np.int64), UnifiedBuffer(3, np.int64)
    one.device[:] = 1
    two.copy_from(one)
    one.fill(4)
    two[:1].fill(6)
    copies = list(fake.copies)
    assert two.host.tolist() == [6, 1, 1]
    assert one.host.tolist() == [4, 4, 4]
    assert copies == [("device", 24)]  # when `one` was first asked for all of its device side
    one.copy_from(two.device)
    one.copy_from([7])
    assert one.device.get().tolist() == [7, 7, 7]
    assert two.device.get().tolist() == [6, 1, 1]


def test_dlpack_is_of_the_device(fake):
    buf = UnifiedBuffer(3, np.int64, device=1)
    buf.host[:] = [1, 2, 3]
    assert buf.__dlpack_device__() == (2, 1)
    _, array = buf.__dlpack__(stream=1)
    with fake.cuda.Device(1):
        array[0] = 9
    assert buf.host.tolist() == [9, 2, 3]
    with fake.cuda.Device(1):
        copy = UnifiedBuffer.from_dlpack(buf.device)
    fake.copies.clear()
    assert repr(copy).endswith("newest: device)")
    assert copy.numpy().tolist() == [9, 2, 3]
    assert copy.__dlpack_device__() == (2, 1)


def test_a_stream_that_takes_the_buffer_by_dlpack_is_waited_for(fake):
    buf, theirs = UnifiedBuffer(3, np.int64), fake.cuda.Stream(non_blocking=True)
    _, array = buf.__dlpack__(stream=theirs.ptr)
    with theirs.use():
        array[:] = 8
    assert buf.numpy().tolist() == [8, 8, 8]


def test_the_cuda_array_interface_is_there_with_a_copy_on_the_device(fake):
    buf = UnifiedBuffer((2, 3), np.int16)
    assert not hasattr(buf, "__cuda_array_interface__")
    with buf.read_device() as d:
        address = d.data.ptr
    interface = buf.__cuda_array_interface__
    assert interface["data"] == (address, False)
    assert buf[1:].__cuda_array_interface__["data"] == (address + 6, False)
    assert (interface["shape"], interface["typestr"]) == ((2, 3), "<i2")


# -- which GPU -------------------------------------------------------------------------------------------------------


def test_a_buffer_lies_on_the_gpu_that_is_named_or_first_uses_it(fake):
    named, free = UnifiedBuffer(3, device=1), UnifiedBuffer(3)
    with fake.cuda.Device(1):
        assert free.device.device_id == 1
    assert free.device.device_id == 1
    assert named.device.device_id == 1
    assert UnifiedBuffer(3).device.device_id == 0
    assert "GPU 1" in named._repr_html_()
    named.fill(2)  # although another GPU is current
    assert named.host.tolist() == [2, 2, 2]
    with pytest.raises(UnifiedBufferError, match=r"no GPU 2.* 2 can be used"):
        UnifiedBuffer(3, device=2)


def test_text_says_which_side_is_newest(fake):
    buf = UnifiedBuffer(3)
    assert repr(buf).endswith("newest: host)")
    with buf.read_device():
        pass
    assert repr(buf).endswith("newest: host and device)")
    buf.device  # noqa: B018 - as somebody who writes there
    assert repr(buf).endswith("newest: device)")
    assert "<td" in buf._repr_html_()


def test_a_gpu_without_room_says_how_much_it_has(fake):
    buf = UnifiedBuffer(1 << 20)
    fake.limit = fake.allocated_on_device + (1 << 20)
    with pytest.raises(DeviceMemoryError, match=r"GPU 0 cannot give 4\.0 MiB: 1\.0 MiB of .* are free; drop arrays"):
        buf.device.get()
    buf.host[:] = 1  # the host's side is as good as before
    fake.limit *= 100
    assert buf.device.get()[0] == 1
    with pytest.raises(MemoryError, match=r"needs 4\.0 TiB.*smaller shape"):
        UnifiedBuffer(1 << 40)
    fake.fault = "cudaErrorInitializationError: initialization error"
    with pytest.raises(RuntimeError, match="initialization error"):
        UnifiedBuffer(3)


# -- ring kernels ----------------------------------------------------------------------------------------------------


class Kernel:
    def __init__(self):
        self.runs = False

    def holds(self):
        return "adds" if self.runs else None


def work(fake, address, values):
    """What a ring kernel does: it knows the address, and no stream of CuPy waits for it."""
    ctypes_array = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int64 * len(values)).from_address(address))
    ctypes_array[:] = values


def test_a_kernel_gets_what_the_host_wrote_and_the_host_what_the_kernel_wrote(fake):
    buf, kernel = UnifiedBuffer(3, np.int64), Kernel()
    buf.host[:] = 1
    address = buf._lend(kernel.holds, 1)
    assert np.ctypeslib.ctypes.c_int64.from_address(address).value == 1  # already copied
    kernel.runs = True
    work(fake, address, [2, 3, 4])
    for access in (lambda: buf.host, buf.numpy, lambda: np.asarray(buf), lambda: buf[0], lambda: buf.copy_from([1])):
        with pytest.raises(UnifiedBufferError, match="'adds' is working"):
            access()
    with fake.cuda.Device(1), buf.read_device() as d:
        assert d.get().tolist() == [2, 3, 4]
    work(fake, address, [5, 6, 7])
    kernel.runs = False
    assert buf.numpy().tolist() == [5, 6, 7]
    copies = len(fake.copies)
    buf.numpy()
    assert len(fake.copies) == copies
    buf.host[0] = 9
    assert buf._lend(kernel.holds, 1) == address
    assert np.ctypeslib.ctypes.c_int64.from_address(address).value == 9
    kernel.runs = True
    work(fake, address, [1, 2, 3])
    kernel.runs = False
    assert buf.host.tolist() == [1, 2, 3]


def test_a_look_before_the_kernel_runs_hides_nothing(fake):
    buf, kernel = UnifiedBuffer(3, np.int64), Kernel()
    address = buf._lend(kernel.holds, 0)
    buf.numpy()
    kernel.runs = True
    work(fake, address, [5, 6, 7])
    kernel.runs = False
    assert buf.numpy().tolist() == [5, 6, 7]


def test_a_kernel_of_the_cpu_works_on_the_host_side(fake):
    buf, kernel = UnifiedBuffer(3, np.int64), Kernel()
    buf.device[:] = 1
    address = buf._lend(kernel.holds, None)
    kernel.runs = True
    assert np.ctypeslib.ctypes.c_int64.from_address(address).value == 1
    work(fake, address, [2, 3, 4])
    with buf.read_device() as d:
        assert d.get().tolist() == [2, 3, 4]
    work(fake, address, [5, 6, 7])
    kernel.runs = False
    assert buf.device.get().tolist() == [5, 6, 7]


@pytest.mark.parametrize(("first", "second"), [(None, 0), (0, None)])
def test_kernels_on_both_sides_would_not_see_each_other(fake, first, second):
    buf, kernel = UnifiedBuffer(3, np.int64), Kernel()
    buf.device[:] = 1
    buf._lend(kernel.holds, first)
    kernel.runs = True
    with pytest.raises(UnifiedBufferError, match="'adds' is working"):
        buf._lend(lambda: None, second)
    kernel.runs = False
    buf._lend(lambda: None, second)


def test_a_kernel_waits_for_what_was_asked_of_the_device_before(fake):
    buf = UnifiedBuffer(3, np.int64)
    buf.device[:] = 3
    assert np.ctypeslib.ctypes.c_int64.from_address(buf._lend(lambda: None, 0)).value == 3


def test_a_kernel_on_another_gpu_is_told(fake):
    with pytest.raises(UnifiedBufferError, match="lies on GPU 1, and the ring kernel runs on GPU 0"):
        UnifiedBuffer(3, device=1)._lend(lambda: None, 0)


def test_a_kernel_on_a_gpu_needs_cupy_for_its_buffers(monkeypatch):
    from pydotcompute.device import driver

    monkeypatch.setattr(driver, "device_count", lambda: 1)
    with in_place_of_cupy(None), pytest.raises(BackendUnavailableError, match="pip install cupy-cuda13x"):
        UnifiedBuffer(3)._lend(lambda: None, 0)


# -- memory that goes back -------------------------------------------------------------------------------------------


def test_memory_is_freed_when_all_work_on_it_is_done(fake):
    buf = UnifiedBuffer(3, np.int64)
    buf.host[:] = 5
    with buf.read_device() as d:
        seen = UnifiedBuffer(3, np.int64)
        with seen.write_device() as target:
            target[:] = d  # on a stream that has not begun
    del d, buf
    gc.collect()
    assert fake.allocated_on_device == 48
    assert seen.numpy().tolist() == [5, 5, 5]
    with seen.read_device():
        UnifiedBuffer(1).device.get()  # the next use of the GPU frees it
    assert fake.allocated_on_device == 24 + 4


def test_a_pool_hands_memory_out_again_only_behind_the_work_on_it(fake):
    pool = MemoryPool(device=0)
    first = pool.empty(3, np.int64)
    slow = fake.cuda.Stream(non_blocking=True)
    first.host[:] = 1
    with slow.use():
        first.device[:] = 2  # put off
    first.close()
    second = pool.empty(3, np.int64)
    with second.write_device() as d:
        d[:] = 3
    assert second.host.tolist() == [3, 3, 3]
    slow.synchronize()
    assert second.device.get().tolist() == [3, 3, 3]
    assert pool.statistics().reused == 1


def test_a_pool_leaves_memory_to_arrays_that_outlive_their_buffer(fake):
    pool = MemoryPool()
    buf = pool.empty(3, np.int64)
    buf.host[:] = 7
    mine, ours = buf.numpy()[1:], buf.device[1:]
    del buf
    gc.collect()
    for _ in range(2):
        other = pool.empty(3, np.int64)
        other.host[:] = 0
        other.device[:] = 0
        other.numpy()
    assert mine.tolist() == [7, 7]
    assert ours.get().tolist() == [7, 7]
    del mine, ours
    gc.collect()
    assert pool.statistics().buffers == 1


# -- any order of anything -------------------------------------------------------------------------------------------

LENGTH = 6
values = st.integers(1, 1_000_000)
keys = st.sampled_from([np.s_[:], np.s_[1:4], np.s_[::2], np.s_[::-1], np.s_[4:]])
streams = st.integers(0, 2)


class NeverStale(RuleBasedStateMachine):
    """Beside a plain array that is what the buffer should be."""

    def library(self):
        """Stands in place of CuPy."""
        return in_place_of_cupy(Fake())

    @initialize(pooled=st.booleans())
    def make(self, pooled):
        self.context = self.library()
        self.cupy = self.context.__enter__()
        null = self.cupy.cuda.get_current_stream()
        self.streams = [null, *(self.cupy.cuda.Stream(non_blocking=True) for _ in range(2))]
        self.expected = np.zeros(LENGTH, np.int64)
        self.buf = UnifiedBuffer(LENGTH, np.int64)
        if pooled:
            self.buf = MemoryPool().empty(LENGTH, np.int64)
            self.buf.fill(0)
        self.kept_on_host = self.kept_on_device = None

    def teardown(self):
        if hasattr(self, "context"):
            self.context.__exit__(None, None, None)

    def taken_on_host(self):
        self.kept_on_device = None

    def taken_on_device(self, stream):
        if self.kept_on_device is not None and self.kept_on_device[0] != stream:
            self.kept_on_device = None  # two streams, whose order is not the buffer's affair
        if self.kept_on_host is not None:
            array, _ = self.kept_on_host
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            self.kept_on_host = None

    @rule(key=keys, value=values, keep=st.booleans())
    def write_host(self, key, value, keep):
        array = self.buf[key].host
        np.testing.assert_array_equal(array, self.expected[key])
        array[...] = self.expected[key] = value
        self.taken_on_host()
        if keep:
            self.kept_on_host = array, key

    @rule(key=keys, value=values)
    def overwrite_host(self, key, value):
        with self.buf[key].write_host() as array:
            array[...] = self.expected[key] = value
        self.taken_on_host()

    @rule(key=keys, value=values, stream=streams, keep=st.booleans())
    def write_device(self, key, value, stream, keep):
        with self.streams[stream].use():
            array = self.buf[key].device
            self.taken_on_device(stream)
            array[...] = self.expected[key] = value
        if keep:
            self.kept_on_device = stream, array, key

    @rule(key=keys, value=values, stream=streams)
    def overwrite_device(self, key, value, stream):
        with self.streams[stream].use(), self.buf[key].write_device() as array:
            array[...] = self.expected[key] = value
        self.taken_on_device(stream)

    @rule(key=keys, value=values)
    def write_what_was_kept(self, key, value):
        if self.kept_on_host is not None:
            array, key = self.kept_on_host
            array[...] = self.expected[key] = value
        if self.kept_on_device is not None:
            stream, array, key = self.kept_on_device
            with self.streams[stream].use():
                array[...] = self.expected[key] = value

    @rule(key=keys, stream=streams)
    def read_device(self, key, stream):
        if self.kept_on_device is not None and self.kept_on_device[0] != stream:
            return
        with self.streams[stream].use(), self.buf[key].read_device() as array:
            np.testing.assert_array_equal(array.get(), self.expected[key])

    @rule(key=keys, way=st.sampled_from(["numpy", "asarray", "array", "read_host", "copied"]))
    def read_host(self, key, way):
        buf = self.buf[key]
        if way == "numpy":
            seen = buf.numpy()
        elif way == "asarray":
            seen = np.asarray(buf)
        elif way == "array":
            seen = buf.__array__()
        elif way == "read_host":
            with buf.read_host() as seen:
                pass
        else:
            copied = UnifiedBuffer(buf.shape, np.int64)
            copied.copy_from(buf)
            seen = copied.numpy()
        np.testing.assert_array_equal(seen, self.expected[key])

    @rule(to=st.sampled_from(["to_host", "to_device"]))
    def ahead(self, to):
        array = asyncio.run(getattr(self.buf, to)())
        if to == "to_host":
            np.testing.assert_array_equal(array, self.expected)
            self.taken_on_host()
        else:
            self.taken_on_device(0)
            np.testing.assert_array_equal(array.get(), self.expected)

    @rule(key=keys, value=values)
    def fill(self, key, value):
        on_device = repr(self.buf).endswith("device)")
        self.buf[key].fill(value)
        self.expected[key] = value
        if on_device:
            self.taken_on_device(0)
        else:
            self.taken_on_host()

    @rule(stream=st.integers(0, 3))
    def the_gpu_works(self, stream):
        if isinstance(self.cupy, Fake):
            self.cupy.streams[stream % len(self.cupy.streams)].step()


class NeverStaleOnAGpu(NeverStale):
    def library(self):
        return nullcontext(pytest.importorskip("cupy"))


TestNeverStale = NeverStale.TestCase
TestNeverStale.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestNeverStaleOnAGpu = pytest.mark.needs_gpu(NeverStaleOnAGpu.TestCase)
TestNeverStaleOnAGpu.settings = TestNeverStale.settings


@pytest.mark.needs_gpu
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def cupy(self):
        return pytest.importorskip("cupy", reason="cupy is not installed")

    def test_there_and_back(self, cupy):
        buf = UnifiedBuffer((1000, 3))
        buf.host[:] = np.arange(3000).reshape(1000, 3)
        assert isinstance(buf.device, cupy.ndarray)
        buf.device[:] = cupy.sqrt(buf.device)
        np.testing.assert_allclose(buf.host, np.sqrt(np.arange(3000.0)).reshape(1000, 3), rtol=1e-6)
        buf.device += 1
        assert buf[0, 0] == 1
        assert cupy.cuda.runtime.pointerGetAttributes(buf.host.ctypes.data).type == 1  # page-locked

    async def test_copies_keep_no_loop_waiting(self, cupy):
        buf = UnifiedBuffer(1 << 26)
        with buf.write_host() as h:
            h[:] = 1
        turns, loop = [], asyncio.get_running_loop()

        def turn():
            turns.append(None)
            ticking.append(loop.call_soon(turn))

        ticking = [loop.call_soon(turn)]
        device = await buf.to_device()
        device += 1
        host = await buf.to_host()
        ticking[-1].cancel()
        assert len(turns) > 10
        assert np.all(host[:: 1 << 10] == 2)

    def test_memory_goes_back_to_cupy(self, cupy):
        cupy.cuda.Device().synchronize()
        pool = cupy.get_default_memory_pool()
        before = pool.used_bytes()
        buf = UnifiedBuffer(1 << 20)
        buf.device.fill(1)
        assert pool.used_bytes() >= before + (4 << 20)
        buf.numpy()
        del buf
        gc.collect()
        assert pool.used_bytes() <= before

    def test_dtypes_that_cupy_does_not_compute_with_are_copied_too(self, cupy):
        for dtype in (np.dtype([("a", "i4"), ("b", "f8", (3,))]), "datetime64[ns]", "S5"):
            buf, copy = UnifiedBuffer(4, dtype), UnifiedBuffer(4, dtype)
            buf.host.view(np.uint8)[:] = np.arange(4 * buf.dtype.itemsize) % 100 + 1
            expected = buf.host.copy()
            assert buf.device.dtype == buf.dtype
            np.testing.assert_array_equal(buf.numpy(), expected)
            copy.copy_from(buf)
            np.testing.assert_array_equal(copy.numpy(), expected)

    def test_too_much_for_the_gpu_says_how_much_is_free(self, cupy):
        free, _ = cupy.cuda.runtime.memGetInfo()
        cupy.get_default_memory_pool().free_all_blocks()
        hog = cupy.cuda.alloc(free - (1 << 30))
        buf = UnifiedBuffer(1 << 29)
        with pytest.raises(DeviceMemoryError, match=r"cannot give 2\.0 GiB: .* are free"):
            buf.device.fill(0)
        del hog
        cupy.get_default_memory_pool().free_all_blocks()
        buf.device.fill(1)
        assert buf[-1] == 1
