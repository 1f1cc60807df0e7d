"""Observations from files and rows, and what is refused before any law is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from whet.errors import DataError
from whet.forecast.observations import Observation, Observed, observations_of, read_observations, series_of


def test_a_csv_file_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("rows,accuracy,seed,learner\n10,0.5,0,tree\n20,0.6,0,tree\n10,0.4,1,net\n")
    rows = read_observations(file, x="rows", metric="accuracy", group="learner")
    assert rows == (Observation(10, 0.5, 0, "tree"), Observation(20, 0.6, 0, "tree"), Observation(10, 0.4, 1, "net"))


def test_what_cannot_be_read_names_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("size,score\n10,0.5\n20,none\n")
    with pytest.raises(DataError, match=r"scores.csv, line 3: column 'score': expected a number, got 'none'"):
        read_observations(file)
    with pytest.raises(DataError, match=r"scores.csv, line 2: no column 'rows'.*There are: score, size"):
        read_observations(file, x="rows")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_observations(tmp_path / "none.csv")


def test_series_are_sorted_tables_with_gaps() -> None:
    rows = observations_of(
        [{"size": 20, "score": 2, "seed": 1}, {"size": 10, "score": 1, "seed": 0}, {"size": 10, "score": 3, "seed": 1}]
    )
    (series,) = series_of(Observed(rows), "law", least=2)
    assert series.sizes.tolist() == [10, 20]
    assert np.array_equal(series.scores, [[1, np.nan], [3, 2]], equal_nan=True)
    assert series.means.tolist() == [2, 2] and series.last == (20, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no observations"),
        ([(0, 0.5)], "size 0 .*sizes are positive"),
        ([(10, float("nan"))], "the score at size 10 is nan"),
        ([(10, 0.5), (10, 0.6)], "two scores at size 10, seed 0"),
        ([(10, 0.5), (20, 0.6)], r"needs at least 3 sizes, got 2 \(10, 20\)"),
        ([(10, 0.5), (20, 0.6), (30, 0.7)], "span a factor of 3, from 10 to 30; it takes at least 8"),
    ],
)
def test_what_no_law_is_fitted_to(rows: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        series_of(Observed(tuple(Observation(*row) for row in rows)), "law", least=3, span=8.0)
