"""Counts on disk and in memory: exact, compact, and read from files of the first form, too."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tallies import names_of

from cityseg.cell import Confusion, Counts, read_confusion, read_packed, write_confusion
from cityseg.errors import InputError
from study.counts import OBJECTIVES, fold_confusion, fold_hits_and_unions
from study.tally import hits_and_unions, tally

FRAMES = ["aachen_000000_000019", "köln_000001_000019"]
TABLES = hnp.arrays(
    np.int64,
    st.tuples(st.just(4), st.integers(0, 2), st.just(19), st.just(19)),
    elements=st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 2**62)),
    fill=st.just(0),
)


def confusion_of(tables: np.ndarray) -> Confusion:
    """Out of best low, best full, last low and last full."""
    low, full, last_low, last_full = tables
    return Confusion(FRAMES[: len(low)], Counts(3, low, full), Counts(7, last_low, last_full))


def tables_of(confusion: Confusion) -> np.ndarray:
    best, last = confusion.best, confusion.last
    return np.stack([best.low, best.full, last.low, last.full])


def write_first_form(path: Path, confusion: Confusion) -> None:
    """As the first files were: each of the tables whole."""
    arrays = {"names": np.array(confusion.names)}
    for which, one in (("best", confusion.best), ("last", confusion.last)):
        arrays |= {f"{which}_epoch": np.asarray(one.epoch)}
        arrays |= {f"{which}_low": one.low, f"{which}_full": one.full}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def frames_like_cityscapes(frames: int) -> np.ndarray:
    """int64[4, n, 19, 19]: a third of the counts is not 0, most of them small."""
    rng = np.random.default_rng(0)
    counts = np.floor(rng.lognormal(4, 2.5, (4, frames, 19, 19)))
    counts *= rng.random(counts.shape) < 0.3
    return counts.astype(np.int64)


@given(TABLES)
def test_any_counts_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, tables):
    path = tmp_path_factory.mktemp("counts") / "confusion.npz"
    write_confusion(path, confusion_of(tables))
    got = read_confusion(path)

    np.testing.assert_array_equal(tables_of(got), tables)
    assert got.best.low.dtype == got.last.full.dtype == np.int64
    assert (got.names, got.best.epoch, got.last.epoch) == (FRAMES[: tables.shape[1]], 3, 7)


def test_a_file_of_the_first_form_reads_as_the_same(tmp_path):
    wanted = confusion_of(frames_like_cityscapes(2))
    write_first_form(tmp_path / "old.npz", wanted)
    write_confusion(tmp_path / "new.npz", wanted)
    old, new = read_confusion(tmp_path / "old.npz"), read_confusion(tmp_path / "new.npz")

    np.testing.assert_array_equal(tables_of(old), tables_of(wanted))
    np.testing.assert_array_equal(tables_of(new), tables_of(wanted))
    assert (old.names, old.best.epoch, old.last.epoch) == (FRAMES, 3, 7)


def test_the_counts_of_a_fold_are_a_fifth_smaller_than_in_the_first_form(tmp_path):
    tables = frames_like_cityscapes(200)
    low, full, last_low, last_full = tables
    names = [f"aachen_000000_{i:06d}" for i in range(200)]
    wanted = Confusion(names, Counts(3, low, full), Counts(7, last_low, last_full))
    write_first_form(tmp_path / "old.npz", wanted)
    write_confusion(tmp_path / "new.npz", wanted)

    sizes = [(tmp_path / name).stat().st_size for name in ("new.npz", "old.npz")]
    assert sizes[0] < 0.8 * sizes[1]
    np.testing.assert_array_equal(tables_of(read_confusion(tmp_path / "new.npz")), tables)


def test_what_no_evaluation_yields_is_not_written(tmp_path):
    tables = np.zeros((4, 2, 19, 19), np.int64)
    tables[0, 0, 0, 0] = -1
    with pytest.raises(ValueError, match="counts below 0"):
        write_confusion(tmp_path / "confusion.npz", confusion_of(tables))
    counts = Counts(1, tables[1], tables[1])
    with pytest.raises(ValueError, match="1 names"):
        write_confusion(tmp_path / "confusion.npz", Confusion(["one"], counts, counts))
    assert not (tmp_path / "confusion.npz").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"zeros": np.array([10**6])},
        {"zeros": np.array([0, 0])},
        {"bytes": np.zeros((1, 3), np.uint8)},
        {"bytes": np.array([[0.5]])},
        {"bytes": np.zeros((9, 1), np.uint8)},
        {"zeros": np.array([-1])},
        {"zeros": np.array([5.0])},
        {"zeros": np.array([2**64 - 6], np.uint64)},
        {"epochs": np.array([1])},
        {"names": np.array([])},
    ],
    ids=[
        "beyond the tables",
        "one too many",
        "too many bytes",
        "no bytes",
        "more than 8 bytes a count",
        "before the tables",
        "no whole number",
        "around and before the tables",
        "one epoch",
        "no names",
    ],
)
def test_a_file_that_does_not_fit_itself_is_told_in_one_line(tmp_path, changed):
    path = tmp_path / "confusion.npz"
    arrays = {
        "names": np.array(["one"]), "epochs": np.array([1, 2]), "zeros": np.array([5]),
        "bytes": np.array([[1]], np.uint8),
    }  # fmt: skip
    np.savez(path, allow_pickle=False, **arrays)
    assert read_confusion(path).best.low[0].ravel()[5] == 1
    np.savez(path, allow_pickle=False, **(arrays | changed))

    with pytest.raises(InputError, match=r"confusion\.npz is not a table of counts"):
        read_confusion(path)


def test_counts_in_memory_take_32_bits_until_one_does_not_fit():
    names = names_of("ab")
    small = np.full((2, 3, 3), 2**29, np.int64)
    large = small.copy()
    large[0, 0, 0] = 2**32
    narrow, wide = tally([(names, small)]), tally([(names, large)])

    assert narrow.counts.dtype == np.uint32
    assert wide.counts.dtype == np.int64
    for one, confusion in ((narrow, small), (wide, large)):
        np.testing.assert_array_equal(one.counts, hits_and_unions(confusion))


def test_sums_of_32_bit_counts_are_exact_beyond_32_bits():
    names = names_of("abcd")
    full = np.zeros((4, 2, 2), np.int64)
    full[:, 0, 0] = 2**32 - 1
    there = tally([(names, full)])

    assert there.counts.dtype == np.uint32
    assert there.totals[0, 0, 0] == 4 * (2**32 - 1)
    assert there.totals.dtype == np.int64


def test_rows_of_the_same_frames_share_one_layout():
    folds = [(["aa_000000_000000"], np.ones((1, 2, 2), np.int64)),
             (["bb_000000_000000"], np.ones((1, 2, 2), np.int64))]  # fmt: skip
    other = tally(folds[::-1]).layout

    assert tally(folds).layout is tally(folds).layout
    assert not tally(folds).layout.agrees(other)


SMALL_TABLES = hnp.arrays(
    np.int64,
    st.tuples(st.just(4), st.integers(0, 2), st.just(19), st.just(19)),
    elements=st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 2**32)),
    fill=st.just(0),
)


@given(SMALL_TABLES)
def test_counts_that_are_never_made_whole_sum_up_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, tables
):
    path = tmp_path_factory.mktemp("counts") / "confusion.npz"
    write_confusion(path, confusion_of(tables))
    packed = read_packed(path)

    for table, which in zip(tables, OBJECTIVES.values(), strict=True):
        np.testing.assert_array_equal(packed.of_frames(*which), table)
        np.testing.assert_array_equal(fold_confusion(packed, *which), table.sum(0))
        there = fold_hits_and_unions(packed, *which)
        np.testing.assert_array_equal(there, hits_and_unions(table))
        assert there.dtype == np.int64
