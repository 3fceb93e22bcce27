"""Which weights stay on disk: those of the rows that lead, as `search.keep_weights` says."""

import math
import shutil
from pathlib import Path

import filelock

from cityseg.cell import Cell
from study.progress import Board


def tidy(board: Board) -> None:
    """Remove the best weights of finished rows that are not kept, and all that pruned rows held.

    A cell that some process still holds is left for the next time.
    """
    objective = board.objective
    done = [row for row in board if row.status == "done"]
    ranked = sorted(done, key=lambda row: (-_rank(row.score(objective)), row.variant))
    kept = {row.variant for n, row in enumerate(ranked) if n < board.record.search.kept_rows}
    for row in board:
        if row.status in ("done", "pruned") and row.variant not in kept:
            for cell in row.cells:
                _drop(board.study.cell(row.variant, cell.fold))


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _drop(cell: Cell) -> None:
    if not (_weights(cell) or cell.state.parent.is_dir()):
        return
    try:
        with filelock.FileLock(cell.lock).acquire(timeout=0):
            for path in _weights(cell):
                path.unlink(missing_ok=True)
            shutil.rmtree(cell.state.parent, ignore_errors=True)
    except filelock.Timeout:
        pass


def _weights(cell: Cell) -> list[Path]:
    """Also those that a stopped training left half written, or waiting for their state."""
    return [*cell.folder.glob("*.safetensors"), *cell.folder.glob(".*.safetensors.tmp")]
