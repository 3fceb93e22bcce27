"""The gallery: which frames it holds, their scores, and whose pictures may be shown."""

import io
import math
import shutil

import numpy as np
import pytest
from fake_study import FOLDS, FRAMES, finish, make_study, target
from PIL import Image
from sklearn.metrics import jaccard_score

from cityseg.cell import Confusion, Counts, write_confusion
from cityseg.data import Kind, read_target
from cityseg.labels import CLASS_NAMES, COLOR_OF_TRAIN_ID, IGNORE, NUM_CLASSES
from study import analysis, gallery, plots
from study.analysis import IGNORED, RIGHT, WRONG, PanelRow
from study.gallery import Gallery, Licence
from study.plots import IGNORED_COLOR, WRONG_COLOR
from study.store import Study


def gallery_of(study: Study, embed_frames: bool = False) -> Gallery:
    row = analysis.read_variant(study)
    panels, why = gallery.read_panels(row)
    return gallery.read_gallery(row, panels, gallery.licence_of(row, embed_frames), why)


def made(tmp_path, kind: Kind = "synthetic", folds: tuple[int, ...] = (1, 2, 3)) -> Study:
    study = make_study(tmp_path / "results", kind)
    for fold in folds:
        finish(study, fold)
    return study


def random_row(name: str, height: int = 512, width: int = 1024) -> PanelRow:
    """Of coarse noise, so that no format makes it small."""
    rng = np.random.default_rng(0)

    def coarse(high: int) -> np.ndarray:
        return rng.integers(0, high, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)

    image = np.stack([coarse(256)] * 3, -1).astype(np.uint8)
    target, prediction = (coarse(NUM_CLASSES).astype(np.uint8) for _ in range(2))
    return PanelRow(name, 0.5, image, target, prediction, coarse(3).astype(np.uint8))


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "WEBP"
        return np.array(image.convert("RGB"))


def test_every_kept_frame_is_there_the_worst_first_with_its_own_scores(tmp_path):
    study = made(tmp_path)

    shown = gallery_of(study)

    assert {frame.name for frame in shown.frames} == set(FRAMES)
    assert shown.scored == len(FRAMES)
    assert all(frame.is_kept and frame.pictures for frame in shown.frames)
    scores = [frame.miou for frame in shown.frames]
    assert scores == sorted(scores)
    assert shown.frames[0].fold == 3, "has the most wrong pixels"
    # fold 2, no car: sky 1, road 46 of 48, sidewalk accused only
    frame = next(one for one in shown.frames if one.name == FOLDS[1][1])
    assert frame.miou == pytest.approx((1 + 46 / 48 + 0) / 3)
    assert frame.iou[CLASS_NAMES.index("road")] == pytest.approx(46 / 48)
    assert np.isnan(frame.iou[CLASS_NAMES.index("bus")])
    assert [CLASS_NAMES[i] for i in shown.classes] == ["road", "sidewalk", "sky", "car"]
    assert shown.folds == [1, 2, 3]


def test_scores_of_frames_are_scikit_learns_of_their_pixels(tmp_path):
    study = made(tmp_path)

    for frame in gallery_of(study).frames:
        label, prediction = pixels_of(study, frame.name, frame.fold)
        there = np.union1d(label, prediction)
        iou = np.full(NUM_CLASSES, np.nan)
        iou[there] = jaccard_score(
            label,
            prediction,
            labels=there,
            average=None,  # pyright: ignore[reportArgumentType] # its stub knows only names
        )
        np.testing.assert_allclose(frame.iou, iou)
        assert frame.miou == pytest.approx(np.nanmean(iou))


