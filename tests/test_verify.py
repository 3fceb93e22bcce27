"""`verify` finds all that is wrong with a data set, in one go, and nothing in a sound one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import CITIES, FRAMES_PER_CITY, scene, write_frame

from cityseg import findings, minicity
from cityseg.config import City, Folds
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, index
from cityseg.disguise import looks_like_train_ids
from cityseg.errors import InputError
from cityseg.folds import FoldsFile
from cityseg.labels import TRAIN_ID_OF_LABEL_ID
from cityseg.verify import Report, check_names, verify


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
    (city / f"leftImg8bit/train/ulm/._ulm_000000_000019{IMAGE_SUFFIX}").write_bytes(b"of a Mac's")
    assert found(city) == set()
    assert len(index(city, "train")) == 12


def test_what_is_no_frame_by_its_name_is_a_warning_unless_index_refuses_it(city: Path):
    (city / "leftImg8bit/train/aachen/Thumbs.db").write_bytes(b"not read")
    assert len(index(city, "train")) == 12
    (warning,) = warned(verify(city, "train"))
    assert warning.startswith("leftImg8bit/train/aachen/Thumbs.db: is not named aachen_")
    image(city, "ulm_000000_000019").rename(city / f"leftImg8bit/train/ulm/ulm_1{IMAGE_SUFFIX}")
    with pytest.raises(InputError):
        index(city, "train")
    grave = {p.path.name for p in verify(city, "train").problems if p.grave}
    assert f"ulm_1{IMAGE_SUFFIX}" in grave


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


def warned(report: Report) -> list[str]:
    """Warnings, but for those of classes that tiny cities lack; there must be nothing else."""
    assert not any(problem.grave for problem in report.problems)
    return [
        str(p).removeprefix("warning: ") for p in report.problems if "in no label" not in p.what
    ]


# ---------------------------------------------------------------------------- whole-set checks


def test_the_same_picture_twice_is_found_however_it_is_packed(city: Path):
    one, other = image(city, "aachen_000000_000019"), image(city, "ulm_000002_000019")
    Image.open(one).save(other, compress_level=0)
    assert one.read_bytes() != other.read_bytes()
    path = f"leftImg8bit/train/ulm/ulm_000002_000019{IMAGE_SUFFIX}"
    assert warned(verify(city, "train")) == [f"{path}: is the same picture as aachen_000000_000019"]


def test_the_same_picture_on_both_sides_of_a_split_is_a_problem(city: Path):
    Image.open(image(city, "aachen_000000_000019")).save(image(city, "ulm_000002_000019"))
    names = [frame.name for frame in index(city, "train")]
    apart = FoldsFile(folds=[names[:4], names[4:]])
    (found,) = [p for p in verify(city, "train", folds=apart).problems if p.grave]
    assert found.path.name == f"ulm_000002_000019{IMAGE_SUFFIX}"
    assert "is in fold 2 and, as aachen_000000_000019, in fold 1" in found.what
    moved = [name for name in names[4:] if name != "ulm_000002_000019"]
    together = FoldsFile(folds=[[*names[:4], "ulm_000002_000019"], moved])
    assert not any(problem.grave for problem in verify(city, "train", folds=together).problems)


def test_classes_that_a_fold_lacks_or_has_alone_are_named(city: Path):
    """Road everywhere but in fold 2, sky in fold 1 alone, nothing else anywhere."""
    for frame in index(city, "train"):
        label_ids = np.full((64, 128), 0 if frame.city == "bochum" else 7, np.uint8)
        label_ids[0] = 23 if frame.city == "aachen" else 0
        Image.fromarray(label_ids).save(frame.label)
    names = [frame.name for frame in index(city, "train")]
    folds = FoldsFile(folds=[names[:4], names[4:8], names[8:]])
    found = [p.what for p in verify(city, "train", folds=folds).problems if "scored" not in p.what]
    (nowhere,) = [what for what in found if what.endswith("in no label, and so in no score")]
    assert nowhere.startswith("sidewalk, building, wall") and "sky" not in nowhere
    assert set(found) - {nowhere} == {
        "road, sky: in no label of fold 2, whose mean is over other classes",
        "sky: in labels of fold 1 alone, whose network never sees it",
        "sky: in no label of fold 3, whose mean is over other classes",
    }


@pytest.mark.parametrize(
    ("folds", "what"),
    [
        (Folds(count=13), "cannot make 13 folds: got 12 frames"),
        (Folds(count=4, grouping="cities"), "cannot make 4 folds: got 3 cities"),
        (FoldsFile(folds=[["a"], ["b"]]), "folds: 2 in a fold but not in the data, the first a"),
    ],
)
def test_folds_that_cannot_be_made_are_a_problem(tiny_city: Path, folds: Folds, what: str):
    problems = [p.what for p in verify(tiny_city, "train", folds=folds).problems if p.grave]
    assert problems == [what]


def test_names_with_spaces_and_letters_beyond_ascii_work_and_are_told_of(tmp_path: Path):
    for i, town in enumerate(("bad münster", "köln")):
        write_frame(tmp_path, "train", f"{town}_{i:06}_000019", *scene(i))
    assert len(index(tmp_path, "train")) == 2
    (told,) = warned(verify(tmp_path, "train"))
    assert "spaces or letters beyond ASCII in 2 names" in told


def test_the_same_letters_in_other_bytes_are_told_from_a_missing_file(tmp_path: Path):
    """As when only one of two archives was unpacked on a Mac."""
    composed, decomposed = "k\u00f6ln_000000_000019", "ko\u0308ln_000000_000019"
    write_frame(tmp_path, "train", composed, *scene(0)).label.unlink()
    write_frame(tmp_path, "train", decomposed, *scene(0)).image.unlink()
    what = ": its name is written in another Unicode form (NFC, NFD)"
    problems = [p.what for p in verify(tmp_path, "train").problems]
    assert sorted(p for p in problems if what in p) == [
        f"has no image{what}",
        f"has no label{what}",
    ]


def test_links_are_followed_and_loops_listed(city: Path, tmp_path: Path):
    label(city, "ulm_000001_000019").rename(tmp_path / "elsewhere.png")
    label(city, "ulm_000001_000019").symlink_to(tmp_path / "elsewhere.png")
    assert found(city) == set()
    image(city, "ulm_000000_000019").unlink()
    image(city, "ulm_000000_000019").symlink_to(image(city, "ulm_000000_000019").name)
    (city / "gtFine/train/loop").symlink_to("loop")
    told = {(path.split("/")[-1], what) for path, what in found(city)}
    assert ("loop", "is a link that leads nowhere, or to itself") in told
    (other,) = told - {("loop", "is a link that leads nowhere, or to itself")}
    assert "Too many levels of symbolic links" in other[1]


def test_a_city_that_is_a_link_to_nowhere_is_found_by_names_alone(city: Path):
    """`index` does not see it: there are fewer frames, and nothing is unpaired."""
    for kind in ("leftImg8bit", "gtFine"):
        shutil.rmtree(city / kind / "train/ulm")
        (city / kind / "train/ulm").symlink_to("nowhere")
    assert len(index(city, "train")) == 8
    assert [(str(p.path), p.grave) for p in check_names(city, "train")] == [
        ("leftImg8bit/train/ulm", True), ("gtFine/train/ulm", True),
    ]  # fmt: skip


# ------------------------------------------------------------------------- train ids in disguise


@pytest.fixture(scope="session")
def street_labels(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Label ids of the embedded city, whose scenes are composed as streets are."""
    city = City(height=64, cities=4, frames_per_city=4, val_frames=1)
    root = minicity.ensure(city, tmp_path_factory.mktemp("cache"))
    return [np.array(Image.open(frame.label)) for frame in index(root, "train")]


