"""The one loader of configurations: what it refuses, in which words, and that nothing is lost."""

import math
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityseg.config import Config, difference, load, parse, shipped
from cityseg.errors import InputError

SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def refused(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_parses_and_is_found_by_its_bare_name(path: Path):
    assert load(path) == load(Path(path.name))


def test_a_bare_name_prefers_a_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("paper.yaml").write_text("seed: 41\n")
    assert load(Path("paper.yaml")).seed == 41


def test_the_defaults_are_the_papers_recipe():
    config = Config()
    assert config.data.input_size == (512, 1024)
    assert config.data.augment.scale == 0.2
    assert (config.model.encoder, config.model.decoder_width) == ("resnet50", 1.0)
    assert (config.train.epochs, config.train.batch_size, config.train.lr) == (65, 2, 1e-4)
    assert (config.train.plateau_factor, config.train.plateau_patience) == (0.5, 2)
    assert (config.folds.count, config.folds.grouping) == (3, "frames")
    shipped_one = load(shipped("paper.yaml"))
    assert difference(config.identity(), shipped_one.identity()) == [
        "train.compile: False -> True",  # for speed: the same recipe
        "evaluate.batch_size: 2 -> 8",
    ]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("train.learning_rate=1", "train"),
        ("train.epoch=3", "train.epochs"),
        ("trian=1", "train"),
        ("data.augment.flipp=1", "data.augment.flip"),
        ("sead=1", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(word: str, near: str):
    message = refused(word)
    assert f"unknown key {word.partition('=')[0]}" in message
    assert f"did you mean {near}" in message


def test_an_unknown_key_like_no_other_gets_the_list_of_sections():
    assert "known are seed, data, model" in refused("zzzzzz=1")


@pytest.mark.parametrize(
    "word",
    [
        "train.epochs=0", "train.epochs=2.5", "train.epochs=many",
        "train.epochs=[3]", "train.epochs=null", "train.epochs=", "train.lr=0", "train.lr=-1e-4",
        "train.lr=.nan", "train.lr=nan", "train.lr=.inf", "train.batch_size=0",
        "train.plateau_factor=1", "data.augment.flip=1.1", "data.augment.scale=1",
        "data.augment.hue=0.6", "data.input_size=[31, 64]", "data.input_size=[64]",
        "data.input_size=64", "data.input_size=[64, 64, 3]", "model.encoder=resnet51",
        "model.dropout=1", "model.decoder_width=0", "model.weights=null",
        "model.weights_sha256=abc", "seed=-1", "seed=4294967296", "folds.count=1",
        "folds.grouping=city", "city.height=33", "resources.gpus_per_trial=0",
        "resources.memory_gb=.inf",
        "train=3", "train=null", "data.augment=[]",
    ],
)  # fmt: skip
def test_a_wrong_type_or_range_is_refused_by_name_and_value(word: str):
    key, _, value = word.partition("=")
    message = refused(word)
    assert f"{key}" in message
    assert "got" in message and "expected" in message, value


def test_a_checksum_without_a_file_is_refused():
    assert "weights_sha256 goes with" in refused(f"model.weights_sha256={'a' * 64}")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("train.schedule=poly train.plateau_patience=3", "train.plateau_patience does nothing"),
        ("train.schedule=cosine train.poly_power=2", "train.poly_power does nothing"),
        ("train.warmup_epochs=1", "train.warmup_epochs does nothing with train.schedule=plateau"),
        ("train.momentum=0.5", "train.momentum does nothing with train.optimizer=adam"),
        ("train.optimizer=adamw train.nesterov=true", "train.nesterov does nothing"),
        ("train.optimizer=sgd train.nesterov=true train.momentum=0", "nesterov needs"),
        ("train.min_lr=1", "train.min_lr 1 is above train.lr 0.0001"),
        ("train.schedule=poly train.epochs=3 train.warmup_epochs=3", "got 3, expected: below"),
        ("loss.cross_entropy=0", "all weights are 0"),
        ("loss.cross_entropy=0 loss.dice=1 loss.ohem=true", "loss.ohem does nothing"),
        ("loss.ohem_threshold=0.5", "loss.ohem_threshold does nothing with loss.ohem=False"),
        ("data.augment.view=crop data.augment.scale=0.1", "leave it at 0.2"),
        ("data.augment.crop.class_uniform=0.5", "data.augment.crop does nothing"),
        ("data.augment.crop.scale=[2,0.5] data.augment.view=crop", "(from, to)"),
        ("data.augment.colour=distortion data.augment.hue=0.1", "leave it at 0.5"),
        ("data.augment.distortion.hue=0.2", "data.augment.distortion does nothing"),
        ("model.context=ppm model.dropout=0.1", "model.dropout does nothing with model.context"),
        ("inference.overlap=0.2", "inference.overlap does nothing with inference.window=null"),
        ("inference.crf.blur=2", "inference.crf.blur does nothing with inference.crf.iterations=0"),
    ],
)
def test_settings_that_do_nothing_or_contradict_each_other_are_refused(words: str, problem: str):
    assert problem in refused(*words.split())