def pixels_of(study: Study, name: str, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Train ids of label and prediction, where the label counts."""
    label = target(FRAMES.index(name))
    prediction = read_target(study.cell(0, fold).predictions / f"{name}_labelIds.png")
    return label[label != IGNORE], prediction[label != IGNORE]


def test_of_frames_without_a_prediction_the_worst_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "LISTED", 2)
    study = made(tmp_path)
    for name in FRAMES[:5]:
        for path in study.folder.glob(f"v000/f*/predictions/{name}_labelIds.png"):
            path.unlink()

    shown = gallery_of(study)

    # most pixels are wrong in fold 3, and they weigh more without a car; its other frame is kept
    worst = {FRAMES[2], FRAMES[4]}
    assert {frame.name for frame in shown.frames} == {FRAMES[5], *worst}
    assert {frame.name for frame in shown.frames if frame.is_kept} == {FRAMES[5]}
    assert {frame.name for frame in shown.frames if frame.pictures} == {FRAMES[5]}
    assert shown.scored == len(FRAMES)


@pytest.mark.parametrize(
    ("kind", "embed_frames", "licence"),
    [
        ("synthetic", False, "open"),
        ("synthetic", True, "open"),
        ("cityscapes", False, "withheld"),
        ("cityscapes", True, "embedded"),
        ("other", False, "withheld"),
        ("other", True, "embedded"),
    ],
)
def test_only_the_projects_own_frames_are_shown_unasked(
    tmp_path, kind: Kind, embed_frames: bool, licence: Licence
):
    shown = gallery_of(made(tmp_path, kind), embed_frames)

    assert shown.licence == licence
    assert len(shown.frames) == len(FRAMES)
    assert all((frame.pictures is None) == (licence == "withheld") for frame in shown.frames)
    name = "Cityscapes" if kind == "cityscapes" else "data"
    why = f"The licence of {name} may forbid to pass its frames on"
    assert shown.why_no_pictures.startswith(why) == (licence == "withheld")


def test_a_data_set_that_is_gone_leaves_the_scores_and_says_so(tmp_path):
    study = made(tmp_path)
    root = study.read().data.root
    shutil.rmtree(root)

    shown = gallery_of(study)

    assert len(shown.frames) == len(FRAMES)
    assert not any(frame.pictures for frame in shown.frames)
    assert shown.why_no_pictures == f"The data set is no longer at {root}."


def test_a_data_set_that_is_another_now_says_which_frame_it_lacks(tmp_path):
    study = made(tmp_path)
    for path in study.read().data.root.glob(f"*/train/*/{FRAMES[0]}*"):
        path.unlink()

    shown = gallery_of(study)

    assert FRAMES[0] in shown.why_no_pictures
    assert not any(frame.pictures for frame in shown.frames)


def test_a_study_without_a_finished_fold_has_an_empty_gallery(tmp_path):
    shown = gallery_of(make_study(tmp_path / "results"))

    assert (shown.frames, shown.scored, shown.classes, shown.folds) == ((), 0, [], [])
    assert shown.why_no_pictures == "No prediction is kept yet."


def test_a_frame_that_is_all_ignored_comes_last(tmp_path):
    study = made(tmp_path, folds=(1,))
    counts = np.zeros((len(FOLDS[0]), NUM_CLASSES, NUM_CLASSES), np.int64)
    counts[1, 0, 0] = 1
    both = Counts(2, counts, counts)
    write_confusion(study.cell(0, 1).confusion, Confusion(FOLDS[0], both, both))

    assert [frame.name for frame in gallery_of(study).frames] == FOLDS[0][::-1]


def test_pictures_are_those_of_the_frame_and_colours_of_classes_are_exact(tmp_path):
    study = made(tmp_path)
    row = analysis.read_variant(study)
    panels, _ = gallery.read_panels(row)

    for one in panels[3].rows:
        there = gallery.thumbnails([one])[one.name]

        assert (there.width_px, there.height_px) == (16, 8), "never blown up"
        np.testing.assert_array_equal(decoded(there.label), COLOR_OF_TRAIN_ID[one.target])
        np.testing.assert_array_equal(decoded(there.prediction), COLOR_OF_TRAIN_ID[one.prediction])
        assert abs(decoded(there.frame).astype(int) - one.image).max() < 30, "but for the codec"
        errors = decoded(there.errors)
        np.testing.assert_array_equal((errors == WRONG_COLOR).all(-1), one.errors == WRONG)
        np.testing.assert_array_equal((errors == IGNORED_COLOR).all(-1), one.errors == IGNORED)


def test_a_map_made_smaller_keeps_to_the_colours_of_classes():
    row = random_row("a")

    label = decoded(gallery.thumbnails([row])["a"].label)

    assert label.shape == (384, 768, 3)
    colors = {tuple(color) for color in COLOR_OF_TRAIN_ID.tolist()}
    assert {tuple(color) for color in label.reshape(-1, 3).tolist()} <= colors


def test_errors_are_in_few_greys_so_that_they_stay_small():
    row = random_row("a")

    errors = decoded(gallery.thumbnails([row])["a"].errors)

    assert len(np.unique(plots.errors_picture(row)[row.errors == RIGHT])) > 80
    assert len(np.unique(errors.reshape(-1, 3), axis=0)) <= 12 + 2, "red and black among them"


def test_pictures_are_as_wide_as_the_budget_allows():
    rows = [random_row(f"a{i}") for i in range(4)]

    wide = gallery.thumbnails(rows)
    narrow = gallery.thumbnails(rows, sum(one.size for one in wide.values()) - 1)

    assert {one.width_px for one in wide.values()} == {768}
    assert {one.width_px for one in narrow.values()} == {512}
    assert len(wide) == len(narrow) == len(rows)
    assert sum(one.size for one in narrow.values()) < sum(one.size for one in wide.values())


def test_widths_that_would_by_far_not_fit_are_not_tried(monkeypatch):
    rows = [random_row(f"a{i}") for i in range(4)]
    budget = sum(one.size for one in gallery.thumbnails(rows).values()) // 3
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "FAR", math.inf)
        expected = gallery.thumbnails(rows, budget)
    within, tried = gallery._within, list[int]()
    monkeypatch.setattr(gallery, "_within", lambda *of: (tried.append(of[1]), within(*of))[1])

    assert gallery.thumbnails(rows, budget) == expected
    assert tried
    assert gallery.WIDTHS_PX[0] not in tried
    assert gallery.thumbnails([], 1) == {}


def test_what_does_not_fit_at_all_is_left_out_and_said(tmp_path, monkeypatch):
    study = made(tmp_path)
    row = analysis.read_variant(study)
    panels, _ = gallery.read_panels(row)
    rows = [one for panel in panels.values() for one in panel.rows]
    small = gallery.thumbnails(rows)
    budget = sum(small[one.name].size for one in rows[:2])
    monkeypatch.setattr(gallery.thumbnails, "__defaults__", (budget,))

    shown = gallery_of(study)

    assert {one.name for one in shown.frames if one.pictures} == {one.name for one in rows[:2]}
    assert shown.why_no_pictures == "Pictures of 2 of the 6 kept frames fit in here."
