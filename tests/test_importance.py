"""Importance of settings, where the truth is known because the scores are made from them."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from fake_study import make_study, make_study_of_rows

from study import analysis, sheets
from study.analysis import FoldScores, Spread, VariantRow, VariantTable
from study.counts import OBJECTIVES
from study.effort import Device, Effort
from study.importance import Importance, measure_importance
from study.space import Choices, Parameters, Range, Search

NO_EFFORT = Effort(0, 0.0, 0.0, 0.0, math.nan)
SPACE = Search(
    variants=2,
    space={
        "train.lr": Range(low=1e-5, high=1e-1, log=True),
        "model.dropout": Range(low=0.0, high=0.8),
    },
)


def table_of(tmp_path, rows: list[tuple[Parameters, float]], search: Search = SPACE):
    """A table of finished rows with these values and best_full scores; the base row scores 0.5."""
    study = make_study(tmp_path / "results", search=search)
    rows = [({}, 0.5), *rows]
    variants = tuple(_row(i, parameters, score) for i, (parameters, score) in enumerate(rows))
    base = analysis.read_variant(study)
    return VariantTable(base, "best_full", variants, len(rows), Device("CPU core", 1))


def _row(number: int, parameters: Parameters, score: float) -> VariantRow:
    miou: FoldScores = {objective: np.full(3, math.nan) for objective in OBJECTIVES}
    miou["best_full"] = score + np.array([-0.01, 0, 0.01])
    unknown = Spread(math.nan, math.nan, 3)
    status = "failed" if math.isnan(score) else "done"
    return VariantRow(
        number, "given", parameters, status, "", 3, 0, 0, miou, unknown, NO_EFFORT
    )  # fmt: skip


def measured(table: VariantTable) -> Importance:
    importance, note = measure_importance(table)
    assert note == ""
    assert importance is not None
    return importance


def random_rows(count: int, lr_effect: float, dropout_effect: float, noise: float = 0.0):
    """Scores that are linear in log10(lr) and in dropout, each over its space from 0 to 1."""
    rng = np.random.default_rng(0)
    rows = []
    for x, y in rng.random((count, 2)).tolist():
        score = 0.2 + 0.1 * (lr_effect * x + dropout_effect * y) + noise * rng.normal()
        rows.append(({"train.lr": 10 ** (4 * x - 5), "model.dropout": 0.8 * y}, float(score)))
    return rows


@pytest.mark.parametrize(("lr", "dropout"), [(3, 1), (1, 2)])
def test_shares_of_a_linear_score_are_those_of_its_variance(tmp_path, lr, dropout):
    """Of a x + b y over a square the variance is split as a^2 to b^2; lr by its logarithm."""
    ours = measured(table_of(tmp_path, random_rows(150, lr, dropout)))

    total = lr**2 + dropout**2
    assert ours.shares["train.lr"] == pytest.approx(lr**2 / total, abs=0.06)
    assert ours.shares["model.dropout"] == pytest.approx(dropout**2 / total, abs=0.06)
    assert next(iter(ours.shares)) == ("train.lr" if lr > dropout else "model.dropout")
    assert sum(ours.top_shares.values()) == pytest.approx(1)
    assert max(ours.top_shares, key=lambda key: ours.top_shares[key]) == next(iter(ours.shares))
    assert ours.predicted > 0.8
    assert (ours.rows, ours.warning) == (151, "")


def test_what_two_settings_do_together_is_missing_from_their_shares(tmp_path):
    """Of (x - 1/2)(y - 1/2) neither explains anything alone."""
    rows = [
        (values, 0.3 + (values["model.dropout"] / 0.8 - 0.5)
         * ((math.log10(values["train.lr"]) + 5) / 4 - 0.5))
        for values, _ in random_rows(150, 0, 0)
    ]  # fmt: skip
    ours = measured(table_of(tmp_path, rows))

    assert sum(ours.shares.values()) < 0.3


def test_too_few_rows_are_said_to_be_too_few(tmp_path):
    ours = measured(table_of(tmp_path, random_rows(11, 3, 1)))

    assert "12 rows for 2 settings are fewer than 10 a setting" in ours.warning
    assert ours.note.startswith("fANOVA over 12 finished rows. Not to be relied on")
    assert ours.top_shares == {}, "PED-ANOVA takes 50 rows"


def test_scores_that_no_setting_explains_are_said_to_be_noise(tmp_path):
    ours = measured(table_of(tmp_path, random_rows(80, 0, 0, noise=0.01)))

    assert ours.predicted < 0.3
    assert "of the variance of rows that it has not seen" in ours.warning
    assert "fewer" not in ours.warning


def test_scores_that_are_all_equal_give_no_share(tmp_path):
    rows = [(values, 0.5) for values, _ in random_rows(30, 0, 0)]
    ours = measured(table_of(tmp_path, rows))

    assert set(ours.shares.values()) == {0.0}
    assert "all scores are equal" in ours.warning
    assert sheets.importance_text(ours)["fANOVA"].tolist() == ["0.00", "0.00"]


def test_choices_lists_and_switches_count_as_settings(tmp_path):
    search = Search(variants=2, space={"data.input_size": Choices(choices=[[64, 128], [32, 64]])})
    sizes = [[64, 128], [32, 64]] * 15
    rows = [
        ({"data.input_size": size, "train.compile": i % 3 == 0}, 0.1 + 0.2 * (size[0] == 64))
        for i, size in enumerate(sizes)
    ]
    ours = measured(table_of(tmp_path, rows, search))

    assert list(ours.shares) == ["data.input_size", "train.compile"]
    assert ours.shares["data.input_size"] > 0.5


def test_rows_without_a_score_and_settings_without_a_difference_are_left_out(tmp_path):
    rows = [(values | {"train.batch_size": 2}, score) for values, score in random_rows(40, 3, 1)]
    failed = ({"train.lr": 1e-3, "train.plateau_patience": 5}, math.nan)
    ours = measured(table_of(tmp_path, [*rows, failed]))

    assert ours.rows == 41
    assert set(ours.shares) == {"train.lr", "model.dropout"}


def test_the_order_of_the_rows_changes_nothing(tmp_path):
    table = table_of(tmp_path, random_rows(20, 3, 1))
    turned = VariantTable(
        table.variant, table.objective, table.rows[::-1], table.planned, table.device
    )

    assert measured(table) == measured(turned)


def test_values_by_hand_over_decades_are_taken_by_their_logarithm(tmp_path):
    """As plain numbers nearly all of the space would be its last decade."""
    rows = [(values, score) for values, score in random_rows(60, 1, 1)]
    by_hand = measured(table_of(tmp_path / "hand", rows, Search(variants=2)))
    in_space = measured(table_of(tmp_path / "space", rows))

    assert by_hand.shares["train.lr"] == pytest.approx(in_space.shares["train.lr"], abs=0.1)


@pytest.mark.parametrize(("finished", "says"), [(0, ""), (1, "2 finished rows, it takes 4")])
def test_where_nothing_can_be_said_one_line_says_so_or_none(tmp_path, finished, says):
    importance, note = measure_importance(table_of(tmp_path, random_rows(finished, 3, 1)))

    assert importance is None
    assert says in note
    assert "\n" not in note


def test_rows_that_do_not_differ_are_not_spoken_of(tmp_path):
    rows = [({"train.lr": 1e-4}, 0.1 * i) for i in range(6)]

    assert measure_importance(table_of(tmp_path, rows, Search(variants=2))) == (None, "")


def test_without_optuna_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)

    importance, note = measure_importance(table_of(tmp_path, random_rows(20, 3, 1)))

    assert importance is None
    assert note == "no importance of settings: it is Optuna's, which is not installed"


def test_rows_on_disk_are_measured_by_their_objective(tmp_path):
    table = analysis.variant_table(make_study_of_rows(tmp_path / "results"))

    importance, note = measure_importance(table)

    assert importance is None, "three rows are finished"
    assert note.startswith("no importance of settings: 3 finished rows")


def test_the_table_of_importance_says_what_speaks_against_it_first(tmp_path):
    table = table_of(tmp_path, random_rows(11, 3, 1))
    ours = measured(table)
    numbers = sheets.importance_numbers(ours, table)

    assert sheets.importance_caption(ours, table).startswith("Not to be relied on: 12 rows")
    assert numbers["fanova"].tolist() == list(ours.shares.values())
    assert set(numbers["data"]) == {analysis.SYNTHETIC}
    assert sheets.importance_text(ours)["PED-ANOVA"].tolist() == ["–", "–"]


def test_pruned_rows_are_said_to_be_missing(tmp_path):
    table = table_of(tmp_path, random_rows(11, 3, 1))
    (first, *others) = table.rows
    nothing = first.miou | {"best_full": np.full(3, math.nan)}
    pruned = replace(others[-1], status="pruned", miou=nothing)
    table = replace(table, rows=(first, *others[:-1], pruned))
    ours = measured(table)

    assert ours.rows == 11
    assert "The 1 pruned rows" in sheets.importance_caption(ours, table)
