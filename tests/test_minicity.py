"""The embedded city: deterministic, true in layout, with every class, learnable, not trivial."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cityseg import data, minicity
from cityseg.config import City
from cityseg.errors import InputError
from cityseg.labels import CLASSES, IGNORE, LABELS, TRAIN_ID_OF_LABEL_ID
from cityseg.minicity import dataset
from cityseg.minicity.furniture import post
from cityseg.minicity.geometry import Camera
from cityseg.minicity.looks import NAMES, Look, look_of
from cityseg.minicity.scene import Scene

SMALL = City(height=64, cities=6, frames_per_city=4, val_frames=2)
TINY = City(height=64, cities=2, frames_per_city=1, val_frames=1)
OTHER_SEED = TINY.model_copy(update={"seed": 1})


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """Draws thrice as fast, for many frames; the other tests' frames are drawn with checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("city") / "data"
    with shapes_unchecked():
        minicity.build(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `ensure` has built two data sets; not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    for city in (TINY, OTHER_SEED):
        minicity.ensure(city, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_same_settings_give_the_same_bytes_and_another_seed_gives_others(
    cache: Path, tmp_path: Path
):
    minicity.build(tmp_path, TINY)
    one, two = contents(minicity.ensure(TINY, cache)), contents(tmp_path)
    other = contents(minicity.ensure(OTHER_SEED, cache))
    assert one == two
    assert len(one) == 2 * 3 + 1
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_layout_is_cityscapes_with_the_val_city_on_its_own(root: Path):
    train, val = data.index(root, "train"), data.index(root, "val")
    assert sorted(Counter(frame.city for frame in train).values()) == [4] * 6
    assert len(val) == 2
    assert {frame.city for frame in train}.isdisjoint(frame.city for frame in val)
    assert data.kind(root, train) == "synthetic"
    mark = json.loads((root / data.SYNTHETIC_MARK).read_text())
    assert mark["version"] == minicity.VERSION
    assert City(**mark["city"]) == SMALL


def test_files_hold_rgb_and_label_ids_of_one_size(root: Path):
    """`data` reads no other modes than 8-bit RGB and one 8-bit channel."""
    for frame in data.index(root, "train"):
        assert data.read_image(frame.image).shape == (64, 128, 3)
        assert data.read_label_ids(frame.label).shape == (64, 128)


def test_a_frame_does_not_depend_on_how_many_cities_and_frames_there_are(root: Path, cache: Path):
    few, many = contents(minicity.ensure(TINY, cache)), contents(root)
    few.pop(data.SYNTHETIC_MARK)
    assert {Path(name).parts[1] for name in few} == {"train", "val"}
    assert few.items() <= many.items()


def test_all_19_classes_and_several_ignored_ids_occur_even_in_the_smoke_size(root: Path):
    labels = [data.read_label_ids(frame.label) for frame in data.index(root, "train")]
    ids = np.unique(np.stack(labels))
    assert set(ids) <= {label.id for label in LABELS}
    assert {label.id for label in CLASSES} <= set(ids)
    assert (TRAIN_ID_OF_LABEL_ID[ids] == IGNORE).sum() >= 8
    ignored = np.mean(TRAIN_ID_OF_LABEL_ID[np.stack(labels)] == IGNORE)
    assert 0.03 < ignored < 0.25


def test_every_class_occurs_in_twelve_frames_of_a_city():
    """Of the narrowest one, dunlow, where least fits in."""
    with shapes_unchecked():
        frames = [minicity.render(3, frame, 96, 0)[1] for frame in range(12)]
    assert {label.id for label in CLASSES} <= set(np.unique(np.stack(frames)))


@settings(max_examples=30)
@given(st.integers(0, 18), st.integers(0, 500), st.integers(0, 2**32 - 1))
def test_three_frames_deal_out_every_rare_class(city_index: int, block: int, seed: int):
    dealt = [dataset.features_of(city_index, 3 * block + place, seed) for place in range(3)]
    assert sorted(name for features in dealt for name in features) == sorted(dataset.RARE)


@given(st.integers(0, 18), st.integers(0, 99), st.sampled_from([32, 50, 90]), st.integers(0, 9))
@settings(max_examples=6, deadline=None)
def test_any_city_frame_height_and_seed_can_be_drawn(city: int, frame: int, height: int, seed: int):
    image, labels = minicity.render(city, frame, height, seed)
    assert image.shape == (height, 2 * height, 3)
    assert image.dtype == labels.dtype == np.uint8
    assert image.std() > 15
    assert set(np.unique(labels)) <= {label.id for label in LABELS}
    assert {7, 11, 21} <= set(np.unique(labels))


def test_height_only_scales_the_scene():
    _, small = minicity.render(1, 2, 128, 0)
    _, large = minicity.render(1, 2, 512, 0)
    assert np.mean(small == large[2::4, 2::4]) > 0.93


def test_image_and_labels_share_their_edges():
    """A bright panel and its label must cover the same pixels, wherever it lies on the raster."""
    camera = Camera(0.4, 1.0, 1.8, 0.0, 1.5, 0.0)
    scene = Scene(64, camera, Look(haze_m=1e9), np.random.default_rng(0))
    rects = np.array([[[0.503, 0.21], [1.31, 0.33], [1.27, 0.77], [0.61, 0.71]]])
    scene.fill_flat(rects, [(255, 255, 255, 20)])
    scene.rod(np.array([(1.0, 0.0, 9.0), (1.0, 3.0, 9.0)]), 0.01, (255, 255, 255), "traffic sign")
    painted = scene.raster[..., :3].min(-1) > 250
    assert painted.sum() > 1000
    assert np.array_equal(painted, scene.raster[..., 3] == 20)


def test_what_is_thin_stays_visible_at_the_smallest_size():
    """A lamp post 0.13 m wide at 12 m is a third of a pixel at height 32."""
    camera = Camera(0.4, 1.0, 1.8, 0.0, 1.5, 0.0)
    # from 5 m above the ground, which is above the picture, to the foot, 1.5 m below the eye
    foot = round(32 * (0.4 + 1.8 * 1.5 / 12))
    for x in np.linspace(0.5, 1.5, 9).tolist():
        scene = Scene(32, camera, Look(), np.random.default_rng(0))
        post(scene, x, 12.0, 5.0)
        rows = (scene.raster[::2, ::2, 3] == 17).any(1)
        assert rows[: foot - 1].all()
        assert not rows[foot + 2 :].any()


def test_cities_differ_in_look(root: Path):
    """The cities' mean colours lie further apart than the frames of one city do."""
    frames = data.index(root, "train")
    means = np.array([data.read_image(frame.image).mean((0, 1)) for frame in frames])
    means = means.reshape(6, 4, 3)
    assert means.mean(1).std(0).max() > 1.3 * means.std(1).mean(0).max()
    looks = [look_of(city_index, 0) for city_index in range(len(NAMES))]
    assert len({repr(look) for look in looks}) == len(NAMES)


def test_learnable_from_colour_and_place_but_not_solved_by_them(root: Path):
    """Nearest centroid of (colour, row), fitted on train and scored on val."""
    train, val = (_pixels(root, split) for split in ("train", "val"))
    present = np.unique(train[1])
    centroids = np.array([train[0][train[1] == k].mean(0) for k in present])
    distance = ((val[0][:, None] - centroids) ** 2).sum(-1)
    accuracy = np.mean(present[distance.argmin(1)] == val[1])
    per_class = np.mean(
        [np.mean(present[distance.argmin(1)][val[1] == k] == k) for k in np.unique(val[1])]
    )
    majority = 1 / len(present)
    assert 2.5 * majority < per_class < 0.6
    assert accuracy < 0.7


def _pixels(root: Path, split: data.Split) -> tuple[np.ndarray, np.ndarray]:
    """Every 7th scored pixel: [red, green, blue, row] in 0-1, and its train id."""
    frames = data.index(root, split)
    image = np.stack([data.read_image(frame.image) for frame in frames]) / 255
    row = np.broadcast_to(np.linspace(0, 1, 64)[:, None, None], (*image.shape[:3], 1))
    target = np.stack([data.read_target(frame.label) for frame in frames]).ravel()
    features = np.concatenate([image, row], -1).reshape(-1, 4)
    scored = np.flatnonzero(target != IGNORE)[::7]
    return features[scored], target[scored]


def test_ensure_builds_once_and_reuses(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "build", _must_not_build)
    root = minicity.ensure(TINY, cache)
    assert root.name.startswith(f"minicity-{minicity.VERSION}-")
    assert len(data.index(root, "train")) == 2
    monkeypatch.setenv("CITYSEG_CACHE", str(cache))
    assert minicity.ensure(TINY) == root


def _must_not_build(root: Path, city: City) -> None:
    raise AssertionError(f"built {root} again for {city}")


def test_other_settings_go_to_another_folder(cache: Path):
    one, other = minicity.ensure(TINY, cache), minicity.ensure(OTHER_SEED, cache)
    assert one.parent == other.parent == cache.resolve()
    assert one != other


def test_a_killed_build_leaves_nothing_that_looks_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    render = minicity.render
    calls = Counter[str]()

    def killed(*where: int) -> tuple[np.ndarray, np.ndarray]:
        calls["render"] += 1
        if calls["render"] == 2:
            raise KeyboardInterrupt
        return render(*where)

    monkeypatch.setattr(dataset, "render", killed)
    with pytest.raises(KeyboardInterrupt):
        minicity.ensure(TINY, tmp_path)
    assert not list(tmp_path.glob("minicity-*"))
    monkeypatch.setattr(dataset, "render", render)
    (leftover,) = tmp_path.glob(".minicity-*.tmp")
    (leftover / "leftImg8bit" / "train" / "stray.png").write_bytes(b"half")
    assert contents(minicity.ensure(TINY, tmp_path)) == contents(minicity.ensure(TINY, cache))


def test_a_folder_without_its_mark_is_built_anew(cache: Path, tmp_path: Path):
    root = tmp_path / minicity.ensure(TINY, cache).name
    shutil.copytree(cache / root.name, root)
    whole = contents(root)
    (root / data.SYNTHETIC_MARK).unlink()
    shutil.rmtree(root / "gtFine")
    assert minicity.ensure(TINY, tmp_path) == root.resolve()
    assert contents(root) == whole


def test_a_cache_that_cannot_be_written_is_the_users_mistake(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="CITYSEG_CACHE"):
        minicity.ensure(TINY, tmp_path / "file" / "cache")
