"""Trained networks for measurements: one, or those of a row's folds and the mean of their softmax.

A row of a study is a folder of cells, `f1`, `f2` and so on, each with its best weights.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8

from cityseg.cell import Cell
from cityseg.checkpoint import load_network
from cityseg.config import Config, difference, override, parse
from cityseg.errors import InputError, counted
from cityseg.evaluate import Evaluation, Forward, Tally, segmented
from cityseg.inference import Scorer, mean_of_softmax, refiner, scorer, viewed
from cityseg.inputs import ValBatch
from cityseg.precision import place
from cityseg.train import use_device

TOGETHER: Final = "ensemble"
"""Name of all networks together, beside their own."""

SETTABLE: Final = ("inference", "evaluate", "resources")
"""Sections of a configuration that a trained network leaves open."""


@dataclass(frozen=True)
class Ensemble:
    """One network or several of the same configuration, on a device, in evaluation mode."""

    networks: dict[str, Forward]
    """By name, such as f1."""
    config: Config
    device: torch.device

    @functools.cached_property
    def score(self) -> Scorer:
        """How an image is scored by all of them together, as configured."""
        return scorer(self.config.inference, list(self.networks.values()))

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        """Train ids of one RGB image, at its own size."""
        return segmented(self.score, image, self.config, self.device)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[ValBatch]) -> dict[str, Evaluation]:
        """Counts of each network by name, and of all of them together; each looks once.

        Scores of all networks for one batch are in memory at a time.
        """
        settings = self.config.inference
        members = [viewed(settings, network) for network in self.networks.values()]
        refined = refiner(settings)
        tallies = {name: Tally(self.device) for name in (*self.networks, TOGETHER)}
        for batch in batches:
            placed = batch.to(self.device)
            scores = [member(placed.image) for member in members]
            scores.append(mean_of_softmax(scores))
            for tally, one in zip(tallies.values(), scores, strict=True):
                tally.add(placed, refined(one, placed.image))
        return {name: tally.evaluation() for name, tally in tallies.items()}


def find_members(folder: Path) -> dict[str, Path]:
    """Weights files of a row's cells, by the cell's name, in the order of the folds.

    Raises:
        InputError: no cells there, or one without weights.
    """
    cells = {
        int(match[1]): Cell(path)
        for path in folder.glob("f*")
        if path.is_dir() and (match := re.fullmatch(r"f(\d+)", path.name))
    }
    if not cells:
        raise InputError(
            f"no fold below {folder}", expected="a row of a study, such as results/paper/v000"
        )
    missing = [cell for _, cell in sorted(cells.items()) if not cell.best_weights.is_file()]
    if missing:
        first = missing[0]
        raise InputError(
            f"{folder}: {first.best_weights.name} is missing in {len(missing)} of "
            f"{counted(len(cells), 'fold')}, the first {first.folder.name}, "
            f"which is {first.status()}",
            remedy="finish the study" if first.status() != "done" else
            "its weights were not kept: run it under another name with --keep-weights all",
        )  # fmt: skip
    return {cell.folder.name: cell.best_weights for _, cell in sorted(cells.items())}


def load(files: dict[str, Path], words: tuple[str, ...] = (), fused: bool = True) -> Ensemble:
    """Networks by name, from weights files of ours, with `KEY=VALUE` over their settings.

    Args:
        files: by the networks' names.
        words: settings that a trained network leaves open.
        fused: whether they are compiled if so configured, which pays for many images of one size.

    Raises:
        InputError: a file that is none of ours; files of different configurations; a setting of a
            network that is trained already.
    """
    loaded = {name: load_network(path) for name, path in files.items()}
    configs = {name: config for name, (_, config) in loaded.items()}
    first = next(iter(configs))
    for name, config in configs.items():
        changes = difference(configs[first].identity(), config.identity())
        if changes:
            raise InputError(f"{files[name]} is of another configuration ({'; '.join(changes)})")
    config = settled(configs[first], words)
    device = use_device(config.resources)
    models = {name: place(model, device).eval() for name, (model, _) in loaded.items()}
    networks = {name: Forward(model, config, device, fused) for name, model in models.items()}
    return Ensemble(networks, config, device)


def settled(config: Config, words: tuple[str, ...]) -> Config:
    """A trained network's configuration with `KEY=VALUE` over what is still open.

    Raises:
        InputError: a key that is not, or a bad value.
    """
    for word in words:
        if word.partition(".")[0] not in SETTABLE:
            raise InputError(
                "setting", got=word,
                expected=f"KEY=VALUE of {', '.join(SETTABLE)}: the rest is as it was trained",
            )  # fmt: skip
    return parse(override(config.model_dump(mode="json"), words), source="settings")
