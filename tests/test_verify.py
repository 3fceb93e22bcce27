"""`verify` finds all that is wrong with a data set, in one go, and nothing in a sound one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import CITIES, FRAMES_PER_CITY, scene, write_frame

from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, index
from cityseg.errors import InputError
from cityseg.verify import verify


@pytest.fixture
def city(tiny_city: Path, tmp_path: Path) -> Path:
    """A copy of the tiny city that may be broken."""
    return shutil.copytree(tiny_city, tmp_path / "city")


def image(root: Path, name: str) -> Path:
    return root / f"leftImg8bit/train/{name.split('_')[0]}/{name}{IMAGE_SUFFIX}"


def label(root: Path, name: str) -> Path:
    return root / f"gtFine/train/{name.split('_')[0]}/{name}{LABEL_SUFFIX}"


def found(root: Path) -> set[tuple[str, str]]:
    return {(str(problem.path), problem.what) for problem in verify(root, "train").problems}


def test_a_sound_city_has_counts_and_no_problem(tiny_city: Path):
    report = verify(tiny_city, "train")
    assert report.problems == []
    assert report.counts == dict.fromkeys(CITIES, FRAMES_PER_CITY)
    assert sum(report.counts.values()) == len(index(tiny_city, "train"))


def test_everything_wrong_is_listed_at_once(city: Path):
    names = [f"{c}_{i:06}_000019" for c in CITIES for i in range(FRAMES_PER_CITY)]
    label(city, names[0]).unlink()
    image(city, names[1]).unlink()
    Image.new("L", (128, 63), 7).save(label(city, names[2]))
    Image.new("RGBA", (128, 64)).save(image(city, names[3]))
    bad_ids = np.full((64, 128), 7, np.uint8)
    bad_ids[0, :3] = [34, 255, 34]
    Image.fromarray(bad_ids).save(label(city, names[4]))
    Image.new("L", (128, 64), 4).save(label(city, names[5]))
    label(city, names[6]).write_bytes(label(city, names[6]).read_bytes()[:200])
    image(city, names[7]).rename(image(city, names[7]).with_suffix(".jpg"))
    image(city, names[8]).rename(city / f"leftImg8bit/train/aachen/{names[8]}{IMAGE_SUFFIX}")
    found_here = {(path.split("/")[-1], what) for path, what in found(city)}
    decode = {entry for entry in found_here if "cannot decode it" in entry[1]}
    assert {name for name, _ in decode} == {names[6] + LABEL_SUFFIX}
    assert found_here - decode == {
        (names[0] + IMAGE_SUFFIX, "has no label"),
        (names[1] + LABEL_SUFFIX, "has no image"),
        (names[2] + LABEL_SUFFIX, "has 128x63, its image 128x64 pixels"),
        (names[3] + IMAGE_SUFFIX, "got image mode RGBA, expected RGB"),
        (names[4] + LABEL_SUFFIX, "ids [34, 255] are not in the official table"),
        (names[5] + LABEL_SUFFIX, "no pixel is of the 19 scored classes"),
        (names[7] + LABEL_SUFFIX, "has no image"),
        (names[7] + "_leftImg8bit.jpg", f"is not named bochum_000000_000000{IMAGE_SUFFIX}"),
        (names[8] + LABEL_SUFFIX, "has no image"),
        (names[8] + IMAGE_SUFFIX, f"is not named aachen_000000_000000{IMAGE_SUFFIX}"),
    }
    assert verify(city, "train").counts == {"aachen": 2, "bochum": 3, "ulm": 3}


def test_files_that_training_passes_over_are_no_problem(city: Path):
    """Cityscapes ships other kinds of label beside ours, and desktops leave hidden files."""
    folder = city / "gtFine/train/ulm"
    for suffix in ("color.png", "instanceIds.png", "polygons.json"):
        (folder / f"ulm_000000_000019_gtFine_{suffix}").write_bytes(b"not read")
    (city / "leftImg8bit/train/ulm/.DS_Store").write_bytes(b"not read")
    assert found(city) == set()


def test_missing_and_empty_folders_are_problems_but_a_missing_root_is_a_mistake(tmp_path: Path):
    (tmp_path / "gtFine/train").mkdir(parents=True)
    assert found(tmp_path) == {
        ("leftImg8bit/train", "no such folder"),
        ("gtFine/train", f"holds no *{LABEL_SUFFIX}"),
    }
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        verify(tmp_path / "nowhere", "train")


def test_what_index_refuses_verify_lists(city: Path):
    """The message of `index` sends people here: verify must then have something to show."""
    label(city, "ulm_000000_000019").unlink()
    with pytest.raises(InputError, match="cityseg verify"):
        index(city, "train")
    assert len(found(city)) == 1


@pytest.mark.parametrize("seed", range(40))
def test_damage_of_any_kind_is_a_problem_never_a_crash(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    frame = write_frame(tmp_path, "train", "ulm_000000_000019", *scene(0, (32, 64)))
    file = frame.image if random.random() < 0.5 else frame.label
    content = bytearray(file.read_bytes())
    if seed % 2:
        del content[int(random.integers(0, len(content) - 20)) :]
    else:
        for place in random.integers(0, len(content), 12):
            content[place] ^= int(random.integers(1, 256))
    file.write_bytes(content)
    problems = verify(tmp_path, "train").problems
    assert problems and {tmp_path / problem.path for problem in problems} <= {
        frame.image,
        frame.label,
    }


def test_several_processes_find_what_one_finds(city: Path):
    Image.new("L", (128, 64), 99).save(label(city, "ulm_000003_000019"))
    Image.new("L", (128, 64), 0).save(label(city, "aachen_000000_000019"))
    alone, shared = verify(city, "train", processes=1), verify(city, "train", processes=2)
    assert alone == shared and len(alone.problems) == 3
