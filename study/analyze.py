"""`python -m study.analyze`: print a study's tables, and write them and its figures to files."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cityseg.data import index
from cityseg.errors import InputError, user_command
from study import analysis, evidence, plots, tables, verdicts
from study.lookup import find


def analyze(
    study: Annotated[str | None, tyro.conf.Positional] = None,
    results: Path = Path("results"),
    out: Path | None = None,
    variant: int | None = None,
) -> int:
    """Tables and figures of a study, finished or still running.

    Args:
        study: Name of a study within the results folder, or its path. By default the one whose
            cells were written to last.
        results: Folder that holds the studies.
        out: Where tables and histories go. By default `analysis/` in the study's folder. Panels
            always go there: the licence of the frames they show may forbid to pass them on.
        variant: Number of the row that is shown fold by fold. By default the best finished one.
    """
    chosen, console = find(study, results), Console()
    folder = out or chosen.analysis
    rows = analysis.variant_table(chosen)
    row = analysis.read_variant(chosen, choose(rows, variant))
    written = report_rows(console, rows, folder) if rows.planned > 1 else []
    written += report_tables(console, row, folder)
    written += report_intervals(console, row, folder)
    written += write_histories(row, folder)
    panels, notes = write_panels(row)
    for line in (*notes, "Written:", *written, *panels):
        console.print(str(line), highlight=False, markup=False, soft_wrap=True)
    return 0


def choose(rows: analysis.VariantTable, wanted: int | None) -> int:
    """The row to be shown fold by fold: the one wanted, else the best finished one, else v000.

    Raises:
        InputError: the study has no such row.
    """
    if wanted is None:
        return rows.best.number if rows.best else 0
    numbers = {row.number for row in rows.rows}
    if wanted not in numbers:
        raise InputError(
            f"study {rows.variant.title}", got=f"--variant {wanted}",
            expected=f"one of its {len(numbers)} rows, 0 to {max(numbers)}",
        )  # fmt: skip
    return wanted


def report_rows(console: Console, rows: analysis.VariantTable, folder: Path) -> list[Path]:
    """Print the table of all rows, of many the first, and write it; returns the files.

    So it is with the comparisons of the finished ones, where there are any.
    """
    compared = evidence.comparison_table(rows)
    selection = compared.selection if compared else None
    tables.show_rows(console, rows, selection)
    printed = [(tables.variant_text(rows), tables.variant_caption(rows, selection=selection))]
    written = tables.write_table(folder / "variants", tables.variant_numbers(rows), printed)
    if compared and compared.comparisons:
        written += report_comparisons(console, compared, folder)
    return written


def report_comparisons(
    console: Console, table: evidence.ComparisonTable, folder: Path
) -> list[Path]:
    """Print the comparisons, of many the first, and write them; returns the files."""
    most = tables.ROWS_SHOWN
    text, caption = verdicts.comparison_text, verdicts.comparison_caption
    tables.show(console, text(table, most), caption(table, most))
    printed = [(text(table), caption(table))]
    numbers = verdicts.comparison_numbers(table)
    return tables.write_table(folder / "comparisons", numbers, printed)


def report_intervals(console: Console, variant: analysis.Variant, folder: Path) -> list[Path]:
    """Print and write how far Table 1 can be believed, if all folds are done; returns the files."""
    table = evidence.interval_table(variant)
    if table is None:
        return []
    printed = [(verdicts.interval_text(table), verdicts.interval_caption(table))]
    tables.show(console, *printed[0])
    numbers = verdicts.interval_numbers(table)
    return tables.write_table(folder / f"intervals{variant.suffix}", numbers, printed)


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
            folder / f"table1{variant.suffix}",
            tables.fold_numbers(folds),
            [(fold_text, fold_caption)],
        ),
        *tables.write_table(
            folder / f"classes{variant.suffix}", tables.class_numbers(classes), printed
        ),
    ]


def write_histories(variant: analysis.Variant, folder: Path) -> list[Path]:
    """Write `history_f1.png`, `.pdf`, ... of the folds that have an epoch; returns the files."""
    written: list[Path] = []
    for fold in range(1, variant.folds + 1):
        if record := analysis.history(variant, fold):
            figure = plots.draw_history(record)
            written += plots.save(
                figure,
                folder / f"history{variant.suffix}_f{fold}",
                f"{record.title}; {record.data}",
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
                stem = variant.study.analysis / f"panel{variant.suffix}_f{fold}"
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