def test_train_ids_are_told_from_label_ids_frame_by_frame(street_labels: list[np.ndarray]):
    for label_ids in street_labels:
        pixels = np.bincount(label_ids.ravel(), minlength=256)
        assert not looks_like_train_ids(pixels)
        train_ids = TRAIN_ID_OF_LABEL_ID[label_ids]
        for void in (255, 0, 18):
            disguised = np.where(train_ids == 255, void, train_ids)
            assert looks_like_train_ids(np.bincount(disguised.ravel(), minlength=256))


@pytest.mark.parametrize(
    ("label_ids", "disguised"),
    [
        ((7, 11, 17), False),  # road, building, pole: all of them below 19
        ((7, 8, 11, 0), False),
        ((0, 1, 2, 3, 26), False),  # little labelled, but no train id is a car's 26
        ((0, 2, 8, 10, 13), True),  # road, building, vegetation, sky, car as train ids
        ((0, 1, 2), True),
        ((255,), False),
    ],
)
def test_few_classes_are_told_apart_too(label_ids: tuple[int, ...], disguised: bool):
    pixels = np.zeros(256, np.int64)
    pixels[list(label_ids)] = 1000
    assert looks_like_train_ids(pixels) == disguised


def test_one_city_of_train_ids_is_named(tmp_path: Path, street_labels: list[np.ndarray]):
    for i, town in enumerate(("aachen", "bochum", "ulm")):
        train_ids = TRAIN_ID_OF_LABEL_ID[street_labels[i]] % 255
        labels = train_ids if town == "bochum" else street_labels[i]
        write_frame(tmp_path, "train", f"{town}_000000_000019", scene(i)[0], labels)
    (told,) = warned(verify(tmp_path, "train"))
    assert told.startswith("gtFine/train/bochum: its labels look like train ids")


