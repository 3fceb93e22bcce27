"""Rows of several studies: paired where that is true, refused with the reason where it is not."""

import math

import numpy as np
import pytest
from fake_study import FOLDS, add_row, finish, make_study, make_study_of_rows

from cityseg.cell import Confusion, Counts, write_confusion
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, write_folds
from study import analysis, cautions, sheets
from study.bootstrap import resample, widest_unit
from study.comparison import compare
from study.several import (
    Contender,
    best_contender,
    check_pair,
    find_contender,
    refusal,
    side_by_side,
)
from study.space import Search
from study.statistics import holm
from study.store import Study
from study.tally import Tally


def study_of(results, name: str, seed: int = 0, **changes) -> Study:
    """One finished row by chance; all studies are of the same frames and folds."""
    study = make_study(results, name=name, **changes)
    rng = np.random.default_rng(seed)
    for fold in (1, 2, 3):
        finish(study, fold)
        low, full = (
            rng.integers(0, 9, (2, 19, 19)) + (10 + seed) * np.eye(19, dtype=np.int64)
            for _ in range(2)
        )
        counts = Confusion(FOLDS[fold - 1], Counts(2, low, full), Counts(4, low, full))
        write_confusion(study.cell(0, fold).confusion, counts)
    return study


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def three(results) -> list[Study]:
    """`a`, `b`, and `c` of several rows."""
    several = make_study_of_rows(results)
    several.folder.rename(results / "c")
    return [study_of(results, "a"), study_of(results, "b", seed=8), Study(results / "c")]


def tally_of(contender: Contender) -> Tally:
    counts = analysis.variant_counts(contender.variant, ["best_full"])
    assert counts is not None
    return counts.tallies["best_full"]


def plain(study: Study, number: int = 0) -> Contender:
    return Contender(analysis.read_variant(study, number), 1)


def with_record(study: Study, **changes) -> Study:
    study.write(study.read().model_copy(update=changes))
    return study


def test_two_studies_are_compared_as_two_rows_of_one_would_be(three):
    a, b = plain(three[0]), plain(three[1])
    table = side_by_side([a, b], "best_full")
    rows = {one.name: tally_of(one) for one in (a, b)}
    layout = rows["a v000"].layout
    (theirs,) = compare(rows, "a v000", resample(layout, widest_unit(layout), seed=0))

    (ours,) = table.comparisons
    assert (ours.row, ours.base) == ("b v000", "a v000")
    assert ours.verdict == theirs.verdict
    assert (ours.by_fold, ours.adjusted) == (theirs.by_fold, theirs.adjusted)
    scores = [analysis.fold_table(one.variant).miou("best", "full").mean() for one in (a, b)]
    assert ours.difference == pytest.approx(scores[1] - scores[0])
    assert table.refused == ()


def test_a_row_chosen_from_many_is_compared_as_one_of_them(three):
    """Bonferroni over the pairs that it and the first one were chosen from, then Holm."""
    a, b, c = (best_contender(study) for study in three)
    assert (a.chosen_of, b.chosen_of, c.chosen_of) == (1, 1, 3)
    assert c.name == "c v002"
    table = side_by_side([a, b, c], "best_full")
    raw = [one.p_value for one in table.comparisons]

    expected = holm([min(1, raw[0]), min(1, 3 * raw[1])])
    assert [one.adjusted for one in table.comparisons] == pytest.approx(list(expected))
    assert {one.compared for one in table.comparisons} == {4}
    turned = side_by_side([c, a], "best_full").comparisons[0]
    assert turned.adjusted == pytest.approx(min(1, 3 * turned.p_value))
    assert "c v002 (of 3 rows)" in sheets.side_caption(table)
    assert "a v000 (of" not in sheets.side_caption(table)


def test_what_folds_cannot_tell_is_said_once_of_all_that_stand_side_by_side(three, monkeypatch):
    table = side_by_side([plain(study) for study in three], "best_full")
    (of_folds,) = cautions.of_folds(3, "frames")
    assert sheets.side_caption(table).count(of_folds) == 1
    assert "may be none" not in sheets.side_caption(table)

    monkeypatch.setitem(cautions.REJECTED["frames"], 3, cautions.Rejected(0.05, 0.5))
    assert sheets.side_caption(table).count("A difference that is shown may be none") == 1
    alone = side_by_side([plain(three[0])], "best_full")
    assert "may be none" not in sheets.side_caption(alone)


