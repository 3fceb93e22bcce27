"""From a study on disk to small typed records and tables: every number, and no drawing.

All scores are divided once, out of confusion counts summed over a fold's frames.
"""

import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from cityseg.cell import Cell, PackedConfusion
from cityseg.config import Config, load
from cityseg.data import Frame, read_image, read_target
from cityseg.errors import InputError
from cityseg.folds import FoldsFile
from cityseg.labels import IGNORE, NUM_CLASSES
from cityseg.metrics import intersection_over_union, mean_iou
from study.counts import (
    OBJECTIVES,
    Choice,
    OutOfFold,
    Resolution,
    fold_confusion,
    out_of_fold,
    read_counts,
    read_fold,
)
from study.effort import Device, Effort, device_of, effort_of
from study.progress import Board, CellProgress, RowProgress, RowStatus, read_cell
from study.space import Objective, Origin, Parameters, apply
from study.store import BASE, Row, Study, StudyRecord, variant_name
from study.tally import Tally

SCORE_COLUMNS: Final = tuple(OBJECTIVES.values())
FoldScores = dict[Objective, Float64[np.ndarray, " folds"]]
"""One score for each fold, 0-1, by each objective."""
SYNTHETIC: Final = "synthetic data (embedded city), not Cityscapes"
"""Stands on every table and figure that is made from the embedded city."""

MOST_READERS: Final = 8
"""Rows that are read at a time; each takes 30 MB meanwhile."""
PANEL_WIDTH_PX: Final = 1024
"""Wider frames are scaled down to this for the panels."""

RIGHT: Final = 0
WRONG: Final = 1
IGNORED: Final = 2


@dataclass(frozen=True)
class Published:
    """Scores as printed elsewhere, 0-1: of each fold, and the mean and std given with them."""

    low: tuple[float, ...]
    full: tuple[float, ...]
    mean_low: float
    mean_full: float
    std_low: float
    std_full: float
    source: str

    def of_fold(self, fold: int, folds: int) -> tuple[float, float]:
        """Low-res and full-res score of a fold (from 1); NaN where the number of folds differs."""
        if folds != len(self.low):
            return np.nan, np.nan
        return self.low[fold - 1], self.full[fold - 1]


PAPER: Final = Published(
    low=(0.6905, 0.6696, 0.6717),
    full=(0.6719, 0.6495, 0.6444),
    mean_low=0.6773,
    mean_full=0.6552,
    std_low=0.0094,
    std_full=0.0120,
    source="the paper, Table 1: UNet-ResNet50, Cityscapes fine train split, 3 folds of 65 epochs",
)


@dataclass(frozen=True)
class CellRecord:
    """One cell as it was read, at one moment."""

    progress: CellProgress
    counts: PackedConfusion | None
    """Of its frames; None until it is done."""


@dataclass(frozen=True)
class Variant:
    """One row of a study (a variant on all folds), and what must be said beside its scores."""

    study: Study
    record: StudyRecord
    split: FoldsFile
    config: Config
    """The variant's own: the base one with the row's values laid over it."""
    row: Row = BASE

    @property
    def grouping(self) -> str:
        """What is kept together in one fold."""
        return self.split.grouping

    @property
    def folds(self) -> int:
        """How many there are."""
        return len(self.split.folds)

    @property
    def number(self) -> int:
        """Of the variant; 0 is the base configuration."""
        return self.row.variant

    @property
    def suffix(self) -> str:
        """What its files' names end with, so that none overwrites another's; empty for v000."""
        return f"_{variant_name(self.number)}" if self.number else ""

    @property
    def data(self) -> str:
        """The data set in words, with how many frames it has."""
        if self.record.data.kind == "synthetic":
            return SYNTHETIC
        return f"{self.data_name}, {self.record.data.frames} frames"

    @property
    def data_name(self) -> str:
        """Of the data set: of one that is not known, its folder's."""
        data = self.record.data
        names = {"synthetic": SYNTHETIC, "cityscapes": "Cityscapes"}
        return names.get(data.kind, data.root.name)

    @property
    def title(self) -> str:
        """Name of the study, and of the variant where it is not the base one."""
        return self.record.name + (f" {variant_name(self.number)}" if self.number else "")

    @property
    def published(self) -> Published | None:
        """What may stand beside these scores: the paper's, on the paper's data only."""
        return PAPER if self.record.data.kind == "cityscapes" else None

    def cell(self, fold: int) -> Cell:
        """The cell of a fold (from 1)."""
        return self.study.cell(self.number, fold)

    @functools.cached_property
    def cells(self) -> tuple[CellRecord, ...]:
        """Those of all folds, read once, when they are first asked for.

        Raises:
            InputError: one of their files is damaged, or of other frames.
        """
        return tuple(self._read(fold) for fold in range(1, self.folds + 1))

    def _read(self, fold: int) -> CellRecord:
        cell = self.cell(fold)
        progress = read_cell(cell, fold, self.planned_epochs(fold))
        done = progress.status == "done"
        return CellRecord(progress, read_fold(cell, self.split.folds[fold - 1]) if done else None)

    def planned_epochs(self, fold: int) -> int:
        """Epochs that a cell trains for: by its own configuration once that is written."""
        path = self.cell(fold).config
        return (load(path) if path.is_file() else self.config).train.epochs


