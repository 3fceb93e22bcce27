"""Whatever stands in a file or a name: a valid result, or an InputError of one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cityseg import plainyaml
from cityseg.config import Config, load
from cityseg.data import Frame, index, read_frame
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, check_folds, read_folds
from cityseg.labels import TRAIN_ID_OF_LABEL_ID
from cityseg.verify import verify
from study.space import Search, read_search
from study.store import Study

Result = TypeVar("Result")
ANY_TEXT = st.text(max_size=12)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | ANY_TEXT
    | st.dates()
    | st.sampled_from(["1e-4", ".nan", "0x_", "1:30", "~", "=", "<<", "-", "_", "1_000"])
)


def values(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        SCALAR,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


KEYS = st.sampled_from(
    [*Config.model_fields, "lr", "epochs", "input_size", "augment", "encoder", "weights", "search",
     "space", "rows", "grid", "variants", "low", "high", "choices", "train.lr", "model.dropout"]
)  # fmt: skip
TREES = values(KEYS | ANY_TEXT | st.integers())


def accepted(work: Callable[[], Result]) -> Result | None:
    """What comes out, or None after an InputError, whose message must be one printable line."""
    try:
        return work()
    except InputError as error:
        assert str(error).isprintable() and str(error), repr(error)
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=80)
@given(tree=TREES)
def test_any_tree_of_settings(folder: Path, tree: Any):
    path = folder / "tree.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
    config = accepted(lambda: load(path))
    if config is not None:
        assert isinstance(config, Config)
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert load(path) == config


@settings(max_examples=200)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
@example(content=b"!!int ''")
@example(content=b"!!float ''")
@example(content=b"!!bool x")
@example(content=b"!!timestamp x")
@example(content=b"? {a: b}\n: c")
@example(content=b"<<: [1]")
@example(content=b"\xef\xbb\xbfseed: 1")
def test_any_bytes_as_a_configuration(folder: Path, content: bytes):
    path = folder / "bytes.yaml"
    path.write_bytes(content)
    accepted(lambda: load(path))


ALPHABET = st.sampled_from(
    ["a", "b", "1", "0x", " ", "\n", "  ", ": ", "- ", "? ", "[", "]", "{", "}", ",", "&a ", "*a",
     "<<: ", "!!int ", "!!set ", "!!binary ", "!!omap ", "!!pairs ", "'", '"', "|", ">", "#", "%",
     "---\n", "...", "\t", "~", ".inf", "2001-01-01", "e5", "_", "\\", "é", "\U0001f600"]
)  # fmt: skip


@settings(max_examples=300)
@given(text=st.lists(ALPHABET, max_size=14).map("".join))
def test_any_text_like_yaml_is_read_as_pyyaml_does_or_refused(text: str):
    try:
        ours = plainyaml.load(text)
    except plainyaml.DocumentError:
        return
    assert repr(ours) == repr(yaml.safe_load(text))


@settings(max_examples=100)
@given(key=ANY_TEXT | KEYS | st.lists(KEYS, min_size=1, max_size=4).map(".".join), text=ANY_TEXT)
def test_any_word_on_the_command_line(key: str, text: str):
    accepted(lambda: load(None, (f"{key}={text}",)))
    accepted(lambda: load(None, (f"{key}{text}",)))


@settings(max_examples=150)
@given(section=values(KEYS | ANY_TEXT))
def test_any_search_section(section: Any):
    settings_ = section if isinstance(section, dict) else {"space": section}
    found = accepted(lambda: read_search(settings_, Config()))
    assert found is None or isinstance(found, Search)


@settings(max_examples=150)
@given(tree=values(st.sampled_from(["folds", "version", "grouping", "seed", "hash"]) | ANY_TEXT))
def test_any_folds_file(folder: Path, frames: list[Frame], tree: Any):
    path = folder / "folds.json"
    path.write_text(json.dumps(tree, default=str), encoding="utf-8")
    folds = accepted(lambda: read_folds(path))
    if folds is not None:
        assert isinstance(folds, FoldsFile)
        accepted(lambda: check_folds(folds, frames, "folds.json"))


@settings(max_examples=100)
@given(
    lists=st.lists(
        st.lists(st.integers(0, 11) | ANY_TEXT, max_size=12), min_size=2, max_size=4
    )
)  # fmt: skip
def test_folds_are_valid_only_if_every_frame_stands_in_exactly_one(
    frames: list[Frame], lists: list[list[int | str]]
):
    """The oracle counts by hand."""
    folds = [[frames[i].name if isinstance(i, int) else i for i in fold] for fold in lists]
    flat = [name for fold in folds for name in fold]
    valid = sorted(flat) == sorted(frame.name for frame in frames) and all(folds)
    assert valid == (
        accepted(lambda: check_folds(FoldsFile(folds=folds), frames, "f") or True) is not None
    )


@settings(max_examples=100)
@given(content=st.binary(max_size=80))
def test_any_bytes_as_a_folds_file_or_a_record(folder: Path, content: bytes):
    study = Study(folder / "study")
    study.folder.mkdir(exist_ok=True)
    study.folds_file.write_bytes(content)
    study.record_file.write_bytes(content)
    assert accepted(study.read_folds) is None
    assert accepted(study.read) is None


MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "CMYK", "F"])
FORMATS = st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])


@settings(max_examples=120)
@given(
    mode=MODES, kind=FORMATS, size=st.tuples(st.integers(1, 9), st.integers(1, 9)), data=st.data()
)
def test_any_picture_as_a_label_map(folder: Path, mode: str, kind: str, size: Any, data: Any):
    """Whatever is read has the values that were written, and its size; the rest is refused."""
    root = folder / "pictures"
    label = root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"
    image = root / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"
    for path in (label, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(image)
    drawn = Image.new(mode, size)
    ids = np.zeros(size[::-1], np.uint8)
    if mode == "L":
        cells = st.lists(st.integers(0, 255), min_size=ids.size, max_size=ids.size)
        ids = np.array(data.draw(cells), np.uint8).reshape(ids.shape)
        drawn = Image.fromarray(ids)
    try:
        drawn.save(label, kind)
    except (OSError, ValueError):  # no such format of this mode
        return
    (frame,) = index(root, "train")
    found = accepted(lambda: read_frame(frame))
    report = verify(root, "train")
    grave = [problem for problem in report.problems if problem.grave]
    if found is not None:
        assert mode == "L" and kind == "PNG" and size == (4, 4)
        np.testing.assert_array_equal(found[1], TRAIN_ID_OF_LABEL_ID[ids])
        assert bool(grave) == bool(ids.max() > 33)
    else:
        assert grave


@settings(max_examples=120)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    | st.builds("{}_{}_{}".format, ANY_TEXT, st.integers(0, 10**6), st.integers(0, 10**6))
)  # fmt: skip
def test_any_name_of_a_file(tmp_path_factory: pytest.TempPathFactory, name: str):
    """A frame of any name is in the index, or its name is refused and listed."""
    root = tmp_path_factory.mktemp("names")
    name = name.replace("/", "").replace("\0", "")
    city = name.rsplit("_", 2)[0] or "x"
    if city in (".", "..") or len(name.encode()) > 200:
        return
    for kind, suffix, mode in (
        ("leftImg8bit", "leftImg8bit", "RGB"),
        ("gtFine", "gtFine_labelIds", "L"),
    ):
        folder = root / kind / "train" / city
        folder.mkdir(parents=True)
        Image.new(mode, (4, 4), 7 if mode == "L" else 0).save(
            folder / f"{name}_{suffix}.png", "PNG"
        )
    found = accepted(lambda: index(root, "train"))
    grave = [problem for problem in verify(root, "train").problems if problem.grave]
    assert (found is None) == bool(grave), (found, grave)


@settings(max_examples=60)
@given(keep=st.integers(0, 400), flip=st.integers(0, 399), value=st.integers(0, 255))
def test_any_damage_to_weights(folder: Path, keep: int, flip: int, value: int):
    import safetensors.torch
    import torch

    from cityseg.model import read_weights

    for name, save in (("w.safetensors", safetensors.torch.save_file), ("w.pth", torch.save)):
        path = folder / name
        save({"a": torch.arange(20.0), "b": torch.ones(3, 2)}, path)
        content = bytearray(path.read_bytes())
        content[flip % len(content)] = value
        path.write_bytes(content[: keep if keep < len(content) and keep % 2 else None])
        accepted(lambda path=path: read_weights(path))
