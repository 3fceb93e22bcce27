"""Our scores equal the official evaluator's on the same files; torchmetrics' where its rule agrees.

The oracle is cityscapesScripts' `evalPixelLevelSemanticLabeling`, which reads the same PNGs, finds
the predictions itself, and shares no code with ours.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official import assert_same, judge
from PIL import Image
from tiny import opinionated, scene, tiny_config, write_frame
from torchmetrics.classification import MulticlassJaccardIndex

from cityseg.confusion import counts_of_one
from cityseg.data import Frame, read_image
from cityseg.evaluate import evaluate, predict
from cityseg.labels import CLASSES, IGNORE, LABEL_ID_OF_TRAIN_ID, LABELS
from cityseg.labels import TRAIN_ID_OF_LABEL_ID as TRAIN_ID
from cityseg.metrics import intersection_over_union, mean_iou
from cityseg.samples import val_loader
from cityseg.scoring import read_submission, score

SIZES = ((40, 80), (33, 65), (40, 80))
SCORED = np.array([label.id for label in CLASSES], np.uint8)
IGNORED = np.array([label.id for label in LABELS if label.train_id == IGNORE], np.uint8)

Pair = tuple[np.ndarray, np.ndarray]
"""Label ids of one frame: the labels, the prediction."""


def write_pairs(root: Path, pairs: list[Pair]) -> tuple[list[Frame], Path]:
    """Labels in the Cityscapes layout, predictions in folders of their own."""
    frames = []
    for i, (label_ids, prediction) in enumerate(pairs):
        name = f"ulm_{i:06}_000019"
        image = np.zeros((*label_ids.shape, 3), np.uint8)
        frames.append(write_frame(root, "val", name, image, label_ids))
        file = root / "predictions" / str(i % 2) / f"{name}_by_us.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(prediction).save(file)
    return frames, root / "predictions"


def drawn(random: np.random.Generator, ids: np.ndarray) -> list[np.ndarray]:
    """One map a frame, in blocks, so that some predictions hit."""
    return [np.kron(random.choice(ids, (-(-h // 8), -(-w // 8))), np.ones((8, 8), np.uint8))[:h, :w]
            for h, w in SIZES]  # fmt: skip


def noisy(random: np.random.Generator, ids: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The labels with two pixels in five drawn anew from `ids`."""
    return np.where(random.random(label.shape) < 0.4, random.choice(ids, label.shape), label)


def random_classes(random: np.random.Generator) -> list[Pair]:
    return [(label, noisy(random, SCORED, label)) for label in drawn(random, SCORED)]


def absent_classes(random: np.random.Generator) -> list[Pair]:
    return [(label, noisy(random, SCORED[:5], label)) for label in drawn(random, SCORED[:6])]


def predicted_only(random: np.random.Generator) -> list[Pair]:
    """Class 18 is on no label, and predicted on one pixel of the first frame."""
    pairs = [(label, label.copy()) for label in drawn(random, SCORED[:6])]
    pairs[0][1][3, 5] = SCORED[18]
    return pairs


def predicted_only_where_ignored(random: np.random.Generator) -> list[Pair]:
    """Class 18 is predicted, but only where the label counts for nothing."""
    pairs = [(label, label.copy()) for label in drawn(random, SCORED[:6])]
    for label, prediction in pairs:
        label[:4], prediction[:4] = 0, SCORED[18]
    return pairs


def ignored_ids_predicted(random: np.random.Generator) -> list[Pair]:
    everything = np.concatenate([SCORED, IGNORED])
    return [(label, noisy(random, everything, label)) for label in drawn(random, SCORED)]


def ignored_labels(random: np.random.Generator) -> list[Pair]:
    everything = np.concatenate([SCORED, IGNORED])
    return [(label, noisy(random, everything, label)) for label in drawn(random, everything)]


def perfect(random: np.random.Generator) -> list[Pair]:
    everything = np.concatenate([SCORED[:7], IGNORED])
    return [(label, label.copy()) for label in drawn(random, everything)]


def nothing_labelled(random: np.random.Generator) -> list[Pair]:
    return [(label, noisy(random, SCORED, label)) for label in drawn(random, IGNORED)]


