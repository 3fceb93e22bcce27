"""A file is the old one or the new one, whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cityseg import atomic


def test_text_reads_back_and_folders_are_made(tmp_path: Path):
    path = tmp_path / "a" / "b" / "note.txt"
    atomic.write_text(path, "Düsseldorf\n")
    assert path.read_bytes() == "Düsseldorf\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file_and_the_next_write_takes_its_litter_away(
    tmp_path: Path,
):
    path = tmp_path / "note.txt"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from cityseg.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    atomic.write_text(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_the_content_is_on_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without the first sync a power cut can leave the new name with an empty file."""
    calls: list[str] = []
    sync, replace = atomic.sync, os.replace
    monkeypatch.setattr(atomic, "sync", lambda path: (calls.append(path.name), sync(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    atomic.write_text(tmp_path / "note.txt", "new")
    assert calls == [".note.txt.tmp", "replace", tmp_path.name]


def test_what_can_be_made_again_is_replaced_whole_but_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(atomic, "sync", lambda path: pytest.fail(f"{path} was synced"))
    atomic.write_text(tmp_path / "table.csv", "new", durable=False)
    with pytest.raises(RuntimeError), atomic.replacing(tmp_path / "table.csv", durable=False) as to:
        to.write_text("ne")
        raise RuntimeError("disk full")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]