@dataclass(frozen=True)
class Score:
    """Scores at one resolution, 0-1."""

    miou: float
    iou: Float64[np.ndarray, "19"]
    """NaN for a class that occurs neither in the labels nor in the predictions."""
    confusion: Int64[np.ndarray, "19 19"]
    """Summed over the frames; rows labels, columns predictions."""


@dataclass(frozen=True)
class Scores:
    """Scores of one cell after one epoch."""

    epoch: int
    low: Score
    full: Score


@dataclass(frozen=True)
class CellScores:
    """What is known of one fold, finished or not."""

    fold: int
    status: Literal["pending", "unfinished", "failed", "done"]
    epochs_done: int
    epochs: int
    """Epochs planned."""
    best: Scores | None
    last: Scores | None
    reason: str
    """Why there are no scores; empty where there are."""

    def score(self, choice: Choice, resolution: Resolution) -> Score | None:
        """The score of an epoch at a resolution; None until the cell is done."""
        scores = self.best if choice == "best" else self.last
        if scores is None:
            return None
        return scores.low if resolution == "low" else scores.full


@dataclass(frozen=True)
class Spread:
    """Mean and population std (ddof = 0) of the values that are there; NaN if too few are."""

    mean: float
    std: float
    """NaN for fewer than two values: one value says nothing on spread."""
    count: int


@dataclass(frozen=True)
class FoldTable:
    """Table 1 of the paper, for one variant."""

    variant: Variant
    cells: tuple[CellScores, ...]

    @property
    def finished(self) -> int:
        """Number of folds that have scores."""
        return sum(cell.status == "done" for cell in self.cells)

    @property
    def missing(self) -> list[str]:
        """One line for every fold without scores."""
        return [f"fold {cell.fold}: {cell.reason}" for cell in self.cells if cell.reason]

    def miou(self, choice: Choice, resolution: Resolution) -> Float64[np.ndarray, " folds"]:
        """mIoU of each fold, 0-1; NaN where the fold has none yet."""
        scores = (cell.score(choice, resolution) for cell in self.cells)
        return np.array([np.nan if score is None else score.miou for score in scores])

    def label(self, statistic: str) -> str:
        """`Mean`, or `Mean of 2 of 3 folds` while folds are missing."""
        if self.finished == len(self.cells):
            return statistic
        return f"{statistic} of {self.finished} of {len(self.cells)} folds"


@dataclass(frozen=True)
class VariantRow:
    """One row of a study among the others."""

    number: int
    origin: Origin
    parameters: Parameters
    status: RowStatus
    reason: str
    """Why it was pruned or failed; empty otherwise."""
    folds_done: int
    epochs_done: int
    """Of all folds."""
    epochs: int
    """Planned, of all folds."""
    miou: FoldScores
    """mIoU of each fold by each objective, 0-1; all NaN unless the row is done."""
    difference: Spread
    """To the base row by the study's objective, paired: mean and std of the differences fold by
    fold, in mIoU. NaN unless both rows are done."""
    effort: Effort
    """What it has cost so far."""

    def spread(self, objective: Objective) -> Spread:
        """Mean and population std over all folds; NaN unless the row is done."""
        return spread_of_all(self.miou[objective])


