"""Files that are either the old one or the new one, whole, whatever is killed meanwhile."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cityseg.errors import DiskError

DISK_FAULTS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES,
     errno.EPERM}
)  # fmt: skip
"""Full, over the quota, over a limit, read-only, broken, gone, forbidden."""


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed over it.

    The temporary name is fixed (one writer a file), so that a killed writer leaves no growing
    litter: the next write reuses it. What a writer that fails has written is removed, for it may be
    what fills the disk.

    Args:
        path: to be replaced.
        durable: whether it is synced, so that it survives a machine that loses its power. What can
            be made again need not: it takes most of the time of small files.

    Raises:
        DiskError: the file cannot be written; the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_faults(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                sync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync(path.parent)


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Tell in one line of what keeps `path` from being written.

    Raises:
        DiskError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        there = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        raise DiskError(
            f"cannot write {path}: {error.strerror} ({free:.2f} GB are free there); mend that, "
            "and run the same command again"
        ) from None


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace `path` by `text` (UTF-8) atomically, `durable` as `replacing` has it.

    Raises:
        DiskError: as `replacing`.
    """
    with replacing(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
