"""Drawings of the analysis' records, one function a figure; nothing is computed here.

Sizes are in inches and fit a paper: a history one column, a panel the width of the text.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any, Final, ParamSpec

import matplotlib as mpl
import numpy as np
import seaborn as sns
from fontTools import subset
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator
from PIL import Image

from cityseg import atomic
from cityseg.labels import CLASS_NAMES, COLOR_OF_TRAIN_ID
from study.analysis import IGNORED, WRONG, History, Panel, PanelRow, shrink

P = ParamSpec("P")

COLUMN_IN: Final = 3.3
TEXT_IN: Final = 7.0
SMALLEST_PT: Final = 7
"""Of any text; most of it is 8 points high."""
COLUMN_CHARS: Final = 47
"""Characters of a title that fit into a column."""
TEXT_CHARS: Final = 2 * COLUMN_CHARS
"""Characters of a title that fit into the width of the text."""
DPI: Final = 300

STYLE: Final[dict[Any, Any]] = {
    **sns.axes_style("ticks"),
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "ytick.minor.width": 0.4,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.2,
    "grid.linewidth": 0.4,
    "axes.grid": True,
    "axes.grid.which": "major",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse the Type 3 fonts that are the default
    "savefig.dpi": DPI,
}
TRAIN_COLOR, VAL_COLOR, LR_COLOR, *_ = sns.color_palette("colorblind")
WRONG_COLOR: Final = (220, 20, 30)
IGNORED_COLOR: Final = (0, 0, 0)
RIGHT_COLOR: Final = (225, 225, 225)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style, and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def drawing(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawing


def save(figure: Figure, stem: Path, subject: str) -> list[Path]:
    """Write `stem`.png and `stem`.pdf, the subject (study and data) among their metadata."""
    metadata = {"png": {"Description": subject}, "pdf": {"Subject": subject, "CreationDate": None}}
    written = []
    for kind, entries in metadata.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        replacing = atomic.replacing(path, durable=False)
        with replacing as temporary, mpl.rc_context(STYLE), _fonts_without_rules():
            figure.savefig(temporary, format=kind, metadata=entries)
        written.append(path)
    return written


@contextlib.contextmanager
def _fonts_without_rules() -> Iterator[None]:
    """Embed letters without their font's rules for writing, which a PDF has no use for.

    Where letters stand is settled by then. To keep the rules of those that are embedded took
    fontTools three quarters of its time, and that a third of a figure's.
    """
    usual = list(subset.Options._drop_tables_default)
    subset.Options._drop_tables_default = [*usual, "GDEF", "GPOS", "GSUB", "kern"]
    try:
        yield
    finally:
        subset.Options._drop_tables_default = usual


HISTORY_MARGINS: Final = {"left": 0.18, "right": 0.98, "bottom": 0.1, "top": 0.84, "hspace": 0.32}
"""Fixed, so that the axes of all folds line up when the figures stand side by side."""


@styled
def draw_history(history: History) -> Figure:
    """Losses, mIoU and learning rate over the epochs, the best epoch marked."""
    figure = Figure(figsize=(COLUMN_IN, 4.0))
    losses, scores, rates = figure.subplots(
        3, sharex=True, height_ratios=(3, 3, 2), gridspec_kw=HISTORY_MARGINS
    )
    for axes, curves in {
        losses: {"train": history.train_loss, "validation": history.val_loss},
        scores: {"low-res": history.miou_low, "full-res": history.miou_full},
        rates: {"": history.lr},
    }.items():
        _draw_curves(axes, history, curves)
    scores.lines[-1].set_label(f"best epoch ({history.best_epoch})")
    for axes in (losses, scores):  # above the axes: no curve can run through it
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
    losses.set_ylabel("Loss (nats/pixel)")
    scores.set_ylabel("mIoU")
    rates.set(xlabel="Epoch", ylabel="Learning rate", xlim=(0.5, history.epoch[-1] + 0.5))
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _log_axis(rates, history)
    figure.align_ylabels()
    figure.suptitle(
        f"{fill(history.title, COLUMN_CHARS)}\n{history.data}", y=0.99, parse_math=False
    )
    sns.despine(figure)
    return figure


def _draw_curves(axes: Axes, history: History, curves: dict[str, np.ndarray]) -> None:
    """Curves over the epochs, and a line at the best one."""
    colors = (TRAIN_COLOR, VAL_COLOR) if len(curves) > 1 else (LR_COLOR,)
    marker = "o" if len(history.epoch) < 10 else ""
    for (label, values), color in zip(curves.items(), colors, strict=True):
        there = ~np.isnan(values)  # not each epoch is scored at full resolution
        axes.plot(
            history.epoch[there], values[there], color=color, label=label, marker=marker, ms=3
        )
    axes.axvline(history.best_epoch, color="0.4", lw=0.8, ls="--")


def _log_axis(axes: Axes, history: History) -> None:
    """A log axis that always shows a power of ten or two, even for a constant rate."""
    axes.set_yscale("log")
    lowest, highest = np.log10(history.lr.min()), np.log10(history.lr.max())
    axes.set_ylim(10 ** np.floor(lowest - 0.1), 10 ** np.ceil(highest + 0.1))
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_major_formatter(LogFormatterSciNotation())
    axes.minorticks_off()


HEADINGS: Final = ("Frame", "Label", "Prediction", "Errors")
GAP_IN: Final = 0.04
LINE_IN: Final = 0.15
HEADER_IN: Final = 0.52
"""Height of the two lines of title and the headings."""
PICTURE_IN: Final = (TEXT_IN - GAP_IN * (len(HEADINGS) + 1)) / len(HEADINGS)
PICTURE_PX: Final = round(PICTURE_IN * DPI)
"""Wider pictures are made smaller once, and not by each format anew."""
LEFTS_IN: Final = tuple(GAP_IN + i * (PICTURE_IN + GAP_IN) for i in range(len(HEADINGS)))
LEGEND_COLUMNS: Final = 7


@styled
def draw_panel(panel: Panel) -> Figure:
    """Frames in rows, the worst first: frame, label, prediction, errors; then the legend."""
    heights = [PICTURE_IN * row.target.shape[0] / row.target.shape[1] for row in panel.rows]
    handles = _legend_handles(panel)
    legend_in = 0.13 * ceil(len(handles) / LEGEND_COLUMNS) + 0.15
    total = HEADER_IN + sum(heights) + len(heights) * (LINE_IN + GAP_IN) + legend_in
    figure = Figure(figsize=(TEXT_IN, total))
    _draw_header(figure, panel)
    bottom = total - HEADER_IN
    for row, height in zip(panel.rows, heights, strict=True):
        bottom -= LINE_IN + height
        _draw_row(figure, row, bottom, height)
        bottom -= GAP_IN
    figure.legend(
        handles=handles, loc="lower center", ncols=LEGEND_COLUMNS, borderaxespad=0.2,
        fontsize=SMALLEST_PT, handlelength=1, handleheight=1, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip
    return figure


def _draw_header(figure: Figure, panel: Panel) -> None:
    total = figure.get_figheight()
    title = f"{panel.title}\n{panel.data}"
    figure.text(0.5, 1 - GAP_IN / total, title, ha="center", va="top", parse_math=False)
    line = 1 - (HEADER_IN - 0.05) / total
    for left, heading in zip(LEFTS_IN, HEADINGS, strict=True):
        figure.text((left + PICTURE_IN / 2) / TEXT_IN, line, heading, ha="center", weight="bold")


def _draw_row(figure: Figure, row: PanelRow, bottom_in: float, height_in: float) -> None:
    """The frame's name and score, and its four pictures below them."""
    total = figure.get_figheight()
    above = (bottom_in + height_in + 0.3 * LINE_IN) / total
    figure.text(GAP_IN / TEXT_IN, above, f"{row.name}, mIoU {row.miou:.4f}", size=SMALLEST_PT)
    pictures = (
        row.image,
        COLOR_OF_TRAIN_ID[row.target],
        COLOR_OF_TRAIN_ID[row.prediction],
        errors_picture(row),
    )
    for left, picture in zip(LEFTS_IN, pictures, strict=True):
        place = (left / TEXT_IN, bottom_in / total, PICTURE_IN / TEXT_IN, height_in / total)
        axes = figure.add_axes(place)
        is_frame = picture is row.image  # the colours of classes must not be blended
        resampling = Image.Resampling.BOX if is_frame else Image.Resampling.NEAREST
        axes.imshow(
            shrink(picture, PICTURE_PX, resampling),
            aspect="auto",
            interpolation="auto" if is_frame else "nearest",
        )
        axes.set_axis_off()


def errors_picture(row: PanelRow) -> UInt8[np.ndarray, "h w 3"]:
    """The frame in pale grey, wrong pixels red, ignored ones black; RGB."""
    grey = row.image.mean(-1, keepdims=True)
    picture = np.broadcast_to((170 + grey / 3).astype(np.uint8), row.image.shape).copy()
    picture[row.errors == WRONG] = WRONG_COLOR
    picture[row.errors == IGNORED] = IGNORED_COLOR
    return picture


def _legend_handles(panel: Panel) -> list[Patch]:
    entries = [(CLASS_NAMES[i], COLOR_OF_TRAIN_ID[i]) for i in panel.classes]
    entries += [("ignored", IGNORED_COLOR), ("right", RIGHT_COLOR), ("wrong", WRONG_COLOR)]
    return [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*color), edgecolor="0.5", lw=0.3, label=name)
        for name, color in entries
    ]
