"""`python -m study.analyze`: print what studies say and their tables, and write both to files."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro
from rich.console import Console
from rich.text import Text

from cityseg import commandline
from cityseg.errors import DiskError, InputError, user_command
from study import analysis, sheets, tables, verdicts
from study.analysis import FoldTable, Panel, Variant, VariantTable
from study.classes import ClassScores, class_scores
from study.counts import OBJECTIVES
from study.evidence import ComparisonTable, IntervalTable, comparison_table, interval_table
from study.gaps import GapTable, gap_table
from study.importance import Importance, measure_importance
from study.lookup import find
from study.several import (
    Contender,
    SideBySide,
    check_pair,
    chosen_contender,
    find_contender,
    side_by_side,
)
from study.store import Study
from study.summary import StudyPart, Summary, side_by_side_part, study_part, write_summary

if TYPE_CHECKING:  # what draws, and all that it imports, only where it is asked for
    from study.illustrations import Illustration
    from study.report import ReportTable

CLASSES_SHOWN: Final = "best_full"
"""Score whose classes the terminal shows; the files hold all."""
EFFORTS_SHOWN: Final = 10
"""Rows up to which the terminal shows the cost of every one."""


@dataclass(frozen=True, eq=False)
class Records:
    """All that the analysis of one study computes."""

    rows: VariantTable
    folds: FoldTable
    """Of the row that is shown fold by fold, as all below but the last two."""
    intervals: IntervalTable | None
    classes: tuple[ClassScores, ...]
    """By each of the four scores."""
    gaps: GapTable | None
    compared: ComparisonTable | None
    importance: Importance | None
    notes: tuple[str, ...]
    """What could not be had, and why."""

    @property
    def headline(self) -> str:
        """What the study says."""
        objective = self.rows.objective
        return verdicts.headline(self.folds, objective, self.intervals, self.compared)

    def summary(self) -> StudyPart:
        """All of it for programs."""
        return study_part(
            self.headline,
            self.rows,
            self.compared,
            self.intervals,
            self.classes,
            self.gaps,
            self.importance,
        )


def analyze(
    studies: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    compare: tuple[str, str] | None = None,
    results: Path = Path("results"),
    out: Path | None = None,
    variant: int | None = None,
    figures: bool = True,
    embed_frames: bool = False,
) -> int:
    """Tables and figures of a study, finished or still running; or several side by side.

    Args:
        studies: Name of a study within the results folder, or its path. By default the one whose
            cells were written to last. Of several, the best rows stand side by side, each paired
            with the first where folds and frames agree.
        compare: Two rows to compare on the same frames and folds: the first against the second.
            STUDY is its best row; STUDY/v003 is one by number, v003 alone is one of STUDIES.
        results: Folder that holds the studies.
        out: Where tables and histories go. By default `analysis/` in the (first) study's folder.
            Panels always go there: the licence of the frames they show may forbid to pass them on.
        variant: Number of the row that is shown fold by fold. By default the best finished one.
        figures: Draw figures, too, and make report.html; they take longer than all the numbers.
        embed_frames: Put frames of a licensed data set into report.html, which must then not be
            passed on. The embedded city's are always in it.
    """
    _refuse_ignored(studies, compare, variant, embed_frames)
    console = Console()
    if compare is not None:
        written = analyze_pair(console, compare, results, out, studies[0] if studies else None)
    elif len(studies) > 1:
        written = analyze_several(console, [find(study, results) for study in studies], out)
    else:
        study = find(next(iter(studies), None), results)
        written = analyze_one(console, study, out, variant, figures, embed_frames)
    for line in ("Written:", *tables.file_list(written)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _refuse_ignored(
    studies: Sequence[str],
    compare: tuple[str, str] | None,
    variant: int | None,
    embed_frames: bool,
) -> None:
    """Refuse what would have no effect.

    Raises:
        InputError: an option of a single study's with others, or more studies than are looked at.
    """
    if compare is not None and len(studies) > 1:
        raise InputError(
            "--compare",
            got=f"{len(studies)} studies beside it",
            expected="at most the one that v003 alone is a row of",
        )
    if compare is None and len(studies) < 2:
        return
    if variant is not None:
        raise InputError("--variant goes with one study", remedy="see --compare STUDY/v003")
    if embed_frames:
        raise InputError(
            "--embed-frames goes with one study", remedy="only its own report.html shows frames"
        )


def analyze_one(
    console: Console,
    study: Study,
    out: Path | None,
    variant: int | None,
    figures: bool = True,
    embed_frames: bool = False,
) -> list[Path]:
    """Print and write all of one study; returns the files."""
    records, folder = read_records(study, variant), out or study.analysis
    rows = records.rows
    show_verdict(console, records.headline)
    written = report_rows(console, rows, records.compared, folder) if rows.planned > 1 else []
    written += report_tables(console, records.folds, records.classes, folder)
    if records.intervals:
        written += report_intervals(console, records.intervals, folder)
    if records.gaps:
        written += report_gaps(console, records.gaps, folder)
    written += report_effort(console, rows, folder)
    if records.importance:
        written += report_importance(console, records.importance, rows, folder)
    written += [write_summary(folder / "summary.json", Summary(studies=[records.summary()]))]
    notes = list(records.notes)
    if figures:
        (page, *pictures), why = write_pictures(records, folder, written, embed_frames)
        written, notes = [page, *written, *pictures], notes + why
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return written


def read_records(study: Study, variant: int | None = None) -> Records:
    """Compute everything of one study.

    Args:
        study: its folder.
        variant: number of the row that is shown fold by fold; by default the best finished one.

    Raises:
        InputError: one of its files is missing or damaged, or it has no such row.
    """
    rows = analysis.variant_table(study)
    row = rows.open(choose(rows, variant))
    folds, intervals = analysis.fold_table(row), interval_table(row)
    importance, note = measure_importance(rows)
    return Records(
        rows=rows,
        folds=folds,
        intervals=intervals,
        classes=tuple(class_scores(folds, objective, intervals) for objective in OBJECTIVES),
        gaps=gap_table(folds, intervals.test_train_ratio) if intervals else None,
        compared=comparison_table(rows),
        importance=importance,
        notes=(note,) if note else (),
    )


def choose(rows: VariantTable, wanted: int | None) -> int:
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


def analyze_several(console: Console, studies: Sequence[Study], out: Path | None) -> list[Path]:
    """Print and write several studies side by side; returns the files."""
    folder = out or studies[0].analysis
    records = [read_records(study) for study in studies]
    contenders = [chosen_contender(one.rows, one.folds.variant) for one in records]
    table = side_by_side(contenders, contenders[0].variant.record.search.objective)
    written = report_side_by_side(console, table, folder / "studies")
    parts = [one.summary() for one in records]
    summary = Summary(studies=parts, side_by_side=side_by_side_part(table))
    return [*written, write_summary(folder / "studies.json", summary)]


def analyze_pair(
    console: Console, words: tuple[str, str], results: Path, out: Path | None, of: str | None
) -> list[Path]:
    """Print and write the first row against the second; returns the files.

    Raises:
        InputError: no such rows, or their pairing would be false.
    """
    row, base = (find_contender(word, results, of) for word in words)
    objective = base.variant.record.search.objective
    check_pair(row, base, objective)
    table = side_by_side([base, row], objective)
    stem = (out or row.variant.study.analysis) / f"compare_{_in_file(row)}_{_in_file(base)}"
    written = report_side_by_side(console, table, stem)
    summary = Summary(studies=[], side_by_side=side_by_side_part(table))
    return [*written, write_summary(stem.with_name(f"{stem.name}.json"), summary)]


def _in_file(contender: Contender) -> str:
    return contender.name.replace(" ", "-")


def show_verdict(console: Console, *lines: str) -> None:
    """Print what is to be read before any table."""
    for line in lines:
        console.print(Text(line, style="bold"))


def report_side_by_side(console: Console, table: SideBySide, stem: Path) -> list[Path]:
    """Print and write rows of several studies, the verdicts first; returns the files."""
    show_verdict(console, *sheets.side_verdicts(table))
    sheets.show_side(console, table)
    caption = " ".join((*sheets.side_verdicts(table), sheets.side_caption(table)))
    printed = [(sheets.side_text(table), caption)]
    return tables.write_table(stem, sheets.side_numbers(table), printed)


def report_rows(
    console: Console, rows: VariantTable, compared: ComparisonTable | None, folder: Path
) -> list[Path]:
    """Print the table of all rows, of many the first, and write it; returns the files.

    So it is with the comparisons of the finished ones, where there are any.
    """
    selection = compared.selection if compared else None
    tables.show_rows(console, rows, selection)
    printed = [(tables.variant_text(rows), tables.variant_caption(rows, selection=selection))]
    written = tables.write_table(folder / "variants", tables.variant_numbers(rows), printed)
    if compared and compared.comparisons:
        written += report_comparisons(console, compared, folder)
    return written


def report_comparisons(console: Console, table: ComparisonTable, folder: Path) -> list[Path]:
    """Print the comparisons, of many the first, and write them; returns the files."""
    most = tables.ROWS_SHOWN
    text, caption = verdicts.comparison_text, verdicts.comparison_caption
    tables.show(console, text(table, most), caption(table, most, verdict=False))
    printed = [(text(table), caption(table))]
    numbers = verdicts.comparison_numbers(table)
    return tables.write_table(folder / "comparisons", numbers, printed)


def report_tables(
    console: Console, folds: FoldTable, classes: Sequence[ClassScores], folder: Path
) -> list[Path]:
    """Print Table 1 and the classes, and write both; returns the files."""
    suffix = folds.variant.suffix
    printed = [(tables.fold_text(folds), tables.fold_caption(folds))]
    tables.show(console, *printed[0])
    written = tables.write_table(folder / f"table1{suffix}", tables.fold_numbers(folds), printed)
    by_fold = [analysis.class_table(folds, *column) for column in OBJECTIVES.values()]
    printed = [
        part
        for one, other in zip(by_fold[:2], classes[:2], strict=True)
        for part in (
            (tables.class_text(one), tables.class_caption(one)),
            (sheets.class_text(other), sheets.class_caption(other)),
        )
    ]
    sheets.show_classes(console, next(c for c in classes if c.objective == CLASSES_SHOWN))
    numbers = tables.class_numbers(by_fold).join(sheets.class_numbers(classes))
    return written + tables.write_table(folder / f"classes{suffix}", numbers, printed)


def report_intervals(console: Console, table: IntervalTable, folder: Path) -> list[Path]:
    """Print and write how far Table 1 can be believed; returns the files."""
    printed = [(verdicts.interval_text(table), verdicts.interval_caption(table))]
    tables.show(console, *printed[0])
    numbers = verdicts.interval_numbers(table)
    return tables.write_table(folder / f"intervals{table.variant.suffix}", numbers, printed)


def report_gaps(console: Console, table: GapTable, folder: Path) -> list[Path]:
    """Print and write what lies between chosen and last epoch, and so on; returns the files."""
    printed = [(sheets.gap_text(table), sheets.gap_caption(table))]
    tables.show(console, *printed[0])
    stem = folder / f"gaps{table.folds.variant.suffix}"
    return tables.write_table(stem, sheets.gap_numbers(table), printed)


def report_effort(console: Console, rows: VariantTable, folder: Path) -> list[Path]:
    """Print what the rows have cost, of many the first, and write it; returns the files."""
    most = EFFORTS_SHOWN
    tables.show(console, sheets.effort_text(rows, most), sheets.effort_caption(rows, most))
    printed = [(sheets.effort_text(rows), sheets.effort_caption(rows))]
    return tables.write_table(folder / "effort", sheets.effort_numbers(rows), printed)


def report_importance(
    console: Console, importance: Importance, rows: VariantTable, folder: Path
) -> list[Path]:
    """Print and write which settings matter; returns the files."""
    text = sheets.importance_text(importance)
    caption = sheets.importance_caption(importance, rows)
    tables.show(console, text, caption)
    numbers = sheets.importance_numbers(importance, rows)
    return tables.write_table(folder / "importance", numbers, [(text, caption)])


def write_pictures(
    records: Records, folder: Path, others: Sequence[Path], embed_frames: bool
) -> tuple[list[Path], list[str]]:
    """Draw all figures and panels, and make the page, which lists the other files, too.

    Returns the files, the page first, and why there are no panels.
    """
    from study import gallery

    row, notes = records.folds.variant, []
    drawn = write_figures(records, folder)
    written = [file for one in drawn for file in one.files]
    panels, why = gallery.read_panels(row)
    notes += [why] if why else []
    try:
        written += write_panels(row, panels)
    except DiskError as error:  # the study may be another's, to be read only
        notes.append(f"no panels: {error}")
    page = write_page(records, drawn, panels, why, [*others, *written], folder, embed_frames)
    return [page, *written], notes


def write_histories(variant: Variant, folder: Path) -> list[Path]:
    """Write `history_f1.png`, `.pdf`, ... of the folds that have an epoch; returns the files."""
    from study import plots

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


def write_figures(records: Records, folder: Path) -> "list[Illustration]":
    """Draw the study's figures and those of the row that is shown, as PNG and PDF."""
    from study import illustrations

    rows, importance = records.rows, records.importance
    drawn: list[Illustration] = []
    if rows.planned > 1:
        shares, note = (importance.shares, importance.note) if importance else (None, "")
        drawn += illustrations.write_study_figures(rows, records.compared, folder, shares, note)
    drawn += illustrations.write_row_figures(records.folds, folder)
    return drawn + illustrations.histories(write_histories(records.folds.variant, folder))


