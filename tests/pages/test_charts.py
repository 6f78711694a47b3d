"""An axis is marked where its values can be."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.pages.charts import ticks


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_what_is_counted_is_marked_at_whole_numbers(low: int, span: int) -> None:
    marks = ticks(low, low + span, unit=1)
    assert all(mark == int(mark) for mark in marks)
    assert marks[0] <= low <= low + span <= marks[-1]
    assert 2 <= len(marks) <= 8
