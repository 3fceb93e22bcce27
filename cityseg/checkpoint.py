"""Saving and loading: a training's full state, and a network's weights."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cityseg import atomic
from cityseg.config import Config, parse
from cityseg.errors import InputError
from cityseg.model import (
    UNREADABLE,
    UNet,
    check_weights,
    network,
    read_weights,
    refuse_pickle,
    why_unreadable,
)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace a state file atomically; `state` holds tensors and plain data only.

    Raises:
        DiskError: it cannot be written; the old one is still there.
    """
    with atomic.replacing(path) as temporary, _disk_errors(), temporary.open("wb") as file:
        torch.save(state, file)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """torch and safetensors tell of a full disk by errors of their own: raise the system's."""
    try:
        yield
    except RuntimeError as error:  # raised while the writer was tidied up after the system's error
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    except safetensors.SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        raise


def load_state(path: Path, keys: set[str]) -> dict[str, Any]:
    """Read a state file, on the CPU, with torch's `weights_only` loader.

    Raises:
        InputError: the file is damaged, or lacks one of `keys`.
    """
    remedy = f"delete {path.parent} to start over"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = why_unreadable(error)
        raise InputError(f"cannot go on from {path}", got=reason, remedy=remedy) from None
    if not isinstance(state, dict) or not keys <= state.keys():
        raise InputError(f"cannot go on from {path}", got="no state of ours", remedy=remedy)
    return state


def save_weights(path: Path, model: UNet, config: Config, epoch: int) -> None:
    """Write a network's weights, with the configuration that builds it, as safetensors.

    Raises:
        DiskError: they cannot be written; the old ones are still there.
    """
    metadata = {"config": config.model_dump_json(), "epoch": str(epoch)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic.replacing(path) as temporary, _disk_errors():
        safetensors.torch.save_file(tensors, temporary, metadata)


def weights_epoch(path: Path) -> int:
    """The epoch that a weights file was written at."""
    return int(_metadata(path)["epoch"])


def load_network(path: Path) -> tuple[UNet, Config]:
    """The network in a weights file of ours, and the configuration that it was trained with.

    Raises:
        InputError: the file is not one that training wrote, or is damaged.
    """
    metadata = _metadata(path)
    config = _parse_json(metadata["config"], source=str(path))
    model = network(config.model)
    weights = read_weights(path)
    check_weights(weights, model.state_dict(), source=str(path))
    model.load_state_dict(weights)
    return model, config


def _parse_json(text: str, source: str) -> Config:
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: config in its metadata", got=str(error)) from None
    if not isinstance(settings, dict):
        raise InputError(f"{source}: config in its metadata", got=text, expected="a mapping")
    return parse(settings, source=source)


def _metadata(path: Path) -> dict[str, str]:
    try:
        refuse_pickle(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot read weights from {path}", got=str(error)) from None
    if "config" not in metadata or not metadata.get("epoch", "").isdecimal():
        raise InputError(
            f"{path}", got="safetensors without our metadata", expected="a best.safetensors of ours"
        )
    return metadata
