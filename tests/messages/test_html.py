"""Messages, records and arrays of these as tables."""

from html.parser import HTMLParser
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, Shape, message
from pydotcompute.messages.html import ROWS, records_html


@message
class Place:
    x: np.float64
    y: np.float64


@message
class Order:
    name: str
    where: Place
    amounts: Any = None


class State(Record):
    gain: np.float64 = 2.0
    at: Place = Place(1.0, 2.0)
    window: Annotated[NDArray[np.float32], Shape(100)]


class Cells(HTMLParser):
    """The texts of the cells of all tables, row by row; and all text."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.text, self._cell = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self._cell &= tag not in ("td", "th")


def test_each_field_has_its_type_and_its_value():
    page = Cells(Order("<a & b>", Place(1.5, -2.0), amounts=np.arange(6.0).reshape(2, 3))._repr_html_())
    assert page.rows[0] == ["field", "type", "value"]
    assert page.rows[1] == ["name", "str, 7", "'<a & b>'"]
    assert page.rows[-1] == ["amounts", "float64 (2, 3)", "[[0., 1., 2.], [3., 4., 5.]]"]
    assert "Order" in page.text


def test_a_message_within_a_message_is_shown_field_by_field():
    page = Cells(Order("a", Place(1.5, -2.0))._repr_html_())
    assert ["x", "float", "1.5"] in page.rows
    assert ["y", "float", "-2.0"] in page.rows


def test_what_is_within_each_other_for_ever_comes_to_an_end():
    order = Order("a", Place(1.5, -2.0))
    order.amounts = order
    html = order._repr_html_()
    assert Cells(html).text.count("'a'") <= 4
    deep = Order("0", Place(0, 0), Order("1", Place(0, 0), Order("2", Place(0, 0), Order("3", Place(0, 0)))))
    assert "Order(name='3'" in Cells(deep._repr_html_()).text


@pytest.mark.parametrize(
    "value", ["x" * 10_000, list(range(10_000)), np.zeros((300, 300)), {i: i for i in range(10_000)}, b"1" * 10_000]
)
def test_a_long_value_is_shortened(value):
    text = Cells(Order("a", Place(1.5, -2.0), value)._repr_html_()).text
    assert len(text) < 500
    assert "10,000" in text or "(300, 300)" in text


def test_priority_and_correlation_are_shown_where_they_tell_something():
    first = Order("a", Place(0, 0))
    assert "priority" not in first._repr_html_()
    assert "_id" not in first._repr_html_()
    answer = first.reply(Order, "b", Place(0, 0), priority=3)
    page = Cells(answer._repr_html_())
    assert ["priority", "int", "3"] in page.rows
    assert ["correlation_id", "UUID", f"UUID('{first.message_id}')"] in page.rows


def test_a_repr_that_raises_hides_no_other_field():
    class Broken:
        def __repr__(self):
            raise ZeroDivisionError

    page = Cells(Order("a", Place(0, 0), Broken())._repr_html_())
    assert ["name", "str, 1", "'a'"] in page.rows
    assert page.rows[-1][0] == "amounts"


def test_a_message_that_shows_itself_is_left_alone():
    @message
    class Own:
        value: int

        def _repr_html_(self):
            return "mine"

    @message
    class Heir(Own):
        other: int = 0

    assert Own(1)._repr_html_() == Heir(1)._repr_html_() == "mine"


def test_a_record_is_shown_like_a_message():
    state = State(window=np.arange(100, dtype=np.float32))
    page = Cells(state._repr_html_())
    assert f"record of {State.dtype.itemsize} B" in page.text
    assert ["gain", "float", "2.0"] in page.rows
    assert ["x", "float", "1.0"] in page.rows
    window = page.rows[-1]
    assert window[:2] == ["window", "float32 (100,)"]
    assert "..." in window[2]


def test_an_array_of_records_is_a_table_of_its_fields():
    array = np.array([(i, -i) for i in range(50)], Place.dtype)
    page = Cells(records_html(array))
    assert page.rows[0] == ["place", "xfloat64", "yfloat64"]
    assert page.rows[2] == ["1", "1.0", "-1.0"]
    assert len(page.rows) == ROWS + 1
    assert "50 records of 16 B" in page.text
    assert "and 30 more" in page.text
    assert "more" not in records_html(array[:ROWS])


def test_one_record_and_arrays_of_other_shapes_are_shown_too():
    array = np.array([(i, -i) for i in range(6)], Place.dtype)
    assert Cells(records_html(array[1])).rows == [["xfloat64", "yfloat64"], ["1.0", "-1.0"]]
    page = Cells(records_html(array.reshape(2, 3)))
    assert "shape (2, 3)" in page.text
    assert page.rows[4] == ["3", "3.0", "-3.0"]
    assert Cells(records_html(array[:0])).text == "0 records of 16 Bplacexfloat64yfloat64"
