"""What a study is on disk: reading and writing it, nothing else.

    results/<study>/study.yaml       what was asked, on which data, with which versions
                    folds.json       which frame validates in which fold
                    v003/row.yaml    a row (variant 3): its values over the base configuration
                    v003/pruned.txt  why the row was stopped early, if it was
                    v003/f1/         a cell: variant 3, fold 1

The table on disk is the truth: a study is resumed, watched and analysed from it alone.
"""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import Field

from cityseg import atomic
from cityseg.cell import Cell
from cityseg.config import Config, Section, read_mapping, validate
from cityseg.data import Kind
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, read_folds
from study.space import Origin, Parameters, Search, apply

SCHEMA: Final = 1


class DataRecord(Section):
    """The data set that a study is of."""

    root: Path
    kind: Kind
    """synthetic: the embedded city; cityscapes: the official train split; or other."""
    frames: int
    cities: dict[str, int]
    """Frames a city."""
    fingerprint: str
    """Hash of all frame names and file sizes."""


class StudyRecord(Section):
    """study.yaml."""

    schema_version: Literal[1] = SCHEMA
    name: str
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this study from others of its name in a storage that a team shares."""
    created: str
    """Local time, ISO 8601 with offset."""
    command: str
    """What was typed."""
    data: DataRecord
    folds_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    config: Config
    """The base configuration: row 0."""
    search: Search = Search()
    """The other rows."""
    storage: str | None = None
    """Optuna's storage, without a password; None if all rows are given."""
    cpus_per_trial: int | None = None
    """CPU threads of a cell, settled at the first start."""
    versions: dict[str, str]
    hardware: dict[str, str]


class Row(Section):
    """row.yaml: one variant of a study. Written once, before anything of it runs."""

    variant: int
    """From 0, the base configuration."""
    origin: Origin
    parameters: Parameters
    """Values over the base configuration, by dotted key."""


BASE: Final = Row(variant=0, origin="base", parameters={})


@dataclass(frozen=True)
class Study:
    """A study's folder."""

    folder: Path
    url: str = ""
    """Where the study is at home, if the folder only mirrors it."""

    @property
    def record_file(self) -> Path:
        """study.yaml; its presence makes the folder a study."""
        return self.folder / "study.yaml"

    @property
    def folds_file(self) -> Path:
        """folds.json."""
        return self.folder / "folds.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one driver that may write to the study."""
        return self.folder / ".lock"

    @property
    def analysis(self) -> Path:
        """Where `study.analyze` writes."""
        return self.folder / "analysis"

    def exists(self) -> bool:
        """Whether the folder holds a study."""
        return self.record_file.is_file()

    def has_epochs(self) -> bool:
        """Whether any cell has finished an epoch."""
        cells = (Cell(folder) for folder in self.folder.glob("v*/f*"))
        return self.exists() and any(cell.has_epochs() for cell in cells)

    def cell(self, variant: int, fold: int) -> Cell:
        """The cell of a variant (from 0) and a fold (from 1)."""
        return Cell(self.folder / variant_name(variant) / f"f{fold}")

    def row_file(self, variant: int) -> Path:
        """row.yaml of a variant."""
        return self.folder / variant_name(variant) / "row.yaml"

    def pruned_file(self, variant: int) -> Path:
        """pruned.txt of a variant: why it was stopped early."""
        return self.folder / variant_name(variant) / "pruned.txt"

    def rows(self) -> list[Row]:
        """All rows, by their number; the base row first.

        Raises:
            InputError: a row.yaml is damaged.
        """
        numbers = {int(path.parent.name[1:]) for path in self.folder.glob("v*/row.yaml")
                   if re.fullmatch(r"v\d{3,}", path.parent.name)}  # fmt: skip
        return [self.row(number) for number in sorted(numbers | {0})]

    def row(self, variant: int) -> Row:
        """A row.

        Raises:
            InputError: its row.yaml is missing or damaged.
        """
        path = self.row_file(variant)
        if variant == 0 and not path.is_file():
            return BASE
        return validate(Row, read_mapping(path), str(path))

    def write_row(self, row: Row) -> None:
        """Write a row's file atomically."""
        _write_yaml(self.row_file(row.variant), row)

    def config(self, variant: int, record: StudyRecord) -> Config:
        """The configuration of a variant.

        Raises:
            InputError: the row is missing, damaged, or does not fit the base configuration.
        """
        row = self.row(variant)
        return apply(record.config, row.parameters, str(self.row_file(variant)))

    def read(self) -> StudyRecord:
        """Read study.yaml.

        Raises:
            InputError: missing, damaged, or of another layout.
        """
        settings = read_mapping(self.record_file)
        if settings.get("schema_version") != SCHEMA:
            raise InputError(
                f"{self.record_file}",
                got=f"schema_version {settings.get('schema_version')}",
                expected=str(SCHEMA),
                remedy="it was written by another version of this program",
            )
        return validate(StudyRecord, settings, str(self.record_file))

    def write(self, record: StudyRecord) -> None:
        """Write study.yaml atomically."""
        _write_yaml(self.record_file, record)

    def read_folds(self) -> FoldsFile:
        """Read folds.json, its hash checked."""
        return read_folds(self.folds_file)

    def folds_of(self, record: StudyRecord) -> FoldsFile:
        """Read folds.json, and hold it against the record.

        Raises:
            InputError: damaged, or not the one that the study began with.
        """
        folds = self.read_folds()
        if folds.content_hash() != record.folds_hash:
            raise InputError(
                f"{self.folds_file} is not the one this study began with",
                got=f"hash {folds.content_hash()[:12]}",
                expected=f"{record.folds_hash[:12]}, as {self.record_file.name} says",
                remedy="restore it: scores by other folds are not this study's",
            )
        return folds


def variant_name(variant: int) -> str:
    """Such as `v003`."""
    return f"v{variant:03d}"


def _write_yaml(path: Path, section: Section) -> None:
    text = yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    atomic.write_text(path, text)


def newest(results: Path) -> Study:
    """The study in a results folder whose cells were written to last.

    Raises:
        InputError: there is none.
    """
    studies = [Study(path.parent) for path in results.glob("*/study.yaml")]
    if not studies:
        raise InputError(f"no study in {results}", remedy="make one with: python -m study.run")
    return max(studies, key=_last_written)


def _last_written(study: Study) -> float:
    files = [study.record_file, *study.folder.glob("v*/f*/epochs.csv")]
    return max(file.stat().st_mtime for file in files)