@dataclass(frozen=True)
class VariantTable:
    """All rows of a study."""

    variant: Variant
    """The base row."""
    objective: Objective
    """What the rows are compared by."""
    rows: tuple[VariantRow, ...]
    """The finished ones by the objective, the best first; then the others by their number."""
    planned: int
    """Rows in all, those not yet asked for included."""
    device: Device
    """That the rows' cost is counted in."""
    tallies: Mapping[int, Tally] = field(default_factory=dict, repr=False)
    """Counts behind the objective, of the rows that are done, by their number."""
    progress: Mapping[int, RowProgress] = field(default_factory=dict, repr=False)
    """Of all rows, by their number: the board that the table was made from."""

    @property
    def best(self) -> VariantRow | None:
        """The finished row of the highest mean, the first of equals; None if none is done."""
        first = self.rows[0]
        return None if math.isnan(first.spread(self.objective).mean) else first

    @property
    def varied(self) -> list[str]:
        """Dotted keys that the rows change, sorted."""
        return sorted({key for row in self.rows for key in row.parameters})

    def open(self, number: int) -> Variant:
        """One of the rows, of the same record and folds; the base one is the table's own.

        Raises:
            InputError: it does not fit the base configuration.
        """
        if number == self.variant.number:
            return self.variant
        base, row = self.variant, self.progress[number].row
        return _variant(base.study, base.record, base.split, row)


@dataclass(frozen=True)
class ClassTable:
    """IoU of every class in every fold, at one resolution after one choice of epoch."""

    folds: FoldTable
    choice: Choice
    resolution: Resolution
    iou: Float64[np.ndarray, "folds 19"]
    """NaN: the class occurs nowhere in this fold, or the fold has no scores yet."""
    spreads: tuple[Spread, ...]
    """Of each class, over the folds that have it."""


@dataclass(frozen=True)
class History:
    """The training of one cell, epoch by epoch."""

    title: str
    data: str
    epoch: Int64[np.ndarray, " n"]
    train_loss: Float64[np.ndarray, " n"]
    val_loss: Float64[np.ndarray, " n"]
    miou_low: Float64[np.ndarray, " n"]
    miou_full: Float64[np.ndarray, " n"]
    lr: Float64[np.ndarray, " n"]
    best_epoch: int
    """The first epoch with the highest low-res mIoU, so far."""


@dataclass(frozen=True)
class PanelRow:
    """One frame with its label and its prediction, at most PANEL_WIDTH_PX wide."""

    name: str
    miou: float
    """Of this frame alone at its own size, 0-1."""
    image: UInt8[np.ndarray, "h w 3"]
    target: UInt8[np.ndarray, "h w"]
    """Train ids, 255 where ignored."""
    prediction: UInt8[np.ndarray, "h w"]
    """Train ids."""
    errors: UInt8[np.ndarray, "h w"]
    """RIGHT, WRONG, or IGNORED."""


@dataclass(frozen=True)
class Panel:
    """The kept predictions of one cell by its best epoch, the worst frame first."""

    title: str
    data: str
    rows: tuple[PanelRow, ...]
    classes: tuple[int, ...]
    """Train ids that occur in a label or a prediction."""


def read_variant(study: Study, number: int = 0) -> Variant:
    """Open one row of a study's table.

    Raises:
        InputError: study.yaml, folds.json or the row's file is missing or damaged.
    """
    record = study.read()
    return _variant(study, record, study.folds_of(record), study.row(number))


def _variant(study: Study, record: StudyRecord, split: FoldsFile, row: Row) -> Variant:
    config = apply(record.config, row.parameters, str(study.row_file(row.variant)))
    return Variant(study, record, split, config, row)


def variant_table(study: Study) -> VariantTable:
    """Every row of a study, with the scores of those that are done; each file is read once.

    Raises:
        InputError: one of the study's files is missing or damaged.
    """
    board = Board.read(study)
    split = study.folds_of(board.record)
    base = _variant(study, board.record, split, board.rows[0].row)
    objective, device = board.objective, device_of(board.record)
    counts = _read_rows(board, split)
    miou = {row.variant: _miou(counts.get(row.variant), len(row.cells)) for row in board}
    baseline = miou[0][objective]
    rows = [
        _variant_row(row, miou[row.variant], miou[row.variant][objective] - baseline, device)
        for row in board
    ]
    rows.sort(key=lambda row: _rank(row, objective))
    planned = max(len(rows), board.record.search.variants or 1)
    tallies = {number: there.tallies[objective] for number, there in counts.items()}
    return VariantTable(base, objective, tuple(rows), planned, device, tallies, board.rows)


