"""Pictures that stay in a notebook."""

import base64
import re
from html import escape

import numpy as np
import pytest

from pydotcompute.jupyter.display import (
    SERIES_COLOURS,
    chart_html,
    compact_html,
    dashboard_html,
    kernel_html,
    round_up,
    short,
)
from pydotcompute.telemetry import RuntimeStatistics

NOTHING = RuntimeStatistics({}, 0, None, None)


def paths(html: str) -> list[str]:
    """The lines of a chart, without those of the grid."""
    (image,) = re.findall(r"base64,([^']*)'", html)
    return re.findall(r"<path d='([^']*)' stroke='#\w*' stroke-width", base64.b64decode(image).decode())


def test_a_line_goes_through_its_points_from_left_to_right_and_higher_is_more():
    (path,) = paths(chart_html("Queue depth", "messages", ["a"], np.array([[0.0, 5.0, 10.0]]), 60))
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]]
    assert len(points) == 3
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]


def test_a_line_is_broken_where_nothing_is_known():
    nan = np.nan
    (path,) = paths(chart_html("t", "u", ["a"], np.array([[nan, 1, 2, nan, 3, nan]]), 60))
    assert [segment.count("L") for segment in path.split("M")[1:]] == [1, 0]


def test_each_kernel_has_a_line_of_its_own_colour():
    html = dashboard_html(NOTHING, {}, [], ["a", "b"], np.zeros((2, 9)), np.ones((2, 9)), 60)
    assert html.count(f"background:{SERIES_COLOURS[0]}'></span>a") == 1
    assert html.count(f"background:{SERIES_COLOURS[1]}'></span>b") == 1
    assert len(paths(html.partition("<img")[2].partition("<img")[0])) == 2


def test_names_are_text_and_never_markup():
    name = "</div><script>'\""
    html = dashboard_html(NOTHING, {}, [], [name], np.zeros((1, 9)), np.zeros((1, 9)), 60)
    assert "<script" not in html
    assert html.count(escape(name)) == 3  # in the legend, and in what both images say to those who do not see them


def test_the_axes_say_what_they_show():
    html = chart_html("Throughput", "msg/s", ["a"], np.array([[0.0, 1800.0]]), 30)
    for text in ("2k", "1k", "0", "30 s ago", "now", "msg/s"):
        assert f">{text}</span>" in html
    assert "alt='Throughput (msg/s) over the last 30 s of a'" in html


def test_a_picture_without_a_course_has_no_charts():
    unknown = np.full((1, 10), np.nan)
    assert "<img" not in dashboard_html(NOTHING, {}, [], ["a"], unknown, unknown, 60)
    assert "<img" in dashboard_html(NOTHING, {}, [], ["a"], np.zeros((1, 10)), unknown, 60)


def test_notes_are_text():
    html = dashboard_html(NOTHING, {}, ["a failed: <b>"], [], np.zeros((0, 9)), np.zeros((0, 9)), 60)
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


def test_in_one_line_there_are_sums_and_what_has_failed():
    html = compact_html(NOTHING, ["a failed: <b>"], 48210.0, np.full(9, 2.0), 60)
    assert "0 ring kernels" in html
    assert "<b>48.2k</b> msg/s" in html
    assert "over the last 60 s" in html
    assert "a failed: &lt;b&gt;" in html
    assert "msg/s" not in compact_html(NOTHING, [], None, np.full(9, np.nan), 60)


def test_one_kernel_has_a_table_and_charts_of_its_own():
    html = kernel_html(NOTHING, {}, ["a failed"], ["a"], np.zeros((1, 9)), np.ones((1, 9)), 60)
    assert html.count("<table") == 1
    assert html.count("<img") == 2
    assert "ring kernels" not in html
    assert "a failed" in html
