"""Session folders of the Rays that studies start: removed when they end, whichever way they do.

Ray makes one for each start, with its sockets and logs, and removes none. A driver holds a lock in
its own; one that was killed holds it no more, and the next start of any study here takes its folder
away. A driver that is killed before it could lock its folder is known by a file beside Ray's own,
which it holds from before Ray's start. Where a cell has failed, the folder is kept for its logs.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import filelock

LOCK: Final = "cityseg-study.lock"
"""In a session's folder: makes it one of ours, and is held by its driver."""
DRIVER: Final = "cityseg-study-driver-"
"""Begins the name of a file beside Ray's folder, held by a driver, whose number ends the name."""
KEEP: Final = "cityseg-study.keep"
"""In a session's folder: its logs may be wanted."""
SHARED_MEMORY: Final = Path("/dev/shm")  # nosec B108 # only asked how much is free


def root() -> Path:
    """Where Ray makes its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"


@contextlib.contextmanager
def announced() -> Iterator[None]:
    """Say that this process starts a Ray: if it is killed before it holds one, that is known so."""
    note = filelock.FileLock(root().parent / f"{DRIVER}{os.getpid()}", timeout=0)
    with contextlib.suppress(OSError):  # a folder that takes no file takes no session either
        note.acquire()
    try:
        yield
    finally:
        if note.is_locked:
            Path(note.lock_file).unlink(missing_ok=True)
            note.release()


@contextlib.contextmanager
def held(session: Path) -> Iterator[None]:
    """Mark a session as a living study's."""
    with filelock.FileLock(session / LOCK):
        yield


def keep(session: Path) -> None:
    """Do not remove it in the end."""
    (session / KEEP).touch()


def forget(session: Path) -> None:
    """Remove a session that has ended."""
    if not (session / KEEP).exists():
        shutil.rmtree(session, ignore_errors=True)


def forget_own(driver: int | None = None, since: float = 0) -> None:
    """Remove the session of a Ray that no driver came to hold; its driver's number is in its name.

    Args:
        driver: its number; by default this process' own.
        since: of sessions made after this moment, in seconds since 1970.
    """
    for session in root().glob(f"session_*_{driver or os.getpid()}"):
        if session.stat().st_mtime >= since and not (session / LOCK).exists():
            forget(session)


def sweep() -> None:
    """Remove the sessions of studies whose drivers were killed; of other Rays, none."""
    for lock in root().glob(f"session_*/{LOCK}"):
        with contextlib.suppress(filelock.Timeout, OSError):  # it lives, or is another user's
            with filelock.FileLock(lock, timeout=0):
                pass
            forget(lock.parent)
    for note in root().parent.glob(f"{DRIVER}*"):
        number = note.name.removeprefix(DRIVER)
        if number.isdecimal():
            with contextlib.suppress(OSError):  # it lives, or is another user's
                since = note.stat().st_mtime
                with filelock.FileLock(note, timeout=0):
                    forget_own(int(number), since)
                    note.unlink()


def room() -> str:
    """What is free where Ray writes."""
    places = [place for place in (root().parent, SHARED_MEMORY) if place.is_dir()]
    free = [f"{place}: {shutil.disk_usage(place).free / 1e9:.2f} GB free" for place in places]
    return ", ".join(free)
