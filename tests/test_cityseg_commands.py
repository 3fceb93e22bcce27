"""`python -m cityseg` from its command line: what it writes, prints and returns."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import scene, tiny_config, write_frame

import cityseg.train
from cityseg.__main__ import main
from cityseg.cell import Cell, read_confusion, read_epochs
from cityseg.data import index, read_label_ids, read_target
from cityseg.errors import InputError
from cityseg.folds import read_folds
from cityseg.labels import (
    CLASS_NAMES,
    COLOR_OF_TRAIN_ID,
    LABEL_ID_OF_TRAIN_ID,
    TRAIN_ID_OF_LABEL_ID,
)
from cityseg.metrics import mean_iou

EPOCHS = 2


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str


def cityseg_command(*words: object) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["cityseg", *map(str, words)])
        code = main()
    return Answer(code, out.getvalue(), err.getvalue())


def refusal(*words: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    answer = cityseg_command(*words)
    assert answer.code == 2, answer
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1, answer.err
    return answer.err


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(tiny_config(train={"epochs": EPOCHS, "batch_size": 2}).to_yaml())
    return path


@pytest.fixture(scope="module")
def trained(yaml: Path, tiny_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """Fold 1 of 3, trained by the command; to be read only."""
    cell = Cell(tmp_path_factory.mktemp("trained") / "cell")
    answer = train(yaml, tiny_city, cell)
    assert answer.code == 0, answer.err
    assert answer.out.count("\nepoch ") == EPOCHS
    return cell


def train(yaml: Path, city: Path, cell: Cell, *more: object, fold: int = 1) -> Answer:
    options = ("--config", yaml, "--data", city, "--out", cell.folder, "--fold", fold, *more)
    return cityseg_command("train", *options)


@pytest.fixture(scope="module")
def segmented(trained: Cell, tiny_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network's pictures of all frames, by the command; to be read only."""
    out = tmp_path_factory.mktemp("segmented")
    folder = tiny_city / "leftImg8bit" / "train"
    answer = cityseg_command("predict", folder, "--weights", trained.best_weights, "--out", out)
    assert answer.code == 0, answer.err
    return out


def scores(answer: Answer) -> dict:
    """The object that `evaluate --json` prints; anything else on stdout, or a NaN, is an error."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert answer.code == 0, answer.err
    return json.loads(answer.out, parse_constant=refuse)


# ------------------------------------------------------------------------------------- train


def test_train_leaves_a_finished_cell_of_the_fold_it_was_asked_for(trained: Cell, tiny_city: Path):
    assert trained.status() == "done"
    assert [epoch.epoch for epoch in read_epochs(trained.epochs)] == [1, 2]
    folds = read_folds(trained.folder / "folds.json")
    assert len(folds.folds) == 3
    _, val = folds.split(index(tiny_city, "train"), 1)
    assert read_confusion(trained.confusion).names == [frame.name for frame in val]


def test_a_finished_training_is_not_run_again(trained: Cell, yaml: Path, tiny_city: Path):
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.*z*")}
    answer = train(yaml, tiny_city, trained)
    assert answer.code == 0 and "already done" in answer.out and "epoch 1/" not in answer.out
    assert before and {path: path.stat().st_mtime_ns for path in before} == before


def test_a_finished_folder_is_refused_to_another_fold_or_setting(
    trained: Cell, yaml: Path, tiny_city: Path
):
    options = ("train", "--config", yaml, "--data", tiny_city, "--out", trained.folder)
    assert "other frames" in refusal(*options, "--fold", 2)
    assert "train.lr: 0.0001 -> 0.5" in refusal(*options, "--fold", 1, "train.lr=0.5")
    assert "folds.grouping: frames -> cities" in refusal(
        *options, "--fold", 1, "--grouping", "cities"
    )


def test_ctrl_c_keeps_the_finished_epochs_and_the_same_command_goes_on(
    trained: Cell, yaml: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C in the second epoch; what comes out at the end is what an unbroken training gives."""
    calls, real = [], cityseg.train.evaluate

    def interrupted_in_the_second_epoch(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    cell = Cell(tmp_path / "cell")
    monkeypatch.setattr(cityseg.train, "evaluate", interrupted_in_the_second_epoch)
    stopped = train(yaml, tiny_city, cell)
    assert stopped.code == 130 and stopped.err.count("\n") == 1
    assert "same command goes on after epoch 1" in stopped.err
    assert cell.status() == "unfinished"
    monkeypatch.undo()
    continued = train(yaml, tiny_city, cell)
    assert continued.code == 0 and continued.out.count("\nepoch ") == EPOCHS - 1
    np.testing.assert_array_equal(
        read_confusion(cell.confusion).last.full, read_confusion(trained.confusion).last.full
    )


def test_a_folds_file_of_ones_own_decides_the_split(yaml: Path, tiny_city: Path, tmp_path: Path):
    names = [frame.name for frame in index(tiny_city, "train")]
    folds = tmp_path / "folds.json"
    folds.write_text(json.dumps({"folds": [names[:2], names[2:]]}))
    cell = Cell(tmp_path / "cell")
    words = ("--folds-file", folds, "--folds", 2, "train.epochs=1")
    assert train(yaml, tiny_city, cell, *words).code == 0
    assert read_confusion(cell.confusion).names == names[:2]


def test_verify_and_help_do_not_wait_for_torch():
    """In a process of its own: the tests have imported everything here."""
    code = "import sys, cityseg.__main__, cityseg.verify; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_that_are_not_there_are_told_of_before_anything_is_decoded(
    yaml: Path, tiny_city: Path, tmp_path: Path
):
    cell, cache = Cell(tmp_path / "cell"), tmp_path / "cache"
    answer = train(yaml, tiny_city, cell, "--cache-dir", cache, "model.weights=nowhere.pth")
    assert answer.code == 2 and "model.weights: no file" in answer.err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- evaluate


