"""Where a fault happens: a folder with all that a command needs, sound until something is done."""

import hashlib
import io
import os
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, Literal, NoReturn

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from tiny import scene, thin_resnet, tiny_config, write_city, write_frame

import cityseg.__main__
import study.analyze
import study.fetch
import study.run
import study.status
from cityseg.cell import Epoch, write_epochs
from cityseg.checkpoint import save_weights
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX
from cityseg.model import initial_model
from study.store import Study

Command = Literal["cityseg", "run", "analyze", "status", "fetch"]
MAIN: Final = {
    "cityseg": cityseg.__main__.main,
    "run": study.run.main,
    "analyze": study.analyze.main,
    "status": study.status.main,
    "fetch": study.fetch.main,
}
CONFIG: Final = tiny_config(model={"weights": "none"})


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class RayStartedError(AssertionError):
    """A command with a bad input got as far as Ray."""


class NoTuning(ModuleType):
    """Stands for `study.tuning`, which imports and starts Ray."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RayStartedError(name)


@dataclass(frozen=True)
class Place:
    """A folder with `data`, `tiny.yaml`, `best.safetensors`, and the study `results/old`."""

    here: Path

    @property
    def data(self) -> Path:
        return self.here / "data"

    @property
    def study(self) -> Study:
        """A study of one finished epoch."""
        return Study(self.here / "results" / "old")

    @property
    def weights(self) -> Path:
        return self.here / "best.safetensors"

    def image(self, name: str = "ulm_000000_000019", split: str = "train") -> Path:
        return self.data / f"leftImg8bit/{split}/{name.split('_')[0]}/{name}{IMAGE_SUFFIX}"

    def label(self, name: str = "ulm_000000_000019", split: str = "train") -> Path:
        return self.data / f"gtFine/{split}/{name.split('_')[0]}/{name}{LABEL_SUFFIX}"

    def labels(self) -> list[Path]:
        return sorted(self.data.glob("gtFine/train/*/*"))

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def save_tensors(self, name: str, change: dict[str, object] | None = None) -> Path:
        """The weights with other tensors or metadata; None takes one out."""
        with safetensors.safe_open(self.weights, framework="pt") as file:
            metadata = file.metadata()
        tensors = {**safetensors.torch.load_file(self.weights), **(change or {})}
        tensors = {key: value for key, value in tensors.items() if value is not None}
        safetensors.torch.save_file(tensors, self.here / name, metadata)
        return self.here / name

    def run(self, command: Command, words: str) -> Ended:
        """A command in this folder and process; paths below the folder are told as HERE."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.here)
            patch.setattr(sys, "argv", [command, *shlex.split(words)])
            patch.setattr("cityseg.model.get_model", thin_resnet)
            patch.setitem(sys.modules, "study.tuning", NoTuning("study.tuning"))
            patch.setattr(study, "tuning", NoTuning("study.tuning"), raising=False)
            code = MAIN[command]()
        return Ended(code, *(s.getvalue().replace(str(self.here), "HERE") for s in (out, err)))

    def snapshot(self) -> dict[str, str]:
        """Everything below the folder, with its content."""
        return {str(path.relative_to(self.here)): _content(path) for path in _walk(self.here)}


def _walk(folder: Path) -> list[Path]:
    return [Path(at) / name for at, dirs, files in os.walk(folder) for name in (*dirs, *files)]


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return "folder" if path.is_dir() else "other"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_template(folder: Path) -> Place:
    """The sound folder that every fault begins with."""
    place = Place(folder)
    write_city(place.data)
    for i in range(2):
        write_frame(place.data, "val", f"bonn_{i:06}_000019", *scene(100 + i))
    place.write("tiny.yaml", CONFIG.to_yaml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cityseg.model.get_model", thin_resnet)
        save_weights(place.weights, initial_model(CONFIG.model, 0), CONFIG, 1)
        patch.setattr("study.run.run_cells", lambda *_: None)
        ended = place.run("run", "--config tiny.yaml --data data --name old")
    assert ended.code == 130, ended
    write_epochs(place.study.cell(0, 1).epochs, [Epoch(1, 1.0, 1.0, 0.5, 0.5, 1e-3, 1.0, 1.0, 1.0)])
    shutil.rmtree(place.study.folder / ".lock", ignore_errors=True)
    return place


def grey(path: Path, value: int = 7, size: tuple[int, int] = (128, 64)) -> None:
    """A label map of one value."""
    Image.new("L", size, value).save(path)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
