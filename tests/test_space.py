"""The rows of a study as data: what may be searched, what is refused, and what a row changes."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cityseg.config import Config, parse
from cityseg.errors import InputError
from study.space import Choices, Range, Search, apply, extremes, given_rows, grid_of, read_search

BASE = Config()
LR = {"low": 1e-5, "high": 1e-3, "log": True}


def read(text: str) -> Search:
    """A `search` section as a user writes it."""
    return read_search(yaml.safe_load(text), BASE)


def drawn(**space: object) -> dict[str, Any]:
    return {"variants": 3, "space": {key.replace("__", "."): value for key, value in space.items()}}


def test_every_form_of_dimension_is_read():
    space = read(
        """
        variants: 9
        space:
          train.lr: {low: 1e-5, high: 1e-3, log: true}
          model.dropout: {low: 0, high: 0.5, step: 0.1}
          train.batch_size: {low: 2, high: 8, step: 2}
          train.plateau_patience: {low: 1, high: 4}
          model.encoder: [resnet18, resnet50]
          data.input_size: [[64, 128], [128, 256]]
          model.weights: {choices: [none, IMAGENET1K_V1]}
        """
    ).space

    assert space["train.lr"] == Range(low=1e-5, high=1e-3, log=True)
    assert space["model.dropout"] == Range(low=0.0, high=0.5, step=0.1)
    assert space["train.batch_size"] == Range(low=2, high=8, step=2)
    assert space["train.plateau_patience"] == Range(low=1, high=4)
    assert space["model.encoder"] == Choices(choices=["resnet18", "resnet50"])
    assert space["data.input_size"] == Choices(choices=[[64, 128], [128, 256]])
    assert space["model.weights"] == Choices(choices=["none", "IMAGENET1K_V1"])


def test_ends_have_the_type_of_the_keys_values():
    space = read_search(
        drawn(model__decoder_width={"low": 1, "high": 2}, train__epochs={"low": 1.0, "high": 9.0}),
        BASE,
    ).space
    ends = [(d.low, d.high) for d in space.values() if isinstance(d, Range)]
    assert [[type(end) for end in pair] for pair in ends] == [[float, float], [int, int]]


def test_words_that_yaml_takes_numbers_for_become_numbers():
    assert yaml.safe_load("1e-4") == "1e-4", "PyYAML knows this number by now"
    search = read("{variants: 4, rows: [{train.lr: 1e-4}, {train.lr: 3e-4}], "
                  "grid: {train.lr: [1e-3]}, space: {train.lr: [1e-5, 2e-5]}}")  # fmt: skip
    assert search.rows == [{"train.lr": 1e-4}, {"train.lr": 3e-4}]
    assert search.grid == {"train.lr": [1e-3]}
    assert search.space["train.lr"] == Choices(choices=[1e-5, 2e-5])


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"varaints": 3}, ["unknown key varaints", "did you mean variants?"]),
        (drawn(train__lrr=LR), ["search.space", "train.lrr", "did you mean train.lr?"]),
        ({"rows": [{"modle.dropout": 0.1}]}, ["search.rows", "unknown key modle", "model"]),
        ({"grid": {"train.epoch": [1]}}, ["search.grid", "did you mean train.epochs?"]),
        (drawn(train__lr={"lo": 1, "high": 2}), ["train.lr", "unknown key lo,", "mean low?"]),
        (drawn(train__lr={**LR, "low": 0}), ["train.lr", "log needs low above 0, got 0"]),
        (drawn(train__lr={"low": 0.0, "high": 1.0}), ["train.lr: got 0.0", "greater than 0"]),
        (drawn(train__lr={"low": 1.0, "high": 11}), ["train.lr: got 11", "equal to 10"]),
        (drawn(model__dropout=[0.1, 1.0]), ["model.dropout: got 1.0", "less than 1"]),
        (drawn(train__lr={"low": 1, "high": 1}), ["train.lr: low 1 is not below high 1"]),
        (drawn(train__lr={"low": 2, "high": 1}), ["train.lr: low 2 is not below high 1"]),
        (drawn(train__lr={**LR, "step": 1e-5}), ["train.lr", "log and step exclude"]),
        (drawn(train__epochs={"low": 1, "high": 4, "step": 2}), ["high 4", "multiple of step 2"]),
        (drawn(train__lr={"low": 1, "high": 2, "step": 0.3}), ["high 2", "multiple of step 0.3"]),
        (drawn(train__lr={"low": 1, "high": 2, "step": 1e-320}), ["multiple of step 1e-320"]),
        (drawn(train__lr={"low": 1, "high": 2, "step": 0}), ["step: got 0", "greater than 0"]),
        (drawn(train__epochs={"low": 1, "high": 2, "step": 0.5}), ["step 0.5", "a whole step"]),
        (drawn(train__epochs={"low": 1.5, "high": 2}), ["train.epochs: got 1.5", "integer"]),
        (drawn(train__lr={"low": True, "high": 2}), ["low: got True", "a finite number"]),
        (drawn(train__lr={"low": "a", "high": 2}), ["train.lr: low: got 'a'", "a finite number"]),
        (drawn(train__lr={"low": None, "high": 2}), ["low: got None", "a finite number"]),
        (drawn(train__lr={"low": 0.1}), ["train.lr: high", "Field required"]),
        (drawn(train__lr={"low": math.nan, "high": 1}), ["low: got nan", "a finite number"]),
        (drawn(train__lr={"low": 1, "high": "1e999"}), ["high: got '1e999'", "a finite number"]),
        (drawn(train__epochs={"low": 1, "high": 10**400}), ["high: got 1000", "finite number"]),
        (drawn(train__epochs={"low": 1, "high": 10**6}), ["got 1000000", "equal to 100000"]),
        (drawn(train__lr=[math.inf]), ["train.lr: got inf", "finite"]),
        ({"rows": [{"train.lr": math.nan}]}, ["train.lr: got nan", "finite"]),
        (drawn(train__lr=[]), ["train.lr: choices: got []", "at least 1 item"]),
        (drawn(train__lr=3), ["train.lr: got 3", "or a list of values"]),
        (drawn(model__encoder={"low": 1, "high": 2}), ["model.encoder: got 1"]),
        (drawn(train=[1]), ["search.space: train", "one setting's dotted key"]),
        (drawn(data__input_size__0=[64]), ["data.input_size.0", "one setting's dotted key"]),
        ({"rows": [{"folds.count": 4}]}, ["folds.count", "expected one for all rows"]),
        ({"grid": {"city.seed": [1]}}, ["city.seed", "expected one for all rows"]),
        (drawn(resources__workers=[0, 1]), ["resources.workers", "expected one for all rows"]),
        ({"rows": [{"evaluate.full_every": 2}]}, ["full_every", "expected one for all rows"]),
        ({"space": {"train.lr": LR}}, ["without a number of rows", "--variants N"]),
        ({"variants": 2}, ["got 2 rows, but only 1 are given", "search.space"]),
        ({"variants": 1, "rows": [{"train.lr": 1}]}, ["got 1", "at least 2"]),
        ({"variants": 0}, ["variants: got 0", "greater than or equal to 1"]),
        ({"variants": 10**9}, ["variants: got 1000000000", "equal to 100000"]),
        ({"keep_weights": "top-0"}, ["keep_weights: got 'top-0'"]),
        ({"sampler": "cma"}, ["sampler: got 'cma'"]),
        ({"space": [1]}, ["space: got [1]"]),
        ({"rows": {"train.lr": 1}}, ["rows: got", "valid list"]),
        ({"grid": {"train.epochs": list(range(1, 401)), "seed": list(range(400))}},
         ["search.grid: got 160000 combinations", "at most 100000"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(settings: dict[str, Any], parts: list[str]):
    with pytest.raises(InputError) as refused:
        read_search(settings, BASE)
    message = str(refused.value)
    assert message.startswith("search") and "\n" not in message and len(message) < 400
    for part in parts:
        assert part in message


def test_pruning_by_a_score_that_not_each_epoch_has_is_refused():
    seldom = parse({"evaluate": {"full_every": 5}}, "a test")
    for objective in ("best_full", "last_full"):
        with pytest.raises(InputError, match=r"full_every=5.*best_low"):
            read_search({"prune": True, "objective": objective}, seldom)
        assert read_search({"prune": True, "objective": objective}, BASE).prune
    assert read_search({"prune": True, "objective": "best_low"}, seldom).prune
    assert not read_search({}, seldom).prune


def test_settings_that_exclude_each_other_are_refused_before_they_are_drawn_together():
    settings = drawn(train__batch_size=[1, 2], data__input_size=[[32, 32], [64, 64]])
    with pytest.raises(InputError, match=r"train\.batch_size of 1 needs data\.input_size above"):
        read_search(settings, BASE)


def test_settings_that_go_together_only_are_accepted_as_a_row():
    row = {"model.weights": "/there/own.pth", "model.weights_sha256": "a" * 64}
    assert read_search({"rows": [row]}, BASE).rows == [row]
    with pytest.raises(InputError, match="weights_sha256 goes with a weights file"):
        read_search({"rows": [{"model.weights_sha256": "a" * 64}]}, BASE)


def test_what_the_study_cannot_train_is_refused_wherever_it_stands():
    def check(config: Config) -> None:
        if config.train.batch_size > 4:
            raise InputError("too large")

    for settings in (
        {"rows": [{"train.batch_size": 5}]},
        {"grid": {"train.batch_size": [2, 5]}},
        drawn(train__batch_size={"low": 1, "high": 5}),
        drawn(train__batch_size=[2, 5]),
    ):
        read_search(settings, BASE)
        with pytest.raises(InputError, match="too large"):
            read_search(settings, BASE, check)


def test_the_number_of_rows_is_that_of_the_rows_given_or_was_there_before():
    rows = {"rows": [{"train.lr": 1e-3}], "grid": {"train.lr": [1e-3, 2e-3]}}
    assert read_search({}, BASE).variants == 1
    assert read_search(rows, BASE).variants == 3
    assert read_search({**rows, "space": {"train.lr": LR}}, BASE, there=7).variants == 7
    assert read_search(rows, BASE, there=2).variants == 3


WORDS = ("train.lr", "=[1]", "train.lr=", "train.lr=3", "train.lr=[]", "train.lr=[1")


@pytest.mark.parametrize("word", [*WORDS, "train.lr={a: 1}", "train.lr=[2001-99-99]"])
def test_a_malformed_grid_word_is_refused(word: str):
    with pytest.raises(InputError, match=r"^--grid: got .*, expected such as train\.lr=\["):
        grid_of((word,))


def test_a_key_that_is_given_twice_is_refused():
    """The first values would be forgotten without a word."""
    with pytest.raises(InputError, match=r"^--grid: got train.lr twice, expected all its values"):
        grid_of(("train.lr=[1e-4]", "model.dropout=[0]", "train.lr=[3e-4]"))


def test_grid_words_are_all_combinations_in_order():
    grid = grid_of(("train.lr=[1e-3, 2e-3]", "model.dropout=[0, 0.1]"))
    search = read_search({"grid": grid}, BASE)
    assert given_rows(search, BASE) == [
        {"train.lr": lr, "model.dropout": dropout} for lr in (1e-3, 2e-3) for dropout in (0.0, 0.1)
    ]


def test_rows_that_repeat_the_base_row_or_one_another_are_left_out():
    rows = [{"train.lr": 1e-4}, {}, {"train.lr": "2e-4"}, {"train.lr": 2e-4, "model.dropout": 0}]
    search = read_search({"rows": rows, "grid": {"train.lr": [1e-4, 2e-4, 3e-4]}}, BASE)
    assert BASE.train.lr == 1e-4
    assert given_rows(search, BASE) == [{"train.lr": 2e-4}, {"train.lr": 3e-4}]
    assert search.variants == 3


def test_a_row_is_laid_over_the_base_which_stays_as_it_is():
    base = parse({"train": {"lr": 2e-3}}, "test")
    before = base.model_dump()
    row = {"train.batch_size": 4, "data.augment.hue": 0.1, "data.input_size": [64, 128], "seed": 7}
    applied = apply(base, row, "test")
    assert base.model_dump() == before
    assert (applied.train.batch_size, applied.train.lr) == (4, 2e-3)
    assert (applied.data.augment.hue, applied.data.input_size, applied.seed) == (0.1, (64, 128), 7)
    assert apply(base, {}, "test") == base


def test_memory_is_told_by_the_largest_combination_and_weights_by_each():
    search = read_search(
        drawn(train__batch_size={"low": 2, "high": 8}, data__input_size=[[64, 128], [512, 1024]],
              train__lr=LR, model__weights=["none", "IMAGENET1K_V2"]), BASE,
    )  # fmt: skip
    configs = extremes(search, BASE)
    seen = {(c.train.batch_size, c.data.input_size) for c in configs}
    assert {(8, (512, 1024)), (2, (64, 128))} <= seen
    assert {c.train.lr for c in configs} == {1e-5, 1e-4, 1e-3}
    assert {c.model.weights for c in configs} == {"none", "IMAGENET1K_V1", "IMAGENET1K_V2"}
    assert configs[0] == BASE


@pytest.mark.parametrize(
    ("keep", "rows"), [("all", math.inf), ("best", 1), ("none", 0), ("top-12", 12)]
)
def test_how_many_rows_keep_their_weights(keep: str, rows: float):
    assert read_search({"keep_weights": keep}, BASE).kept_rows == rows


WITHIN = {
    "train.lr": (1e-9, 10.0),
    "model.dropout": (0.0, 0.999),
    "model.decoder_width": (0.01, 4.0),
    "train.batch_size": (1, 4096),
    "train.epochs": (1, 100_000),
}


@given(st.data())
def test_whatever_a_dimension_can_give_makes_a_configuration(data: st.DataObject):
    key = data.draw(st.sampled_from(sorted(WITHIN)))
    low, high = WITHIN[key]
    number = st.integers(low, high) if isinstance(low, int) else st.floats(low, high)
    ends = data.draw(st.lists(number, min_size=2, max_size=2, unique=True))
    settings: Any = {"low": min(ends), "high": max(ends)}
    chosen = data.draw(st.booleans())
    space = read_search({"variants": 2, "space": {key: ends if chosen else settings}}, BASE).space
    dimension = space[key]
    if isinstance(dimension, Choices):
        value = data.draw(st.sampled_from(dimension.choices))
    elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
        value = data.draw(st.integers(dimension.low, dimension.high))
    else:
        value = data.draw(st.floats(dimension.low, dimension.high))
    section, leaf = key.split(".")
    applied = getattr(getattr(apply(BASE, {key: value}, "test"), section), leaf)
    assert applied == value and type(applied) is type(value)
