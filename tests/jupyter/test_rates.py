"""What is read from the difference of two frames."""

import numpy as np
import pytest

from pydotcompute.jupyter.rates import POINTS, Rates
from pydotcompute.telemetry import COUNTERS, Frame

WINDOW = 60.0
STEP = WINDOW / POINTS


def frame(seconds: float, **kernels: dict[str, object]) -> Frame:
    """A frame taken after so many seconds; of each kernel what is given, else zero."""
    rows = np.zeros(len(kernels), COUNTERS)
    launches = np.zeros(len(kernels), np.int64)
    for i, (row, counters) in enumerate(zip(rows, kernels.values(), strict=True)):
        for name, value in counters.items():
            if name == "launch":
                launches[i] = value
                continue
            if name in ("waited", "handled"):
                for bucket, n in value.items():
                    row[name][bucket] = n
            else:
                row[name] = value
    return Frame(1, int(seconds * 1e9), tuple(kernels), rows, None, None, 0, launches)


@pytest.fixture
def rates() -> Rates:
    return Rates(WINDOW)


def test_nothing_is_known_after_one_frame(rates):
    rates.add(frame(100, a={"processed": 10}))
    assert rates.ids == ("a",)
    assert np.isnan(rates.rate).all()
    assert np.isnan(rates.wait).all()


def test_a_rate_is_what_was_handled_since_about_two_seconds(rates):
    for tenth in range(100):
        rates.add(frame(100 + tenth / 10, a={"processed": tenth * 5}, b={"processed": 7}))
    assert rates.rate == pytest.approx([50, 0])
    rates.add(frame(110, a={"processed": 99 * 5 + 1000}, b={"processed": 7}))
    assert 300 < rates.rate[0] < 700


def test_percentiles_are_those_of_the_last_seconds(rates):
    slow = {30: 1000}  # a thousand messages of up to 1 s each, long ago
    rates.add(frame(100, a={"processed": 1000, "waited": slow, "handled": slow}))
    fast = {**slow, 11: 100}  # since then a hundred of about a microsecond
    rates.add(frame(101, a={"processed": 1100, "waited": fast, "handled": fast}))
    assert (rates.wait[:, 0] < 2.1e-6).all()
    assert (rates.handle[:, 0] < 2.1e-6).all()
    assert rates.wait[0, 0] < rates.wait[1, 0]


def test_an_idle_kernel_has_no_percentiles(rates):
    past = {"processed": 9, "waited": {12: 9}, "handled": {12: 9}}
    busy = {"processed": 3, "waited": {12: 3}, "handled": {12: 3}}
    rates.add(frame(100, idle=past, busy={}))
    rates.add(frame(101, idle=past, busy=busy))
    assert np.isnan(rates.wait[:, 0]).all()
    assert np.isfinite(rates.wait[:, 1]).all()
    assert rates.rate == pytest.approx([0, 3])


def test_kernels_are_matched_by_id(rates):
    rates.add(frame(100, a={"processed": 10}, b={"processed": 20}, c={"processed": 30}))
    rates.add(frame(101, c={"processed": 33}, new={"processed": 4}, a={"processed": 11}))
    assert rates.ids == ("c", "new", "a")
    assert rates.rate == pytest.approx([3, 4, 1])


def test_a_kernel_that_was_launched_again_counts_from_zero(rates):
    before = {"received": 1000, "processed": 1000, "waited": {12: 1000}, "handled": {12: 1000}}
    after = {"received": 6, "processed": 5, "waited": {14: 6}, "handled": {14: 5}, "launch": 1}
    rates.add(frame(100, a=before))
    rates.add(frame(101, a=after))
    assert rates.rate == pytest.approx([5])
    assert 8e-6 < rates.wait[0, 0] < 17e-6


def test_one_that_has_handled_more_than_the_former_counts_from_zero_too(rates):
    rates.add(frame(100, a={"processed": 10, "waited": {30: 10}}, b={"processed": 7, "launch": 1}))
    rates.add(
        frame(
            101, a={"processed": 50, "waited": {11: 50}, "launch": 2}, b={"processed": 8, "launch": 1}, c={"launch": 3}
        )
    )
    assert rates.rate == pytest.approx([50, 1, 0])
    assert (rates.wait[:, 0] < 2.1e-6).all()


def test_what_a_kernel_seems_to_have_received_may_fall(rates):
    """It is read while the loop of a compiled kernel runs on."""
    rates.add(frame(100, a={"received": 1_000_100, "processed": 1_000_000}))
    rates.add(frame(101, a={"received": 1_000_050, "processed": 1_000_050}))
    assert rates.rate == pytest.approx([50])


def test_after_a_time_without_frames_it_starts_anew(rates):
    rates.add(frame(100, a={}))
    rates.add(frame(200, a={"processed": 1000}))
    assert np.isnan(rates.rate).all()
    rates.add(frame(201, a={"processed": 1002}))
    assert rates.rate == pytest.approx([2])


