"""Tables for people: as data frames, on the terminal, in CSV, Markdown and LaTeX."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cityseg import atomic
from cityseg.labels import CLASS_NAMES
from study.analysis import (
    SCORE_COLUMNS,
    CellScores,
    ClassTable,
    FoldTable,
    Published,
    Variant,
    VariantRow,
    VariantTable,
    spread,
)
from study.comparison import Selection
from study.parameters import as_scalar, in_short, short_names
from study.space import Objective
from study.store import variant_name

FOLD_HEADINGS: Final = {
    "best_low": "Low-Res mIoU",
    "best_full": "Full-Res mIoU",
    "last_low": "Last: Low-Res",
    "last_full": "Last: Full-Res",
    "paper_low": "Paper: Low-Res",
    "paper_full": "Paper: Full-Res",
}
OBJECTIVE_WORDS: Final[dict[Objective, str]] = {
    "best_low": "low-res mIoU of the best epoch by low-res mIoU",
    "best_full": "full-res mIoU of the best epoch by low-res mIoU",
    "last_low": "low-res mIoU of the last epoch",
    "last_full": "full-res mIoU of the last epoch",
}
COMPANION: Final[dict[Objective, Objective]] = {
    "best_low": "last_low",
    "best_full": "last_full",
    "last_low": "best_low",
    "last_full": "best_full",
}
"""The other choice of epoch: what stands beside the objective where there is room for one more."""
WORDY: Final = ("Row", "Values", "State", "Gap", "Setting")
"""Headings of columns that hold words: set to the left, and broken where they are long."""
WORD_CHARS: Final = 24
"""A longer word, such as a path, is broken, too."""
ROWS_SHOWN: Final = 30
"""Rows up to which the terminal shows every one; the files hold all."""
WIDE_CHARS: Final = 100
"""Width from which the terminal has room for all columns of the rows."""
NO_VALUE: Final = "–"
TEX_SPECIAL: Final = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    | {"^": r"\textasciicircum{}", NO_VALUE: "--"}
)


def fold_numbers(table: FoldTable) -> pd.DataFrame:
    """Table 1 in full precision: one row a fold, then mean and std (population)."""
    rows = [_fold_numbers(table.variant, cell) for cell in table.cells]
    for statistic in ("mean", "std"):
        row: dict[str, object] = {"fold": statistic, "status": table.label(statistic)}
        for choice, resolution in SCORE_COLUMNS:
            value = getattr(spread(table.miou(choice, resolution)), statistic)
            row[f"{choice}_{resolution}"] = value
        if published := table.variant.published:
            low, full = _published_statistic(published, statistic)
            row |= {"paper_low": low, "paper_full": full}
        rows.append(row)
    return marked(pd.DataFrame(rows), table.variant)


def _fold_numbers(variant: Variant, cell: CellScores) -> dict[str, object]:
    row: dict[str, object] = {"fold": str(cell.fold), "status": cell.status, "note": cell.reason}
    row |= {"epochs_done": cell.epochs_done, "epochs": cell.epochs}
    row["best_epoch"] = cell.best.epoch if cell.best else None
    for choice, resolution in SCORE_COLUMNS:
        score = cell.score(choice, resolution)
        row[f"{choice}_{resolution}"] = score.miou if score else np.nan
    if variant.published:
        low, full = variant.published.of_fold(cell.fold, variant.folds)
        row |= {"paper_low": low, "paper_full": full}
    return row


def _published_statistic(published: Published, statistic: str) -> tuple[float, float]:
    if statistic == "mean":
        return published.mean_low, published.mean_full
    return published.std_low, published.std_full


def marked(numbers: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """Say in every row of which study and data it is, so that no row can be torn from its mark."""
    integers = [name for name in ("epochs_done", "epochs", "best_epoch") if name in numbers]
    marked = numbers.astype(dict.fromkeys(integers, "Int64"))
    return marked.assign(study=variant.title, data=variant.data)


def fold_text(table: FoldTable) -> pd.DataFrame:
    """Table 1 as printed: four decimals, a dash where there is no score."""
    numbers = fold_numbers(table)
    names = [table.label("Mean"), table.label("Std")]
    columns = {"Fold": [*numbers["fold"][:-2], *names]}
    for key, heading in FOLD_HEADINGS.items():
        if key in numbers:
            columns[heading] = [decimals(value) for value in numbers[key]]
    return pd.DataFrame(columns)


def fold_caption(table: FoldTable) -> str:
    """What must be known to read Table 1."""
    variant = table.variant
    height, width = variant.config.data.input_size
    words = [
        f"Study {variant.title}: {variant.folds} folds by {variant.grouping} on {variant.data}.",
        *row_words(variant),
        f"Low-Res is {height}x{width}, Full-Res each frame's own size.",
        "The first scores are of the best epoch by low-res mIoU, chosen on the fold that is scored,"
        " as in the paper; Last is the last epoch.",
        "Std is the population one (ddof = 0), as in the paper.",
    ]
    words += [f"Missing: {'; '.join(table.missing)}."] if table.missing else []
    return " ".join(words)


def row_words(variant: Variant) -> list[str]:
    """The row's exact values, where it is not the base one."""
    values = [f"{key}={json.dumps(value)}" for key, value in variant.row.parameters.items()]
    return [f"Over the base configuration: {', '.join(values)}."] if variant.number else []


