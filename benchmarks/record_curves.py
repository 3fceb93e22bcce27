"""Record the learning curves of a study, for the pruning simulator to replay.

    python -m benchmarks.record_curves results/search

writes benchmarks/curves/search.csv: one line for every epoch of every cell of the finished rows.
Numbers only, no frames.
"""

import csv
import sys
from pathlib import Path
from typing import Annotated

import tyro

from cityseg import atomic
from cityseg.errors import user_command
from study.lookup import find
from study.progress import Board

FOLDER = Path(__file__).with_name("curves")
COLUMNS = ("study", "variant", "fold", "epoch", "miou_low", "miou_full")


def record(study: Annotated[str, tyro.conf.Positional], results: Path = Path("results")) -> int:
    """Write the curves of a study's finished rows.

    Args:
        study: Name of a study within the results folder, or its path.
        results: Folder that holds the studies.
    """
    board = Board.read(find(study, results))
    path = FOLDER / f"{board.record.name}.csv"
    with atomic.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in board:
            for cell in row.cells if row.status == "done" else ():
                writer.writerows(
                    (board.record.name, row.variant, cell.fold, e.epoch, e.miou_low, e.miou_full)
                    for e in cell.epochs
                )
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(user_command(lambda: tyro.cli(record))())
