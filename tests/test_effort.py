"""What rows have cost, against pandas on the tables of epochs as they lie on disk."""

import math

import numpy as np
import pandas as pd
import pytest
from fake_study import add_row, finish, make_study

from cityseg.cell import Epoch, write_epochs
from study import analysis, sheets
from study.effort import device_of, effort_of, together
from study.progress import Board
from study.space import Search
from study.store import Study


@pytest.fixture
def study(tmp_path) -> Study:
    """Two rows whose epochs take times by chance; the second one's third fold is not begun."""
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})
    rng = np.random.default_rng(0)
    for variant, fold in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2)):
        epochs = [
            Epoch(i, 1.0, 1.0, 0.1, 0.1, 1e-4, *rng.uniform(1, 100, 3).tolist())
            for i in range(1, 2 + fold)
        ]
        write_epochs(study.cell(variant, fold).epochs, epochs)
    return study


def on_disk(study: Study, variant: int) -> pd.DataFrame:
    files = sorted((study.folder / f"v00{variant}").glob("f*/epochs.csv"))
    return pd.concat([pd.read_csv(file) for file in files])


@pytest.mark.parametrize("variant", [0, 1])
def test_a_rows_cost_is_the_sum_of_its_tables_of_epochs(study, variant):
    board, table = Board.read(study), on_disk(study, variant)

    ours = effort_of(board.rows[variant], device_of(board.record))

    assert ours.epochs == len(table)
    assert ours.train_s == pytest.approx(table["train_s"].sum())
    assert ours.val_s == pytest.approx(table["val_s"].sum())
    images = (table["images_per_s"] * table["train_s"]).sum()
    assert ours.images_per_s == pytest.approx(images / table["train_s"].sum())
    assert ours.images_per_s != pytest.approx(table["images_per_s"].mean()), "no mean of rates"


def test_several_rows_cost_what_all_their_epochs_do(study):
    board = Board.read(study)
    device = device_of(board.record)
    ours = together(effort_of(row, device) for row in board)
    table = pd.concat([on_disk(study, variant) for variant in (0, 1)])

    assert ours.epochs == len(table)
    assert ours.images_per_s == pytest.approx(
        (table["images_per_s"] * table["train_s"]).sum() / table["train_s"].sum()
    )


@pytest.mark.parametrize(
    ("gpus", "share", "kind", "per_cell"),
    [("NVIDIA H100", 0.33, "GPU", 0.33), ("none", 0.33, "CPU core", 4), (None, 1, "CPU core", 4)],
)
def test_the_device_is_the_recorded_machines(study, gpus, share, kind, per_cell):
    record = study.read()
    resources = record.config.resources.model_copy(update={"gpus_per_trial": share})
    hardware = {} if gpus is None else {"gpus": gpus}
    config = record.config.model_copy(update={"resources": resources})
    changes = {"hardware": hardware, "cpus_per_trial": 4, "config": config}
    study.write(record.model_copy(update=changes))

    table = analysis.variant_table(study)

    assert (table.device.kind, table.device.per_cell) == (kind, per_cell)
    for row in table.rows:
        hours = (row.effort.train_s + row.effort.val_s) / 3600
        assert row.effort.device_hours == pytest.approx(hours * per_cell)


def test_a_row_not_begun_has_no_rate_and_adds_nothing(study):
    add_row(study, 2, {"train.lr": 1e-2})
    board = Board.read(study)
    device = device_of(board.record)
    idle = effort_of(board.rows[2], device)
    busy = effort_of(board.rows[0], device)

    assert (idle.epochs, idle.device_hours) == (0, 0)
    assert math.isnan(idle.images_per_s)
    assert together([idle, busy]) == together([busy])
    assert math.isnan(together([]).images_per_s)


def test_the_printed_cost_is_by_row_and_in_all(study):
    table = analysis.variant_table(study)
    text = sheets.effort_text(table).set_index("Row")
    numbers = sheets.effort_numbers(table).set_index("row")

    assert list(text.index) == ["v000", "v001", "all"]
    assert text["Epochs"].tolist() == ["9", "5", "14"]
    assert float(text["CPU core h"]["all"]) == pytest.approx(
        numbers["device_hours"].sum(), abs=6e-4
    )
    assert list(sheets.effort_text(table, most=1)["Row"]) == ["v000", "all"]
    assert "1 more rows are in the files" in sheets.effort_caption(table, most=1)
    assert set(numbers["data"]) == {analysis.SYNTHETIC}


def test_the_cost_of_a_finished_row_stands_beside_its_score(tmp_path):
    study = make_study(tmp_path / "results")
    for fold in (1, 2, 3):
        finish(study, fold)
    table = analysis.variant_table(study)

    (line,) = sheets.effort_numbers(table).to_dict("records")
    assert line["best_full_mean"] == table.rows[0].spread("best_full").mean
    assert list(sheets.effort_text(table)["Row"]) == ["v000"], "one row needs no sum"