def class_numbers(tables: Sequence[ClassTable]) -> pd.DataFrame:
    """Per-class IoU in full precision: one row for each class, resolution and choice of epoch."""
    return marked(
        pd.concat([_class_numbers(table) for table in tables], ignore_index=True),
        tables[0].folds.variant,
    )


def _class_numbers(table: ClassTable) -> pd.DataFrame:
    numbers = pd.DataFrame({"class": CLASS_NAMES})
    numbers.insert(0, "resolution", table.resolution)
    numbers.insert(0, "epoch", table.choice)
    for fold, iou in enumerate(table.iou, 1):
        numbers[f"fold_{fold}"] = iou
    numbers["mean"] = [value.mean for value in table.spreads]
    numbers["std"] = [value.std for value in table.spreads]
    return numbers.assign(folds=[value.count for value in table.spreads])


def class_text(table: ClassTable) -> pd.DataFrame:
    """Per-class IoU as printed, with the folds' mIoU as its last row."""
    miou = table.folds.miou(table.choice, table.resolution)
    spreads = [*table.spreads, spread(miou)]
    columns = {"Class": [*CLASS_NAMES, "mIoU"]}
    for fold, iou in enumerate(table.iou, 1):
        columns[f"Fold {fold}"] = [decimals(value) for value in (*iou, miou[fold - 1])]
    columns["Mean"] = [decimals(value.mean) for value in spreads]
    columns["Std"] = [decimals(value.std) for value in spreads]
    columns["Folds"] = [f"{value.count} of {len(miou)}" for value in spreads]
    return pd.DataFrame(columns)


def class_caption(table: ClassTable) -> str:
    """What must be known to read a table of classes."""
    variant, missing = table.folds.variant, table.folds.missing
    words = [
        f"Study {variant.title}: IoU by class at {table.resolution} resolution,"
        f" {table.choice} epoch, {variant.folds} folds by {variant.grouping} on {variant.data}.",
        *row_words(variant),
        f"{NO_VALUE}: the class occurs neither in the fold's labels nor in its predictions;"
        " Mean and Std (population) are over the folds that have it, counted under Folds.",
    ]
    words += [f"Missing: {'; '.join(missing)}."] if missing else []
    return " ".join(words)


def variant_numbers(table: VariantTable) -> pd.DataFrame:
    """All rows in full precision: one line a row, the best first, and a column a varied key."""
    varied = table.varied
    rows = [
        _variant_numbers(table, row) | {key: as_scalar(row.parameters.get(key)) for key in varied}
        for row in table.rows
    ]
    return marked(pd.DataFrame(rows), table.variant)


