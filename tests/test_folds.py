"""Folds: disjoint, covering, repeatable; whole cities; checked when they come back."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CITIES

from cityseg.data import CITYSCAPES_TRAIN, Frame
from cityseg.errors import InputError
from cityseg.folds import (
    FoldsFile,
    assign_cities,
    check_folds,
    make_folds,
    read_folds,
    write_folds,
)


def named(count: int) -> list[Frame]:
    """Frames without files; enough for a split by frames."""
    nowhere = Path("nowhere")
    return [Frame(f"ulm_{i:06}_000019", "ulm", nowhere, nowhere) for i in range(count)]


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_each_frame_validates_in_exactly_one_fold_and_trains_in_all_others(
    count: int, more: int, seed: int
):
    frames = named(count + more)
    folds = make_folds(frames, count, "frames", seed)
    assert sorted(name for fold in folds.folds for name in fold) == [f.name for f in frames]
    sizes = [len(fold) for fold in folds.folds]
    assert max(sizes) - min(sizes) <= 1
    for k in range(1, count + 1):
        train, val = folds.split(frames, k)
        assert sorted(train + val) == frames
        assert [frame.name for frame in val] == folds.folds[k - 1]
    check_folds(folds, frames, "a test")


def test_the_split_is_a_function_of_the_seed():
    frames = named(30)
    first = make_folds(frames, 3, "frames", 1)
    assert make_folds(frames, 3, "frames", 1) == first
    assert make_folds(frames, 3, "frames", 2).folds != first.folds
    in_order = [[f.name for f in frames[10 * k : 10 * k + 10]] for k in range(3)]
    assert first.folds != in_order


@pytest.mark.parametrize("count", [2, 3])
def test_no_city_stands_on_both_sides(frames: list[Frame], count: int):
    folds = make_folds(frames, count, "cities", seed=0)
    check_folds(folds, frames, "a test")
    for k in range(1, count + 1):
        train, val = folds.split(frames, k)
        assert not {f.city for f in train} & {f.city for f in val}
        assert len(train) + len(val) == len(frames)


def test_frames_do_share_cities(frames: list[Frame]):
    train, val = make_folds(frames, 3, "frames", seed=0).split(frames, 1)
    assert {f.city for f in train} & {f.city for f in val}


def test_more_folds_than_frames_or_cities_are_refused(frames: list[Frame]):
    with pytest.raises(InputError, match="cannot make 4 folds: got 3 cities"):
        make_folds(frames, 4, "cities", 0)
    with pytest.raises(InputError, match="cannot make 13 folds: got 12 frames"):
        make_folds(frames, 13, "frames", 0)


def test_a_fold_number_out_of_range_is_refused(frames: list[Frame]):
    folds = make_folds(frames, 3, "frames", 0)
    for k in (0, 4, -1):
        with pytest.raises(InputError, match=f"fold: got {k}, expected 1 to 3"):
            folds.split(frames, k)


all_classes = np.ones(19, bool)


@pytest.mark.parametrize(("count", "spread"), [(2, 3), (3, 12), (4, 12), (5, 20)])
def test_cityscapes_cities_are_balanced_in_frames(count: int, spread: int):
    assert sum(CITYSCAPES_TRAIN.values()) == 2975
    fold_of = assign_cities(
        CITYSCAPES_TRAIN, dict.fromkeys(CITYSCAPES_TRAIN, all_classes), count, 0
    )
    sizes = Counter(dict.fromkeys(range(count), 0))
    for city, fold in fold_of.items():
        sizes[fold] += CITYSCAPES_TRAIN[city]
    assert fold_of.keys() == CITYSCAPES_TRAIN.keys()
    assert len(sizes) == count
    assert max(sizes.values()) - min(sizes.values()) <= spread


def folds_lacking_a_class(
    fold_of: dict[str, int], classes_of: dict[str, np.ndarray], count: int
) -> int:
    seen = np.zeros((count, len(next(iter(classes_of.values())))), bool)
    for city, fold in fold_of.items():
        seen[fold] |= classes_of[city]
    return int((~seen).sum())


def test_every_fold_holds_every_class_where_even_sizes_would_not():
    """However a and b are ordered, filling the smaller fold first puts them apart."""
    frames_of = {"a": 100, "b": 2, "c": 1}
    classes_of = {"a": np.array([True, False]), "b": np.array([False, True]), "c": np.ones(2, bool)}
    fold_of = assign_cities(frames_of, classes_of, 2, seed=0)
    assert fold_of["a"] == fold_of["b"] != fold_of["c"]


@settings(max_examples=25)
@given(st.data())
def test_every_fold_holds_every_class_whenever_some_assignment_does(data: st.DataObject):
    """Against a planted assignment that is complete, hidden among random sizes and classes."""
    count = data.draw(st.integers(2, 3))
    cities = [f"city{i}" for i in range(data.draw(st.integers(count, 6)))]
    frames_of = {city: data.draw(st.integers(1, 400)) for city in cities}
    classes_of = {city: np.zeros(5, bool) for city in cities}
    planted = {city: i % count for i, city in enumerate(cities)}
    for fold in range(count):
        members = [city for city in cities if planted[city] == fold]
        for c in range(5):
            classes_of[data.draw(st.sampled_from(members))][c] = True
    assert folds_lacking_a_class(planted, classes_of, count) == 0
    found = assign_cities(frames_of, classes_of, count, seed=0)
    assert folds_lacking_a_class(found, classes_of, count) == 0


def test_an_assignment_is_a_function_of_the_seed():
    classes_of = dict.fromkeys(CITYSCAPES_TRAIN, all_classes)
    first, again, other = (assign_cities(CITYSCAPES_TRAIN, classes_of, 3, s) for s in (0, 0, 1))
    assert first == again != other


def test_folds_are_told_in_one_line(frames: list[Frame]):
    assert (
        make_folds(frames, 3, "cities", 7).describe()
        == "folds: 3 by cities, seed 7, of 4, 4, 4 frames"
    )
    assert FoldsFile(folds=[["a"], ["b", "c"]]).describe() == "folds: 2 as given, of 1, 2 frames"


@pytest.mark.parametrize("grouping", ["frames", "cities"])
def test_what_is_written_reads_back(tmp_path: Path, frames: list[Frame], grouping):
    folds = make_folds(frames, 3, grouping, 7)
    write_folds(tmp_path / "folds.json", folds)
    assert read_folds(tmp_path / "folds.json") == folds
    assert len(folds.hash or "") == 64


def test_a_file_changed_by_hand_is_refused(tmp_path: Path, frames: list[Frame]):
    path = tmp_path / "folds.json"
    write_folds(path, make_folds(frames, 3, "frames", 7))
    content = json.loads(path.read_text())
    content["folds"][0].append(content["folds"][1].pop())
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed since it was written"):
        read_folds(path)


def test_ones_own_file_needs_only_the_names(tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text('{"folds": [["b", "a"], ["c"]]}')
    folds = read_folds(path)
    assert (folds.folds, folds.grouping) == ([["b", "a"], ["c"]], "given")
    assert folds.hash == folds.content_hash()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b"\xff\xfe\x00", b"{}", b'{"folds": []}', b'{"folds": [["a"]]}',
        b'{"folds": [["a"], 3]}', b'{"folds": [["a"], [3]]}', b'{"folds": [["a"], ["b"]], "x": 1}',
        b'{"folds": [["a"], ["b"]], "version": 2}',
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "folds.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_folds(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.json"):
        read_folds(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("folds", "problem"),
    [
        ([["a", "b"], ["b", "c"]], "1 in more than one fold, the first b"),
        ([["a", "a"], ["b", "c"]], "1 in more than one fold, the first a"),
        ([["a", "x"], ["b", "c"]], "1 in a fold but not in the data, the first x"),
        ([["a"], ["b"]], "1 in the data but in no fold, the first c"),
        ([["a", "b", "c"], []], "1 empty, the first fold 2"),
    ],
)
def test_folds_that_do_not_fit_the_data_are_refused(folds: list[list[str]], problem: str):
    frames = [Frame(name, "ulm", Path("i"), Path("l")) for name in "abc"]
    with pytest.raises(InputError, match=f"mine.json: {problem}"):
        check_folds(FoldsFile(folds=folds), frames, "mine.json")


def test_the_tiny_city_serves_these_tests(frames: list[Frame]):
    assert {frame.city for frame in frames} == set(CITIES)
