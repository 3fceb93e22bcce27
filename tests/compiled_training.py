"""Prints the losses of a few steps and a validation loss: plain, then compiled."""

import torch
from test_step import batches
from tiny import tiny_config

from cityseg.evaluate import evaluate
from cityseg.inputs import ValBatch
from cityseg.losses import cross_entropy
from cityseg.step import EAGER_STEPS, training_step
from cityseg.train import start_run

CUDA = torch.device("cuda")

for compiled in (False, True):
    config = tiny_config(train={"compile": compiled, "precision": "bfloat16"})
    run = start_run(config, CUDA)
    step = training_step(run.model, run.optimizer, cross_entropy, config, CUDA)
    losses = [float(step(batch)) for batch in batches(EAGER_STEPS + 5)]
    val = [
        ValBatch(["a", "b"], batch.image, batch.target, list(batch.target)) for batch in batches(2)
    ]
    scored = evaluate(run.model, val, config, CUDA)
    print(*losses, scored.loss)