def _variant_numbers(table: VariantTable, row: VariantRow) -> dict[str, object]:
    numbers: dict[str, object] = {
        "row": variant_name(row.number),
        "origin": row.origin,
        "status": row.status,
        "note": row.reason,
        "best": row is table.best,
        "folds_done": row.folds_done,
        "folds": table.variant.folds,
        "epochs_done": row.epochs_done,
        "epochs": row.epochs,
        "objective": table.objective,
    }
    for objective in OBJECTIVE_WORDS:
        there = row.spread(objective)
        numbers |= {f"{objective}_mean": there.mean, f"{objective}_std": there.std}
    return numbers | {
        "to_base_mean": row.difference.mean,
        "to_base_std": row.difference.std,
    }


def variant_text(table: VariantTable, most: int | None = None) -> pd.DataFrame:
    """The rows as printed, or at most so many of them: the best, the base one, then others."""
    heading, companion = FOLD_HEADINGS[table.objective], COMPANION[table.objective]
    names = short_names(table.varied)
    rows = _first(table, most)
    return pd.DataFrame(
        {
            "Row": [_row_label(table, row) for row in rows],
            "Values": [in_short(row.parameters, names) for row in rows],
            heading: [decimals(row.spread(table.objective).mean) for row in rows],
            "Std": [decimals(row.spread(table.objective).std) for row in rows],
            "To base": [signed(row.difference.mean) for row in rows],
            FOLD_HEADINGS[companion]: [decimals(row.spread(companion).mean) for row in rows],
            "Epochs": [f"{row.epochs_done}/{row.epochs}" for row in rows],
            "State": [f"{row.status}{': ' if row.reason else ''}{row.reason}" for row in rows],
        }
    )


def _first(table: VariantTable, most: int | None) -> list[VariantRow]:
    """The first rows; the base one is the last of them if it is not among them otherwise."""
    rows = list(table.rows)
    if most is None or len(rows) <= most:
        return rows
    base = [row for row in rows[most:] if row.number == 0]
    return [*rows[: most - len(base)], *base]


def _row_label(table: VariantTable, row: VariantRow) -> str:
    marks = ["base"] if row.number == 0 else []
    marks += ["best"] if row is table.best else []
    return variant_name(row.number) + (f" ({', '.join(marks)})" if marks else "")


def variant_caption(
    table: VariantTable, most: int | None = None, selection: Selection | None = None
) -> str:
    """What must be known to read the table of rows, with the best row's corrected score."""
    variant, count = table.variant, len(table.rows)
    statuses = Counter(row.status for row in table.rows)
    states = [f"{number} {status}" for status, number in statuses.items()]
    states += [f"{table.planned - count} to come"] if table.planned > count else []
    words = [
        f"Study {variant.title}: {table.planned} rows ({', '.join(states)}) of {variant.folds}"
        f" folds by {variant.grouping} on {variant.data}.",
        f"Compared by {table.objective}, the {OBJECTIVE_WORDS[table.objective]}: mean and"
        " population std (ddof = 0) over the folds, of finished rows only.",
        *_best_words(table, selection),
        "To base: mean of the differences to v000, fold by fold.",
    ]
    if most is not None and count > most:
        words.append(f"{count - most} more rows are in the files.")
    return " ".join(words)


def _best_words(table: VariantTable, selection: Selection | None) -> list[str]:
    """How far the best row can be believed, where it was chosen among others."""
    if table.best is None:
        return []
    words = [
        f"The best row, {variant_name(table.best.number)}, was chosen on the very folds that it is"
        " scored on, and so looks better than it is."
    ]
    if selection is not None and not math.isnan(selection.corrected):
        low, high = (decimals(end) for end in (selection.interval.low, selection.interval.high))
        words.append(
            f"Freed of that, its score is {decimals(selection.corrected)} instead of"
            f" {decimals(selection.naive)} (95 % interval {low} to {high}; bootstrap bias"
            f" correction over {selection.unit}, Tsamardinos et al. 2018). The luck of its"
            " trainings stays in it: trained anew, the row may well score lower."
        )
    return words


def show_rows(console: Console, table: VariantTable, selection: Selection | None = None) -> None:
    """Print the rows of a study: of many the first, and on a narrow console the chief columns."""
    text = variant_text(table, ROWS_SHOWN)
    if console.width < WIDE_CHARS:
        text = text.drop(columns=["Epochs", FOLD_HEADINGS[COMPANION[table.objective]]])
    show(console, text, variant_caption(table, ROWS_SHOWN, selection))


