"""What a cell leaves on disk reads back to the bit, and damage is told in one line."""

import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityseg.cell import (
    Cell,
    Confusion,
    Counts,
    Epoch,
    read_confusion,
    read_epochs,
    write_confusion,
    write_epochs,
)
from cityseg.errors import InputError

numbers = st.floats(allow_nan=False)


def counts(epoch: int, frames: int = 2) -> Counts:
    random = np.random.default_rng(epoch)
    low, full = (random.integers(0, 2**40, (frames, 19, 19)) for _ in range(2))
    return Counts(epoch, low, full)


def a_confusion() -> Confusion:
    return Confusion(["aachen_000000_000019", "köln_000001_000019"], counts(3), counts(7))


@given(st.lists(st.builds(Epoch, st.integers(1, 10**6), *[numbers] * 8), max_size=4))
def test_epochs_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, epochs: list[Epoch]):
    path = tmp_path_factory.mktemp("cell") / "epochs.csv"
    write_epochs(path, epochs)
    assert read_epochs(path) == epochs


def test_a_score_that_is_not_a_number_stays_one(tmp_path: Path):
    path = tmp_path / "epochs.csv"
    write_epochs(path, [Epoch(1, 0.5, 0.5, math.nan, math.inf, 1e-4, 1.0, 1.0, 1.0)])
    (epoch,) = read_epochs(path)
    assert math.isnan(epoch.miou_low)
    assert epoch.miou_full == math.inf


def test_no_table_yet_is_no_epochs(tmp_path: Path):
    assert read_epochs(tmp_path / "epochs.csv") == []


@pytest.mark.parametrize(
    "content",
    [
        b"epoch,train_loss\n1,0.5\n",
        b"epoch,train_loss,val_loss,miou_low,miou_full,lr,train_s,val_s,images_per_s\n1,0.5\n",
        b"epoch,train_loss,val_loss,miou_low,miou_full,lr,train_s,val_s,images_per_s\n"
        b"one,1,1,1,1,1,1,1,1\n",
        b"a,b\n1,2,3\n",
        b"\x89PNG\r\n\x1a\n\x00\xff\xfe",
        b"epoch\n\x00\n",
        b"epoch,val_loss,train_loss,miou_low,miou_full,lr,train_s,val_s,images_per_s\n"
        b"1,1,1,1,1,1,1,1,1\n",
    ],
    ids=["columns", "short row", "word", "long row", "binary", "nul", "other order"],
)
def test_a_damaged_table_of_epochs_is_told_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "epochs.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_epochs(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts_read_back_to_the_bit(tmp_path: Path):
    path = tmp_path / "confusion.npz"
    wanted = a_confusion()
    write_confusion(path, wanted)
    got = read_confusion(path)
    assert got.names == wanted.names
    for mine, theirs in ((got.best, wanted.best), (got.last, wanted.last)):
        assert mine.epoch == theirs.epoch
        for which in ("low", "full"):
            assert getattr(mine, which).dtype == np.int64
            np.testing.assert_array_equal(getattr(mine, which), getattr(theirs, which))


def test_a_table_of_counts_cut_short_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "confusion.npz"
    write_confusion(path, a_confusion())
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[:100], whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_confusion(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_altered_byte_is_refused_or_harmless_but_never_another_count(tmp_path: Path):
    path = tmp_path / "confusion.npz"
    wanted = a_confusion()
    write_confusion(path, wanted)
    whole = path.read_bytes()
    refused = 0
    for i in [*range(0, 60), *range(60, len(whole), len(whole) // 150)]:
        path.write_bytes(bytes([*whole[:i], whole[i] ^ 255, *whole[i + 1 :]]))
        try:
            got = read_confusion(path)
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(got.best.full, wanted.best.full)
    assert refused > 150


def test_foreign_arrays_are_refused(tmp_path: Path):
    path = tmp_path / "confusion.npz"
    for arrays in ({"a": np.zeros(3)}, {"names": np.array(["a"]), "best_epoch": np.zeros(3)}):
        np.savez(path, allow_pickle=False, **arrays)
        with pytest.raises(InputError, match=r"confusion\.npz"):
            read_confusion(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))  # one array, no archive
    with pytest.raises(InputError, match=r"confusion\.npz"):
        read_confusion(path)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_no_pickle_is_ever_loaded(tmp_path: Path):
    path, mark = tmp_path / "confusion.npz", tmp_path / "mark"
    write_confusion(path, a_confusion())
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name != "names.npy":
                archive.writestr(name, content)
        with archive.open("names.npy", "w") as file:
            np.lib.format.write_array(file, np.array([Bomb(mark)], dtype=object))
    with pytest.raises(InputError):
        read_confusion(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError):
        read_confusion(path)
    assert not mark.exists()


def test_the_status_follows_the_files(tmp_path: Path):
    cell = Cell(tmp_path)
    assert cell.status() == "pending"
    cell.epochs.write_text("")
    assert cell.status() == "unfinished"
    cell.failure.write_text("loss is nan")
    assert cell.status() == "failed"
    cell.confusion.write_text("")
    assert cell.status() == "done"