def test_series_end_now_and_say_what_they_do_not_know(rates):
    for k in range(20):
        rates.add(frame(100 + k * STEP, a={"queue_depth": k}))
    depths, _ = rates.series(["a"])
    assert depths.shape == (1, POINTS)
    assert depths[0, -20:] == pytest.approx(range(20))
    assert np.isnan(depths[0, :-20]).all()


def test_series_go_round(rates):
    for k in range(3 * POINTS):
        rates.add(frame(100 + k * STEP, a={"queue_depth": k}))
    assert rates.series(["a"])[0][0] == pytest.approx(range(2 * POINTS, 3 * POINTS))


def test_one_frame_a_second_makes_a_whole_line_and_a_long_hole_stays_open(rates):
    for second in range(4):
        rates.add(frame(100 + second, a={"queue_depth": 5}))
    assert np.isfinite(rates.series(["a"])[0][0, -6:]).all()
    rates.add(frame(120, a={"queue_depth": 9}))
    depths = rates.series(["a"])[0][0]
    assert depths[-1] == 9
    assert np.isnan(depths[-30:-1]).all()
    assert depths[-35] == 5


def test_series_are_kept_when_kernels_come_and_go(rates):
    rates.add(frame(100, a={"queue_depth": 1}, b={"queue_depth": 2}))
    rates.add(frame(100 + STEP, new={"queue_depth": 7}, a={"queue_depth": 3}))
    new, a = rates.series(["new", "a"])[0]
    assert a[-2:] == pytest.approx([1, 3])
    assert np.isnan(new[-2])
    assert new[-1] == 7


def test_the_history_is_the_series_of_all(rates):
    for k in range(7):
        rates.add(frame(100 + k * STEP, a={"processed": k * k}, b={"processed": k}))
    np.testing.assert_array_equal(rates.history(), rates.series(["a", "b"])[1])


def test_the_busiest_have_the_most_traffic_or_the_fullest_mailboxes(rates):
    for k in range(10):
        rates.add(
            frame(
                100 + k / 4,
                idle={},
                stuck={"queue_depth": 500},
                fast={"processed": 1000 * k},
                slow={"processed": k},
            )
        )
    assert set(rates.busiest(2)) == {"stuck", "fast"}
    assert len(rates.busiest(10)) == 4
    assert Rates(WINDOW).busiest(5) == []


def test_percentiles_are_read_once_a_second(rates):
    rates.add(frame(100, a={}))
    rates.add(frame(101, a={"waited": {11: 10}}))
    first = rates.wait[0, 0]
    rates.add(frame(101.9, a={"waited": {11: 10, 30: 1000}}))
    assert rates.wait[0, 0] == first
    rates.add(frame(102.1, a={"waited": {11: 10, 30: 1000}}))
    assert rates.wait[0, 0] > 0.1


def test_percentiles_of_other_kernels_are_read_at_once(rates):
    rates.add(frame(100, a={}))
    rates.add(frame(100.5, a={"waited": {11: 10}}))
    assert rates.wait.shape == (2, 1)
    rates.add(frame(100.6, a={"waited": {11: 10}}, b={"waited": {11: 10}}))
    assert rates.wait.shape == rates.handle.shape == (2, 2)


def test_all_windows_are_kept():
    rates = Rates(WINDOW, others=(30.0, 300.0))
    for second in range(100):
        rates.add(frame(100 + second, a={"queue_depth": second}))
    for window, oldest in ((30.0, 70), (300.0, 0), (WINDOW, 40)):
        rates.window = window
        assert rates.step == window / POINTS
        depths = rates.series(["a"])[0][0]
        assert np.nanmin(depths) == pytest.approx(oldest, abs=2)
        assert depths[-1] == 99


def test_a_window_that_was_not_kept_begins_now(rates):
    rates.window = 120.0
    rates.window = WINDOW
    for second in range(10):
        rates.add(frame(100 + second, a={"queue_depth": second}))
    rates.window = 90.0
    depths = rates.series(["a"])[0][0]
    assert depths[-1] == 9
    assert np.isnan(depths[:-1]).all()


def test_without_a_window_there_are_rates_and_no_series():
    rates = Rates(None)
    rates.add(frame(100, a={"processed": 10}))
    rates.add(frame(102, b={"processed": 7}, a={"processed": 20}))
    assert rates.rate == pytest.approx([3.5, 5])
    assert np.isnan(rates.total()).all()


def test_of_windows_that_were_set_only_the_present_one_is_kept():
    rates = Rates(WINDOW, others=(30.0,))
    for window in np.arange(100.0, 200.0):
        rates.window = window
    assert set(rates._all) == {30.0, WINDOW, 199.0}
    rates.add(frame(100, a={"queue_depth": 5}))
    rates.window = 199.0
    assert rates.series(["a"])[0][0, -1] == 5


def test_the_total_is_the_sum_over_all_kernels(rates):
    assert np.isnan(rates.total()).all()
    for second in range(5):
        rates.add(frame(100 + second, a={"processed": 10 * second}, b={"processed": 5 * second}))
    total = rates.total()
    assert total.shape == (POINTS,)
    assert total.dtype == np.float32
    assert total[-1] == pytest.approx(15)
    assert np.isnan(total[:100]).all()
