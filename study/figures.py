"""Figures of scores, classes and searches, one function a figure; each only draws a record.

Sizes are in inches and fit a paper: 3.3 is a column, 7 the width of the text. Colours are those of
seaborn's colour-blind palette or of one scale of rising lightness, and markers differ in shape too.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from cityseg.labels import CLASS_NAMES
from study import views
from study.analysis import ClassTable
from study.comparison import Comparison
from study.evidence import ComparisonTable
from study.parameters import in_short, short_names, value_in_short
from study.plots import (
    COLUMN_CHARS,
    COLUMN_IN,
    LR_COLOR,
    SMALLEST_PT,
    TEXT_CHARS,
    TEXT_IN,
    TRAIN_COLOR,
    VAL_COLOR,
    styled,
)
from study.space import Objective
from study.store import variant_name
from study.tables import NO_VALUE

SCALE: Final[Colormap] = mpl.colormaps["Blues"]
"""From light to dark, so that it reads in grey and by every eye."""
LIGHT: Final = 0.55
"""Share of the scale up to which dark letters are read on it."""
MISSING_COLOR: Final = "0.85"
QUIET_COLOR: Final = "0.6"
LINE_IN: Final = 0.135
"""Height of a line of title."""
ROW_IN: Final = 0.17
"""Height of a row with one line of text."""
NAMES_IN: Final = 0.85
"""Width of the classes' names."""
TICKS_IN: Final = 0.5
"""Height of an axis' numbers and name."""

SCORE_NAMES: Final[dict[Objective, str]] = {
    "best_low": "low-res mIoU",
    "best_full": "full-res mIoU",
    "last_low": "low-res mIoU, last epoch",
    "last_full": "full-res mIoU, last epoch",
}
MOST_ROWS: Final = 40
"""Rows that a forest has room for on a page."""
MOST_PARAMETERS: Final = 12
MOST_FOLDS: Final = 6
"""Folds whose numbers fit into a column."""
MOST_FOLDS_WIDE: Final = 16
"""Folds whose numbers fit into the width of the text."""