def _read_rows(board: Board, split: FoldsFile) -> dict[int, OutOfFold]:
    """Counts of the rows that are done, by their number; several files at a time."""

    def read(row: RowProgress) -> OutOfFold | None:
        cells = [board.study.cell(row.variant, cell.fold) for cell in row.cells]
        return read_counts(cells, split.folds, [board.objective])

    done = [row for row in board if row.status == "done"]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_READERS)) as readers:
        counts = zip(done, readers.map(read, done), strict=True)
        return {row.variant: there for row, there in counts if there is not None}


def _variant_row(
    row: RowProgress, miou: FoldScores, difference: np.ndarray, device: Device
) -> VariantRow:
    return VariantRow(
        number=row.variant,
        origin=row.row.origin,
        parameters=row.parameters,
        status=row.status,
        reason=" ".join(row.reason.split()),
        folds_done=sum(cell.status == "done" for cell in row.cells),
        epochs_done=sum(len(cell.epochs) for cell in row.cells),
        epochs=sum(cell.total for cell in row.cells),
        miou=miou,
        difference=spread_of_all(difference),
        effort=effort_of(row, device),
    )


def _miou(counts: OutOfFold | None, folds: int) -> FoldScores:
    """mIoU of each fold of a row by each objective; NaN unless it is done."""
    if counts is None:
        return {objective: np.full(folds, np.nan) for objective in OBJECTIVES}
    return {objective: mean_iou(counts.confusion[objective]) for objective in OBJECTIVES}


def _rank(row: VariantRow, objective: Objective) -> tuple[bool, float, int]:
    """Sorts the rows that have a mean first, the highest before all; then by number."""
    mean = row.spread(objective).mean
    return (True, 0.0, row.number) if math.isnan(mean) else (False, -mean, row.number)


def spread(values: Float64[np.ndarray, " n"]) -> Spread:
    """Mean and population std over the values that are not NaN.

    The population std (ddof = 0) is what the paper prints: its own follow from its folds only so.
    """
    there = values[~np.isnan(values)]
    mean = float(there.mean()) if there.size else np.nan
    return Spread(mean, float(there.std()) if there.size > 1 else np.nan, there.size)


def spread_of_all(values: Float64[np.ndarray, " n"]) -> Spread:
    """Mean and population std; NaN if any value is: a row without one fold is not compared."""
    return Spread(float(values.mean()), float(values.std()), values.size)


def variant_counts(
    variant: Variant, tallied: Collection[Objective] = tuple(OBJECTIVES)
) -> OutOfFold | None:
    """Counts of a row, of each fold and, for the scores asked for, of each frame; None unless all
    its folds are done.

    Raises:
        InputError: one of the cells' files is damaged, or of other frames.
    """
    folds = [cell.counts for cell in variant.cells if cell.counts is not None]
    return out_of_fold(folds, tallied) if len(folds) == variant.folds else None


def fold_table(variant: Variant) -> FoldTable:
    """Scores of every fold, as far as they are there."""
    folds = range(1, variant.folds + 1)
    return FoldTable(variant, tuple(cell_scores(variant, fold) for fold in folds))


def cell_scores(variant: Variant, fold: int) -> CellScores:
    """Scores of one fold (from 1), or why there are none.

    Raises:
        InputError: one of the cell's files is damaged.
    """
    cell = variant.cells[fold - 1]
    there, counts = cell.progress, cell.counts
    done, planned = len(there.epochs), there.total
    if counts is None:
        return CellScores(fold, there.status, done, planned, None, None, _reason(there))
    best, last = (_scores(counts, choice) for choice in ("best", "last"))
    return CellScores(fold, there.status, done, planned, best, last, "")


def _reason(cell: CellProgress) -> str:
    epochs = f"epoch {len(cell.epochs)} of {cell.total}"
    if cell.status == "failed":
        lines = cell.reason.splitlines()
        return f"failed at {epochs}: {lines[0] if lines else 'no reason given'}"
    return epochs if cell.status == "unfinished" else "not started"


def _scores(counts: PackedConfusion, choice: Choice) -> Scores:
    epoch = counts.epochs[0 if choice == "best" else 1]
    low, full = (_score(fold_confusion(counts, choice, end)) for end in ("low", "full"))
    return Scores(epoch, low, full)


