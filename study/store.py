"""What a study is on disk: reading and writing it, nothing else.

    results/<study>/study.yaml       what was asked, on which data, with which versions
                    folds.json       which frame validates in which fold
                    v000/f1/         a cell: variant 0 (the configuration as given), fold 1

The table on disk is the truth: a study is resumed, watched and analysed from it alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import Field, ValidationError

from cityseg import atomic
from cityseg.cell import Cell
from cityseg.config import Config, Section, read_mapping
from cityseg.data import Kind
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, read_folds

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
    created: str
    """Local time, ISO 8601 with offset."""
    command: str
    """What was typed."""
    data: DataRecord
    folds_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    config: Config
    cpus_per_trial: int | None = None
    """CPU threads of a cell, settled at the first start."""
    versions: dict[str, str]
    hardware: dict[str, str]


@dataclass(frozen=True)
class Study:
    """A study's folder."""

    folder: Path

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
        return Cell(self.folder / f"v{variant:03d}" / f"f{fold}")

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
        try:
            return StudyRecord.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{self.record_file}: {key}", got=first["msg"]) from None

    def write(self, record: StudyRecord) -> None:
        """Write study.yaml atomically."""
        text = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        atomic.write_text(self.record_file, text)

    def read_folds(self) -> FoldsFile:
        """Read folds.json, its hash checked."""
        return read_folds(self.folds_file)


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
