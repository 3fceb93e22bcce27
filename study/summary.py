"""`summary.json`: all numbers of an analysis with their names, for programs.

The form is versioned: `schema_version` grows when a field changes its meaning or goes; a field that
is added makes no new version. Scores are 0-1, losses in nats a pixel, and a number that is not
known (NaN elsewhere) is null. `python -m study.summary` prints the JSON schema.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from cityseg import __version__, atomic
from cityseg.data import Kind
from cityseg.errors import InputError, user_command
from cityseg.labels import CLASS_NAMES
from study.analysis import VariantRow, VariantTable, spread
from study.bootstrap import Unit
from study.classes import ClassScores
from study.counts import OBJECTIVES
from study.evidence import ComparisonTable, IntervalTable
from study.gaps import GapTable
from study.importance import Importance
from study.progress import RowStatus
from study.several import SideBySide
from study.space import Objective, Origin
from study.store import variant_name

SCHEMA: Final = 1


def _finite(value: object) -> object:
    """JSON has neither NaN nor infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""null: not known."""


class Part(BaseModel):
    """A part of the summary; made from the analysis' records by their fields' names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", from_attributes=True, use_attribute_docstrings=True
    )


class IntervalPart(Part):
    """A 95 % interval."""

    low: Number
    high: Number


class MeanPart(Part):
    """A mean over folds, with what the corrected t test (Nadeau and Bengio 2003) says of it."""

    mean: Number
    std: Number
    """Sample std (ddof = 1)."""
    std_error: Number
    """Corrected for the training frames that folds share."""
    folds: int
    interval: IntervalPart
    """For other trainings."""
    p_value: Number
    """That the true mean is 0: of use for differences."""
    detectable: Number
    """Smallest true distance from 0 that is found in 80 of 100 such studies."""


class BootstrapPart(Part):
    """A statistic with its bootstrap over frames or cities, for these networks."""

    value: Number
    std_error: Number
    freedom: Number
    """Degrees of freedom of Student's t; fractions, as units of unlike size are fewer like ones."""
    interval: IntervalPart
    """The one that is printed: by Student's t."""
    percentile: IntervalPart
    bca: IntervalPart
    replicates: int


class ClassPart(Part):
    """One class in a row's out-of-fold predictions, over the folds that are done."""

    name: str
    iou: Number
    """Mean over the folds that have one; null: occurs nowhere, and is left out of the mean."""
    iou_of_folds: list[Number]
    interval: IntervalPart
    """Of `iou`, by the bootstrap (`BootstrapPart.interval`)."""
    std: Number
    """Sample std (ddof = 1) of the folds' IoU."""
    pooled_iou: Number
    precision: Number
    recall: Number
    share: Number
    """Of the labelled pixels."""
    folds: int
    """In whose labels it occurs."""
    gain: Number
    """Of the mean, if the class reached the median of each fold's classes."""


class ScorePart(Part):
    """One of a row's four scores."""

    folds: list[Number]
    mean: Number
    population_std: Number
    corrected: MeanPart | None
    """null unless all folds are done, as the next two."""
    mean_of_folds: BootstrapPart | None
    pooled: BootstrapPart | None
    """Of the counts summed over the folds."""
    classes: list[ClassPart]


class GapPart(Part):
    """One number minus another of the same folds."""

    first: str
    second: str
    first_mean: Number
    second_mean: Number
    difference: MeanPart


class RowDetailPart(Part):
    """The row that is shown fold by fold."""

    row: str
    scores: dict[Objective, ScorePart]
    unit: Unit | None
    """Of the bootstrap; null unless all folds are done."""
    units: int | None
    gaps: list[GapPart]


class EffortPart(Part):
    """What a row has cost so far."""

    epochs: int
    train_s: float
    val_s: float
    device_hours: float
    images_per_s: Number