def test_evaluating_a_folds_frames_again_gives_the_cells_own_counts(trained: Cell, tiny_city: Path):
    words = ("evaluate", "--weights", trained.best_weights, "--data", tiny_city, "--json")
    found = scores(
        cityseg_command(*words, "--folds-file", trained.folder / "folds.json", "--fold", 1)
    )
    best = read_confusion(trained.confusion).best
    assert found["frames"] == len(best.full) == 4
    assert found["miou"] == pytest.approx(float(mean_iou(best.full.sum(0))), abs=1e-12)
    assert found["miou_low"] == pytest.approx(float(mean_iou(best.low.sum(0))), abs=1e-12)


def test_written_predictions_score_as_their_network_does(
    trained: Cell, segmented: Path, tiny_city: Path
):
    words = ("evaluate", "--data", tiny_city, "--split", "train", "--json")
    network = scores(cityseg_command(*words, "--weights", trained.best_weights))
    written = scores(cityseg_command(*words, "--predictions", segmented / "labelIds"))
    assert written["frames"] == network["frames"] == 12
    assert set(written) == {"miou", "pixel_accuracy", "iou", "frames"}
    assert list(written["iou"]) == list(CLASS_NAMES)
    # One frame or two at a time may round differently; a pixel of 98,304 may then differ.
    assert written["miou"] == pytest.approx(network["miou"], abs=1e-4)
    assert set(network) == set(written) | {"miou_low", "pixel_accuracy_low", "iou_low"}


@pytest.fixture
def perfect(tmp_path: Path) -> tuple[Path, Path]:
    """A data set of two frames in `val`, without most classes, and its labels as predictions."""
    root, predictions = tmp_path / "data", tmp_path / "predictions"
    for i, seed in enumerate((1, 2)):
        image, _ = scene(seed, (32, 64))
        label_ids = np.full((32, 64), 7, np.uint8)
        label_ids[:10], label_ids[:, :5] = 23, 0
        frame = write_frame(root, "val", f"ulm_{i:06}_000019", image, label_ids)
        predictions.mkdir(exist_ok=True)
        shutil.copy(frame.label, predictions / f"{frame.name}_pred.png")
    return root, predictions


def test_perfect_predictions_score_1_and_absent_classes_null(perfect: tuple[Path, Path]):
    root, predictions = perfect
    words = ("evaluate", "--predictions", predictions, "--data", root)
    found = scores(cityseg_command(*words, "--json"))
    assert (found["miou"], found["pixel_accuracy"], found["frames"]) == (1, 1, 2)
    present = {name: value for name, value in found["iou"].items() if value is not None}
    assert present == {"road": 1, "sky": 1}
    table = cityseg_command(*words).out
    assert table.count("1.0000") == 4 and table.count("absent") == 17


def test_a_palette_png_is_read_by_its_indices(perfect: tuple[Path, Path]):
    """As mmsegmentation writes them, and the official evaluator reads them."""
    root, predictions = perfect
    for path in predictions.iterdir():
        picture = Image.fromarray(read_label_ids(path)).convert("P")
        picture.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
        picture.save(path)
        with pytest.raises(InputError, match="got image mode P, expected L"):
            read_label_ids(path)
    answer = cityseg_command("evaluate", "--predictions", predictions, "--data", root, "--json")
    assert scores(answer)["miou"] == 1


def test_train_ids_in_place_of_label_ids_are_warned_of_on_stderr(perfect: tuple[Path, Path]):
    root, predictions = perfect
    words = ("evaluate", "--predictions", predictions, "--data", root, "--json")
    assert cityseg_command(*words).err == ""
    for path in predictions.iterdir():
        Image.fromarray(TRAIN_ID_OF_LABEL_ID[read_label_ids(path)] % 19).save(path)
    answer = cityseg_command(*words)
    assert answer.err.startswith("warning: ") and "train ids" in answer.err
    assert scores(answer)["miou"] == 0