def test_other_data_is_refused(three):
    data = three[1].read().data.model_copy(update={"fingerprint": "f" * 64})
    reason = refusal(plain(three[0]).variant, plain(with_record(three[1], data=data)).variant,
                     "best_full")  # fmt: skip

    assert reason == "they are of different data (fingerprints 0 and ffffffff)"


def test_other_folds_of_the_same_frames_are_refused(three):
    folds = FoldsFile(grouping="frames", seed=1, folds=FOLDS[::-1])
    write_folds(three[1].folds_file, folds)
    other = plain(with_record(three[1], folds_hash=folds.content_hash()))
    reason = refusal(plain(three[0]).variant, other.variant, "best_full")

    assert reason is not None
    assert reason.startswith("their folds are of different frames (3 by frames, hash ")


def test_low_res_scores_of_other_input_sizes_are_refused_and_full_res_ones_are_not(three):
    config = three[1].read().config
    data = config.data.model_copy(update={"input_size": (64, 128)})
    other = plain(with_record(three[1], config=config.model_copy(update={"data": data}))).variant
    one = plain(three[0]).variant

    for objective in ("best_low", "last_low"):
        assert "different labels" in str(refusal(one, other, objective))
    assert refusal(one, other, "best_full") is None


def test_a_missing_fold_and_the_same_row_are_refused(three):
    a, b = (plain(study).variant for study in three[:2])
    assert refusal(a, a, "best_full") == "they are the same row"
    b.cell(2).confusion.unlink()

    for pair in ((a, b), (b, a)):
        assert refusal(*pair, "best_full") == "b has 1 of 3 folds without a score"
    with pytest.raises(InputError, match="a v000 and b v000 cannot be paired: b has 1 of 3"):
        check_pair(plain(three[0]), plain(three[1]), "best_full")


def test_studies_that_cannot_be_paired_still_stand_side_by_side(three):
    three[1].cell(0, 2).confusion.unlink()
    table = side_by_side([plain(study) for study in three], "best_full")

    assert table.refused == (
        "b v000 is not paired with a v000: b has 1 of 3 folds without a score",
    )
    assert [one.row for one in table.comparisons] == ["c v000"]
    text = sheets.side_text(table)
    assert text["Folds"].tolist() == ["3/3", "2/3", "3/3"]
    assert text["95 % from"][1] == text["To first"][1] == text["To first"][0] == "–"
    assert sheets.side_verdicts(table)[-1] == f"{table.refused[0]}."
    numbers = sheets.side_numbers(table).set_index("name")
    assert numbers["to_first"].isna().tolist() == [True, True, False]
    assert math.isnan(numbers["t_low"]["b v000"])
    assert set(numbers["data"]) == {analysis.SYNTHETIC}


def test_without_the_first_ones_folds_nothing_is_paired(three):
    three[0].cell(0, 1).confusion.unlink()
    table = side_by_side([plain(study) for study in three[:2]], "best_full")

    assert table.comparisons == ()
    assert len(table.refused) == 1


def test_studies_of_one_name_are_told_apart(tmp_path):
    one = study_of(tmp_path / "here", "same")
    other = study_of(tmp_path / "there", "same", seed=8)
    table = side_by_side([plain(one), plain(other)], "best_full")

    assert table.standings[1].name == f"same v000 of {other.folder}"
    assert len(table.comparisons) == 1


@pytest.mark.parametrize(
    ("word", "name", "chosen_of"),
    [("a", "a v000", 1), ("c", "c v002", 3), ("c/v001", "c v001", 1), ("v004", "c v004", 1)],
)
def test_a_row_is_found_by_what_was_typed(three, results, word, name, chosen_of):
    assert three
    found = find_contender(word, results, of="c")

    assert (found.name, found.chosen_of) == (name, chosen_of)
    if "/" in word:
        path = str(results / word)
        assert find_contender(path, results).name == name, "by its path, too"


@pytest.mark.parametrize(
    ("word", "error"),
    [("c/v009", "got row 009, expected one of the 6 rows of study c"), ("d/v000", "no study d")],
)
def test_a_row_that_is_not_there_is_one_line(three, results, word, error):
    assert three
    with pytest.raises(InputError, match=error):
        find_contender(word, results)


def test_the_best_contender_of_an_unfinished_study_is_its_base_row(results):
    study = make_study(results, search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})

    found = best_contender(study)

    assert (found.name, found.chosen_of) == ("fake_1 v000", 1)