def test_settings_that_another_puts_to_use_are_not_refused():
    load(None, ("model.dropout=0.1", "inference.window=[512,512]", "inference.overlap=0.2"))
    load(None, ("inference.crf.iterations=5", "inference.crf.blur=2"))


def test_batch_norm_needs_more_than_one_value():
    assert "batch norm" in refused("train.batch_size=1", "data.input_size=[32,32]")
    load(None, ("train.batch_size=1", "data.input_size=[33,32]"))
    assert load(None, ("model.weights=w.pth", f"model.weights_sha256={'a' * 64}"))


def test_all_problems_are_told_at_once(tmp_path: Path):
    message = refused("train.lr=-1", "seed=-1", "train.epoch=1")
    assert all(key in message for key in ("train.lr", "seed", "train.epochs"))


@pytest.mark.parametrize("word", ["train.lr", "=3", "", "train.lr=[1", "train.lr=a: b: c"])
def test_a_word_that_is_no_setting_is_refused(word: str):
    assert "expected" in refused(word)


@pytest.mark.parametrize("key", ["a..b", ".lr", "train.", "train.lr.x", "."])
def test_a_key_of_odd_dots_is_refused(key: str):
    refused(f"{key}=1")


def test_later_words_win_over_earlier_ones_and_over_the_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  lr: 1e-3\n  epochs: 7\n")
    assert load(path).train.lr == 1e-3
    config = load(path, ("train.lr=1e-2", "train.lr=3e-2"))
    assert (config.train.lr, config.train.epochs) == (3e-2, 7)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "'1e-4'"])
def test_a_rate_without_a_point_is_a_number(tmp_path: Path, text: str):
    """YAML 1.1, as PyYAML reads it, takes 1e-4 for a word."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"train:\n  lr: {text}\n")
    assert load(path).train.lr == load(None, (f"train.lr={text}",)).train.lr == 1e-4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing\n",
        b"- 1\n- 2\n",
        b"word\n",
        b"train: [1\n",
        b"train:\n\tlr: 1\n",
        b"\x89PNG\r\n\x1a\n\x00\xff\xfe",
        b"a: !!python/object/apply:os.system ['true']\n",
        b"1: 2\n",
        b"? [a, b]\n: 1\n",
        b"'a\n\n  b': 1\n",
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert str(path) in refused(path=path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    assert "absent.yaml" in refused(path=tmp_path / "absent.yaml")
    assert refused(path=Path("absent.yaml")) == (
        "no file absent.yaml: expected a YAML file, or one of "
        + ", ".join(path.name for path in SHIPPED)
    )
    assert str(tmp_path) in refused(path=tmp_path)


def settings() -> st.SearchStrategy[dict[str, Any]]:
    share = st.floats(0, 1)
    text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
    return st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32 - 1),
            "data": st.fixed_dictionaries(
                {"input_size": st.lists(st.integers(32, 16384), min_size=2, max_size=2)},
                optional={"augment": st.fixed_dictionaries({"flip": share, "jitter": share})},
            ),
            "model": st.fixed_dictionaries({"weights": text}),
            "train": st.fixed_dictionaries(
                {"lr": st.floats(0, 10, exclude_min=True), "epochs": st.integers(1, 100_000)}
            ),
            "folds": st.fixed_dictionaries({"seed": st.none() | st.integers(0, 2**32 - 1)}),
            "resources": st.fixed_dictionaries({"workers": st.none() | st.integers(0, 256)}),
        },
    )


@hypothesis.settings(max_examples=50)
@given(settings())
def test_what_is_written_loads_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, given_settings: dict[str, Any]
):
    config = parse(given_settings, source="a test")
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load(path) == config
    assert difference(load(path).identity(), config.identity()) == []


def test_what_moves_no_number_is_no_part_of_the_identity_and_all_else_is():
    base = Config()
    for word in ("resources.workers=3", "data.cache=none", "evaluate.full_every=5"):
        assert load(None, (word,)).identity() == base.identity()
    for word in ("seed=1", "train.lr=1e-3", "city.seed=1", "folds.count=4", "data.augment.hue=0"):
        assert load(None, (word,)).identity() != base.identity()


def test_the_difference_names_key_old_and_new():
    ours = load(None, ("train.lr=1e-3", "data.input_size=[64, 128]")).identity()
    assert difference(Config().identity(), ours) == [
        "data.input_size: [512, 1024] -> [64, 128]",
        "train.lr: 0.0001 -> 0.001",
    ]
    assert difference({"a": {"b": 1}}, {"c": 2}) == ["a: {'b': 1} -> (absent)", "c: (absent) -> 2"]


def test_a_configuration_cannot_be_changed_after_it_was_read():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = math.pi  # pyright: ignore[reportAttributeAccessIssue] # on purpose


def test_the_seed_of_the_split_is_the_seed_unless_it_has_its_own():
    assert load(None, ("seed=5",)).fold_seed == 5
    assert load(None, ("seed=5", "folds.seed=0")).fold_seed == 0