def test_predictions_that_cannot_be_scored_are_refused_by_name(perfect: tuple[Path, Path]):
    root, predictions = perfect
    words = ("evaluate", "--predictions", predictions, "--data", root)
    first, second = sorted(predictions.iterdir())
    good = read_label_ids(first)

    Image.fromarray(np.where(good == 0, 255, good).astype(np.uint8)).save(first)
    assert f"{first}: got value 255, expected label ids" in refusal(*words)
    Image.fromarray(good[:16]).save(first)
    assert f"{first}: got 64x16 pixels, expected the 64x32" in refusal(*words)
    Image.fromarray(np.stack([good] * 3, -1)).save(first)
    assert f"{first}: got image mode RGB" in refusal(*words)
    first.write_bytes(b"no picture")
    assert f"cannot decode {first}" in refusal(*words)

    (predictions / "deeper").mkdir()
    first.rename(predictions / "deeper" / second.name)
    message = refusal(*words)
    assert "none for 1 frame (ulm_000000_000019)" in message
    assert "several for 1 frame (ulm_000001_000019)" in message


def test_scores_are_told_though_their_counts_cannot_be_written(
    trained: Cell, tiny_city: Path, tmp_path: Path
):
    (tmp_path / "file").touch()
    words = ("evaluate", "--weights", trained.best_weights, "--data", tiny_city, "--split", "train")
    answer = cityseg_command(*words, "--out", tmp_path / "file", "--json")
    assert (answer.code, answer.err) == (2, f"error: {tmp_path / 'file'}: got File exists\n")
    assert json.loads(answer.out)["frames"] == 12


