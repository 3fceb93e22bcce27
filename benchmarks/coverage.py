"""How often the printed intervals hold the truth, and the tests reject where nothing is.

    python -m benchmarks.coverage               # what is not recorded yet; then the tables
    python -m benchmarks.coverage --limit-s 280 # ends after about so long; the same command goes on

Studies of Cityscapes' size are made up by `benchmarks.simulated`, where every true score is known,
and handed to the very functions that `study.analyze` prints from. What each interval claims to hold
is said in `CLAIMS`; what came out, and what follows from it, in benchmarks/coverage.md.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
import tyro
from threadpoolctl import threadpool_limits

from benchmarks.analysis_scale import COMMON
from benchmarks.measure import RESULTS
from benchmarks.simulated import (
    Effects,
    Grouping,
    Simulated,
    Truth,
    TruthName,
    make_layout,
    simulate,
)
from cityseg import atomic
from cityseg.data import CITYSCAPES_TRAIN
from study.bootstrap import (
    Estimate,
    Resampling,
    ScoreEstimates,
    Unit,
    estimate_scores,
    resample,
    widest_unit,
)
from study.comparison import compare, correct_selection
from study.statistics import ALPHA, Interval, corrected_mean, holm
from study.tally import Layout, miou

RECORD: Final = RESULTS / "coverage.json"
SPLITS: Final = 4
"""Splits and draws of the bootstrap that the studies of a setting have by turns."""
METHODS: Final = ("percentile", "bca", "student")
RARE: Final = 0.2
"""Share of the frames below which a class counts as rare."""
TRAININGS: Final = {"none": (0.0, 0.0), "usual": (0.6, 1.2), "strong": (1.5, 3.0)}
"""Points of mIoU by which another training set moves a network: all classes alike, and each."""
SEED: Final = (0.6, 1.2)
"""The same of another seed."""

CLAIMS: Final[dict[str, dict[Grouping, TruthName]]] = {
    "t": {"frames": "trainings, same cities", "cities": "trainings, new cities"},
    "frames": {"frames": "networks, same cities", "cities": "networks, same cities"},
    "cities": {"frames": "networks, new cities", "cities": "networks, new cities"},
}
"""The truth that each interval claims to hold, by how the folds were made: the corrected t
interval, and the bootstraps over frames and over cities."""

Kind = Literal["intervals", "trainings", "tests", "selection"]


@dataclass(frozen=True)
class Setting:
    """What is made up, and how often."""

    kind: Kind
    grouping: Grouping
    folds: int
    training: str = "usual"
    studies: int = 200
    rows: int = 1
    cities: int = len(CITYSCAPES_TRAIN)
    seed: int = 0

    @property
    def effects(self) -> Effects:
        """How large they are."""
        training, training_class = TRAININGS[self.training]
        if self.kind == "tests" and self.training == "none":  # networks that differ in nothing
            return Effects(training=0, training_class=0, seed=0, seed_class=0)
        return Effects(training=training, training_class=training_class, seed=SEED[0],
                       seed_class=SEED[1])  # fmt: skip

    @property
    def key(self) -> str:
        """As it stands in the record."""
        return json.dumps(asdict(self), sort_keys=True)


FOLDS: Final = (3, 5, 10)
GROUPINGS: Final[tuple[Grouping, ...]] = ("frames", "cities")
FEW: Final[tuple[tuple[Grouping, int], ...]] = (("frames", 6), ("cities", 8), ("cities", 12))
"""Cities that there are few of, in three folds."""


FRAMES_DRAWN: Final = (("frames", 3), ("frames", 5), ("frames", 10), ("cities", 10))
"""Where the bootstrap over frames, the costly one, is measured, too: in ten folds of whole cities
there is no other."""


SETTINGS: Final = (
    *(Setting("trainings", grouping, folds, training, 300)
      for training in TRAININGS for grouping in GROUPINGS for folds in FOLDS),
    *(Setting("intervals", grouping, 3, studies=100, cities=cities) for grouping, cities in FEW),
    *(Setting("tests", "frames", folds, training, 100, rows=4)
      for training in ("usual", "strong") for folds in FOLDS),
    *(Setting("tests", "cities", folds, training, 60, rows=4)
      for training in ("usual", "strong") for folds in FOLDS),
    Setting("tests", "cities", 3, studies=60, rows=4, cities=8),
    *(Setting("intervals", "frames", folds) for folds in FOLDS),
    *(Setting("intervals", "cities", folds, studies=100) for folds in (3, 5)),
    Setting("intervals", "cities", 10),
    *(Setting("selection", "frames", 3, training, 40, rows=12) for training in ("usual", "strong")),
)  # fmt: skip


@dataclass
class Tallied:
    """What the studies of a setting came to."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def count(self, name: str, happened: bool | np.bool_) -> None:
        """Once more, and whether it was so."""
        there = self.counts.setdefault(name, [0, 0])
        there[0] += int(happened)
        there[1] += 1

    def note(self, name: str, value: float) -> None:
        """A value whose mean and spread are wanted."""
        self.values.setdefault(name, []).append(value)

    def record(self) -> dict[str, Any]:
        """For the record: counts, and mean and sample std of the values."""
        moments = {
            name: {"mean": float(np.mean(there)), "std": float(np.std(there, ddof=1))}
            for name, there in self.values.items()
        }
        return {"counts": self.counts, "values": moments}


