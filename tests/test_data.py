"""Which frames are there, and what a broken one is called."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny import CITIES, scene, write_city, write_frame

from cityseg import data
from cityseg.data import CITYSCAPES_TRAIN, Frame, fingerprint, index, kind
from cityseg.errors import InputError


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A tiny city to be damaged."""
    return write_city(tmp_path / "city")


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        index(root, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_index_lists_every_frame_once_sorted_with_its_files(city: Path):
    frames = index(city, "train")
    assert [frame.name for frame in frames] == [
        f"{name}_{i:06}_000019" for name in CITIES for i in range(4)
    ]
    assert [frame.city for frame in frames] == [name for name in CITIES for _ in range(4)]
    for frame in frames:
        assert frame.image.name == f"{frame.name}_leftImg8bit.png"
        assert frame.label.name == f"{frame.name}_gtFine_labelIds.png"
        assert frame.image.is_file() and frame.label.is_file()


def test_the_other_files_of_the_official_layout_are_not_frames(city: Path):
    folder = city / "gtFine/train/ulm"
    for suffix in ("instanceIds.png", "color.png", "polygons.json", "labelTrainIds.png"):
        (folder / f"ulm_000000_000019_gtFine_{suffix}").write_bytes(b"")
    assert len(index(city, "train")) == 12


@pytest.mark.parametrize("name", ["são paulo", "köln", "bad_homburg", "上海"])
def test_any_city_name_will_do(tmp_path: Path, name: str):
    wanted = write_frame(tmp_path, "val", f"{name}_000001_000019", *scene(0))
    assert index(tmp_path, "val") == [wanted]
    assert wanted.city == name


@pytest.mark.parametrize(("part", "lacks"), [("gtFine", "no label"), ("leftImg8bit", "no image")])
def test_an_unpaired_frame_is_named_with_what_it_lacks(city: Path, part: str, lacks: str):
    for file in (city / part / "train" / "bochum").glob("*_00000[12]_*.png"):
        file.unlink()
    message = refused(city)
    assert "2 unpaired frames in train, the first bochum_000001_000019" in message
    assert lacks in message


@pytest.mark.parametrize(
    "name", ["ulm_1_2", "holiday", "ulm_000000_000019x", "aachen_000009_000019"]
)
def test_a_stray_name_or_a_frame_in_the_wrong_citys_folder_is_named(city: Path, name: str):
    stray = city / "leftImg8bit/train/ulm" / f"{name}_leftImg8bit.png"
    stray.write_bytes(b"")
    assert str(stray) in refused(city)


def test_a_missing_or_empty_split_is_named(city: Path, tmp_path: Path):
    assert "no folder" in refused(tmp_path / "absent")
    (tmp_path / "empty/leftImg8bit/train/ulm").mkdir(parents=True)
    assert "holds no frame" in refused(tmp_path / "empty")


def test_labels_are_mapped_at_load(tmp_path: Path):
    image, _ = scene(0)
    label_ids = np.arange(256, dtype=np.uint8).reshape(2, 128).repeat(32, 0)
    frame = write_frame(tmp_path, "train", "ulm_000000_000019", image, label_ids)
    target = data.read_target(frame.label)
    assert {i: t for i, t in zip(label_ids.flat, target.flat, strict=True) if t != 255} == {
        7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
        25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
    }  # fmt: skip
    np.testing.assert_array_equal(data.read_label_ids(frame.label), label_ids)
    np.testing.assert_array_equal(data.read_image(frame.image), image)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_an_image_that_is_not_rgb_is_refused_with_both_modes(city: Path, mode: str):
    path = index(city, "train")[0].image
    Image.new(mode, (128, 64)).save(path)
    with pytest.raises(InputError, match=f"got image mode {mode}, expected RGB") as caught:
        data.read_image(path)
    assert str(path) in str(caught.value)


def test_a_label_map_in_colours_is_refused(city: Path):
    with pytest.raises(InputError, match="got image mode RGB, expected L"):
        data.read_target(index(city, "train")[0].image)


def test_a_file_damaged_anywhere_is_named_in_one_line(city: Path):
    path = index(city, "train")[0].image
    whole = path.read_bytes()
    bare_header = whole[:8] + (4).to_bytes(4, "big") + b"IHDR" + bytes(4)
    for content in (b"", b"text", whole[:20], whole[:60], whole[: len(whole) // 2], bare_header):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            data.read_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        data.read_image(path)


def test_frame_and_labels_of_different_sizes_are_refused(tmp_path: Path):
    frame = write_frame(tmp_path, "train", "ulm_000000_000019", scene(0)[0], scene(0, (32, 64))[1])
    with pytest.raises(InputError, match="ulm_000000_000019") as caught:
        data.read_frame(frame)
    assert "64x128" in str(caught.value) and "32x64" in str(caught.value)


def test_the_fingerprint_is_of_names_and_sizes_wherever_the_data_lie(city: Path, tmp_path: Path):
    before = fingerprint(index(city, "train"))
    moved = tmp_path / "elsewhere"
    shutil.copytree(city, moved)
    assert fingerprint(index(moved, "train")) == before
    for part in ("image", "label"):
        file: Path = getattr(index(moved, "train")[5], part)
        whole = file.read_bytes()
        file.write_bytes(whole + b"x")
        assert fingerprint(index(moved, "train")) != before
        file.write_bytes(whole)
    assert fingerprint(index(moved, "train")) == before
    assert fingerprint(index(moved, "train")[1:]) != before


def cityscapes_frames() -> list[Frame]:
    """Names alone; there are no such files."""
    return [
        Frame(f"{city}_{i:06}_000019", city, Path("image"), Path("label"))
        for city, count in CITYSCAPES_TRAIN.items()
        for i in range(count)
    ]


def test_only_the_official_2975_frames_are_called_cityscapes(tmp_path: Path):
    official = cityscapes_frames()
    assert len(official) == 2975
    assert len(Counter(frame.city for frame in official)) == 18
    assert kind(tmp_path, official) == "cityscapes"
    assert kind(tmp_path, official[1:]) == "other"


def test_a_marked_data_set_is_synthetic_whatever_its_cities(tmp_path: Path):
    (tmp_path / "SYNTHETIC.json").write_text("{}")
    assert kind(tmp_path, cityscapes_frames()) == "synthetic"


def test_the_root_is_as_given_else_the_official_variables_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert data.resolve_root(None) is None
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path))
    assert data.resolve_root(None) == tmp_path
    assert data.resolve_root(tmp_path / "mine") == tmp_path / "mine"


def test_the_cache_folder_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CITYSEG_CACHE", "~/cache")
    assert data.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("CITYSEG_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match="no such path ~nobody-of-this-name/cache"):
        data.cache_folder()


def test_a_picture_of_16_bits_with_alpha_is_refused_before_it_loses_8(tmp_path: Path):
    path = tmp_path / "picture.png"
    for dtype in (np.uint8, np.uint16):
        cv2.imwrite(str(path), np.full((4, 6, 4), 200, dtype))
        if dtype is np.uint8:
            assert data.read_picture(path).shape == (4, 6, 3)
    with pytest.raises(InputError, match="got 16 bits a channel, expected 8"):
        data.read_picture(path)