def test_out_of_memory_is_one_line_that_says_what_takes_less(
    trained: Cell, perfect: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("cityseg.evaluate.Tally.add", full)
    monkeypatch.setattr("cityseg.ensemble.Ensemble.predict", full)
    root, out, weights = perfect[0], tmp_path / "out", ("--weights", trained.best_weights)
    for words in (
        ("evaluate", "--data", root),
        ("predict", root / "leftImg8bit", "--out", out),
        ("submit", "--data", root, "--split", "val", "--out", out / "x.zip"),
    ):
        answer = cityseg_command(*words, *weights)
        assert answer.code == 1
        assert answer.err.splitlines()[-1] == (
            "failed: out of memory on cpu: set inference.window=[512,1024] or evaluate.batch_size=1"
        )


# ----------------------------------------------------------------------------------- predict


def test_predict_writes_label_ids_colours_and_overlays_at_the_original_size(
    segmented: Path, tiny_city: Path
):
    for frame in index(tiny_city, "train"):
        ids = read_label_ids(segmented / "labelIds" / f"{frame.name}_labelIds.png")
        color = np.array(Image.open(segmented / "color" / f"{frame.name}_color.png"))
        overlay = np.array(Image.open(segmented / "overlay" / f"{frame.name}_overlay.png"))
        assert ids.shape == read_target(frame.label).shape
        assert set(np.unique(ids)) <= set(LABEL_ID_OF_TRAIN_ID[:19])
        np.testing.assert_array_equal(color, COLOR_OF_TRAIN_ID[TRAIN_ID_OF_LABEL_ID[ids]])
        mean = (np.array(Image.open(frame.image)) / 2 + color / 2).astype(np.uint8)
        np.testing.assert_array_equal(overlay, mean)
    assert sum(path.is_file() for path in segmented.rglob("*")) == 3 * 12


def test_predict_takes_pictures_of_any_kind_and_passes_over_its_own(trained: Cell, tmp_path: Path):
    picture = Image.fromarray(scene(5, (50, 71))[0])
    picture.save(tmp_path / "street.JPG", format="JPEG")
    (tmp_path / "deeper").mkdir()
    picture.convert("RGBA").save(tmp_path / "deeper" / "alpha.png")
    picture.convert("L").save(tmp_path / "deeper" / "gray.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    words = ("predict", tmp_path, "--weights", trained.best_weights, "--out", tmp_path)
    for _ in range(2):  # the second time, the first time's results lie in the folder
        answer = cityseg_command(*words)
        assert answer.code == 0, answer.err
        written = [Path(line) for line in answer.out.splitlines()]
        assert {path.name for path in written} == {
            "street_labelIds.png", "alpha_labelIds.png", "gray_labelIds.png",
        }  # fmt: skip
        assert all(read_label_ids(path).shape == (50, 71) for path in written)


def test_predict_refuses_what_it_cannot_segment(trained: Cell, tmp_path: Path):
    out = tmp_path / "out"
    options = ("--weights", trained.best_weights, "--out", out)
    assert "no picture at" in refusal("predict", tmp_path / "nowhere.png", *options)
    assert "no picture at" in refusal("predict", tmp_path, *options)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "cannot decode" in refusal("predict", tmp_path / "broken.png", *options)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert "both be written as broken" in refusal("predict", tmp_path, *options)
    (tmp_path / "foreign.safetensors").write_bytes(b"no weights")
    options = ("--weights", tmp_path / "foreign.safetensors", "--out", out)
    assert "cannot read weights" in refusal("predict", tmp_path / "broken.png", *options)
    assert not list(out.rglob("*.png"))


# ------------------------------------------------------------------------------------ verify


def test_verify_answers_with_counts_a_list_or_a_refusal(perfect: tuple[Path, Path]):
    root, _ = perfect
    fine = cityseg_command("verify", "--data", root, "--split", "val")
    assert fine.code == 0 and "ulm" in fine.out and "nothing wrong" in fine.out
    label = root / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"
    Image.new("L", (64, 32), 77).save(label)
    broken = cityseg_command("verify", "--data", root, "--split", "train,val")
    assert broken.code == 1
    lines = [line for line in broken.out.splitlines() if ": " in line]
    assert lines == [
        "gtFine/train: no such folder",
        "leftImg8bit/train: no such folder",
        f"{label.relative_to(root)}: ids [77] are not in the official table",
        f"warning: {label.relative_to(root)}: no pixel is of the 19 scored classes",
    ]
    assert "3 problems, 1 warning\n" in broken.out
    assert "no folder" in refusal("verify", "--data", root / "nowhere")


def test_verify_makes_folds_only_if_it_is_asked_to(perfect: tuple[Path, Path]):
    root, _ = perfect
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / kind / "val", root / kind / "train")
    plain = cityseg_command("verify", "--data", root, "--split", "train")
    assert (plain.code, plain.out.splitlines()[-1]) == (0, "nothing wrong")
    folded = cityseg_command("verify", "--data", root, "--split", "train", "--folds", "3")
    assert folded.code == 1 and "cannot make 3 folds: got 2 frames" in folded.out
    assert folded.out.splitlines()[-1] == "1 problem"


# ----------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate", "one of --weights, --ensemble or --predictions"),
        ("evaluate --weights w --predictions p", "one of --weights, --ensemble or --predictions"),
        ("evaluate --weights nowhere.safetensors --data .", "cannot read weights"),
        ("evaluate --predictions . --data nowhere", "no folder"),
        ("evaluate --predictions .", "no data set"),
        ("evaluate --predictions . --data . --fold 1", "--folds-file and --fold together"),
        ("verify", "no data set"),
        ("verify --data . --split train,valid", "--split: got train,valid"),
        ("train --fold 1 --data nowhere", "no folder"),
        ("train --fold 4 --data CITY", "fold: got 4, expected 1 to 3"),
        ("train --fold 1 --data CITY train.lrr=1", "did you mean train.lr?"),
        ("train --fold 1 --data CITY --config nowhere.yaml", "no file nowhere.yaml: expected"),
        ("train --fold 1 --data CITY --folds-file nowhere.json", "cannot read"),
        ("train --fold 1 --data CITY --folds 13", "cannot make 13 folds: got 12 frames"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: str, says: str, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(*words.replace("CITY", str(tiny_city)).split())


def test_a_mistyped_option_is_one_line_too_and_help_is_help():
    assert "Unrecognized options: --flod 1; see: cityseg train --help" in refusal(
        "train", "--flod", "1"
    )
    with pytest.raises(SystemExit) as end:
        cityseg_command("train", "--help")
    assert end.value.code == 0


# ----------------------------------------------------------------------------------- prepare


def test_prepare_decodes_once_and_train_reads_it(yaml: Path, tiny_city: Path, tmp_path: Path):
    folder = tmp_path / "a folder: with a colon"
    built: set[int] = set()
    for _ in range(2):
        answer = cityseg_command("prepare", "--data", tiny_city, "--cache-dir", folder)
        assert answer.code == 0
        assert answer.out.startswith("12 frames in ") and str(folder) in answer.out
        built |= {file.stat().st_ino for file in folder.glob("frames-*/index.json")}
    cell = Cell(tmp_path / "cell")
    assert train(yaml, tiny_city, cell, "--cache-dir", folder).code == 0
    built |= {file.stat().st_ino for file in folder.glob("frames-*/index.json")}
    assert len(built) == 1


def test_prepare_says_in_one_line_that_it_cannot(tiny_city: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    answer = cityseg_command("prepare", "--data", tiny_city, "--cache-dir", tmp_path / "file")
    assert answer.code == 2 and answer.err.count("\n") == 1 and "--cache-dir" in answer.err