CASES = (
    random_classes, absent_classes, predicted_only, predicted_only_where_ignored,
    ignored_ids_predicted, ignored_labels, perfect, nothing_labelled,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_official_evaluators(
    tmp_path: Path,
    case: Callable[[np.random.Generator], list[Pair]],
    seed: int,
):
    frames, folder = write_pairs(tmp_path, case(np.random.default_rng(seed)))
    submission = read_submission(folder, frames)
    assert_same(score(submission.confusion), judge(frames, folder))


def test_the_cases_are_what_they_are_named(tmp_path: Path):
    """Were a case empty of what it is about, the test above would prove nothing."""
    random = np.random.default_rng(0)
    iou = {}
    for case in CASES:
        frames, folder = write_pairs(tmp_path / case.__name__, case(random))
        submission = read_submission(folder, frames)
        iou[case] = np.array(list(score(submission.confusion).iou.values()))
        has_void = submission.confusion[..., 19].any()
        assert has_void == (case in (ignored_ids_predicted, ignored_labels)), case
    assert np.isnan(iou[absent_classes][6:]).all()
    assert iou[predicted_only][18] == 0
    assert np.isnan(iou[predicted_only_where_ignored][18])
    assert np.nanmin(iou[perfect]) == 1
    assert np.isnan(iou[nothing_labelled]).all()
    assert 0.1 < np.nanmean(iou[random_classes]) < 0.9


def test_a_networks_full_resolution_score_is_that_of_its_written_predictions(
    tmp_path: Path,
):
    """From weights to score: `evaluate` counts what the evaluator counts in `predict`'s PNGs."""
    config, device = tiny_config(evaluate={"batch_size": 1}), torch.device("cpu")
    frames = [
        write_frame(tmp_path, "val", f"ulm_{i:06}_000019", *scene(i, size))
        for i, size in enumerate([(64, 128), (51, 103), (64, 128)])
    ]
    model = opinionated(config)
    evaluation = evaluate(model, val_loader(frames, config, 0, pin=False), config, device)
    folder = tmp_path / "predictions"
    folder.mkdir()
    for frame in frames:
        train_ids = predict(model, read_image(frame.image), config, device)
        Image.fromarray(LABEL_ID_OF_TRAIN_ID[train_ids]).save(folder / f"{frame.name}.png")
    assert_same(score(evaluation.full), judge(frames, folder))
    assert np.count_nonzero(evaluation.full.sum((0, 1))) >= 3  # or agreement would mean little


@pytest.mark.parametrize("case", [random_classes, absent_classes, predicted_only, perfect])
def test_torchmetrics_macro_jaccard_agrees(case: Callable[[np.random.Generator], list[Pair]]):
    """Its rule for absent and predicted-only classes is the evaluator's; it has no void column."""
    metric = MulticlassJaccardIndex(19, ignore_index=IGNORE, average="macro")
    counts = np.zeros((19, 19), np.int64)
    for label, prediction in case(np.random.default_rng(1)):
        target = torch.from_numpy(TRAIN_ID[label])
        train_ids = torch.from_numpy(
            np.where(TRAIN_ID[prediction] == IGNORE, 0, TRAIN_ID[prediction])
        )
        metric.update(train_ids[None].long(), target[None].long())
        counts += counts_of_one(train_ids, target).numpy()
    assert float(metric.compute()) == pytest.approx(float(mean_iou(counts)), abs=1e-6)


def test_torchmetrics_per_class_jaccard_differs_on_absent_classes():
    """Its vector has 0 where ours has NaN, so the mean of that vector is no mIoU."""
    metric = MulticlassJaccardIndex(19, ignore_index=IGNORE, average="none")
    target = torch.tensor([[0, 0, 1, IGNORE]])
    metric.update(target.where(target != IGNORE, 0), target)
    counts = counts_of_one(target.where(target != IGNORE, 0), target.to(torch.uint8)).numpy()
    theirs, ours = metric.compute().numpy(), intersection_over_union(counts)
    np.testing.assert_array_equal(theirs[:2], ours[:2])
    assert (theirs[2:] == 0).all() and np.isnan(ours[2:]).all()
    assert theirs.mean() == pytest.approx(2 / 19) and mean_iou(counts) == 1