# --------------------------------------------------------------------------------- remembering


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the frames that are read."""
    names: list[str] = []
    look = findings.look
    monkeypatch.setattr(findings, "look", lambda frame: (names.append(frame.name), look(frame))[1])
    return names


def test_what_did_not_change_is_not_read_again(city: Path, reads: list[str]):
    first = verify(city, "train")
    assert len(reads) == 12
    reads.clear()
    assert verify(city, "train") == first and reads == []
    Image.new("L", (128, 64), 99).save(label(city, "ulm_000000_000019"))
    assert len([p for p in verify(city, "train").problems if p.grave]) == 1
    assert reads == ["ulm_000000_000019"]


def test_what_is_broken_is_read_until_it_is_mended(city: Path, reads: list[str]):
    path = label(city, "ulm_000000_000019")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert found(city) and found(city)
    assert reads.count("ulm_000000_000019") == 2 and reads.count("ulm_000001_000019") == 1
    path.write_bytes(whole)
    assert found(city) == set()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b'{"version": 1, "frames": []}',
     b'{"version": 0, "frames": {}}', b'{"version": 1, "frames": {"ulm_000000_000019": 3}}'],
)  # fmt: skip
def test_a_damaged_memory_is_forgotten(city: Path, reads: list[str], content: bytes):
    report = verify(city, "train")
    findings._store(index(city, "train")).write_bytes(content)
    assert verify(city, "train") == report and len(reads) == 24


def test_a_damaged_entry_is_forgotten(city: Path, reads: list[str]):
    frames = index(city, "train")
    report, store = verify(city, "train"), findings._store(frames)
    whole = json.loads(store.read_text())
    for key, value in (("pixels", [[300, 1]]), ("pixels", 3), ("digest", ""), ("digest", None)):
        entries = {
            **whole["frames"],
            frames[0].name: {**whole["frames"][frames[0].name], key: value},
        }
        store.write_text(json.dumps({**whole, "frames": entries}))
        reads.clear()
        assert verify(city, "train") == report and reads == [frames[0].name]


def test_a_memory_that_cannot_be_kept_costs_time_and_no_more(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CITYSEG_CACHE", str(tmp_path / "file"))
    assert found(city) == set()
