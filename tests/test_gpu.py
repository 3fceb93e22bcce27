"""What only a CUDA device can show: recorded steps, deterministic mode, exact counts there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_step import batches, plain_steps
from tiny import thin_resnet, tiny_config
from torch.optim import Adam

from cityseg import model as networks
from cityseg.cell import Cell, read_confusion, read_epochs
from cityseg.checkpoint import load_network
from cityseg.config import Config
from cityseg.confusion import counts_at_once, counts_of_one
from cityseg.data import Frame
from cityseg.evaluate import full_prediction
from cityseg.losses import criterion_of, cross_entropy
from cityseg.precision import choose_kernels, place
from cityseg.step import EAGER_STEPS, GraphedStep, Move, training_step
from cityseg.train import start_run, train_cell

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CUDA = torch.device("cuda")
STEPS = EAGER_STEPS + 5


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "get_model", thin_resnet)


def deterministic(**train: Any) -> Config:
    settings = {"deterministic": True, "precision": "bfloat16", "epochs": 3, "lr": 3e-3, **train}
    return tiny_config(model={"dropout": 0.2}, train=settings)


@pytest.fixture(autouse=True)
def _usual_kernels_afterwards():
    yield
    torch.use_deterministic_algorithms(False)


def test_recorded_steps_are_the_plain_steps_to_the_bit():
    """Replayed from the fourth on: the losses and weights of a plain loop."""
    config = tiny_config(train={"deterministic": True, "precision": "float32"})
    choose_kernels(config, CUDA)
    model, other = (place(networks.initial_model(config.model, 0), CUDA) for _ in range(2))
    rate = torch.tensor(1e-3, device=CUDA)
    plain = Adam(model.parameters(), lr=rate.clone(), fused=True, capturable=True)
    ours = Adam(other.parameters(), lr=rate.clone(), fused=True, capturable=True)
    there = [type(b)(b.image.to(CUDA), b.target.to(CUDA)) for b in batches(STEPS)]
    wanted = plain_steps(model, plain, there)
    step = training_step(other, ours, cross_entropy, config, CUDA)
    assert [float(step(batch)) for batch in batches(STEPS)] == wanted
    assert isinstance(step, GraphedStep) and step.graph is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_recorded_step_reads_the_rate_anew():
    config = tiny_config()
    run = start_run(config, CUDA)
    step = training_step(run.model, run.optimizer, cross_entropy, config, CUDA)
    for batch in batches(STEPS):
        step(batch)
    run.optimizer.param_groups[0]["lr"].zero_()
    before = [p.detach().clone() for p in run.model.parameters()]
    step(batches(1)[0])
    assert all(map(torch.equal, before, run.model.parameters()))


OTHER_TRAININGS: dict[str, dict[str, dict[str, Any]]] = {
    "adamw, clipped": {"train": {"optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 0.1}},
    "sgd": {"train": {"optimizer": "sgd", "momentum": 0.9}},
    "two passes a step": {"train": {"accumulate": 2}},
    "ohem": {"loss": {"ohem": True}},
    "dice, lovasz": {"loss": {"dice": 0.5, "lovasz": 0.5}},
    "gates, two more heads": {
        "model": {"skip": "attention", "auxiliary": 0.4, "deep_supervision": 0.3}
    },
    "pyramid, group norm": {"model": {"fusion": "pyramid", "normalisation": "group"}},
}


@pytest.mark.parametrize("changes", OTHER_TRAININGS.values(), ids=OTHER_TRAININGS)
def test_recorded_steps_of_other_trainings_are_the_eager_ones(
    changes: dict[str, dict[str, Any]],
):
    """Whatever is exchanged can be recorded, and is then what it was; to rounding, for kernels of
    these may add up in any order."""
    train = {"precision": "float32", **changes.get("train", {})}
    config = tiny_config(**{**changes, "train": train})
    choose_kernels(config, CUDA)
    eager, recorded = (start_run(config, CUDA) for _ in range(2))
    criterion = criterion_of(config.loss, None).to(CUDA)
    there = [type(b)(b.image.to(CUDA), b.target.to(CUDA)) for b in batches(STEPS)]
    move = Move(eager.model, eager.optimizer, criterion, config, CUDA)
    step = training_step(recorded.model, recorded.optimizer, criterion, config, CUDA)
    for run in (eager, recorded):
        run.model.train()
    wanted = [float(move(batch.image, batch.target)) for batch in there]
    found = [float(step(batch)) for batch in batches(STEPS)]
    assert found == pytest.approx(wanted, rel=1e-3)
    assert not isinstance(step, GraphedStep) or step.graph is not None


@pytest.mark.usefixtures("thin")
def test_a_deterministic_training_cut_and_continued_is_the_unbroken_one(
    frames: list[Frame], tmp_path: Path
):
    config = deterministic()
    unbroken, cut = Cell(tmp_path / "unbroken"), Cell(tmp_path / "cut")
    for _ in train_cell(config, frames[:8], frames[8:], unbroken, CUDA):
        pass
    begun = train_cell(config, frames[:8], frames[8:], cut, CUDA)
    next(begun)
    begun.close()
    for _ in train_cell(config, frames[:8], frames[8:], cut, CUDA):
        pass
    one, other = (read_confusion(cell.confusion) for cell in (unbroken, cut))
    np.testing.assert_array_equal(one.last.full, other.last.full)
    losses = [[e.train_loss for e in read_epochs(cell.epochs)] for cell in (unbroken, cut)]
    assert losses[0] == losses[1]
    weights = [load_network(cell.best_weights)[0].state_dict() for cell in (unbroken, cut)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.usefixtures("thin")
def test_a_training_goes_on_on_another_kind_of_device(frames: list[Frame], tmp_path: Path):
    config, cell = tiny_config(), Cell(tmp_path)
    for device in (CUDA, torch.device("cpu"), CUDA):
        begun = train_cell(config, frames[:8], frames[8:], cell, device)
        next(begun)
        begun.close()
    assert len(read_epochs(cell.epochs)) == 3
    assert [e.lr for e in read_epochs(cell.epochs)] == pytest.approx([config.train.lr] * 3)


def test_counts_are_those_of_the_cpu():
    drawn = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 19, (3, 1024, 2048), dtype=torch.uint8, generator=drawn)
    target = torch.randint(0, 20, (3, 1024, 2048), dtype=torch.uint8, generator=drawn)
    target[target == 19] = 255
    here = torch.stack([counts_of_one(*pair) for pair in zip(prediction, target, strict=True)])
    assert torch.equal(counts_at_once(prediction.to(CUDA), target.to(CUDA)).cpu(), here)
    torch.use_deterministic_algorithms(True)
    assert torch.equal(counts_at_once(prediction.to(CUDA), target.to(CUDA)).cpu(), here)


def test_full_size_predictions_are_those_of_the_cpu():
    logits = torch.randn(19, 64, 128, generator=torch.Generator().manual_seed(0))
    there = full_prediction(logits.to(CUDA), 128, 256).cpu()
    assert float((there != full_prediction(logits, 128, 256)).float().mean()) < 1e-4


def test_the_share_of_memory_is_enforced():
    script = (
        "import torch\n"
        "from cityseg.config import Resources\n"
        "from cityseg.train import use_device\n"
        "device = use_device(Resources(gpus_per_trial=0.05))\n"
        "total = torch.cuda.get_device_properties(device).total_memory\n"
        "held = torch.empty(int(total * 0.04), dtype=torch.uint8, device=device)\n"
        "try:\n"
        "    torch.empty(int(total * 0.03), dtype=torch.uint8, device=device)\n"
        "except torch.cuda.OutOfMemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "refused"


def test_compiled_steps_and_scores_are_near_the_plain_ones(tmp_path: Path):
    """In a process without the checks of types, which compiled code cannot have."""
    script = Path(__file__).with_name("compiled_training.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    plain, compiled = ([float(x) for x in line.split()] for line in done.stdout.splitlines()[-2:])
    assert len(plain) == len(compiled) == STEPS + 1
    assert compiled == pytest.approx(plain, rel=0.02)


def test_losses_are_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A step may not read anything back from the device."""
    config = tiny_config()
    run = start_run(config, CUDA)
    step = training_step(run.model, run.optimizer, cross_entropy, config, CUDA)
    pinned = [batch.pin_memory() for batch in batches(STEPS)]
    for batch in pinned:
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in pinned:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