class RowPart(Part):
    """One row of a study."""

    name: str
    origin: Origin
    parameters: dict[str, Any]
    """Values over the base configuration, by dotted key."""
    status: RowStatus
    reason: str
    folds_done: int
    folds: dict[Objective, list[Number]]
    """mIoU of each fold; null unless the row is done, as the next two."""
    mean: dict[Objective, Number]
    to_base: Number
    """Mean of the differences to v000 by the study's objective, fold by fold."""
    effort: EffortPart


class ComparisonPart(Part):
    """One row minus another, paired on the same frames and folds."""

    row: str
    base: str
    difference: Number
    interval: IntervalPart
    """The wider of the two tests'."""
    by_fold: MeanPart
    by_unit: BootstrapPart
    unit: Unit
    p_value: Number
    """The larger of the two tests'."""
    adjusted: Number
    """After Holm over the rows compared."""
    unit_p_value: Number
    unit_adjusted: Number
    compared: int
    detectable: Number
    is_shown: bool
    """Whether a difference is shown at 5 %, of all rows compared."""
    verdict: str


class SelectionPart(Part):
    """The best row's score, freed of its having been chosen by it (Tsamardinos et al. 2018)."""

    best: str
    naive: Number
    corrected: Number
    interval: IntervalPart
    chosen: dict[str, float]
    """How often each row was the best among the units drawn."""
    unit: Unit


class ImportancePart(Part):
    """Which settings matter, by their dotted keys."""

    rows: int
    shares: dict[str, Number]
    """fANOVA."""
    top_shares: dict[str, Number]
    """PED-ANOVA; empty for fewer than 50 rows."""
    predicted: Number
    warning: str
    """Why the shares are not to be relied on; empty if there is no reason."""


class StudyPart(Part):
    """One study."""

    name: str
    id: str
    created: str
    command: str
    data: Kind
    data_words: str
    """Says so if the data is synthetic; belongs beside every number that is passed on."""
    frames: int
    fingerprint: str
    folds: int
    grouping: str
    folds_hash: str
    seed: int
    objective: Objective
    """What the rows are compared by."""
    versions: dict[str, str]
    hardware: dict[str, str]
    device: Literal["GPU", "CPU core"]
    """That device hours are of."""
    headline: str
    planned_rows: int
    rows: list[RowPart]
    """The finished ones by the objective, the best first; then the others by their number."""
    best: str | None
    """The best finished row."""
    selection: SelectionPart | None
    comparisons: list[ComparisonPart]
    """With v000; none unless it is done."""
    shown: RowDetailPart
    importance: ImportancePart | None


class SideBySidePart(Part):
    """Rows of several studies; the comparisons are with the first of them."""

    objective: Objective
    rows: list[str]
    data_words: list[str]
    """Of each row's study."""
    comparisons: list[ComparisonPart]
    refused: list[str]
    """Why others are not compared."""


class Summary(Part):
    """summary.json."""

    schema_version: Literal[1] = SCHEMA
    program: str = f"cityseg-study {__version__}"
    studies: list[StudyPart]
    side_by_side: SideBySidePart | None = None


def study_part(
    headline: str,
    rows: VariantTable,
    compared: ComparisonTable | None,
    intervals: IntervalTable | None,
    classes: Sequence[ClassScores],
    gaps: GapTable | None,
    importance: Importance | None,
) -> StudyPart:
    """One study, from the records of its analysis.

    Args:
        headline: what it says, in words.
        rows: all of them.
        compared: the finished ones, of a study of several.
        intervals: of the row that is shown, if all its folds are done.
        classes: of the row that is shown, by each of its four scores.
        gaps: of the row that is shown, if all its folds are done.
        importance: of the settings, in a search.
    """
    record = rows.variant.record
    return StudyPart(
        name=record.name,
        id=record.id,
        created=record.created,
        command=record.command,
        data=record.data.kind,
        data_words=rows.variant.data,
        frames=record.data.frames,
        fingerprint=record.data.fingerprint,
        folds=rows.variant.folds,
        grouping=rows.variant.grouping,
        folds_hash=record.folds_hash,
        seed=record.config.seed,
        objective=rows.objective,
        versions=record.versions,
        hardware=record.hardware,
        device=rows.device.kind,
        headline=headline,
        planned_rows=rows.planned,
        rows=[_row(row) for row in rows.rows],
        best=variant_name(rows.best.number) if rows.best else None,
        selection=SelectionPart.model_validate(compared.selection) if compared else None,
        comparisons=[
            ComparisonPart.model_validate(one) for one in (compared.comparisons if compared else ())
        ],
        shown=_detail(intervals, classes, gaps),
        importance=ImportancePart.model_validate(importance) if importance else None,
    )


