"""The table of counters, histograms and percentiles."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydotcompute.telemetry import (
    BUCKETS,
    COUNTERS,
    STATES,
    WORDS,
    CounterTable,
    KernelStatistics,
    RuntimeStatistics,
    percentile,
)

exactly = settings(derandomize=True, deadline=None)
LONGEST = 2 ** (BUCKETS - 1)


def histogram(durations):
    counts = np.zeros(BUCKETS, np.int64)
    for ns in durations:
        counts[min(int(ns).bit_length(), BUCKETS - 1)] += 1
    return counts


# -- rows ----------------------------------------------------------------------------------------------------------


def test_a_row_is_of_int64_words_only():
    assert COUNTERS.itemsize == 8 * WORDS
    for name in COUNTERS.names:
        assert COUNTERS[name].base == np.int64
    assert [COUNTERS[name].shape for name in ("waited", "handled")] == [(BUCKETS,), (BUCKETS,)]


def test_what_is_written_to_a_row_is_in_later_copies_and_not_in_former_ones():
    table = CounterTable()
    place, row = table.allocate()
    before = table.copy([place])
    row[WORDS - 1] = 7
    after = table.copy([place])
    assert before["handled"][0, -1] == 0
    assert after["handled"][0, -1] == 7
    assert after.dtype == COUNTERS
    after["handled"][0, -1] = 8
    assert row[WORDS - 1] == 7


def test_rows_never_move_however_many_there_are():
    table = CounterTable()
    rows = [table.allocate() for _ in range(3000)]
    assert len({place for place, _ in rows}) == 3000
    for n, (_, row) in enumerate(rows):
        row[0] = n
    order = np.random.default_rng(1).permutation(3000)
    copied = table.copy([rows[n][0] for n in order])
    assert copied.shape == (3000,)
    assert copied[COUNTERS.names[0]].tolist() == order.tolist()


def test_a_row_that_was_given_back_is_given_out_again_zeroed():
    table = CounterTable()
    place, row = table.allocate()
    row[3] = 1
    table.release(place)
    again, row = table.allocate()
    assert again == place
    assert list(row) == [0] * WORDS


def test_a_copy_of_no_rows():
    table = CounterTable()
    assert table.copy([]).shape == (0,)
    assert table.copy([]).dtype == COUNTERS


# -- percentiles ---------------------------------------------------------------------------------------------------


def test_nothing_counted_has_no_percentile():
    assert math.isnan(percentile(np.zeros(BUCKETS, np.int64), 50))


def test_percentiles_of_many_histograms_at_once():
    table = np.stack([[histogram([1000]), histogram([])], [histogram([10**6]), histogram([10**9])]])
    p50 = percentile(table, 50)
    assert p50.shape == (2, 2)
    assert np.isnan(p50[0, 1])
    assert p50[0, 0] < p50[1, 0] < p50[1, 1]


@exactly
@given(
    st.lists(st.integers(0, LONGEST * 4), min_size=1, max_size=200),
    st.sampled_from([0, 1, 25, 50, 75, 90, 99, 99.9, 100]),
)
def test_a_percentile_lies_in_the_bucket_of_the_true_one(durations, q):
    value = float(percentile(histogram(durations), q)) * 1e9
    true = sorted(durations)[max(math.ceil(len(durations) * q / 100), 1) - 1]
    bucket = min(true.bit_length(), BUCKETS - 1)
    low, high = (2 ** (bucket - 1), 2**bucket) if bucket else (0, 1)
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@exactly
@given(st.lists(st.integers(1, LONGEST - 1), min_size=1, max_size=50))
def test_a_percentile_is_right_within_a_factor_of_two(durations):
    for q in (50, 99):
        true = sorted(durations)[max(math.ceil(len(durations) * q / 100), 1) - 1]
        assert true / 2 <= float(percentile(histogram(durations), q)) * 1e9 <= true * 2


@exactly
@given(st.lists(st.integers(0, LONGEST), min_size=1, max_size=50))
def test_percentiles_grow_with_q(durations):
    values = [float(percentile(histogram(durations), q)) for q in range(0, 101, 5)]
    assert values == sorted(values)


# -- statistics ----------------------------------------------------------------------------------------------------


def row_of(**values):
    row = np.zeros(1, COUNTERS)
    for name, value in values.items():
        row[name] = value
    return row[0]


def test_statistics_of_a_row():
    row = row_of(
        state=STATES.index("DEACTIVATED"), version=3, queue_size=10, queue_depth=4, queue_peak=9, replies_unread=2,
        received=100, processed=90, replied=80, dropped=7, dead_letters=8, errors=1, busy_ns=1_500_000_000,
        waited=histogram([1000] * 10), handled=histogram([10**6] * 10),
    )  # fmt: skip
    statistics = KernelStatistics.from_row("worker", row, "reactivate()")
    assert (statistics.kernel_id, statistics.state, statistics.version) == ("worker", "DEACTIVATED", 3)
    assert statistics.waiting_for == "reactivate()"
    assert (statistics.queue_size, statistics.queue_depth, statistics.queue_peak) == (10, 4, 9)
    assert (statistics.received, statistics.processed, statistics.replied) == (100, 90, 80)
    assert (statistics.dropped, statistics.dead_letters, statistics.errors) == (7, 8, 1)
    assert (statistics.replies_unread, statistics.busy) == (2, 1.5)
    assert 0.5e-6 <= statistics.wait_p50 <= statistics.wait_p99 <= 2e-6
    assert 0.5e-3 <= statistics.handle_p50 <= statistics.handle_p99 <= 2e-3
    assert sum(statistics.wait_histogram) == sum(statistics.handle_histogram) == 10
    assert len(statistics.wait_histogram) == BUCKETS
    assert all(type(count) is int for count in statistics.wait_histogram)


def test_statistics_are_frozen():
    one = KernelStatistics.from_row("worker", row_of())
    with pytest.raises(FrozenInstanceError):
        one.received = 1
    kernels = {"worker": one}
    everything = RuntimeStatistics(kernels, 0, None, None)
    kernels.clear()
    assert everything["worker"] is one
    with pytest.raises(FrozenInstanceError):
        everything.dead_letters = 1
    with pytest.raises(TypeError):
        everything.kernels["other"] = one
    with pytest.raises(KeyError):
        everything["other"]


def test_the_representation_leaves_the_histograms_out():
    text = repr(KernelStatistics.from_row("worker", row_of(received=5)))
    assert "received=5" in text
    assert "histogram" not in text
