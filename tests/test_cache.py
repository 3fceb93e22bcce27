"""Frames decoded once: the same pixels as the files, built once, and never half of one."""

import json
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny import scene, tiny_config, write_city, write_frame

from cityseg import cache
from cityseg.cache import FrameCache, ensure, frame_reader, key_of
from cityseg.data import Frame, index, read_frame
from cityseg.errors import InputError
from cityseg.samples import train_loader, val_loader


def only(folder: Path) -> Path:
    """The one cache in a folder."""
    (found,) = folder.glob("frames-*")
    return found


def assert_reads_as_files(read: FrameCache, frames: list[Frame]) -> None:
    for frame in frames:
        for cached, decoded in zip(read(frame), read_frame(frame), strict=True):
            np.testing.assert_array_equal(cached, decoded)


def test_a_frame_from_the_cache_is_the_frame_in_the_files(frames: list[Frame], tmp_path: Path):
    assert_reads_as_files(ensure(frames, tmp_path), frames)


def test_frames_of_different_sizes_lie_side_by_side(tmp_path: Path):
    sizes = [(64, 128), (40, 50), (33, 77)]
    frames = [
        write_frame(tmp_path / "data", "train", f"ulm_{i:06}_000019", *scene(i, size))
        for i, size in enumerate(sizes)
    ]
    read = ensure(frames, tmp_path / "cache")
    assert_reads_as_files(read, frames)
    held = sum(file.stat().st_size for file in only(tmp_path / "cache").glob("*.u8"))
    assert held == cache.size_bytes(frames) == 4 * sum(h * w for h, w in sizes)


def test_several_processes_decode_the_same(frames: list[Frame], tmp_path: Path):
    assert_reads_as_files(ensure(frames, tmp_path, processes=2), frames)


def test_samples_and_labels_are_those_of_the_files(frames: list[Frame], tmp_path: Path):
    config = tiny_config()
    reads = [read_frame, ensure(frames, tmp_path)]
    (plain, _), (cached, _) = (train_loader(frames, config, 0, False, read) for read in reads)
    for ours, theirs in zip(cached, plain, strict=True):
        assert ours.image.equal(theirs.image) and ours.target.equal(theirs.target)
    plain, cached = (val_loader(frames, config, 0, False, read) for read in reads)
    for ours, theirs in zip(cached, plain, strict=True):
        assert ours.image.equal(theirs.image) and ours.target.equal(theirs.target)
        assert all(a.equal(b) for a, b in zip(ours.full_targets, theirs.full_targets, strict=True))


def test_it_is_built_once_whatever_the_order(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ensure(frames, tmp_path)
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("built again"))
    assert_reads_as_files(ensure(frames[::-1], tmp_path), frames)


def test_those_who_come_together_build_one(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build, built = cache._build, []
    monkeypatch.setattr(cache, "_build", lambda *a: built.append(1) or build(*a))
    reads: list[FrameCache] = []
    threads = [
        threading.Thread(target=lambda: reads.append(ensure(frames, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 4 and len(built) == 1
    assert_reads_as_files(reads[-1], frames)


def test_a_file_that_was_replaced_is_decoded_anew(tmp_path: Path):
    """Even by one of the same size: its time of change is another."""
    frames = index(write_city(tmp_path / "data"), "train")
    before = ensure(frames, tmp_path / "cache")(frames[0])[1].copy()
    stat = frames[0].label.stat()
    shutil.copy(frames[1].label, frames[0].label)
    os.utime(frames[0].label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    read = ensure(frames, tmp_path / "cache")
    assert_reads_as_files(read, frames)
    assert not np.array_equal(read(frames[0])[1], before)


def test_a_data_set_that_moved_needs_no_new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_city(tmp_path / "here")
    ensure(index(root, "train"), tmp_path / "cache")
    root.rename(tmp_path / "there")
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("built again"))
    ensure(index(tmp_path / "there", "train"), tmp_path / "cache")


@pytest.mark.parametrize("damage", ["cut", "no index", "half an index", "another key", "one gone"])
def test_a_cache_that_is_not_whole_is_built_again(frames: list[Frame], tmp_path: Path, damage: str):
    ensure(frames, tmp_path)
    home = only(tmp_path)
    listing = home / "index.json"
    if damage == "cut":
        os.truncate(home / "images.u8", 1000)
    elif damage == "no index":
        listing.unlink()
    elif damage == "half an index":
        listing.write_text(listing.read_text()[:40])
    elif damage == "another key":
        listing.write_text(json.dumps(json.loads(listing.read_text()) | {"key": "0"}))
    else:
        (home / "targets.u8").unlink()
    assert_reads_as_files(ensure(frames, tmp_path), frames)


def test_a_build_cut_short_leaves_nothing_that_is_believed(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "rmtree", lambda *_, **__: None)  # a kill clears nothing up
        patch.setattr(cache, "_decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure(frames, tmp_path)
    assert list(tmp_path.glob(".frames-*.unfinished")) and not list(tmp_path.glob("frames-*"))
    assert_reads_as_files(ensure(frames, tmp_path), frames)
    assert not list(tmp_path.glob(".frames-*.unfinished"))


def test_a_broken_frame_is_named_and_leaves_nothing(tmp_path: Path):
    frames = index(write_city(tmp_path / "data"), "train")
    frames[3].image.write_bytes(frames[3].image.read_bytes()[:2000])
    with pytest.raises(InputError, match=frames[3].image.name):
        ensure(frames, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*frames-*[!k]"))


def test_a_disk_that_is_too_small_is_refused_with_the_sum(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    free = cache.size_bytes(frames) + cache.SPARE_BYTES - 1
    usage = shutil._ntuple_diskusage(free, 0, free)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"got 0\.3 GB free.*--cache-dir.*data\.cache=none"):
        ensure(frames, tmp_path)
    assert not list(tmp_path.glob("frames-*"))


def test_a_folder_that_cannot_be_written_is_one_line(frames: list[Frame], tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write a cache of decoded frames"):
        ensure(frames, tmp_path / "file" / "below")


def test_a_cache_may_be_read_only(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ensure(frames, tmp_path)
    monkeypatch.setattr(cache.filelock, "FileLock", lambda *_: pytest.fail("took a lock"))
    assert_reads_as_files(ensure(frames, tmp_path), frames)


def test_what_is_written_to_a_view_reaches_neither_the_files_nor_others(
    frames: list[Frame], tmp_path: Path
):
    read = ensure(frames, tmp_path)
    read(frames[0])[0][:] = 0
    assert_reads_as_files(ensure(frames, tmp_path), frames)


def test_a_process_gets_the_place_and_not_the_pixels(frames: list[Frame], tmp_path: Path):
    read = ensure(frames, tmp_path)
    read(frames[0])
    sent = pickle.dumps(read)
    assert len(sent) < 5000
    assert_reads_as_files(pickle.loads(sent), frames)


def test_none_reads_the_files(frames: list[Frame], tmp_path: Path):
    config = tiny_config(data={"cache": "none"}, resources={"cache_dir": str(tmp_path)})
    assert frame_reader(frames, config) is read_frame
    config = tiny_config(resources={"cache_dir": str(tmp_path)})
    assert frame_reader(frames, config) == ensure(frames, tmp_path)
    assert only(tmp_path).name == f"frames-{key_of(frames)}"


def test_where_the_pixels_lie_is_no_part_of_what_is_trained():
    here = tiny_config(data={"cache": "none"}, resources={"cache_dir": "/elsewhere"})
    assert here.identity() == tiny_config().identity()