@functools.lru_cache(maxsize=2 * SPLITS)
def draws(layout: Layout, unit: Unit, seed: int) -> Resampling:
    """Draws of the bootstrap, made once for the studies that share a split."""
    return resample(layout, unit, seed=seed)


def studies(setting: Setting) -> Iterator[tuple[int, Layout, Simulated]]:
    """The studies of a setting, each of its own random draws."""
    for i in range(setting.studies):
        split = i % SPLITS
        layout = make_layout(setting.grouping, setting.folds, split, setting.cities)
        rng = np.random.default_rng([setting.seed, i, *setting.key.encode()])
        yield split, layout, simulate(layout, setting.effects, setting.rows, rng)


def holds(interval: Interval, truth: float) -> bool:
    """Whether the truth lies between its ends."""
    return interval.low <= truth <= interval.high


def measure_trainings(setting: Setting, tallied: Tallied) -> None:
    """The corrected t interval of the mean of the folds."""
    errors: list[tuple[float, float]] = []
    for _, layout, study in studies(setting):
        truths = study.truths["v000"]
        ours = corrected_mean(miou(study.tallies["v000"].totals), layout.test_train_ratio)
        for name, truth in truths.items():
            tallied.count(f"t holds {name}", holds(ours.interval, truth.miou))
        error = ours.mean - truths[CLAIMS["t"][setting.grouping]].miou
        errors.append((error, ours.interval.width / 2))
        tallied.note("error, points", 100 * error)
        tallied.note("std error as estimated, points", 100 * ours.std_error)
        tallied.note("width, points", 100 * ours.interval.width)
    bias = np.mean([error for error, _ in errors])
    for error, half in errors:
        tallied.count("t holds its own expectation", abs(error - bias) <= half)


def measure_intervals(setting: Setting, tallied: Tallied) -> None:
    """The bootstrap's intervals; that over frames, the costly one, in one of four."""
    place = (setting.grouping, setting.folds) if setting.cities == len(CITYSCAPES_TRAIN) else None
    for i, (split, layout, study) in enumerate(studies(setting)):
        there = study.tallies["v000"]
        for unit in ("cities", "frames"):
            if unit == "frames" and (place not in FRAMES_DRAWN or i % (4 * SPLITS) >= SPLITS):
                continue
            resampling = draws(layout, unit, split)
            if resampling.possible:
                truth = study.truths["v000"][CLAIMS[unit][setting.grouping]]
                _count_scores(tallied, unit, estimate_scores(there, resampling), truth)


def _count_scores(tallied: Tallied, unit: Unit, ours: ScoreEstimates, truth: Truth) -> None:
    _count(tallied, f"{unit}, mIoU", ours.mean_of_folds, truth.miou)
    _count(tallied, f"{unit}, pooled mIoU", ours.pooled, float(truth.pooled.mean()))
    tallied.note(f"{unit}, error, points", 100 * (ours.mean_of_folds.value - truth.miou))
    for c, one in enumerate(ours.class_mean):
        kind = "rare" if COMMON[c] < RARE else "common"
        _count(tallied, f"{unit}, {kind} classes", one, truth.classes[c])


