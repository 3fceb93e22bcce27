"""`python -m study.analyze`: print a study's tables, and write them and its figures to files."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cityseg.data import index
from cityseg.errors import InputError, user_command
from study import analysis, plots, tables
from study.store import Study, newest


def analyze(
    study: Annotated[str | None, tyro.conf.Positional] = None,
    results: Path = Path("results"),
    out: Path | None = None,
) -> int:
    """Tables and figures of a study, finished or still running.

    Args:
        study: Name of a study within the results folder, or its path. By default the one whose
            cells were written to last.
        results: Folder that holds the studies.
        out: Where tables and histories go. By default `analysis/` in the study's folder. Panels
            always go there: the licence of the frames they show may forbid to pass them on.
    """
    chosen = newest(results) if study is None else find(study, results)
    variant = analysis.read_variant(chosen)
    console = Console()
    written = report_tables(console, variant, out or chosen.analysis)
    written += write_histories(variant, out or chosen.analysis)
    panels, notes = write_panels(variant)
    for line in (*notes, "Written:", *written, *panels):
        console.print(str(line), highlight=False, markup=False, soft_wrap=True)
    return 0


def find(study: str, results: Path) -> Study:
    """A study by its name within `results`, or by its path.

    Raises:
        InputError: neither is there.
    """
    for candidate in (Study(results / study), Study(Path(study))):
        if candidate.exists():
            return candidate
    known = sorted(path.parent.name for path in results.glob("*/study.yaml"))
    raise InputError(
        f"no study {study}",
        got=f"neither {results / study} nor {study} holds a study.yaml",
        expected=f"one of {', '.join(known)}" if known else None,
        remedy="" if known else "make one with: python -m study.run",
    )


def report_tables(console: Console, variant: analysis.Variant, folder: Path) -> list[Path]:
    """Print Table 1 and the classes' IoU, and write both; returns the files."""
    folds = analysis.fold_table(variant)
    choices = analysis.SCORE_COLUMNS
    classes = [analysis.class_table(folds, choice, resolution) for choice, resolution in choices]
    fold_text, fold_caption = tables.fold_text(folds), tables.fold_caption(folds)
    printed = [(tables.class_text(table), tables.class_caption(table)) for table in classes[:2]]
    tables.show(console, fold_text, fold_caption)
    tables.show(console, *printed[-1])
    return [
        *tables.write_table(
            folder / "table1", tables.fold_numbers(folds), [(fold_text, fold_caption)]
        ),
        *tables.write_table(folder / "classes", tables.class_numbers(classes), printed),
    ]


def write_histories(variant: analysis.Variant, folder: Path) -> list[Path]:
    """Write `history_f1.png`, `.pdf`, ... of the folds that have an epoch; returns the files."""
    written: list[Path] = []
    for fold in range(1, variant.folds + 1):
        if record := analysis.history(variant, fold):
            figure = plots.draw_history(record)
            written += plots.save(
                figure, folder / f"history_f{fold}", f"{record.title}; {record.data}"
            )
    return written


def write_panels(variant: analysis.Variant) -> tuple[list[Path], list[str]]:
    """Write `panel_f1.png`, `.pdf`, ... of the finished folds into the study's own folder.

    Returns the files, and a line that says why there are none where the frames cannot be read.
    """
    root = variant.record.data.root
    if not root.is_dir():
        return [], [f"no panels: {root} is not there"]
    written: list[Path] = []
    try:
        frames = {frame.name: frame for frame in index(root, "train")}
        for fold in range(1, variant.folds + 1):
            if record := analysis.panel(variant, fold, frames):
                stem = variant.study.analysis / f"panel_f{fold}"
                subject = f"{record.title}; {record.data}"
                written += plots.save(plots.draw_panel(record), stem, subject)
    except InputError as error:
        return written, [f"no panels: {error}"]
    return written, []


@user_command
def main() -> int:
    """Run the command."""
    return tyro.cli(analyze, prog="python -m study.analyze")


if __name__ == "__main__":
    sys.exit(main())
