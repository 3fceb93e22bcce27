"""`python -m study.status`: how far a study is, from its folder alone, while it runs or not."""

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cityseg import commandline
from cityseg.errors import user_command
from study.console import Watch, remaining_text, rows_planned
from study.home import TABLE_FILES, Home, is_held
from study.lookup import find_home
from study.progress import Board, RowStatus
from study.store import variant_name

REFRESH_S: Final = 5.0


def status(
    study: Annotated[str | None, tyro.conf.Positional] = None,
    results: Path = Path("results"),
    watch: bool = False,
) -> int:
    """How far a study is: its table, what is at work, what failed or was pruned, and why.

    Args:
        study: Name of a study within the results folder, or its path or URL. By default the one
            whose cells were written to last.
        results: Folder or URL that holds the studies.
        watch: Look again every few seconds, until Ctrl-C.
    """
    home = find_home(study, results, TABLE_FILES)
    console = Console(highlight=False)
    if watch:
        follow(home, console)
    else:
        show(home, console)
    return 0


def follow(home: Home, console: Console) -> None:
    """Show the report again and again, until Ctrl-C; each below the last if piped."""
    try:
        if console.is_terminal:
            with Live(Group(*report(home, console)), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(REFRESH_S)
                    home.pull()
                    live.update(Group(*report(home, console)), refresh=True)
        while True:
            show(home, console)
            time.sleep(REFRESH_S)
            home.pull()
    except KeyboardInterrupt:
        return


def show(home: Home, console: Console) -> None:
    """Print the report once; no line of words is broken, so that it can be searched."""
    for part in report(home, console):
        console.print(part, soft_wrap=isinstance(part, Text))


def report(home: Home, console: Console) -> list[RenderableType]:
    """The study as it stands: who runs it, its table, and what the table has no room for.

    Raises:
        InputError: one of its files is missing or damaged.
    """
    board = Board.read(home.study)
    running = cells_at_work(board)
    watch = Watch(board, console, slots=max(1, len(running)))
    watch.running |= running
    heading = f"{home.where}: {driver_text(home.is_driven())}{work_text(running)}"
    lines = [*best_lines(board, watch), *reason_lines(board, "failed")]
    lines += reason_lines(board, "pruned")
    return [Text(heading), watch.table(), *(Text(line) for line in lines)]


def cells_at_work(board: Board) -> set[tuple[int, int]]:
    """(variant, fold) of the cells that a process trains now, by their locks.

    They may outlive a driver that was killed, for a little while. At a URL none can be told.
    """
    open_cells = [
        (row.variant, cell.fold) for row in board for cell in row.cells if cell.status != "done"
    ]
    return {cell for cell in open_cells if is_held(board.study.cell(*cell).lock)}


def driver_text(held: bool | None) -> str:
    """Whether a driver runs the study, in words."""
    if held is None:
        return "whether it is being run cannot be told, its lock is not ours to try"
    return "being run now" if held else "not being run now"


def work_text(running: set[tuple[int, int]]) -> str:
    """The cells at work, in words; empty if there is none."""
    cells = [f"{variant_name(variant)} fold {fold}" for variant, fold in sorted(running)]
    return f"; at work: {', '.join(cells)}" if cells else ""


def best_lines(board: Board, watch: Watch) -> list[str]:
    """The best row so far in a study of several, the time left in one of a single row."""
    if rows_planned(board) == 1:
        return [text] if (text := remaining_text(watch.overview())) else []
    ranking = watch.overview().ranking
    return [f"best so far: {watch.row_line(ranking[0].row.variant)}"] if ranking else []


def reason_lines(board: Board, why: RowStatus) -> list[str]:
    """Heading and a line each for the rows that were pruned, or that failed."""
    rows = [row for row in board if row.status == why]
    lines = [f"  {variant_name(row.variant)}  {' '.join(row.reason.split())}" for row in rows]
    return [f"{why}:", *lines] if lines else []


@user_command
def main() -> int:
    """Run the command."""
    return commandline.call(status, prog="python -m study.status")


if __name__ == "__main__":
    sys.exit(main())