def _count(tallied: Tallied, name: str, ours: Estimate, truth: float) -> None:
    for method in METHODS:
        interval = getattr(ours, method)
        tallied.count(f"{name}, {method} holds", holds(interval, truth))
        tallied.note(f"{name}, {method} width, points", 100 * interval.width)


def measure_tests(setting: Setting, tallied: Tallied) -> None:
    """Rows that are equally good, against the first of them."""
    for split, layout, study in studies(setting):
        resampling = draws(layout, widest_unit(layout), split)
        ours = compare(study.tallies, "v000", resampling)
        for one in ours:
            tallied.count("t rejects", one.by_fold.p_value <= ALPHA)
            tallied.count("bootstrap rejects", one.unit_p_value <= ALPHA)
            tallied.count("both reject", one.p_value <= ALPHA)
            tallied.count("interval misses 0", not holds(one.interval, 0))
            tallied.note("difference, points", 100 * one.difference)
        tallied.count("Holm: t rejects any", holm_rejects([one.by_fold.p_value for one in ours]))
        tallied.count("Holm: bootstrap rejects any", any(o.unit_adjusted <= ALPHA for o in ours))
        tallied.count("Holm: both reject any", any(one.is_shown for one in ours))


def holm_rejects(p_values: Sequence[float]) -> bool:
    """Whether any of several tests does after Holm."""
    return bool((holm(p_values) <= ALPHA).any())


def measure_selection(setting: Setting, tallied: Tallied) -> None:
    """The best of rows that are equally good, its score as it stands and corrected."""
    claim = CLAIMS["cities"][setting.grouping]
    for split, layout, study in studies(setting):
        ours = correct_selection(study.tallies, draws(layout, widest_unit(layout), split))
        truths = study.truths[ours.best]
        for name, score in (("naive", ours.naive), ("corrected", ours.corrected)):
            networks = score - truths[claim].miou
            recipe = score - truths[CLAIMS["t"][setting.grouping]].miou
            tallied.note(f"{name} above these networks, points", 100 * networks)
            tallied.note(f"{name} above the recipe, points", 100 * recipe)
        tallied.count("interval holds these networks", holds(ours.interval, truths[claim].miou))


MEASURES: Final = {
    "trainings": measure_trainings,
    "intervals": measure_intervals,
    "tests": measure_tests,
    "selection": measure_selection,
}