def _row(row: VariantRow) -> RowPart:
    return RowPart(
        name=variant_name(row.number),
        origin=row.origin,
        parameters=row.parameters,
        status=row.status,
        reason=row.reason,
        folds_done=row.folds_done,
        folds={objective: list(row.miou[objective]) for objective in OBJECTIVES},
        mean={objective: row.spread(objective).mean for objective in OBJECTIVES},
        to_base=row.difference.mean,
        effort=EffortPart.model_validate(row.effort),
    )


def _detail(
    intervals: IntervalTable | None, classes: Sequence[ClassScores], gaps: GapTable | None
) -> RowDetailPart:
    estimates = intervals.scores[0].estimates if intervals else None
    return RowDetailPart(
        row=variant_name(classes[0].folds.variant.number),
        scores={one.objective: _score(one, intervals) for one in classes},
        unit=estimates.unit if estimates else None,
        units=estimates.units if estimates else None,
        gaps=[GapPart.model_validate(gap) for gap in (gaps.all if gaps else ())],
    )


def _score(classes: ClassScores, intervals: IntervalTable | None) -> ScorePart:
    miou = classes.folds.miou(*OBJECTIVES[classes.objective])
    scores = intervals.scores if intervals else ()
    score = next((score for score in scores if score.objective == classes.objective), None)
    there = spread(miou)
    return ScorePart(
        folds=list(miou),
        mean=there.mean,
        population_std=there.std,
        corrected=MeanPart.model_validate(score.corrected) if score else None,
        mean_of_folds=BootstrapPart.model_validate(score.estimates.mean_of_folds)
        if score
        else None,
        pooled=BootstrapPart.model_validate(score.estimates.pooled) if score else None,
        classes=[_class(classes, c) for c in range(len(CLASS_NAMES))],
    )


def _class(classes: ClassScores, c: int) -> ClassPart:
    one = classes.statistics[c]
    return ClassPart(
        name=CLASS_NAMES[c],
        iou=one.iou,
        iou_of_folds=list(classes.iou[:, c]),
        interval=IntervalPart.model_validate(classes.intervals[c]),
        std=one.std,
        pooled_iou=one.pooled_iou,
        precision=one.precision,
        recall=one.recall,
        share=one.share,
        folds=one.folds,
        gain=one.gain,
    )


def side_by_side_part(table: SideBySide) -> SideBySidePart:
    """Several studies, from the record of their comparison."""
    return SideBySidePart(
        objective=table.objective,
        rows=[one.name for one in table.standings],
        data_words=[one.contender.variant.data for one in table.standings],
        comparisons=[ComparisonPart.model_validate(one) for one in table.comparisons],
        refused=list(table.refused),
    )


def write_summary(path: Path, summary: Summary) -> Path:
    """Write the summary atomically; returns its path."""
    atomic.write_text(path, summary.model_dump_json(indent=1) + "\n", durable=False)
    return path


def read_summary(path: Path) -> Summary:
    """Read a summary back.

    Raises:
        InputError: it cannot be read, is of another version, or of another form.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror) from None
    except ValueError as error:  # JSON's own, or not UTF-8
        raise InputError(f"{path} is not a JSON file", got=str(error)) from None
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version != SCHEMA:
        raise InputError(f"{path}", got=f"schema_version {version}", expected=str(SCHEMA))
    try:
        return Summary.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path} is not a summary", got=f"{where}: {problem['msg']}") from None


@user_command
def main() -> int:
    """Print the JSON schema of summary.json."""
    print(json.dumps(Summary.model_json_schema(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
