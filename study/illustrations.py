"""Which figures a study has: drawn, written as PNG and PDF, and said in words what they show."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from study import figures, plots, views
from study.analysis import ClassTable, FoldTable, Panel, Variant, VariantTable, class_table
from study.evidence import ComparisonTable
from study.space import Objective


@dataclass(frozen=True)
class Illustration:
    """A figure on disk, and what a page says of it."""

    title: str
    caption: str
    png: Path
    """Beside it lies the same as PDF."""

    @property
    def files(self) -> list[Path]:
        """Both of them."""
        return [self.png, self.png.with_suffix(".pdf")]


def write_row_figures(folds: FoldTable, folder: Path) -> list[Illustration]:
    """Figures of one row's finished folds: classes by fold, and what these were taken for."""
    if not folds.finished:
        return []
    shares = views.confusion_shares(folds, "best_full")
    return [
        _classes(class_table(folds, "best", "full"), folder),
        _confusion(shares, folder / f"confusion{folds.variant.suffix}"),
    ]


def _classes(table: ClassTable, folder: Path) -> Illustration:
    variant = table.folds.variant
    return _write(
        lambda: figures.draw_classes(table),
        folder / f"classes{variant.suffix}",
        f"{variant.title}; {variant.data}",
        "IoU by class and fold",
        "Full-res, best epoch. Grey: the class occurs neither in the fold's labels nor in its"
        " predictions, and is left out of its mean.",
    )


def _confusion(record: views.ConfusionShares, stem: Path) -> Illustration:
    return _write(
        lambda: figures.draw_confusion(record),
        stem,
        f"{record.title}; {record.data}",
        "Confusion of classes",
        "What the pixels of each labelled class were taken for, in per cent, in the full-res"
        " out-of-fold predictions of the finished folds together. Rows sum to 100; what rounds to 0"
        " is left empty. Grey: the class is in no label.",
    )


def write_study_figures(
    rows: VariantTable,
    compared: ComparisonTable | None,
    folder: Path,
    importance: Mapping[str, float] | None = None,
    note: str = "",
) -> list[Illustration]:
    """Figures of a study of several rows: against the base one, by parameters, by effort.

    Args:
        rows: all of them.
        compared: the finished ones; None for fewer than two.
        folder: where to.
        importance: share of the scores' spread that each parameter accounts for, 0-1.
        note: what must be known to believe it.

    Raises:
        InputError: one of the study's files is missing or damaged.
    """
    drawn = [
        _forest(compared, folder) if compared and compared.comparisons else None,
        _search(views.search_view(rows), folder) if rows.best and rows.varied else None,
        _importance(rows, importance, note, folder) if importance else None,
        _effort(views.effort_view(rows), folder),
    ]
    return [illustration for illustration in drawn if illustration]


def _forest(table: ComparisonTable, folder: Path) -> Illustration:
    return _write(
        lambda: figures.draw_forest(table),
        folder / "forest",
        _subject(table.rows),
        "Rows against the base one",
        "Differences in points of mIoU on the same frames and folds, each with its 95 % interval"
        " (of this row alone). Filled: a difference is shown at 5 % of all rows compared.",
    )


def _search(view: views.SearchView, folder: Path) -> Illustration:
    return _write(
        lambda: figures.draw_search(view),
        folder / "search",
        f"{view.title}; {view.data}",
        "Scores by parameter",
        f"Mean of the folds by {_words(view.objective)} of every finished row, by each value that"
        " the rows differ in. Ticks at the foot: rows without a score.",
    )


def _importance(
    rows: VariantTable, shares: Mapping[str, float], note: str, folder: Path
) -> Illustration:
    title = rows.variant.record.name
    return _write(
        lambda: figures.draw_importance(
            shares, note, f"{title}: parameters by importance", rows.variant.data
        ),
        folder / "importance",
        _subject(rows),
        "Importance of the parameters",
        f"Share of the scores' spread that each parameter accounts for. {note}".strip(),
    )


def _effort(view: views.EffortView, folder: Path) -> Illustration | None:
    if not view.rows:
        return None
    count = view.left_out
    rows = "1 row has" if count == 1 else f"{count} rows have"
    left = f" {rows} no score on every fold yet." if count else ""
    return _write(
        lambda: figures.draw_effort(view),
        folder / "effort",
        f"{view.title}; {view.data}",
        "Score by effort",
        f"Mean of the folds by {_words(view.objective)} against the epochs spent on the row, as if"
        f" the training had ended there; the mark says how it ended.{left}",
    )


def _words(objective: Objective) -> str:
    return figures.SCORE_NAMES[objective]


def _subject(rows: VariantTable) -> str:
    return f"{rows.variant.record.name}; {rows.variant.data}"


def write_frames(variant: Variant, panels: Mapping[int, Panel]) -> Illustration | None:
    """The worst and the best frames of all folds, into the study's own folder: it shows frames.

    None where no prediction is kept.
    """
    record = views.worst_and_best(variant, panels)
    if record is None:
        return None
    return _write(
        lambda: plots.draw_panel(record),
        variant.study.analysis / f"frames{variant.suffix}",
        f"{record.title}; {record.data}",
        "Worst and best frames",
        "Of the frames whose predictions are kept, by their own full-res mIoU.",
    )


def histories(files: Iterable[Path]) -> list[Illustration]:
    """Figures of folds' trainings that are written already, `history..._f1.png` and so on."""
    return [
        Illustration(
            f"Training of fold {path.stem.rpartition('_f')[2]}",
            "Losses, mIoU and learning rate by epoch; the dashed line is the best epoch by low-res"
            " mIoU.",
            path,
        )
        for path in files
        if path.suffix == ".png"
    ]


def _write(
    draw: Callable[[], Figure], stem: Path, subject: str, title: str, caption: str
) -> Illustration:
    png, _ = plots.save(draw(), stem, subject)
    return Illustration(title, caption, png)