def write_panels(variant: Variant, panels: Mapping[int, Panel]) -> list[Path]:
    """Write `panel_f1.png`, `.pdf`, ... into the study's own folder; returns the files."""
    from study import illustrations, plots

    written: list[Path] = []
    for fold, record in panels.items():
        stem = variant.study.analysis / f"panel{variant.suffix}_f{fold}"
        written += plots.save(plots.draw_panel(record), stem, f"{record.title}; {record.data}")
    frames = illustrations.write_frames(variant, panels)
    return written + (frames.files if frames else [])


def page_tables(records: Records) -> "list[ReportTable]":
    """What the page shows beside its own tables."""
    from study.report import ReportTable

    rows = records.rows
    one = next(one for one in records.classes if one.objective == CLASSES_SHOWN)
    more = [ReportTable("Classes", sheets.class_caption(one), sheets.class_text(one))]
    if gaps := records.gaps:
        more.append(ReportTable("Gaps", sheets.gap_caption(gaps), sheets.gap_text(gaps)))
    text, caption = sheets.effort_text(rows), sheets.effort_caption(rows)
    more.append(ReportTable("Effort", caption, text, footer=int(len(rows.rows) > 1)))
    if there := records.importance:
        caption = sheets.importance_caption(there, rows)
        more.append(ReportTable("Importance", caption, sheets.importance_text(there)))
    return more


def write_page(
    records: Records,
    drawn: "Sequence[Illustration]",
    panels: Mapping[int, Panel],
    why: str,
    files: Sequence[Path],
    folder: Path,
    embed_frames: bool,
) -> Path:
    """Write report.html; `why` says why there are no panels, `files` are listed."""
    from study import gallery, report

    row = records.folds.variant
    frames = gallery.read_gallery(row, panels, gallery.licence_of(row, embed_frames), why)
    contents = report.report_contents(
        records.rows,
        records.folds,
        frames,
        intervals=records.intervals,
        compared=records.compared,
        more_tables=page_tables(records),
        illustrations=drawn,
        files=files,
    )
    return report.write_report(folder / "report.html", contents)


@user_command
def main() -> int:
    """Run the command."""
    return commandline.call(analyze, prog="python -m study.analyze")


if __name__ == "__main__":
    sys.exit(main())
