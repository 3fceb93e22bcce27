"""Which weights stay on disk: those of the rows that lead, as `search.keep_weights` says."""

import shutil
from pathlib import Path

import filelock

from cityseg.cell import Cell
from study.home import surplus
from study.progress import Board


def tidy(board: Board, bare: set[int] | None = None) -> None:
    """Remove the best weights of finished rows that are not kept, and all that pruned rows held.

    A cell that some process still holds is left for the next time.

    Args:
        board: the study.
        bare: rows that hold nothing large any more: these are not looked at again, and those of
            which that is known now are added. By default all are looked at.
    """
    bare = set() if bare is None else bare
    lost = [place for place in surplus(board) if place[0] not in bare]
    held = {variant for variant, fold in lost if not _drop(board.study.cell(variant, fold))}
    bare |= {variant for variant, _ in lost} - held


def _drop(cell: Cell) -> bool:
    """Remove what is large, unless a process holds the cell, which may write more; returns whether
    nothing is left."""
    if not (cell.lock.exists() or _weights(cell) or cell.state.parent.is_dir()):
        return True
    try:
        with filelock.FileLock(cell.lock).acquire(timeout=0):
            for path in _weights(cell):
                path.unlink(missing_ok=True)
            shutil.rmtree(cell.state.parent, ignore_errors=True)
    except filelock.Timeout:
        return False
    return True


def _weights(cell: Cell) -> list[Path]:
    """Also those that a stopped training left half written, or waiting for their state."""
    return [*cell.folder.glob("*.safetensors"), *cell.folder.glob(".*.safetensors.tmp")]
