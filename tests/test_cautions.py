"""What is said beside intervals and tests that are not to be taken at their word."""

import pytest
from fake_study import make_study_of_rows

from study import analysis, cautions, evidence, verdicts


@pytest.mark.parametrize(
    ("folds", "grouping", "simulated", "share"),
    [(3, "frames", 3, "92 %"), (4, "frames", 5, "76 %"), (30, "given", 10, "51 %")],
)
def test_folds_are_cautioned_of_by_the_next_larger_simulated_number(
    folds, grouping, simulated, share
):
    (words,) = cautions.of_folds(folds, grouping)

    assert f"simulated studies of {simulated} folds by frames" in words
    assert f"in {share} where" in words


def test_three_folds_of_cities_can_be_taken_at_their_word():
    assert cautions.of_folds(3, "cities") == []
    assert cautions.of_tests(3, "cities") == cautions.of_tests(2, "frames") == []
    assert cautions.of_frames(5, "cities") == cautions.of_frames(10, "frames") == []


@pytest.mark.parametrize(
    ("folds", "grouping", "usual", "most"),
    [(4, "frames", "5 %", "16 %"), (5, "cities", "3 %", "18 %"), (10, "given", "17 %", "52 %")],
)
def test_folds_that_agree_with_each_other_are_cautioned_of(folds, grouping, usual, most):
    (words,) = cautions.of_tests(folds, grouping)

    assert words.startswith("A difference that is shown may be none")
    assert f", {usual} of rows" in words and f"and {most} where" in words


def test_many_folds_of_few_whole_cities_are_cautioned_of():
    (words,) = cautions.of_frames(8, "cities")

    assert "they held in 71 %" in words


def test_the_caption_says_it_by_itself(tmp_path):
    """Three folds by frames: the terminal, the files and the page show this caption."""
    row = analysis.read_variant(make_study_of_rows(tmp_path / "results"))
    table = evidence.interval_table(row)
    assert table is not None

    (words,) = cautions.of_folds(row.folds, row.grouping)
    assert words in verdicts.interval_caption(table)
