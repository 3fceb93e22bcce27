"""Tables for people: as data frames, on the terminal, in CSV, Markdown and LaTeX."""

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
    spread,
)

FOLD_HEADINGS: Final = {
    "best_low": "Low-Res mIoU",
    "best_full": "Full-Res mIoU",
    "last_low": "Last: Low-Res",
    "last_full": "Last: Full-Res",
    "paper_low": "Paper: Low-Res",
    "paper_full": "Paper: Full-Res",
}
NO_VALUE: Final = "–"
TEX_SPECIAL: Final = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
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
    return _marked(pd.DataFrame(rows), table.variant)


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


def _marked(numbers: pd.DataFrame, variant: Variant) -> pd.DataFrame:
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
            columns[heading] = [_decimals(value) for value in numbers[key]]
    return pd.DataFrame(columns)


def fold_caption(table: FoldTable) -> str:
    """What must be known to read Table 1."""
    variant = table.variant
    height, width = variant.record.config.data.input_size
    words = [
        f"Study {variant.title}: {variant.folds} folds by {variant.grouping} on {variant.data}.",
        f"Low-Res is {height}x{width}, Full-Res each frame's own size.",
        "The first scores are of the best epoch by low-res mIoU, chosen on the fold that is scored,"
        " as in the paper; Last is the last epoch.",
        "Std is the population one (ddof = 0), as in the paper.",
    ]
    words += [f"Missing: {'; '.join(table.missing)}."] if table.missing else []
    return " ".join(words)


def class_numbers(tables: Sequence[ClassTable]) -> pd.DataFrame:
    """Per-class IoU in full precision: one row for each class, resolution and choice of epoch."""
    return _marked(
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
        columns[f"Fold {fold}"] = [_decimals(value) for value in (*iou, miou[fold - 1])]
    columns["Mean"] = [_decimals(value.mean) for value in spreads]
    columns["Std"] = [_decimals(value.std) for value in spreads]
    columns["Folds"] = [f"{value.count} of {len(miou)}" for value in spreads]
    return pd.DataFrame(columns)


def class_caption(table: ClassTable) -> str:
    """What must be known to read a table of classes."""
    variant, missing = table.folds.variant, table.folds.missing
    words = [
        f"Study {variant.title}: IoU by class at {table.resolution} resolution,"
        f" {table.choice} epoch, {variant.folds} folds by {variant.grouping} on {variant.data}.",
        f"{NO_VALUE}: the class occurs neither in the fold's labels nor in its predictions;"
        " Mean and Std (population) are over the folds that have it, counted under Folds.",
    ]
    words += [f"Missing: {'; '.join(missing)}."] if missing else []
    return " ".join(words)


def _decimals(value: float) -> str:
    return NO_VALUE if np.isnan(value) else f"{value:.4f}"


def show(console: Console, text: pd.DataFrame, caption: str) -> None:
    """Print a table; on a console that is too narrow its lines run over, no digit is cut."""
    table = Table(caption=Text(caption), caption_justify="left")
    for number, heading in enumerate(text.columns):
        longest = max(len(word) for word in (*heading.split(), *text[heading]))
        justify = "right" if number else "left"
        table.add_column(Text(heading), justify=justify, min_width=longest)
    for row in text.itertuples(index=False):
        table.add_row(*(Text(cell) for cell in row))
    needed = sum(column.min_width or 0 for column in table.columns) + 3 * len(table.columns) + 1
    console.print(table, width=max(needed, console.width), crop=False)


def write_table(
    stem: Path, numbers: pd.DataFrame, printed: list[tuple[pd.DataFrame, str]]
) -> list[Path]:
    """Write `stem`.csv in full precision, and `stem`.md and `stem`.tex as printed."""
    markdown = [f"{caption}\n\n{text.to_markdown(index=False)}\n" for text, caption in printed]
    contents = {
        ".csv": numbers.to_csv(index=False),
        ".md": "\n".join(markdown),
        ".tex": "\n".join(latex(text, caption) for text, caption in printed),
    }
    for suffix, content in contents.items():
        atomic.write_text(stem.with_suffix(suffix), content)
    return [stem.with_suffix(suffix) for suffix in contents]


def latex(text: pd.DataFrame, caption: str) -> str:
    """A booktabs table environment, in plain ASCII as far as the names are."""
    escaped = text.rename(columns=_escape).map(_escape)
    return escaped.to_latex(
        index=False,
        escape=False,
        caption=_escape(caption),
        position="t",
        column_format="l" + "r" * (len(text.columns) - 1),
    )


def _escape(text: str) -> str:
    return text.translate(TEX_SPECIAL)
