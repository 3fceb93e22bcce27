"""`summary.json` reads back as written, keeps to its schema, and holds the tables' numbers."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from fake_study import add_row, finish, make_study, make_study_of_rows
from hypothesis import given
from hypothesis import strategies as st

from cityseg.errors import InputError
from study import analyze, summary
from study.several import best_contender, side_by_side
from study.space import Search
from study.store import Study
from study.summary import EffortPart, IntervalPart, Summary, read_summary, write_summary


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Study:
    """Six of eight rows: done, pruned, failed and pending ones."""
    return make_study_of_rows(tmp_path_factory.mktemp("summary") / "results")


@pytest.fixture(scope="module")
def whole(rows) -> Summary:
    return Summary(studies=[analyze.read_records(rows).summary()])


def strictly(text: str) -> object:
    """JSON as others read it: without NaN and infinities."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_summary_reads_back_as_it_was_written(whole, tmp_path):
    path = write_summary(tmp_path / "summary.json", whole)
    again = read_summary(path)

    assert again == whole
    write_summary(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_it_is_json_and_keeps_to_the_schema_that_is_printed(whole, tmp_path):
    path = write_summary(tmp_path / "summary.json", whole)
    printed = subprocess.run(
        [sys.executable, "-m", "study.summary"], capture_output=True, text=True, check=True
    )

    plain, schema = strictly(path.read_text()), json.loads(printed.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain, schema)
    assert isinstance(plain, dict)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain | {"studies": [{"name": "half of one"}]}, schema)
    assert schema["properties"]["schema_version"]["const"] == 1
    described = schema["$defs"]["ClassPart"]["properties"]["gain"]["description"]
    assert described.startswith("Of the mean, if the class reached the median")


def test_what_is_not_known_is_null(rows, whole):
    study = whole.studies[0]
    by_name = {row.name: row for row in study.rows}

    assert [row.name for row in study.rows] == ["v002", "v001", "v000", "v003", "v004", "v005"]
    assert by_name["v003"].mean["best_full"] is None
    assert by_name["v005"].effort.images_per_s is None
    train = next(c for c in study.shown.scores["best_full"].classes if c.name == "train")
    assert (train.iou, train.interval.low, train.iou_of_folds) == (None, None, [None] * 3)


@given(st.floats())
def test_any_float_becomes_a_number_or_null(value):
    part = IntervalPart(low=value, high=np.float64(value))

    assert part.low == part.high == (value if math.isfinite(value) else None)
    strictly(part.model_dump_json())
    assert IntervalPart.model_validate_json(part.model_dump_json()) == part


def test_the_numbers_are_those_of_the_tables(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["analyze", str(rows.folder), "--out", str(tmp_path),
                                      "--no-figures"])  # fmt: skip
    assert analyze.main() == 0
    study = read_summary(tmp_path / "summary.json").studies[0]
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}

    variants = tables["variants"].set_index("row")
    for row in study.rows:
        mean = row.mean["last_low"]
        np.testing.assert_equal(math.nan if mean is None else mean,
                                variants["last_low_mean"][row.name])  # fmt: skip
    assert study.best == "v002" == study.shown.row
    compared = tables["comparisons"].set_index("row")
    for one in study.comparisons:
        assert (one.verdict, one.adjusted, one.interval.low) == (
            compared["verdict"][one.row], compared["p_holm"][one.row],
            min(compared["t_low"][one.row], compared["student_low"][one.row]),
        )  # fmt: skip
    classes = tables["classes_v002"].set_index(["epoch", "resolution", "class"])
    columns = {"recall": "recall", "precision": "precision", "share": "share", "std": "sample_std",
               "pooled_iou": "pooled", "gain": "gain_at_median", "iou": "mean"}  # fmt: skip
    for one in study.shown.scores["last_full"].classes:
        for field, column in columns.items():
            value, theirs = getattr(one, field), classes[column]["last", "full", one.name]
            assert (math.nan if value is None else value) == pytest.approx(theirs, nan_ok=True)
    intervals = tables["intervals_v002"].set_index(["objective", "class"])
    score = study.shown.scores["best_full"]
    assert score.corrected is not None and score.pooled is not None
    assert score.corrected.interval.high == intervals["t_high"]["best_full", "mIoU"]
    assert score.pooled.value == intervals["pooled"]["best_full", "mIoU"]
    assert [gap.difference.mean for gap in study.shown.gaps] == list(
        tables["gaps_v002"]["difference"]
    )
    hours = tables["effort"].set_index("row")["device_hours"]
    assert {row.name: row.effort.device_hours for row in study.rows} == hours.to_dict()
    assert study.headline.startswith(study.comparisons[0].verdict)


def test_a_search_brings_its_importance(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=5))
    for variant in range(5):
        if variant:
            add_row(study, variant, {"train.lr": 1e-4 * (1 + variant)})
        for fold in (1, 2, 3):
            finish(study, fold, variant=variant, wrong_px=variant + fold)
    part = analyze.read_records(study).summary()

    assert part.importance is not None
    assert part.importance.shares == {"train.lr": pytest.approx(1, abs=1e-6)}
    assert "5 rows for 1 settings are fewer" in part.importance.warning


def test_studies_side_by_side_are_in_it(rows, tmp_path):
    other = make_study(tmp_path / "results", name="other")
    table = side_by_side([best_contender(rows), best_contender(other)], "best_full")
    part = summary.side_by_side_part(table)
    whole = Summary(studies=[], side_by_side=part)

    assert read_summary(write_summary(tmp_path / "studies.json", whole)) == whole
    assert part.rows == ["fake_1 v002", "other v000"]
    assert part.refused == list(table.refused)
    assert all("synthetic" in words for words in part.data_words)


def test_an_empty_study_has_a_summary(tmp_path):
    part = analyze.read_records(make_study(tmp_path / "results")).summary()

    assert (part.best, part.selection, part.comparisons, part.shown.gaps) == (None, None, [], [])
    assert part.shown.scores["best_full"].corrected is None
    assert part.rows[0].effort == EffortPart(
        epochs=0, train_s=0, val_s=0, device_hours=0, images_per_s=None
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"schema_version": 2, "studies": []}', "got schema_version 2, expected 1"),
        ("[]", "got schema_version None"),
        ('{"schema_version": 1}', "is not a summary: got studies: Field required"),
        ('{"schema_version": 1, "studies": [], "more": 1}', "got more: Extra inputs"),
        ('{"schema_version": 1', "is not a JSON file"),
        (None, "cannot read"),
    ],
    ids=["version", "list", "field", "unknown", "cut", "absent"],
)
def test_a_file_that_is_no_summary_is_one_line(tmp_path: Path, text: str | None, error: str):
    path = tmp_path / "summary.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InputError, match=error) as caught:
        read_summary(path)
    assert "\n" not in str(caught.value)
