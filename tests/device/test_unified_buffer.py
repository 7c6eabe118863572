import copy
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pydotcompute import UnifiedBuffer
from pydotcompute.exceptions import PyDotComputeError, UnifiedBufferError

from .fake_cupy import in_place_of_cupy

RECORD = np.dtype([("sensor", np.int32), ("value", np.float64, (3,))])


@pytest.fixture(autouse=True)
def no_gpu():
    """Here and on machines that have one; `test_two_sides.py` is about those."""
    with in_place_of_cupy(None):
        yield


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


def test_without_a_gpu_the_device_is_the_very_array_of_the_host():
    buf = UnifiedBuffer(4, device=3)
    assert buf.device is buf.host
    buf.device[1] = 7
    assert buf.host.tolist() == [0, 7, 0, 0]
    buf.host[2] = 8
    assert buf.device.tolist() == [0, 7, 8, 0]


@pytest.mark.parametrize("way", ["read_host", "read_device"])
def test_reading_shows_the_elements_and_refuses_writes(way):
    buf = UnifiedBuffer(3, np.int32)
    with getattr(buf, way)() as view:
        buf.host[:] = [1, 2, 3]
        assert view.tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 9
    assert buf.host.flags.writeable


@pytest.mark.parametrize("way", ["write_host", "write_device"])
def test_writing_ends_with_its_block(way):
    buf = UnifiedBuffer(3, np.int32)
    with getattr(buf, way)() as view:
        view[:] = [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 9
    assert buf.host.tolist() == [1, 2, 3]
    assert buf.device.tolist() == [1, 2, 3]
    assert buf.host.flags.writeable


def test_numpy_is_a_read_only_view():
    buf = UnifiedBuffer.from_array([1, 2, 3])
    view = buf.numpy()
    assert np.shares_memory(view, buf.host)
    assert not view.flags.writeable


async def test_without_a_gpu_there_is_nothing_to_wait_for():
    buf = UnifiedBuffer(3)
    assert await buf.to_device() is buf.host
    assert await buf.to_host() is buf.host


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


def test_a_part_is_a_buffer_with_the_same_memory():
    buf = UnifiedBuffer.from_array(np.arange(24).reshape(4, 6))
    for key in (np.s_[1:3], np.s_[::-2], np.s_[:, 1], np.s_[..., 2:4], np.s_[2], np.s_[1:1], np.s_[3, ...]):
        part = buf[key]
        assert isinstance(part, UnifiedBuffer)
        np.testing.assert_array_equal(part.host, buf.host[key])
        part.host[...] = 7
        assert np.all(buf.host[key] == 7)
    assert buf[1:3][0][2:4].host.tolist() == buf.host[1, 2:4].tolist()


def test_an_integer_for_every_dimension_gives_the_element():
    buf = UnifiedBuffer.from_array(np.arange(6).reshape(2, 3))
    assert buf[1, 2] == 5
    assert isinstance(buf[1, 2], np.int64)
    assert [row.host.tolist() for row in buf] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(IndexError, match="out of bounds"):
        buf[2]


@pytest.mark.parametrize("key", [[0, 1], np.array([True, False, True]), True, np.True_, None, "value", (0, [1])])
def test_what_would_copy_makes_no_view(key):
    with pytest.raises(TypeError, match=r"integers, slices and `\.\.\.`.*buf\.host"):
        UnifiedBuffer(3)[key]


def test_fill():
    buf = UnifiedBuffer((2, 3), np.int16)
    buf.fill(7)
    assert np.all(buf.numpy() == 7)
    buf[1, 1:].fill(2)
    assert buf.host.tolist() == [[7, 7, 7], [7, 2, 2]]
    records = UnifiedBuffer(2, RECORD)
    records.fill((1, (2, 3, 4)))
    assert records.host["value"].tolist() == [[2, 3, 4], [2, 3, 4]]


@pytest.mark.parametrize(
    ("value", "error"), [("many", ValueError), (40_000, OverflowError), ([1, 2], ValueError), (None, TypeError)]
)
def test_a_value_that_does_not_fit_changes_nothing(value, error):
    buf = UnifiedBuffer.from_array(np.array([1, 2], np.int16))
    with pytest.raises(error):
        buf.fill(value)
    assert buf.host.tolist() == [1, 2]


def test_copy_from_arrays_and_buffers():
    buf = UnifiedBuffer((2, 3))
    buf.copy_from([[1, 2, 3]])
    assert buf.host.tolist() == [[1, 2, 3], [1, 2, 3]]
    buf.copy_from(UnifiedBuffer.from_array(np.arange(6).reshape(2, 3)))
    assert buf.host.tolist() == [[0, 1, 2], [3, 4, 5]]
    buf[0].copy_from(buf[1])
    assert buf.host.tolist() == [[3, 4, 5], [3, 4, 5]]
    for wrong, says in [(np.zeros((3, 2)), "broadcast"), (np.zeros((1, 2, 3)), r"\(1, 2, 3\) does not fit.*\(2, 3\)")]:
        with pytest.raises(ValueError, match=says):
            buf.copy_from(wrong)
    assert buf.host.tolist() == [[3, 4, 5], [3, 4, 5]]


@pytest.mark.parametrize(
    "dtype",
    [np.bool_, np.int8, np.complex64, "S5", "datetime64[ns]", RECORD, np.dtype([("a", "i1"), ("b", "f8")], align=True)],
)
def test_the_array_interface_describes_the_very_elements(dtype):
    buf = UnifiedBuffer((2, 3), dtype)
    for part in (buf, buf[:, ::-2]):
        seen = np.asarray(part)
        assert seen.dtype == buf.dtype
        assert (seen.shape, seen.strides) == (part.shape, part.host.strides)
        assert np.shares_memory(seen, buf.host)
        assert not seen.flags.writeable


def test_records_have_no_array_interface_and_nothing_here_one_of_cuda():
    assert not hasattr(UnifiedBuffer(3, RECORD), "__array_interface__")
    assert not hasattr(UnifiedBuffer(3), "__cuda_array_interface__")


def test_dlpack_shares_the_elements():
    buf = UnifiedBuffer.from_array([1.0, 2.0, 3.0])
    shared = np.from_dlpack(buf)
    assert np.shares_memory(shared, buf.host)
    assert buf.__dlpack_device__() == (1, 0)
    copied = UnifiedBuffer.from_dlpack(buf[1:])
    assert copied.host.tolist() == [2, 3]
    assert not np.shares_memory(copied.host, buf.host)


def test_dlpack_from_a_device_that_cannot_be_read():
    class Metal:
        def __dlpack_device__(self):
            return 8, 0

    with pytest.raises(UnifiedBufferError, match=r"device type 8 .*host first"):
        UnifiedBuffer.from_dlpack(Metal())


def test_dlpack_from_what_has_none():
    with pytest.raises(TypeError, match=r"not type list: use from_array\(\)"):
        UnifiedBuffer.from_dlpack([1, 2])


def test_a_mask_is_refused_by_type_and_shape():
    buf = UnifiedBuffer(1000)
    with pytest.raises(TypeError, match=r"not an array of shape \(1000,\), dtype bool; index an array") as caught:
        buf[buf.host > 0]
    assert len(str(caught.value)) < 200
    with pytest.raises(TypeError, match="not type list;"):
        buf[[1, 2]]


def test_a_closed_buffer_says_so_and_what_was_taken_from_it_stays():
    buf = UnifiedBuffer.from_array([1, 2, 3])
    arrays = [buf.host, buf.numpy(), np.asarray(buf), np.from_dlpack(buf), buf[1:].host]
    part = buf[:2]
    buf.close()
    for use in (
        lambda: buf.host,
        lambda: buf.device,
        lambda: buf.shape,
        lambda: buf.numpy(),
        lambda: len(buf),
    ):
        with pytest.raises(UnifiedBufferError, match="closed"):
            use()
    buf.close()  # once more is no error
    assert "closed" in repr(buf)
    assert "closed" in buf._repr_html_()
    assert [array.tolist() for array in arrays] == [[1, 2, 3]] * 4 + [[2, 3]]
    assert part.host.tolist() == [1, 2]


# -- ring kernels that work on a buffer ------------------------------------------------------------------------------


class Kernel:
    def __init__(self, kernel_id="adds"):
        self.kernel_id, self.runs = kernel_id, False

    def holds(self):
        return self.kernel_id if self.runs else None


def host_accesses(buf):
    return {
        "host": lambda: buf.host,
        "read_host": lambda: buf.read_host().__enter__(),
        "write_host": lambda: buf.write_host().__enter__(),
        "numpy": buf.numpy,
        "np.asarray": lambda: np.asarray(buf),
        "__array__": buf.__array__,
        "element": lambda: buf[0],
        "host of a part": lambda: buf[1:].host,
        "copy_from": lambda: buf.copy_from([1, 2, 3]),
        "source of copy_from": lambda: UnifiedBuffer(3).copy_from(buf),
        "pickle": lambda: pickle.dumps(buf),
        "close": buf.close,
    }


def test_while_a_kernel_works_on_a_buffer_the_host_keeps_off():
    buf, kernel = UnifiedBuffer.from_array([1.0, 2.0, 3.0]), Kernel()
    assert buf._lend(kernel.holds, None) == buf.host.ctypes.data
    kernel.runs = True
    everything = host_accesses(buf) | {
        "device": lambda: buf.device,
        "dlpack": lambda: np.from_dlpack(buf),
        "fill": lambda: buf.fill(1),
    }
    for name, access in everything.items():
        with pytest.raises(UnifiedBufferError, match=r"'adds' is working on this buffer; deactivate\('adds'\)"):
            pytest.fail(f"{name} gave {access()!r}")
    assert "in use by" in buf._repr_html_()
    assert "ring kernel adds" in buf._repr_html_()
    kernel.runs = False
    assert buf.host.tolist() == [1, 2, 3]
    assert "in use by" not in buf._repr_html_()


def test_several_kernels_may_work_on_a_buffer():
    buf, first, second = UnifiedBuffer(3), Kernel("first"), Kernel("second")
    address = buf._lend(first.holds, None)
    first.runs = True
    assert buf._lend(second.holds, 0) == address
    assert buf[1:]._lend(lambda: None, None) == address + 4
    second.runs = True
    first.runs = False
    with pytest.raises(UnifiedBufferError, match="'second'"):
        buf.numpy()
    second.runs = False
    buf.numpy()


def test_a_buffer_does_not_keep_kernels_alive():
    buf, kernel = UnifiedBuffer(3), Kernel()
    buf._lend(kernel.holds, None)
    kernel.runs = True
    gone = weakref.ref(kernel)
    del kernel
    assert gone() is None
    buf.numpy()


def test_a_kernel_takes_no_views_with_gaps():
    buf = UnifiedBuffer((4, 6))
    assert [view.contiguous for view in (buf, buf[1:3], buf[:, 2], buf[::2])] == [True, True, False, False]


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


@pytest.mark.parametrize(("device", "error"), [(-1, UnifiedBufferError), ("cuda", TypeError), (0.0, TypeError)])
def test_what_is_no_index_of_a_gpu(device, error):
    with pytest.raises(error):
        UnifiedBuffer(3, device=device)


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
    assert '<th scope="row"' in page
    assert "host, which the device shares" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
