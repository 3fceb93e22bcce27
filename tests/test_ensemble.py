"""A row's networks and their mean: against the mean by hand, and by the official evaluator."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from official import assert_same, judge, matched
from PIL import Image
from test_cityseg_commands import cityseg_command, refusal
from tiny import opinionated, scene, tiny_config, write_frame
from torch.nn.functional import interpolate

from cityseg import atomic
from cityseg.checkpoint import save_weights
from cityseg.config import City
from cityseg.confusion import counts_of_one
from cityseg.data import Frame, index, read_image, read_label_ids, read_target
from cityseg.ensemble import TOGETHER, find_members, load
from cityseg.evaluate import Forward, read_counts
from cityseg.inputs import normalise, resized
from cityseg.labels import LABEL_ID_OF_TRAIN_ID
from cityseg.minicity import ensure
from cityseg.samples import val_loader
from cityseg.scoring import score

SEEDS = (3, 4, 5)


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of three folds with weights; to be read only."""
    folder = tmp_path_factory.mktemp("study") / "v000"
    config = tiny_config(evaluate={"batch_size": 2})
    for fold, seed in enumerate(SEEDS, 1):
        save_weights(folder / f"f{fold}" / "best.safetensors", opinionated(config, seed), config, 1)
    return folder


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of `val`; to be read only."""
    root = tmp_path_factory.mktemp("val")
    for i in range(3):
        write_frame(root, "val", f"ulm_{i:06}_000019", *scene(i))
    return root


def mean_by_hand(row: Path, frame: Frame) -> np.ndarray:
    """Train ids of the mean of the three networks' softmax, with nothing but torch's parts."""
    image = resized(read_image(frame.image), read_target(frame.label), (32, 64))[0]
    batch = normalise(torch.from_numpy(image)[None].permute(0, 3, 1, 2))
    config = tiny_config()
    with torch.no_grad():
        mean = torch.stack([opinionated(config, s)(batch).softmax(1) for s in SEEDS]).mean(0)
    full = interpolate(mean.log(), scale_factor=2, mode="bilinear", align_corners=False)
    return full.argmax(1)[0].numpy()


def test_the_ensembles_counts_are_those_of_the_mean_by_hand(row: Path, city: Path):
    frames = index(city, "val")
    ensemble = load(find_members(row))
    found = ensemble.evaluate(val_loader(frames, ensemble.config, 0, pin=False))
    assert list(found) == ["f1", "f2", "f3", TOGETHER]
    for frame, full in zip(frames, found[TOGETHER].full, strict=True):
        target = torch.from_numpy(read_target(frame.label))
        expected = counts_of_one(torch.from_numpy(mean_by_hand(row, frame)), target)
        np.testing.assert_array_equal(full, expected)
    predicted = ensemble.predict(read_image(frames[0].image))
    np.testing.assert_array_equal(predicted, mean_by_hand(row, frames[0]))


def test_each_network_is_scored_as_it_is_alone(row: Path, city: Path):
    frames, files = index(city, "val"), find_members(row)
    words = ("inference.flip=true", "inference.crf.iterations=1")
    together = load(files, words)
    found = together.evaluate(val_loader(frames, together.config, 0, pin=False))
    for name, path in files.items():
        alone = load({name: path}, words)
        expected = alone.evaluate(val_loader(frames, alone.config, 0, pin=False))[TOGETHER]
        assert found[name].loss == expected.loss
        np.testing.assert_array_equal(found[name].low, expected.low)
        np.testing.assert_array_equal(found[name].full, expected.full)
    assert (found["f1"].full != found["f2"].full).any()
    assert (found["f1"].full != found[TOGETHER].full).any()


def test_evaluate_prints_and_writes_every_network_and_the_ensemble(
    row: Path, city: Path, tmp_path: Path
):
    words = ("evaluate", "--ensemble", row, "--data", city, "--out", tmp_path)
    answer = cityseg_command(*words, "--json", "inference.flip=true")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["frames"] == 3 and list(found["networks"]) == ["f1", "f2", "f3", "ensemble"]
    for name, scores in found["networks"].items():
        counts = read_counts(tmp_path / f"{name}.npz")
        assert counts.names == [frame.name for frame in index(city, "val")]
        assert scores["miou"] == score(counts.full).miou
        assert scores["miou_low"] == score(counts.low).miou
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["networks"] == found["networks"] and written["inference"]["flip"] is True
    table = cityseg_command(*words).out
    mean = np.mean([found["networks"][f"f{fold}"]["miou"] for fold in (1, 2, 3)])
    assert "their mean" in table and "ensemble" in table
    assert f"{mean:.4f}" not in table  # without the flip the scores are others


def test_what_is_no_ensemble_is_refused_in_one_line(row: Path, city: Path, tmp_path: Path):
    words = ("evaluate", "--data", city)
    assert "no fold below" in refusal(*words, "--ensemble", tmp_path)
    assert "one of --weights, --ensemble" in refusal(*words, "--ensemble", row, "--weights", row)
    train = refusal(*words, "--ensemble", row, "--split", "train")
    assert "frames of the train split" in train
    assert "KEY=VALUE of inference" in refusal(*words, "--ensemble", row, "model.dropout=0.1")
    assert "did you mean" in refusal(*words, "--ensemble", row, "inference.flop=true")

    gone = tmp_path / "v000"
    shutil.copytree(row, gone)
    (gone / "f2" / "best.safetensors").unlink()
    assert "best.safetensors is missing in 1 of 3 folds, the first f2" in refusal(
        *words, "--ensemble", gone
    )
    (gone / "f2" / "confusion.npz").touch()
    assert "--keep-weights all" in refusal(
        "predict", city / "leftImg8bit", "--out", tmp_path, "--ensemble", gone
    )

    other = tiny_config(evaluate={"batch_size": 2}, train={"lr": 0.5})
    save_weights(gone / "f2" / "best.safetensors", opinionated(other), other, 1)
    assert "train.lr: 0.0001 -> 0.5" in refusal(*words, "--ensemble", gone)


def test_a_few_pictures_are_not_worth_compiling_for(
    row: Path, city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []
    monkeypatch.setattr(
        "cityseg.ensemble.Forward", lambda *a: (asked.append(a[-1]), Forward(*a))[1]
    )
    words = ("predict", city / "leftImg8bit", "--weights", row / "f1" / "best.safetensors")
    assert cityseg_command(*words, "--out", tmp_path).code == 0
    load(find_members(row))
    assert asked == [False, True, True, True]


# ------------------------------------------------------------------------------------- submission


@pytest.fixture(scope="module")
def embedded() -> Path:
    """The embedded city at its smallest, two frames of `val`."""
    return ensure(City(height=64, cities=2, frames_per_city=1, val_frames=2))


def test_a_submission_is_what_the_official_script_matches_and_scores_as_we_do(
    row: Path, embedded: Path, tmp_path: Path
):
    frames = index(embedded, "val")
    packed = tmp_path / "submission.zip"
    answer = cityseg_command(
        "submit", "--ensemble", row, "--data", embedded, "--split", "val", "--out", packed
    )
    assert answer.code == 0, answer.err
    assert f"{len(frames)} frames in {packed}" in answer.out
    assert "frames are 128x64; the server takes 2048x1024" in answer.err
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "opened")
    files = matched(frames, tmp_path / "opened")
    assert len(set(files)) == len(list((tmp_path / "opened").rglob("*"))) == len(frames)
    for frame, file in zip(frames, files, strict=True):
        with Image.open(file) as picture:
            assert (picture.mode, picture.format) == ("L", "PNG")
        label_ids = read_label_ids(Path(file))
        assert label_ids.shape == read_target(frame.label).shape
        assert set(np.unique(label_ids)) <= set(LABEL_ID_OF_TRAIN_ID[:19])
    counts = tmp_path / "counts"
    words = ("evaluate", "--ensemble", row, "--data", embedded, "--out", counts)
    assert cityseg_command(*words).code == 0
    assert_same(
        score(read_counts(counts / "ensemble.npz").full), judge(frames, tmp_path / "opened")
    )


def test_a_submission_of_test_needs_no_labels(row: Path, city: Path, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(city / "leftImg8bit" / "val", root / "leftImg8bit" / "test")
    packed = tmp_path / "deeper" / "test.zip"
    weights = row / "f1" / "best.safetensors"
    answer = cityseg_command("submit", "--weights", weights, "--data", root, "--out", packed)
    assert answer.code == 0, answer.err
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == [f"ulm_{i:06}_000019_labelIds.png" for i in range(3)]


def test_a_submission_that_cannot_be_finished_leaves_nothing(row: Path, city: Path, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(city / "leftImg8bit" / "val", root / "leftImg8bit" / "test")
    next((root / "leftImg8bit" / "test" / "ulm").glob("*2_*.png")).write_bytes(b"no picture")
    words = ("submit", "--weights", row / "f1" / "best.safetensors", "--out", tmp_path / "x.zip")
    assert "cannot decode" in refusal(*words, "--data", root)
    assert "no data set" in refusal(*words)
    assert "either --weights or --ensemble" in refusal(*words, "--ensemble", row, "--data", root)
    assert not (tmp_path / "x.zip").exists()


def test_a_full_disk_fails_a_submission_and_is_no_mistake_in_what_was_typed(
    row: Path, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    weights = row / "f1" / "best.safetensors"
    words = ("--data", embedded, "--split", "val", "--out", tmp_path / "x.zip")
    answer = cityseg_command("submit", "--weights", weights, *words)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith(f"failed: cannot write {tmp_path / 'x.zip'}: No ")
    assert not list(tmp_path.iterdir())
