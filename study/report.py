"""`report.html`: everything that is known of a study in one page, which needs no network.

What stands in it is a typed record, made from the analysis' records; the page only lays it out.
Styles and script are in the page, and a policy in its head lets nothing else run or load: a name
that holds markup is escaped, and would do nothing if it were not.
"""

import base64
import functools
import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from cityseg import __version__, atomic
from cityseg.config import Config
from cityseg.labels import CLASS_NAMES, COLOR_OF_TRAIN_ID
from study import tables, verdicts
from study.analysis import (
    OBJECTIVES,
    FoldTable,
    Spread,
    Variant,
    VariantTable,
    class_table,
    spread,
)
from study.cautions import of_folds
from study.comparison import Selection
from study.evidence import ComparisonTable, IntervalTable
from study.gallery import Gallery, data_url
from study.illustrations import Illustration
from study.space import Objective
from study.statistics import Interval
from study.store import variant_name

FIGURES_BYTES: Final = 3_000_000
"""Of all figures in a page: 4 MB there. Those beyond are named, and lie beside it."""
WIDE_PX: Final = 1500
"""Figures that are wider take the room of two."""
LONG: Final = 30
"""Rows from which a table is scrolled by itself."""
ON_PAPER: Final = 60
"""Rows of a table that are printed."""
ANALYZE: Final = "Make its tables and this page"
NUMBER: Final = re.compile(rf"([<+-]?[\d.]+(e[+-]?\d+)?\s*%?|{tables.NO_VALUE}|\d+( of |/)\d+)")
"""A cell of a column of numbers, as `study.tables` prints them."""


@dataclass(frozen=True, eq=False)
class ReportTable:
    """A table as printed, with what must be known to read it."""

    title: str
    caption: str
    text: pd.DataFrame
    """Words in every cell."""
    footer: int = 0
    """How many of the last rows are statistics of the others, and stay below them when sorted."""
    is_folded: bool = False
    """Whether the page shows it only when asked to."""

    @functools.cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers only."""
        return [all(NUMBER.fullmatch(cell) for cell in self.text[h]) for h in self.text.columns]

    @functools.cached_property
    def body(self) -> list[tuple[str, ...]]:
        """The rows that are sorted."""
        return self._lines(0, len(self.text) - self.footer)

    @functools.cached_property
    def foot(self) -> list[tuple[str, ...]]:
        """The statistics below them."""
        return self._lines(len(self.text) - self.footer, len(self.text))

    def _lines(self, first: int, end: int) -> list[tuple[str, ...]]:
        return list(self.text.iloc[first:end].itertuples(index=False, name=None))


@dataclass(frozen=True)
class Headline:
    """A number that the page begins with."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True, eq=False)
class ReportContents:
    """All that stands in a report."""

    title: str
    """Of the study, and of the row where it is not the base one."""
    data: str
    verdict: tuple[str, ...]
    """Sentences, the chief one first."""
    warnings: tuple[str, ...]
    """What is missing, and what forbids to believe or to pass on the rest."""
    headlines: tuple[Headline, ...]
    tables: tuple[ReportTable, ...]
    illustrations: tuple[Illustration, ...]
    """None of them shows a frame."""
    gallery: Gallery
    settings: tuple[ReportTable, ...]
    facts: Mapping[str, Mapping[str, str]]
    """What the numbers are of, by heading and name."""
    commands: Mapping[str, str]
    """What to type to get the same, by what it does."""
    files: tuple[Path, ...]
    """That lie beside the page."""


