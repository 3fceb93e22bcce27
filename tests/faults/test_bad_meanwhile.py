"""A file that goes bad while a study runs fails its cell by name, and no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import thin_resnet, tiny_config, write_city

from cityseg.data import index
from cityseg.plan import Plan
from study import trial
from study.begin import begin
from study.store import Study

Train = Callable[[int], list[dict[str, object]]]


@pytest.fixture(params=["disk", "none"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    """A study of one epoch, begun."""
    root = write_city(tmp_path / "data")
    sections = {"data": {"cache": request.param}, "train": {"epochs": 1}}
    study = Study(tmp_path / "results" / "s")
    frames = index(root, "train")
    begin(study, Plan(tiny_config(**sections), Path("own.yaml"), root, "other", frames))
    return study


@pytest.fixture
def train(study: Study, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a fold as Ray's worker does; returns what it reported."""
    monkeypatch.setattr("cityseg.model.get_model", thin_resnet)

    def run(fold: int) -> list[dict[str, object]]:
        reported: list[dict[str, object]] = []
        monkeypatch.setattr("study.trial.tune.report", reported.append)
        trial.run_cell({"study": str(study.folder), "variant": 0, "fold": fold, "cpus": 1})
        return reported

    return run


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_the_cell_fails_with_the_files_name_and_the_others_go_on(
    study: Study, train: Train, damage: str
):
    frame = index(study.read().data.root, "train")[5]
    assert [row.get("epoch") for row in train(1)] == [1]
    whole = frame.image.read_bytes()
    frame.image.write_bytes(whole[:300] + (b"" if damage == "cut" else bytes(len(whole) - 300)))
    (row,) = train(2)
    assert frame.name in str(row["failed"])
    assert study.cell(0, 2).failure.read_text() == f"{row['failed']}\n"
    assert study.cell(0, 1).status() == "done"
    frame.image.write_bytes(whole)
    assert [row.get("epoch") for row in train(2)] == [1] and study.cell(0, 2).status() == "done"