def _score(total: Int64[np.ndarray, "19 19"]) -> Score:
    return Score(float(mean_iou(total)), intersection_over_union(total), total)


def class_table(folds: FoldTable, choice: Choice, resolution: Resolution) -> ClassTable:
    """Per-class IoU of the same cells."""
    scores = (cell.score(choice, resolution) for cell in folds.cells)
    absent = np.full(NUM_CLASSES, np.nan)
    iou = np.array([absent if score is None else score.iou for score in scores])
    return ClassTable(folds, choice, resolution, iou, tuple(spread(column) for column in iou.T))


def history(variant: Variant, fold: int) -> History | None:
    """The epochs of one fold (from 1); None before the first is finished."""
    epochs = variant.cells[fold - 1].progress.epochs
    if not epochs:
        return None
    columns = pd.DataFrame(epochs)
    low = columns["miou_low"].to_numpy()
    return History(
        title=f"{variant.title}, fold {fold} of {variant.folds}",
        data=variant.data,
        epoch=columns["epoch"].to_numpy(),
        train_loss=columns["train_loss"].to_numpy(),
        val_loss=columns["val_loss"].to_numpy(),
        miou_low=low,
        miou_full=columns["miou_full"].to_numpy(),
        lr=columns["lr"].to_numpy(),
        best_epoch=int(columns["epoch"].to_numpy()[np.argmax(np.nan_to_num(low, nan=-1))]),
    )


def panel(variant: Variant, fold: int, frames: dict[str, Frame]) -> Panel | None:
    """The kept predictions of one fold (from 1); None if it is not done or keeps none.

    Args:
        variant: the row of the study.
        fold: from 1.
        frames: the data set's train split by frame name.

    Raises:
        InputError: a frame is not in the data set, or is not of its prediction's size.
    """
    counts = variant.cells[fold - 1].counts
    kept = sorted(variant.cell(fold).predictions.glob("*_labelIds.png"))
    if counts is None or not kept:
        return None
    miou = dict(zip(counts.names, mean_iou(counts.of_frames("best", "full")), strict=True))
    rows = sorted((_panel_row(path, frames, miou) for path in kept), key=lambda row: row.miou)
    maps = [ids for row in rows for ids in (row.target, row.prediction)]
    return Panel(
        title=f"{variant.title}, fold {fold} of {variant.folds}, epoch {counts.epochs[0]}",
        data=variant.data,
        rows=tuple(rows),
        classes=classes_in(maps),
    )


def classes_in(maps: Sequence[UInt8[np.ndarray, "h w"]]) -> tuple[int, ...]:
    """Train ids that occur in any of these maps, in order."""
    return tuple(sorted({int(i) for ids in maps for i in np.unique(ids)} - {IGNORE}))


def _panel_row(path: Path, frames: dict[str, Frame], miou: dict[str, float]) -> PanelRow:
    name = path.name.removesuffix("_labelIds.png")
    if name not in frames or name not in miou:
        raise InputError(f"{path}: frame {name} is not in the data set or not in this fold")
    target, prediction = read_target(frames[name].label), read_target(path)
    if target.shape != prediction.shape:
        raise InputError(f"{path}", got=f"size {prediction.shape}", expected=str(target.shape))
    errors = np.where(target == IGNORE, IGNORED, np.where(target == prediction, RIGHT, WRONG))
    return PanelRow(
        name=name,
        miou=float(miou[name]),
        image=shrink(read_image(frames[name].image), PANEL_WIDTH_PX, Image.Resampling.BOX),
        target=shrink(target, PANEL_WIDTH_PX),
        prediction=shrink(prediction, PANEL_WIDTH_PX),
        errors=shrink(errors.astype(np.uint8), PANEL_WIDTH_PX),
    )


def shrink(
    pixels: UInt8[np.ndarray, "h w *c"],
    width_px: int,
    how: Image.Resampling = Image.Resampling.NEAREST,
) -> UInt8[np.ndarray, "..."]:
    """A picture at most so wide; ids and the colours of classes are not to be blended."""
    height, width = pixels.shape[:2]
    if width <= width_px:
        return pixels
    size = (width_px, max(1, round(height * width_px / width)))
    return np.array(Image.fromarray(pixels).resize(size, how))