def report_contents(
    rows: VariantTable,
    folds: FoldTable,
    gallery: Gallery,
    *,
    intervals: IntervalTable | None = None,
    compared: ComparisonTable | None = None,
    more_tables: Sequence[ReportTable] = (),
    illustrations: Sequence[Illustration] = (),
    files: Sequence[Path] = (),
) -> ReportContents:
    """Gather what is known of a study, and of one row of it fold by fold.

    Args:
        rows: all rows of the study.
        folds: the row that is shown fold by fold.
        gallery: its frames.
        intervals: of the same row; None while folds are missing.
        compared: the finished rows; None for fewer than two.
        more_tables: shown after the usual ones.
        illustrations: figures on disk, none of which shows a frame of a data set.
        files: what was written.

    Raises:
        InputError: one of the study's files is missing or damaged.
    """
    row = folds.variant
    return ReportContents(
        title=row.title,
        data=row.data,
        verdict=tuple(_verdict(rows, folds, intervals, compared)),
        warnings=tuple(_warnings(folds, gallery, intervals)),
        headlines=tuple(_headlines(folds, intervals, compared)),
        tables=(*_tables(rows, folds, intervals, compared), *more_tables),
        illustrations=tuple(illustrations),
        gallery=gallery,
        settings=tuple(_settings(rows, row)),
        facts=_facts(row),
        commands=_commands(row, rows, embedded=gallery.licence == "embedded"),
        files=tuple(files),
    )


def _verdict(
    rows: VariantTable,
    folds: FoldTable,
    intervals: IntervalTable | None,
    compared: ComparisonTable | None,
) -> list[str]:
    words = [verdicts.headline(folds, rows.objective, intervals, compared)]
    if rows.best is not None and rows.planned > 1:
        words += _choice(variant_name(rows.best.number), compared.selection if compared else None)
    full = spread(folds.miou("best", "full"))
    if intervals:
        paired = compared is not None and len(compared.comparisons) > 0
        words += _extent(intervals, told=not paired and rows.objective == "best_full")
    elif not math.isnan(full.mean):
        words.append(f"{folds.label('Mean')}: {_plus_minus(full)} full-res mIoU.")
    return words


def _choice(best: str, selection: Selection | None) -> list[str]:
    """How far the best of several rows can be believed."""
    if selection is None or math.isnan(selection.corrected):
        return [f"{best} is the best row, and looks better than it is: it was chosen by its score."]
    return [
        f"Of all rows {best} scores highest, {tables.decimals(selection.naive)}; freed of having"
        f" been chosen by that score it is {tables.decimals(selection.corrected)}"
        f" ({_between(selection.interval)})."
    ]


def _extent(table: IntervalTable, *, told: bool) -> list[str]:
    """Mean and spread of the row, and its intervals; but for the first, where that is told."""
    score = next(score for score in table.scores if score.objective == "best_full")
    drawn = score.estimates.mean_of_folds.interval
    words = [
        f"{table.variant.title} reaches {_plus_minus(score.spread)} full-res mIoU over"
        f" {score.corrected.folds} folds (mean and population std)."
    ]
    if not told:
        words.append(f"{_between(score.corrected.interval, 'Other trainings:')}.")
    if not math.isnan(drawn.low):
        other = f"These networks on other {score.estimates.unit}:"
        words.append(f"{_between(drawn, other)}.")
    return [" ".join(words)]


def _between(interval: Interval, of: str = "") -> str:
    """Such as `Other trainings: 95 % interval 0.6123 to 0.6981`."""
    low, high = tables.decimals(interval.low), tables.decimals(interval.high)
    words = "interval unknown" if math.isnan(interval.low) else f"95 % interval {low} to {high}"
    return f"{of} {words}".strip()


def _plus_minus(there: Spread) -> str:
    """Mean and population std."""
    std = "" if math.isnan(there.std) else f" ± {tables.decimals(there.std)}"
    return f"{tables.decimals(there.mean)}{std}"


def _warnings(folds: FoldTable, gallery: Gallery, intervals: IntervalTable | None) -> list[str]:
    words = []
    if gallery.licence == "embedded":
        words.append(
            "This page holds frames and labels of a licensed data set. Do not distribute it."
        )
    if folds.missing:
        words.append(f"Folds are missing: {'; '.join(folds.missing)}.")
    if intervals:
        words += of_folds(folds.variant.folds, folds.variant.grouping)
        words += verdicts.few_cities(intervals)
        words += verdicts.missed(intervals)
    return words