def read_record() -> list[dict[str, Any]]:
    """Settings measured before, with what they came to."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def measure(settings: Sequence[Setting], limit_s: float) -> None:
    """Measure what is not in the record, and write it there one by one."""
    started = time.perf_counter()
    record = read_record()
    known = {json.dumps(entry["setting"], sort_keys=True) for entry in record}
    for setting in settings:
        if setting.key in known:
            continue
        if time.perf_counter() - started > limit_s:
            print("more is to be measured: run the same again")
            return
        tallied, began = Tallied(), time.perf_counter()
        with threadpool_limits(1):
            MEASURES[setting.kind](setting, tallied)
        seconds = round(time.perf_counter() - began, 1)
        print(setting.kind, setting.grouping, setting.folds, setting.training, seconds, flush=True)
        record.append({"setting": asdict(setting), **tallied.record(), "seconds": seconds})
        atomic.write_text(RECORD, json.dumps(record, indent=1) + "\n")


def share(entry: dict[str, Any], name: str) -> float:
    """How often something was so, 0-1; NaN where it was not measured."""
    yes, n = entry["counts"].get(name, (0, 0))
    return yes / n if n else math.nan


def _per_cent(entry: dict[str, Any], *names: str) -> list[str]:
    shares = [share(entry, name) for name in names]
    return ["–" if math.isnan(one) else f"{100 * one:.1f}" for one in shares]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [_line(headings), "|" + "---|" * len(headings), *(_line(cells) for cells in lines)]


def _of_setting(setting: dict[str, Any]) -> list[str]:
    return [setting["grouping"], str(setting["folds"]), str(setting["cities"])]


def trainings_table(record: Sequence[dict[str, Any]]) -> list[str]:
    """The corrected t interval, by how much training sets matter."""
    lines = []
    for entry in record:
        setting, values = entry["setting"], entry["values"]
        claim = CLAIMS["t"][setting["grouping"]]
        error, estimated = values["error, points"], values["std error as estimated, points"]
        held = _per_cent(entry, f"t holds {claim}", "t holds its own expectation")
        bias = [f"{error['mean']:+.2f}", f"{error['std']:.2f}", f"{estimated['mean']:.2f}"]
        lines.append([*_of_setting(setting)[:2], setting["training"], *held, *bias])
    headings = ("folds by", "k", "training sets matter", "holds the truth, %",
                "holds its expectation, %", "bias", "true std error", "estimated")  # fmt: skip
    return _table(headings, lines)


def intervals_table(record: Sequence[dict[str, Any]]) -> list[str]:
    """The bootstrap's intervals, by method."""
    lines = []
    for entry in record:
        for unit in ("cities", "frames"):
            kinds = (f"{unit}, mIoU", f"{unit}, common classes", f"{unit}, rare classes")
            names = [f"{kind}, {method} holds" for kind in kinds for method in METHODS]
            if names[0] in entry["counts"]:
                there = [unit, *_per_cent(entry, *names), str(entry["counts"][names[0]][1])]
                lines.append([*_of_setting(entry["setting"]), *there])
    methods = ("percentile", "BCa", "t")
    kinds = ("mIoU", "frequent classes", "rare classes")
    named = [f"{kind}: {method}" for kind in kinds for method in methods]
    return _table(("folds by", "k", "cities", "drawn", *named, "studies"), lines)


def tests_table(record: Sequence[dict[str, Any]]) -> list[str]:
    """Rejections of rows that are equal."""
    names = ("t rejects", "bootstrap rejects", "both reject", "Holm: t rejects any",
             "Holm: bootstrap rejects any", "Holm: both reject any")  # fmt: skip
    lines = [
        [*_of_setting(entry["setting"]), entry["setting"]["training"], *_per_cent(entry, *names),
         str(entry["counts"]["Holm: t rejects any"][1])]
        for entry in record
    ]  # fmt: skip
    headings = ("folds by", "k", "cities", "networks differ", "corrected t", "bootstrap", "both",
                "Holm over 3: t", "bootstrap", "both", "studies")  # fmt: skip
    return _table(headings, lines)


def selection_table(record: Sequence[dict[str, Any]]) -> list[str]:
    """The winner's score over its truth, in points."""
    lines = []
    for entry in record:
        names = [f"{score} above {what}, points" for what in ("these networks", "the recipe")
                 for score in ("naive", "corrected")]  # fmt: skip
        means = [f"{entry['values'][name]['mean']:+.2f}" for name in names]
        held = _per_cent(entry, "interval holds these networks")
        lines.append([entry["setting"]["training"], *means, *held])
    headings = ("training sets matter", "naive, of these networks", "corrected",
                "naive, of the recipe", "corrected", "interval holds, %")  # fmt: skip
    return _table(headings, lines)


TABLES: Final = {
    "trainings": trainings_table,
    "intervals": intervals_table,
    "tests": tests_table,
    "selection": selection_table,
}


def tables(record: Sequence[dict[str, Any]]) -> str:
    """All that benchmarks/coverage.md shows, as Markdown."""
    parts = []
    for kind, table in TABLES.items():
        there = [entry for entry in record if entry["setting"]["kind"] == kind]
        there.sort(key=lambda entry: SETTINGS.index(Setting(**entry["setting"])))
        parts.append("\n".join(table(there)))
    return "\n\n".join(parts)


def main(limit_s: float = math.inf) -> int:
    """Measure how often intervals hold the truth, and tests reject where nothing is.

    Args:
        limit_s: Begin nothing new after so many seconds.
    """
    measure(SETTINGS, limit_s)
    print(tables(read_record()))
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog="python -m benchmarks.coverage"))
