"""The benchmark of the analysis: its made-up tables are what it says, and its figures add up."""

import json

import numpy as np
import pytest

from benchmarks import analysis_scale
from cityseg.data import CITYSCAPES_TRAIN
from cityseg.metrics import mean_iou
from study.analysis import variant_table


@pytest.fixture
def _few_frames(monkeypatch):
    """Two frames a city, written by this process, where the change is known."""
    monkeypatch.setattr(analysis_scale, "CITYSCAPES_TRAIN", dict.fromkeys(CITYSCAPES_TRAIN, 2))
    monkeypatch.setattr(analysis_scale.parallel, "each", lambda work, items, *_: map(work, items))


def test_the_frames_are_those_of_cityscapes():
    names = analysis_scale.frame_names()

    assert (len(names), len(set(names)), len(CITYSCAPES_TRAIN)) == (2975, 2975, 18)


@pytest.mark.parametrize("pixels", [analysis_scale.LOW_PX, analysis_scale.FULL_PX])
def test_made_up_counts_are_as_dense_and_as_many_as_a_good_networks(pixels):
    counts = analysis_scale.frame_counts(np.random.default_rng(0), 100, pixels, wrong=1)

    assert 100 < (counts > 0).sum((1, 2)).mean() < 130
    assert counts.sum((1, 2)).mean() == pytest.approx(pixels, rel=1e-3)
    assert counts.min() == 0
    assert 0.4 < mean_iou(counts.sum(0)) < 0.9


def test_more_wrong_pixels_score_lower():
    scores = [
        float(mean_iou(analysis_scale.frame_counts(np.random.default_rng(0), 50, 10**6, w).sum(0)))
        for w in (1, 1.5, 2)
    ]

    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("_few_frames")
def test_a_made_up_table_is_a_finished_study(tmp_path):
    table = variant_table(analysis_scale.write_table(tmp_path / "rows_3", 3))

    assert [row.status for row in table.rows] == ["done"] * 3
    assert table.rows[0].effort.epochs == 3 * 65
    assert table.varied == ["model.dropout", "train.lr"]
    assert len(table.tallies[0].layout.names) == 36
    assert table.tallies[0].layout.cities == 18


@pytest.mark.usefixtures("_few_frames")
def test_the_figures_are_of_the_command_on_the_table(tmp_path, capsys):
    assert analysis_scale.main(rows=(2,), folder=tmp_path, record=False, json_=True) == 0

    (scale,) = json.loads(capsys.readouterr().out.splitlines()[-1])["scales"]
    assert (scale["rows"], scale["cells"]) == (2, 6)
    assert 0 < scale["counts_gb"] < 0.001
    assert 50 < scale["numbers_mb"] < 2000, "of the command alone, which imports no torch"
    assert list(tmp_path.iterdir()) == [], "the table is removed"