def decimals(value: float) -> str:
    """Four decimals; a dash for NaN."""
    return NO_VALUE if np.isnan(value) else f"{value:.4f}"


def signed(value: float) -> str:
    """Four decimals with a sign; a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{value:+.4f}"


def show(console: Console, text: pd.DataFrame, caption: str) -> None:
    """Print a table and, below, its caption in the console's width.

    On a console that is too narrow the table's lines run over, no digit is cut.
    """
    table = Table()
    widest = [max(len(word) for word in (heading, *text[heading])) for heading in text.columns]
    least = [
        max(len(word) for word in (*heading.split(), *_words(heading, text)))
        for heading in text.columns
    ]
    widths = _widths(widest, least, room=console.width - 3 * len(text.columns) - 1)
    for side, heading, width in zip(_sides(text), text.columns, widths, strict=True):
        justify = "left" if side == "l" else "right"
        # rich takes from a `width` what a narrow console lacks, but not from a `min_width`
        table.add_column(Text(heading), justify=justify, min_width=width, max_width=width)
    for row in text.itertuples(index=False):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table, crop=False)
    console.print(Text(caption, style="table.caption"), end="\n\n")


def _widths(widest: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Of columns that share some room: the widest of those that can gives way first."""
    widths = list(widest)
    while sum(widths) > room and widths != list(least):
        able = [w if w > minimum else 0 for w, minimum in zip(widths, least, strict=True)]
        widths[able.index(max(able))] -= 1
    return widths


def _words(heading: str, text: pd.DataFrame) -> list[str]:
    """What must not be broken within a column: its words, or its numbers as a whole."""
    if heading not in WORDY:
        return list(text[heading])
    return [word[:WORD_CHARS] for cell in text[heading] for word in cell.split()]


def write_table(
    stem: Path, numbers: pd.DataFrame, printed: list[tuple[pd.DataFrame, str]]
) -> list[Path]:
    """Write `stem`.csv in full precision, and `stem`.md and `stem`.tex as printed."""
    contents = {
        ".csv": numbers.to_csv(index=False),
        ".md": "\n".join(f"{caption}\n\n{markdown(text)}\n" for text, caption in printed),
        ".tex": "\n".join(latex(text, caption) for text, caption in printed),
    }
    written: list[Path] = []
    for suffix, content in contents.items():
        written.append(stem.with_name(f"{stem.name}{suffix}"))  # a study's name may hold dots
        atomic.write_text(written[-1], content, durable=False)
    return written


def file_list(files: Sequence[Path]) -> list[str]:
    """One line for each file's name, with all its endings, such as `out/table1.csv .md .tex`."""
    endings: dict[Path, list[str]] = {}
    for file in files:
        endings.setdefault(file.with_suffix(""), []).append(file.suffix)
    return [f"{stem}{' '.join(suffixes)}" for stem, suffixes in endings.items()]


def markdown(text: pd.DataFrame) -> str:
    """A pipe table, digits as they are printed elsewhere."""
    sides = ["left" if side == "l" else "right" for side in _sides(text)]
    escaped = text.map(lambda cell: cell.replace("|", r"\|"))
    return escaped.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _sides(text: pd.DataFrame) -> str:
    """l or r for every column."""
    return "".join("l" if n == 0 or h in WORDY else "r" for n, h in enumerate(text.columns))


def latex(text: pd.DataFrame, caption: str) -> str:
    """A booktabs table environment, in plain ASCII as far as the names are."""
    escaped = text.rename(columns=_escape).map(_escape)
    return escaped.to_latex(
        index=False,
        escape=False,
        caption=_escape(caption),
        position="t",
        column_format=_latex_columns(text),
    )


def _latex_columns(text: pd.DataFrame) -> str:
    """Columns of long words are as wide as a page has room for, and broken there."""
    longest = [max((len(cell) for cell in text[heading]), default=0) for heading in text.columns]
    wide = r"p{0.2\linewidth}"
    return "".join(
        wide if side == "l" and chars > WORD_CHARS else side
        for side, chars in zip(_sides(text), longest, strict=True)
    )


def _escape(text: str) -> str:
    return text.translate(TEX_SPECIAL)