def _headlines(
    folds: FoldTable, intervals: IntervalTable | None, compared: ComparisonTable | None
) -> list[Headline]:
    details = {}
    if intervals:
        details = {one.objective: _between(one.corrected.interval) for one in intervals.scores}
    names: dict[str, Objective] = {
        "Full-res mIoU": "best_full",
        "Low-res mIoU": "best_low",
        "Full-res, last epoch": "last_full",
    }
    headlines = [
        Headline(
            name,
            _plus_minus(spread(folds.miou(*OBJECTIVES[objective]))),
            details.get(objective, folds.label("mean")),
        )
        for name, objective in names.items()
    ]
    if compared and not math.isnan(compared.selection.corrected):
        one = compared.selection
        value, detail = tables.decimals(one.corrected), _between(one.interval)
        headlines.append(Headline("Best row, corrected", value, detail))
    return headlines


def _tables(
    rows: VariantTable,
    folds: FoldTable,
    intervals: IntervalTable | None,
    compared: ComparisonTable | None,
) -> list[ReportTable]:
    shown = []
    if rows.planned > 1:
        selection = compared.selection if compared else None
        caption = tables.variant_caption(rows, selection=selection)
        shown.append(ReportTable("Rows", caption, tables.variant_text(rows)))
    if compared and compared.comparisons:
        text = verdicts.comparison_text(compared)
        caption = verdicts.comparison_caption(compared, verdict=False)
        shown.append(ReportTable("Rows against the base one", caption, text))
    shown.append(ReportTable("Folds", tables.fold_caption(folds), tables.fold_text(folds), 2))
    if intervals:
        text, caption = verdicts.interval_text(intervals), verdicts.interval_caption(intervals)
        shown.append(ReportTable("How far to believe them", caption, text))
    for resolution in ("full", "low"):
        classes = class_table(folds, "best", resolution)
        text, caption = tables.class_text(classes), tables.class_caption(classes)
        title = f"IoU by class, {resolution}-res"
        shown.append(ReportTable(title, caption, text, 1, is_folded=resolution == "low"))
    return shown


def _settings(rows: VariantTable, row: Variant) -> list[ReportTable]:
    """Where the configuration differs from the defaults, where the rows differ, and all of it."""
    columns = {"Default": _flat(Config()), "Base row": _flat(rows.variant.config)}
    if row.number:
        columns[variant_name(row.number)] = _flat(row.config)
    whole = pd.DataFrame(columns)
    whole.insert(0, "Setting", list(whole.index))
    changed = whole[whole[list(columns)].nunique(axis=1) > 1]
    differing = [
        ReportTable(
            "What differs from the defaults",
            "The defaults are the paper's recipe; resources move last digits at most.",
            changed,
        ),
        ReportTable("The whole configuration", "", whole, is_folded=True),
    ]
    return [*([_row_settings(rows)] if rows.varied else []), *differing]


def _row_settings(rows: VariantTable) -> ReportTable:
    base, varied = _flat(rows.variant.config), rows.varied
    text = pd.DataFrame(
        [
            {"Row": variant_name(row.number), "Origin": row.origin}
            | {
                key: json.dumps(row.parameters[key]) if key in row.parameters else base[key]
                for key in varied
            }
            for row in sorted(rows.rows, key=lambda row: row.number)
        ]
    )
    caption = "Exact values of the settings that rows differ in; all others are the base row's."
    return ReportTable("What each row changes", caption, text)


def _flat(config: Config) -> dict[str, str]:
    """Every setting's value as JSON, by its dotted key."""
    flat: dict[str, str] = {}

    def walk(settings: Mapping[str, Any], prefix: str) -> None:
        for key, value in settings.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = json.dumps(value, ensure_ascii=False)

    walk(config.model_dump(mode="json"), "")
    return flat


