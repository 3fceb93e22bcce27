"""Weights and states read back to the bit; damage is told in one line; nothing is unpickled."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import tiny_config

from cityseg.checkpoint import load_network, load_state, save_state, save_weights, weights_epoch
from cityseg.errors import InputError
from cityseg.model import initial_model

CONFIG = tiny_config(seed=3, model={"decoder_width": 0.0625, "dropout": 0.25})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(path, initial_model(CONFIG.model, seed=3), CONFIG, epoch=17)
    return path


def test_a_network_comes_back_to_the_bit_with_its_configuration_and_epoch(weights: Path):
    model, config = load_network(weights)
    assert config == CONFIG
    assert weights_epoch(weights) == 17
    wanted = initial_model(CONFIG.model, seed=3).state_dict()
    got = model.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_a_network_is_read_without_its_first_weights(tmp_path: Path):
    """Whoever evaluates a network does not need the ImageNet file it started from."""
    config = tiny_config(
        model={"weights": "/gone.pth", "weights_sha256": "a" * 64, "decoder_width": 0.0625}
    )
    path = tmp_path / "best.safetensors"
    save_weights(path, initial_model(CONFIG.model, seed=3), config, epoch=1)
    assert load_network(path)[1] == config


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_damaged_or_missing_weights_are_refused(weights: Path, tmp_path: Path):
    path = tmp_path / "best.safetensors"
    assert "cannot read" in refused(path)
    whole = weights.read_bytes()
    for content in (b"", b"text", whole[:4], whole[:100], whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "cannot read" in refused(path)


def test_foreign_weights_are_refused(weights: Path, tmp_path: Path):
    path = tmp_path / "foreign.safetensors"
    tensors = safetensors.torch.load_file(weights)
    config = CONFIG.model_dump_json()
    for metadata, problem in (
        (None, "without our metadata"),
        ({"config": config}, "without our metadata"),
        ({"config": config, "epoch": "last"}, "without our metadata"),
        ({"config": "{", "epoch": "1"}, "config in its metadata"),
        ({"config": "[]", "epoch": "1"}, "config in its metadata"),
        ({"config": '{"sead": 1}', "epoch": "1"}, "unknown key sead"),
    ):
        safetensors.torch.save_file(tensors, path, metadata)
        assert problem in refused(path)
    metadata = {
        "config": tiny_config(model={"encoder": "resnet34"}).model_dump_json(),
        "epoch": "1",
    }
    safetensors.torch.save_file(tensors, path, metadata)
    assert "lacks encoder.stages.0.2.conv1.weight" in refused(path)


def test_a_state_comes_back_to_the_bit(tmp_path: Path):
    state = {"model": {"w": torch.randn(3, 3)}, "epochs": [{"lr": 1e-4, "nan": float("inf")}]}
    save_state(tmp_path / "last" / "state.pt", state)
    got = load_state(tmp_path / "last" / "state.pt", keys={"model"})
    assert torch.equal(got["model"].pop("w"), state["model"].pop("w"))
    assert got == state


def test_a_damaged_state_is_refused_with_the_way_out(tmp_path: Path):
    path = tmp_path / "last" / "state.pt"
    save_state(path, {"model": {"w": torch.randn(300, 3)}})
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot go on from") as caught:
            load_state(path, keys={"model"})
        assert "\n" not in str(caught.value)
        assert f"delete {path.parent} to start over" in str(caught.value)


def test_a_state_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "state.pt"
    for content in ({"weights": torch.zeros(1)}, torch.zeros(1)):
        torch.save(content, path)
        with pytest.raises(InputError, match="no state of ours"):
            load_state(path, keys={"model"})


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_state_runs_no_code(tmp_path: Path):
    path, mark = tmp_path / "state.pt", tmp_path / "mark"
    torch.save({"model": Bomb(mark)}, path)
    with pytest.raises(InputError, match="cannot go on from"):
        load_state(path, keys=set())
    assert not mark.exists()


def test_a_failed_write_leaves_the_old_state(tmp_path: Path):
    path = tmp_path / "state.pt"
    save_state(path, {"epoch": 1})
    with pytest.raises((TypeError, AttributeError)):
        save_state(path, {"epoch": (i for i in range(3))})
    assert load_state(path, keys={"epoch"}) == {"epoch": 1}
