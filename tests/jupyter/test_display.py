"""Pictures that stay in a notebook."""

import re

import numpy as np
import pytest

from pydotcompute.jupyter.display import chart_svg, dashboard_html, round_up, short
from pydotcompute.telemetry import RuntimeStatistics

NOTHING = RuntimeStatistics({}, 0, None, None)


def paths(svg: str) -> list[str]:
    return re.findall(r"<path d='([^']*)'", svg)


def test_a_line_goes_through_its_points_from_left_to_right_and_higher_is_more():
    (path,) = paths(chart_svg("Queue depth", "messages", ["a"], np.array([[0.0, 5.0, 10.0]]), 60))
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]]
    assert len(points) == 3
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]


def test_a_line_is_broken_where_nothing_is_known():
    nan = np.nan
    (path,) = paths(chart_svg("t", "u", ["a"], np.array([[nan, 1, 2, nan, 3, nan]]), 60))
    assert [segment.count("L") for segment in path.split("M")[1:]] == [1, 0]


def test_names_are_text_and_never_markup():
    svg = chart_svg("t", "u", ["</svg><script>'\""], np.array([[1.0, 2.0]]), 60)
    assert "<script" not in svg
    assert svg.count("</svg>") == 1


def test_the_axis_says_what_it_shows():
    svg = chart_svg("Throughput", "msg/s", ["a"], np.array([[0.0, 1800.0]]), 30)
    assert ">2k</text>" in svg
    assert ">30 s ago</text>" in svg
    assert "aria-label='Throughput (msg/s) over the last 30 s of a'" in svg


def test_a_picture_without_a_course_has_no_charts():
    unknown = np.full((1, 10), np.nan)
    assert "<svg viewBox='0 0 480" not in dashboard_html(NOTHING, [], ["a"], unknown, unknown, 60)
    assert "<svg viewBox='0 0 480" in dashboard_html(NOTHING, [], ["a"], np.zeros((1, 10)), unknown, 60)


def test_notes_are_text():
    html = dashboard_html(NOTHING, ["a failed: <b>"], [], np.zeros((0, 9)), np.zeros((0, 9)), 60)
    assert "a failed: &lt;b&gt;" in html


@pytest.mark.parametrize(
    ("value", "up"), [(0, 1), (0.3, 1), (1, 1), (1.1, 2), (3, 4), (62, 100), (400, 400), (401, 500)]
)
def test_axes_end_at_round_numbers(value, up):
    assert round_up(value) == up


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.5, "0.5"), (999, "999"), (1500, "1.5k"), (2e6, "2M"), (3e9, "3G")]
)
def test_counts_are_short(value, text):
    assert short(value) == text