def _facts(row: Variant) -> dict[str, dict[str, str]]:
    record, data = row.record, row.record.data
    cities = ", ".join(f"{city} {count}" for city, count in data.cities.items())
    return {
        "Data": {
            "Data set": row.data,
            "Folder": str(data.root),
            "Frames": f"{data.frames}{f': {cities}' if cities else ''}",
            "Fingerprint": data.fingerprint,
        },
        "Folds": {
            "Split": row.split.describe().removeprefix("folds: "),
            "Hash": record.folds_hash,
        },
        "Study": {"Name": record.name, "Id": record.id, "Begun": record.created},
        "Hardware": dict(record.hardware),
        "Versions": {**record.versions, "report by cityseg-study": __version__},
    }


def _commands(row: Variant, rows: VariantTable, *, embedded: bool) -> dict[str, str]:
    words = ["python", "-m", "study.analyze", row.study.url or str(row.study.folder)]
    if row.number != (rows.best.number if rows.best else 0):
        words += ["--variant", str(row.number)]
    words += ["--embed-frames"] if embedded else []
    return {"Run the study": row.record.command, ANALYZE: shlex.join(words)}


def write_report(path: Path, contents: ReportContents) -> Path:
    """Lay the contents out as one HTML file, whole or not at all; returns its path."""
    atomic.write_text(path, render(contents, path.parent), durable=False)
    return path


def render(contents: ReportContents, folder: Path) -> str:
    """The page as text.

    Args:
        contents: what stands in it.
        folder: where it will lie; files in there are linked.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("study"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("report.css", "report.js"))
    embedded, beside = _within_budget(contents.illustrations)
    return environment.get_template("report.html").render(
        contents=contents,
        gallery=contents.gallery,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        figures=[_Embedded.of(one, _link(one.png.with_suffix(".pdf"), folder)) for one in embedded],
        figures_beside=beside,
        links=[(one.name, _link(one, folder), str(one)) for one in contents.files],
        analyze=contents.commands[ANALYZE],
        long=LONG,
        on_paper=ON_PAPER,
        panels=_panels(contents.files, folder),
        names=CLASS_NAMES,
        colors=[_hex(color) for color in COLOR_OF_TRAIN_ID[: len(CLASS_NAMES)]],
        score=lambda value: "" if math.isnan(value) else f"{value:.4f}",
    )


@dataclass(frozen=True)
class _Embedded:
    """A figure within the page."""

    illustration: Illustration
    url: str
    pdf: str
    """Where it lies, seen from the page; empty if that cannot be said."""
    width_px: int
    height_px: int

    @property
    def is_wide(self) -> bool:
        return self.width_px > WIDE_PX

    @staticmethod
    def of(one: Illustration, pdf: str) -> "_Embedded":
        with Image.open(one.png) as image:
            width, height = image.size
        return _Embedded(one, data_url(one.png.read_bytes(), "png"), pdf, width, height)


def _source(environment: jinja2.Environment, name: str) -> Markup:
    """A file that goes into the page as it is: our own, without anything of a study in it."""
    assert environment.loader
    return Markup(environment.loader.get_source(environment, name)[0])  # nosec B704 # ours


def _hash(source: str) -> str:
    """As a content security policy names what may run."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def _hex(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _within_budget(
    illustrations: Sequence[Illustration],
) -> tuple[list[Illustration], list[Illustration]]:
    """Those that the page has room for, and the others."""
    embedded, beside, left = [], [], FIGURES_BYTES
    for one in illustrations:
        left -= one.png.stat().st_size
        (embedded if left >= 0 else beside).append(one)
    return embedded, beside


def _link(file: Path, folder: Path) -> str:
    """Where a file is from a page in this folder; empty where that is another folder's."""
    relative = os.path.relpath(file, folder)
    return "" if relative.startswith(os.pardir) else f"./{quote(Path(relative).as_posix())}"


def _panels(files: Sequence[Path], folder: Path) -> dict[int, str]:
    """Where the full pictures of each fold are, as far as they lie beside the page."""
    found = {one: re.fullmatch(r"panel.*_f(\d+)\.png", one.name) for one in files}
    return {int(match[1]): _link(one, folder) for one, match in found.items() if match}
