"""What is said to fit does, by the arithmetic that shares the machines among cells."""

import pytest

from cityseg import memory
from cityseg.config import parse


@pytest.mark.parametrize(("train", "val"), [(64, 16), (2, 8)])
@pytest.mark.parametrize("precision", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("gigabytes", [6, 16, 24, 80])
def test_what_is_said_to_fit_fits_by_the_same_arithmetic(
    train: int, val: int, precision: str | None, gigabytes: int
):
    big = parse({"train": {"batch_size": train}, "evaluate": {"batch_size": val}}, "test")
    said = memory.would_fit(big, gigabytes * 10**9, precision)
    proposals = [p for p in said.split(" or ") if "=" in p]
    assert proposals or gigabytes < 24
    for proposal in proposals:
        words = dict(word.split("=") for word in proposal.split(" and "))
        batch = int(words.get("train.batch_size", train))
        other = int(words.get("evaluate.batch_size", val))
        size = [int(n) for n in words.get("data.input_size", "[512,1024]")[1:-1].split(",")]
        sizes = {"train": {"batch_size": batch}, "evaluate": {"batch_size": other}}
        config = parse({**sizes, "data": {"input_size": size}}, "test")
        assert memory.training_bytes(config, precision) <= gigabytes * 1e9
        assert batch <= train and other <= val
        assert max(batch, other) * size[0] * size[1] <= max(train, val) * 512 * 1024 / 2
    assert "a smaller model" in memory.would_fit(big, 3 * 10**9, precision)
