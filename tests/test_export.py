"""Exports compute what the network computes, at any size; what does not is not written."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cityseg_commands import cityseg_command, refusal
from tiny import opinionated, thin_resnet, tiny_config

import cityseg.export
import cityseg.model
from cityseg.checkpoint import save_weights
from cityseg.errors import TrainingError
from cityseg.export import Parity, check, export
from cityseg.inputs import normalise
from cityseg.model import UNet

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters' insides


@pytest.fixture(scope="module")
def model() -> UNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cityseg.model, "get_model", thin_resnet)
        return opinionated(tiny_config())


@pytest.mark.parametrize("name", ["network.onnx", "network.pt2"])
def test_an_export_computes_the_networks_logits_at_sizes_that_were_never_shown(
    name: str, model: UNet, tmp_path: Path
):
    """Even and odd; by the format's own runtime, on images other than the command compares."""
    found = export(model, tmp_path / name)
    assert [one.other_classes for one in found] == [0] * len(cityseg.export.SIZES)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    image = np.random.default_rng(1).integers(0, 256, (3, 3, 67, 130), np.uint8)
    if name.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / name)
        logits = np.asarray(session.run(["logits"], {"image": image})[0])
    else:
        logits = (
            torch.export.load(tmp_path / name).module()(torch.from_numpy(image)).detach().numpy()
        )
    with torch.no_grad():
        expected = model(normalise(torch.from_numpy(image)))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_what_differs_by_more_than_rounding_is_not_taken():
    rounding = Parity((1, 64, 64), 3e-6, 0)
    check(Path("x.onnx"), [rounding])
    for difference in (2e-4, float("nan")):
        with pytest.raises(TrainingError, match="was not written"):
            check(Path("x.onnx"), [rounding, Parity((1, 64, 64), difference, 5)])


def test_an_export_that_differs_leaves_nothing(
    model: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cityseg.export, "_write_pt2", lambda _, path: path.touch())
    nothing = np.zeros((19, 1, 1), np.float32)
    monkeypatch.setattr(cityseg.export, "_read_pt2", lambda _: lambda image: nothing + image[:, :1])
    with pytest.raises(TrainingError):
        export(model, tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config()
    save_weights(tmp_path / "best.safetensors", opinionated(config), config, 1)
    words = ("export", "--weights", tmp_path / "best.safetensors", "--out")
    assert "expected a file .onnx or .pt2" in refusal(*words, tmp_path / "network.pb")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    assert "ONNX needs onnxscript" in refusal(*words, tmp_path / "network.onnx")
    assert cityseg_command(*words, tmp_path / "network.pb").out == ""