def _inches(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _sheet(width: float, below: float, title: str, data: str) -> Figure:
    """An empty figure with its title, and so much height below it, in inches."""
    chars = COLUMN_CHARS if width == COLUMN_IN else TEXT_CHARS
    lines = [*fill(_cut(title, 2 * chars), chars).split("\n"), *fill(data, chars).split("\n")]
    height = below + LINE_IN * len(lines) + 0.16
    figure = Figure(figsize=(width, height))
    top = 1 - 0.05 / height
    figure.text(0.5, top, "\n".join(lines), ha="center", va="top", parse_math=False)
    return figure


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _no_frame(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=False)


def _cells(axes: Axes, shares: np.ndarray, words: list[list[str]]) -> None:
    """A matrix of shares (0-1) in colours, NaN in grey, with a word in each cell."""
    axes.set_facecolor(MISSING_COLOR)
    axes.pcolormesh(np.ma.masked_invalid(shares), cmap=SCALE, vmin=0, vmax=1, ec="white", lw=0.4)
    axes.set(xlim=(0, shares.shape[1]), ylim=(shares.shape[0], 0))
    written = ((place, word) for place, word in np.ndenumerate(np.array(words)) if word)
    for (row, column), word in written:
        color = "white" if shares[row, column] > LIGHT else "0.1"  # dark where it is NaN, too
        axes.text(
            column + 0.5, row + 0.54, word, ha="center", va="center", size=SMALLEST_PT, c=color
        )
    _no_frame(axes)


@styled
def draw_classes(table: ClassTable) -> Figure:
    """IoU of every class in every fold and their mean, as a map of colours and numbers."""
    folds, variant = len(table.iou), table.folds.variant
    means = np.array([[spread.mean] for spread in table.spreads])
    shares = np.hstack([table.iou.T, means])
    width = COLUMN_IN if folds <= MOST_FOLDS else TEXT_IN
    title = f"{variant.title}: {table.resolution}-res IoU by class, {table.choice} epoch"
    body = len(CLASS_NAMES) * ROW_IN
    figure = _sheet(width, body + TICKS_IN, title, variant.data)
    axes = _inches(figure, NAMES_IN, TICKS_IN, width - NAMES_IN - 0.08, body)
    written = folds <= MOST_FOLDS_WIDE
    _cells(axes, shares, [[_decimals(v) if written else "" for v in row] for row in shares])
    axes.axvline(folds, color="white", lw=3)
    step = math.ceil(folds / MOST_FOLDS_WIDE)
    marked = [*range(0, folds if step == 1 else folds - step, step), folds]
    axes.set_xticks([i + 0.5 for i in marked], [*(str(i + 1) for i in marked[:-1]), "mean"])
    axes.set_yticks(np.arange(len(CLASS_NAMES)) + 0.5, CLASS_NAMES)
    axes.set_xlabel("Fold")
    return figure


def _decimals(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{value:.2f}"


@styled
def draw_confusion(record: views.ConfusionShares) -> Figure:
    """What each class was taken for, in per cent of its pixels; rows are labels."""
    epoch = "best" if record.objective.startswith("best") else "last"
    title = f"{record.title}: per cent of each class' pixels by prediction, {epoch} epoch"
    body, foot = len(CLASS_NAMES) * 0.25, 0.95
    figure = _sheet(TEXT_IN, body + foot, title, record.data)
    axes = _inches(figure, 1.0, foot, TEXT_IN - 1.1, body)
    words = [[_percent(share) for share in row] for row in record.shares]
    _cells(axes, record.shares, words)
    places = np.arange(len(CLASS_NAMES)) + 0.5
    axes.set_xticks(places, CLASS_NAMES, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, CLASS_NAMES)
    axes.set(xlabel="Prediction", ylabel="Label")
    return figure


def _percent(share: float) -> str:
    """Without what rounds to nothing: the eye finds the others."""
    return "" if math.isnan(share) or share < 0.005 else f"{100 * share:.0f}"


FOREST_NAMES_IN: Final = 2.45
FOREST_NUMBERS_IN: Final = 1.45
FOREST_NAME_CHARS: Final = 44


@styled
def draw_forest(table: ComparisonTable) -> Figure:
    """Each row's difference to the base row with its 95 % interval, the best row first."""
    shown = table.comparisons[:MOST_ROWS]
    rows, variant = table.rows, table.rows.variant
    cut = len(table.comparisons) > len(shown)
    more = f", the best {len(shown)} of {len(table.comparisons)} rows" if cut else ""
    title = f"{variant.record.name}: rows against the base one, {variant.folds} folds{more}"
    body = max(len(shown), 2) * ROW_IN + 0.1
    figure = _sheet(TEXT_IN, body + TICKS_IN + 0.25, title, variant.data)
    width = TEXT_IN - FOREST_NAMES_IN - FOREST_NUMBERS_IN
    axes = _inches(figure, FOREST_NAMES_IN, TICKS_IN + 0.25, width, body)
    axes.axvline(0, color="0.2", lw=0.8)
    for place, one in enumerate(shown):
        _draw_comparison(axes, place, one)
    names = short_names(rows.varied)
    values = {variant_name(row.number): in_short(row.parameters, names) for row in rows.rows}
    labels = [_cut(f"{one.row}  {values[one.row]}", FOREST_NAME_CHARS) for one in shown]
    axes.set_yticks(range(len(shown)), labels, parse_math=False)
    axes.set_ylim(max(len(shown), 2) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines[["left", "right", "top"]].set_visible(False)
    base = next(row for row in rows.rows if row.number == 0).spread(rows.objective).mean
    score = SCORE_NAMES[rows.objective]
    axes.set_xlabel(f"Points of {score} above {variant_name(0)} ({100 * base:.2f}), 95 % interval")
    _forest_legend(figure, shown)
    return figure


def _draw_comparison(axes: Axes, place: int, one: Comparison) -> None:
    low, high = 100 * one.interval.low, 100 * one.interval.high
    difference = 100 * one.difference
    color = TRAIN_COLOR if one.is_shown else "0.35"
    if not math.isnan(low + high):
        axes.plot([low, high], [place, place], color=color, lw=1.2, solid_capstyle="butt")
    face = color if one.is_shown else "white"
    axes.plot([difference], [place], "o", ms=4.5, mec=color, mfc=face, mew=1)
    interval = "interval unknown" if math.isnan(low + high) else f"[{low:+.2f}, {high:+.2f}]"
    axes.annotate(
        f"{difference:+.2f} {interval}", (1.03, place), xycoords=("axes fraction", "data"),
        va="center", size=SMALLEST_PT, annotation_clip=False,
    )  # fmt: skip


def _forest_legend(figure: Figure, shown: Sequence[Comparison]) -> None:
    count = shown[0].compared if shown else 0
    rows = f"{count} row{'' if count == 1 else 's'}"
    entries = {
        f"shown at 5 % (Holm over {rows})": (TRAIN_COLOR, TRAIN_COLOR),
        "not shown": ("0.35", "white"),
    }
    handles = [
        Line2D([], [], color=edge, marker="o", ms=4.5, mfc=face, label=label)
        for label, (edge, face) in entries.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, borderaxespad=0.2)


CROWD: Final = 150
"""Rows from which on their points are made small."""
PANEL_IN: Final = 1.35
"""Height of a panel of a search."""


@styled
def draw_search(record: views.SearchView) -> Figure:
    """Score of every finished row by each value that the rows differ in, a panel a parameter."""
    axes_shown = record.axes[:MOST_PARAMETERS]
    wide = len(axes_shown) > 2
    columns = max(1, min(4 if wide else 2, len(axes_shown)))
    lines = math.ceil(len(axes_shown) / columns) or 1
    width, line_in = TEXT_IN if wide else COLUMN_IN, PANEL_IN + 0.52
    left_out = len(record.axes) - len(axes_shown)
    more = f", {left_out} more not drawn" if left_out else ""
    title = f"{record.title}: rows by their parameters{more}"
    figure = _sheet(width, lines * line_in + 0.28, title, record.data)
    left, right, gap = 0.62, 0.16, 0.24
    panel_in = (width - left - right - gap * (columns - 1)) / columns
    for i, axis in enumerate(axes_shown):
        line, column = divmod(i, columns)
        bottom = 0.28 + (lines - line) * line_in - PANEL_IN
        axes = _inches(figure, left + column * (panel_in + gap), bottom, panel_in, PANEL_IN)
        _draw_axis(axes, record, axis)
        if column:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel(_score_label(record.objective))
    _search_legend(figure, record)
    return figure


def _score_label(objective: Objective) -> str:
    """As the name of an axis, which has room for two lines."""
    words = SCORE_NAMES[objective].replace(", ", ",\n")
    return words[0].upper() + words[1:]


def _draw_axis(axes: Axes, record: views.SearchView, axis: views.Axis) -> None:
    """Points of the finished rows, and ticks at the foot for those without a score."""
    places = _place_values(axes, axis)
    done = ~np.isnan(record.scores)
    size = 3.5 if len(places) <= CROWD else 1.5
    axes.plot(places[done], record.scores[done], "o", ms=size, color=TRAIN_COLOR, alpha=0.8)
    _limit_scores(axes, record.scores)
    axes.plot(
        places[~done], np.zeros((~done).sum()), "|", ms=6, color=QUIET_COLOR, clip_on=False,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    if done[record.base]:
        axes.plot(places[record.base], record.scores[record.base], "D", ms=4.5, color="0.1")
    if record.best is not None:
        axes.plot(
            places[record.best], record.scores[record.best], "*", ms=9, mfc=VAL_COLOR, mec="0.1",
            mew=0.5,
        )  # fmt: skip
    axes.set_xlabel(_cut(axis.name, COLUMN_CHARS // 2))
    axes.spines[["top", "right"]].set_visible(False)


def _limit_scores(axes: Axes, scores: np.ndarray) -> None:
    """The same limits in all panels, with room for the ticks at the foot."""
    there = scores[~np.isnan(scores)]
    low, high = (there.min(), there.max()) if len(there) else (0.0, 1.0)
    room = max(high - low, 0.002)
    axes.set_ylim(low - 0.15 * room, high + 0.12 * room)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _place_values(axes: Axes, axis: views.Axis) -> np.ndarray:
    """Places of the rows on the axis; values that are no numbers stand side by side."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values):
        places = np.array(axis.values, np.float64)
        low, high = places.min(), places.max()
        if axis.is_log and low > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_major_formatter(LogFormatterSciNotation())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(low / 1.5, high * 1.5)
        else:
            room = (high - low) * 0.08 or 1
            axes.set_xlim(low - room, high + room)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        return places
    words = [value_in_short(value) for value in axis.values]
    known = sorted(set(words))
    labels = [_cut(word, 10) for word in known]
    axes.set_xticks(range(len(known)), labels, parse_math=False)
    axes.set_xlim(-0.6, len(known) - 0.4)
    return np.array([known.index(word) for word in words], np.float64)


def _search_legend(figure: Figure, record: views.SearchView) -> None:
    marks = {
        "finished": {"marker": "o", "color": TRAIN_COLOR, "ms": 3.5},
        "base": {"marker": "D", "color": "0.1", "ms": 4.5},
        "best": {"marker": "*", "color": VAL_COLOR, "ms": 9, "mec": "0.1", "mew": 0.5},
        "no score": {"marker": "|", "color": QUIET_COLOR, "ms": 6},
    }
    if not np.isnan(record.scores).any():
        del marks["no score"]
    handles = [Line2D([], [], ls="", label=label, **mark) for label, mark in marks.items()]
    figure.legend(
        handles=handles, loc="lower center", ncols=4, borderaxespad=0.1, columnspacing=1,
        handletextpad=0.2,
    )  # fmt: skip


@styled
def draw_importance(shares: Mapping[str, float], note: str, title: str, data: str) -> Figure:
    """Share of the scores' spread that each parameter accounts for, the largest first.

    Args:
        shares: by the parameter's name, 0-1.
        note: what must be known to believe them, under the bars.
        title: of what study.
        data: and on which data.
    """
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    lines = fill(note, COLUMN_CHARS + 4).split("\n") if note else []
    body, foot = max(len(ordered), 1) * 0.2 + 0.05, TICKS_IN + 0.14 * len(lines)
    figure = _sheet(COLUMN_IN, body + foot, title, data)
    axes = _inches(figure, 1.6, foot, COLUMN_IN - 1.6 - 0.4, body)
    values = [share for _, share in ordered]
    axes.barh(range(len(ordered)), values, height=0.65, color=TRAIN_COLOR)
    for place, share in enumerate(values):
        axes.annotate(
            f"{share:.2f}", (share, place), xytext=(3, 0), textcoords="offset points",
            va="center", size=SMALLEST_PT,
        )  # fmt: skip
    names = [_cut(name, 23) for name, _ in ordered]
    axes.set_yticks(range(len(ordered)), names, parse_math=False)
    axes.set(ylim=(len(ordered) - 0.5, -0.5), xlim=(0, max([*values, 0.01]) * 1.02))
    axes.set_xlabel("Share of the scores' spread")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    figure.text(
        0.02, 0.02, "\n".join(lines), size=SMALLEST_PT, va="bottom", color="0.25", parse_math=False
    )
    return figure


ENDS: Final[dict[str, tuple[str, Any, str]]] = {
    "done": ("o", TRAIN_COLOR, "finished"),
    "pruned": ("x", VAL_COLOR, "pruned"),
    "failed": ("s", "0.1", "failed"),
    "unfinished": (">", LR_COLOR, "at work"),
}
"""Marker, colour and name of each way in which a row's curve ends."""


@styled
def draw_effort(record: views.EffortView) -> Figure:
    """Score against the epochs spent on each row; the mark at its end says how it ended."""
    title = f"{record.title}: score by the epochs spent"
    figure = _sheet(COLUMN_IN, 1.9 + TICKS_IN + 0.25, title, record.data)
    axes = _inches(figure, 0.6, TICKS_IN + 0.25, COLUMN_IN - 0.7, 1.9)
    curves = [np.column_stack([row.epochs, row.score]) for row in record.rows]
    quiet = LineCollection(curves, colors=QUIET_COLOR, linewidths=0.5, alpha=0.7)
    axes.add_collection(quiet)
    for row in record.rows:
        if row.name in ("v000", record.best):
            _draw_named_curve(axes, row, is_best=row.name == record.best)
    present = [status for status in ENDS if any(row.status == status for row in record.rows)]
    for status in present:
        marker, color, label = ENDS[status]
        ends = [(row.epochs[-1], row.score[-1]) for row in record.rows if row.status == status]
        axes.plot(*zip(*ends, strict=True), marker, color=color, label=label, ms=3.5)
    axes.autoscale_view()
    axes.set(xlabel="Epochs spent on a row, all folds", ylabel=_score_label(record.objective))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=4, borderaxespad=0.1, columnspacing=0.8,
        handletextpad=0.3, handlelength=1.2,
    )  # fmt: skip
    return figure


def _draw_named_curve(axes: Axes, row: views.EffortRow, *, is_best: bool) -> None:
    label = f"{row.name} ({'best' if is_best else 'base'})"
    color, style = (VAL_COLOR, "-") if is_best else ("0.1", "--")
    axes.plot(row.epochs, row.score, color=color, ls=style, lw=1.2, label=label)
