import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pydotcompute import UnifiedBuffer
from pydotcompute.exceptions import PyDotComputeError, UnifiedBufferError

RECORD = np.dtype([("sensor", np.int32), ("value", np.float64, (3,))])


def test_the_first_example():
    buf = UnifiedBuffer((1000,), dtype=np.float32)
    values = np.random.default_rng(0).standard_normal(1000)
    buf.host[:] = values
    np.testing.assert_array_equal(buf.host, values.astype(np.float32))
    np.testing.assert_array_equal(buf.device, buf.host)


def test_float32_unless_told():
    assert UnifiedBuffer(3).dtype == np.float32
    assert UnifiedBuffer(3, np.int64).dtype == np.int64


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    dtype=st.sampled_from([np.bool_, np.int8, np.float32, np.complex128, RECORD, "S5", "U3", "datetime64[ns]"]),
)
def test_aligned_contiguous_zeros(shape, dtype):
    buf = UnifiedBuffer(shape, dtype)
    expected = np.zeros(shape, dtype)
    np.testing.assert_array_equal(buf.host, expected)
    for name in ("shape", "dtype", "ndim", "size", "nbytes"):
        assert getattr(buf, name) == getattr(expected, name)
    assert buf.host.ctypes.data % 64 == 0
    assert buf.host.flags.c_contiguous
    assert buf.host.flags.writeable


def test_shape_may_be_an_int_a_list_or_numpy_integers():
    assert UnifiedBuffer(4).shape == (4,)
    assert UnifiedBuffer([2, 3]).shape == (2, 3)
    assert UnifiedBuffer((np.int64(2), np.uint8(3))).shape == (2, 3)


def test_without_a_gpu_the_device_is_the_same_memory():
    buf = UnifiedBuffer(4)
    buf.device[1] = 7
    assert buf.host.tolist() == [0, 7, 0, 0]
    buf.host[2] = 8
    assert buf.device.tolist() == [0, 7, 8, 0]


def test_read_host_shows_the_elements_and_refuses_writes():
    buf = UnifiedBuffer(3, np.int32)
    view = buf.read_host()
    buf.host[:] = [1, 2, 3]
    assert view.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 9
    assert buf.host.flags.writeable


def test_write_host_writes_the_buffer():
    buf = UnifiedBuffer(3, np.int32)
    buf.write_host()[:] = [1, 2, 3]
    assert buf.host.tolist() == [1, 2, 3]
    assert buf.device.tolist() == [1, 2, 3]


def test_assigning_to_host_copies_into_the_same_memory():
    buf = UnifiedBuffer(3, np.int32)
    host = buf.host
    buf.host = [1, 2, 3]
    buf.host += 1
    assert host.tolist() == [2, 3, 4]
    assert buf.host is host
    with pytest.raises(ValueError, match="broadcast"):
        buf.host = [1, 2]


@pytest.mark.parametrize(
    "array",
    [
        [[1, 2], [3, 4]],
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=np.int16).reshape(2, 3).T,
        np.float64(3.5),
        np.array([(1, (2, 3, 4))], RECORD),
        np.empty((0, 3)),
    ],
)
def test_from_array_copies(array):
    expected = np.array(array)
    buf = UnifiedBuffer.from_array(array)
    assert buf.dtype == expected.dtype
    assert buf.host.flags.c_contiguous
    np.testing.assert_array_equal(buf.host, expected)
    assert not np.shares_memory(buf.host, np.asarray(array))


def test_numpy_takes_a_buffer_for_an_array():
    buf = UnifiedBuffer.from_array([1.0, 2.0, 6.0])
    assert np.mean(buf) == 3
    assert len(buf) == 3
    seen = np.asarray(buf)
    assert np.shares_memory(seen, buf.host)
    assert not seen.flags.writeable
    copied = np.array(buf)
    assert copied.flags.writeable
    assert not np.shares_memory(copied, buf.host)
    assert np.asarray(buf, dtype=np.int8).dtype == np.int8
    assert np.shares_memory(np.asarray(buf, copy=False), buf.host)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(buf, dtype=np.int8, copy=False)


def test_no_length_without_dimensions():
    with pytest.raises(TypeError, match="unsized"):
        len(UnifiedBuffer(()))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda buf: pickle.loads(pickle.dumps(buf))])
def test_copies_and_pickles_are_buffers_of_their_own(duplicate):
    buf = UnifiedBuffer.from_array(np.arange(5))
    other = duplicate(buf)
    assert isinstance(other, UnifiedBuffer)
    assert other.host.tolist() == [0, 1, 2, 3, 4]
    assert other.host.ctypes.data % 64 == 0
    other.host[0] = 9
    assert buf.host[0] == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((2, -3), np.float32, r"negative: \(2, -3\)"),
        (3, object, "holds Python objects"),
        (3, [("name", object)], "holds Python objects"),
        (3, "U", "give it a length"),
        (3, ">f4", "foreign byte order"),
        ((1,) * 65, np.float32, "dimension"),
        ((0, 1 << 62), np.float32, "too big"),
    ],
)
def test_impossible_buffers_are_refused(shape, dtype, says):
    with pytest.raises(UnifiedBufferError, match=says) as raised:
        UnifiedBuffer(shape, dtype)
    assert isinstance(raised.value, PyDotComputeError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("shape", ["12", 2.5, (2, 1.5), None, {3}])
def test_what_is_no_shape_is_a_type_error(shape):
    with pytest.raises(TypeError, match="an int or a tuple of ints, not"):
        UnifiedBuffer(shape)


def test_what_is_no_dtype_is_a_type_error():
    with pytest.raises(TypeError):
        UnifiedBuffer(3, "no such type")


@pytest.mark.parametrize(
    ("shape", "size"), [((1 << 40, 1 << 10), "4.0 PiB"), ((1 << 60,), "4.0 EiB"), (1 << 70, "4096.0 EiB")]
)
def test_too_large_says_how_large(shape, size):
    with pytest.raises(MemoryError, match=f"needs {size}.*smaller shape"):
        UnifiedBuffer(shape)


def test_an_empty_dimension_needs_no_memory_whatever_the_others():
    assert UnifiedBuffer((0, 5)).nbytes == 0


def test_text_and_html_say_shape_dtype_size_and_place():
    assert repr(UnifiedBuffer((1000,))) == "UnifiedBuffer(shape=(1000,), dtype=float32, 3.9 KiB, newest: host)"
    assert "dtype=int8, 3 B" in repr(UnifiedBuffer(3, np.int8))
    page = UnifiedBuffer((2, 2), [("<b>", np.int8)])._repr_html_()
    assert "(2, 2)" in page
    assert "host, which the device shares" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
