"""Beginning a study and taking it up again: what may change, and what cannot be compared then."""

import dataclasses
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import tiny_config

from cityseg.cell import Epoch, write_epochs
from cityseg.config import Config
from cityseg.data import Frame
from cityseg.errors import InputError
from cityseg.plan import Plan
from study.begin import begin, only_driver
from study.store import Row, Study

SEARCH: dict[str, Any] = {
    "variants": 6,
    "rows": [{"train.lr": 2e-3}],
    "space": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "model.dropout": [0.0, 0.1]},
}
SECRET = "pa/ss-w0rd"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "results" / "s")


@pytest.fixture
def plan(frames: list[Frame], tiny_city: Path, config: Config) -> Plan:
    return Plan(config, Path("own.yaml"), tiny_city, "other", frames, SEARCH)


def change(plan: Plan, **search: Any) -> Plan:
    """The plan with changes to its search section; None takes a key out."""
    changed = {**plan.search, **search}
    return dataclasses.replace(plan, search={k: v for k, v in changed.items() if v is not None})


def train(study: Study, variant: int = 0) -> None:
    """One epoch of one cell."""
    epoch = Epoch(1, 1.0, 1.0, 0.5, 0.5, 1e-3, 1.0, 1.0, 1.0)
    write_epochs(study.cell(variant, 1).epochs, [epoch])


def draw(study: Study, *variants: int) -> None:
    """Rows as a sampler would have drawn them."""
    for variant in variants:
        row = {"train.lr": 1e-3 + 1e-4 * variant, "model.dropout": 0.1}
        study.write_row(Row(variant=variant, origin="tpe", parameters=row))


@pytest.fixture
def begun(study: Study, plan: Plan) -> Study:
    """A study with an epoch."""
    begin(study, plan)
    train(study)
    return study


def test_a_new_study_is_written_whole(study: Study, plan: Plan):
    begin(study, plan)
    record = study.read()
    assert record.search.variants == 6 and record.search.rows == [{"train.lr": 2e-3}]
    assert record.config == plan.config and record.storage == "sqlite"
    assert record.folds_hash == study.read_folds().content_hash()


def test_a_study_without_a_space_needs_no_storage_but_may_have_one(study: Study, plan: Plan):
    given = change(plan, space=None, variants=None)
    begin(study, given)
    assert study.read().storage is None
    begin(study, given, storage="journal")
    assert study.read().storage == "journal"


def test_the_same_again_changes_nothing(begun: Study, plan: Plan):
    before = begun.record_file.read_bytes()
    begin(begun, plan)
    assert begun.record_file.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({"variants": 9}, {"variants": 9}),
        ({"variants": None}, {"variants": 6}),
        ({"prune": True}, {"prune": True}),
        ({"keep_weights": "top-3"}, {"keep_weights": "top-3"}),
        ({"grid": {"model.dropout": [0.2]}}, {"variants": 6, "grid": {"model.dropout": [0.2]}}),
        ({"rows": [{"train.lr": 2e-3}, {"train.lr": 4e-3}]}, {"variants": 6}),
        ({"space": {k: SEARCH["space"][k] for k in ("model.dropout", "train.lr")}}, {}),
    ],
)
def test_what_may_change_does(
    begun: Study, plan: Plan, changes: dict[str, Any], there: dict[str, Any]
):
    before = begun.read()
    begin(begun, change(plan, **changes))
    after = begun.read()
    settings = after.search.model_dump()
    assert {key: settings[key] for key in there} == there
    kept = ("id", "created", "command", "storage", "folds_hash", "cpus_per_trial")
    assert [getattr(after, key) for key in kept] == [getattr(before, key) for key in kept]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": 5}, "search.variants: 6 -> 5, it can only grow"),
        ({"rows": []}, "search.rows: the first are not those that it began with"),
        ({"rows": [{"train.lr": 3e-3}, {"train.lr": 2e-3}]}, "search.rows: the first are not"),
        ({"sampler": "random"}, "search.sampler: tpe -> random"),
        ({"objective": "last_low"}, "search.objective: best_full -> last_low"),
        ({"seed": 1}, "search.seed: None -> 1"),
        ({"startup": 3}, "search.startup: 8 -> 3"),
        ({"space": {**SEARCH["space"], "train.lr": {"low": 1e-4, "high": 1e-2}}},
         "search.space.train.lr.log: True -> False"),
        ({"space": {**SEARCH["space"], "model.dropout": [0.0]}},
         "search.space.model.dropout.choices: [0.0, 0.1] -> [0.0]"),
        ({"space": {"train.lr": SEARCH["space"]["train.lr"]}},
         "search.space.model.dropout: {'choices': [0.0, 0.1]} -> (absent)"),
        ({"space": None, "variants": None, "rows": None}, "search.space.train.lr: "),
    ],
)  # fmt: skip
def test_what_may_not_change_is_refused_with_the_difference(
    begun: Study, plan: Plan, changes: dict[str, Any], said: str
):
    before = {path: path.read_bytes() for path in begun.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refused:
        begin(begun, change(plan, **changes))
    message = str(refused.value)
    assert message.startswith("study s was begun otherwise (") and "\n" not in message
    assert said in message and "give another --name" in message
    assert before == {path: path.read_bytes() for path in begun.folder.rglob("*") if path.is_file()}


def test_the_base_row_alone_may_become_any_search(study: Study, plan: Plan):
    begin(study, dataclasses.replace(plan, search={}))
    train(study)
    begin(study, change(plan, objective="last_low", grid={"model.dropout": [0.2]}))
    record = study.read()
    assert (record.search.variants, record.storage) == (6, "sqlite")
    with pytest.raises(InputError, match=r"grid\.model\.dropout: \[0\.2\] -> \[0\.2, 0\.3\]"):
        begin(study, change(plan, objective="last_low", grid={"model.dropout": [0.2, 0.3]}))


def test_a_study_of_given_rows_may_begin_to_draw_others(study: Study, plan: Plan):
    begin(study, change(plan, space=None, variants=None))
    train(study)
    begin(study, change(plan, sampler="random", variants=5))
    assert (study.read().search.sampler, study.read().storage) == ("random", "sqlite")
    with pytest.raises(InputError, match=r"search\.sampler: random -> tpe"):
        begin(study, change(plan, sampler="tpe", variants=5))


def test_another_configuration_is_refused_but_other_resources_are_not(begun: Study, plan: Plan):
    other = tiny_config(train={"lr": 5e-3})
    with pytest.raises(InputError, match=r"train\.lr: 0\.0001 -> 0\.005"):
        begin(begun, dataclasses.replace(plan, config=other))
    begin(begun, dataclasses.replace(plan, config=tiny_config(resources={"workers": 1})))
    assert begun.read().config.resources.workers == 1


def test_more_rows_than_can_be_given_are_refused_in_an_old_study_too(study: Study, plan: Plan):
    given = change(plan, space=None, variants=None)
    begin(study, given)
    train(study)
    with pytest.raises(InputError, match=r"got 9 rows, but only 2 are given"):
        begin(study, change(given, variants=9))


def test_rows_appended_to_a_full_study_come_on_top_of_those_drawn(begun: Study, plan: Plan):
    begun.write_row(Row(variant=1, origin="given", parameters={"train.lr": 2e-3}))
    draw(begun, 2, 3, 4, 5)
    rows = [*SEARCH["rows"], {"train.lr": "4e-3"}, {"train.lr": 5e-3}]
    for _ in range(2):
        begin(begun, change(plan, rows=rows, variants=None))
        assert begun.read().search.variants == 8
    with pytest.raises(InputError, match=r"search\.variants: got 8, expected at least 9: 6 rows"):
        begin(begun, change(plan, rows=[*rows, {"train.lr": 6e-3}], variants=8))
    begin(begun, change(plan, rows=rows, variants=9))
    assert begun.read().search.variants == 9


def test_a_start_without_an_epoch_is_begun_anew_under_the_same_id(study: Study, plan: Plan):
    begin(study, plan)
    draw(study, 1, 2)
    study.pruned_file(2).write_text("behind\n")
    failure = study.cell(2, 3).failure
    failure.parent.mkdir()
    failure.write_text("no such weights\n")
    before = study.read()

    other = tiny_config(train={"lr": 5e-3})
    begin(study, dataclasses.replace(change(plan, sampler="random", variants=3), config=other))
    after = study.read()
    assert (after.config.train.lr, after.search.sampler, after.search.variants) == (
        5e-3, "random", 3
    )  # fmt: skip
    assert after.id == before.id, "Optuna's storage knows the study by it"
    assert [row.variant for row in study.rows()] == [0]
    assert not failure.exists() and not study.pruned_file(2).exists()


def test_a_damaged_record_without_an_epoch_is_written_over(study: Study, plan: Plan):
    study.folder.mkdir(parents=True)
    study.record_file.write_text("schema_version: 99\n")
    begin(study, plan)
    assert study.read().search.variants == 6


def test_a_record_with_epochs_is_never_written_over(begun: Study, plan: Plan):
    begun.record_file.write_text("schema_version: 99\n")
    with pytest.raises(InputError, match="schema_version 99"):
        begin(begun, plan)


def test_a_batch_that_no_fold_fills_is_refused_wherever_it_may_come_from(study: Study, plan: Plan):
    for search in ({"rows": [{"train.batch_size": 9}]}, {"space": {"train.batch_size": [2, 9]}}):
        with pytest.raises(InputError, match=r"train\.batch_size: got 9, expected at most 8"):
            begin(study, change(plan, **search))
    assert not study.exists()


@pytest.mark.parametrize("form", [["--storage", "{}"], ["--storage={}"]])
@pytest.mark.parametrize(
    "who",
    [f"me:{SECRET}@host/db", f":{SECRET}@host/db", f"me@host/db?a=b&password={SECRET}&x=y"],
)
def test_a_password_that_was_typed_is_not_recorded(
    study: Study, plan: Plan, monkeypatch: pytest.MonkeyPatch, form: list[str], who: str
):
    words = [word.format(f"postgresql://{who}") for word in form]
    monkeypatch.setattr(sys, "argv", ["study.run", "--folds", "3", *words, "train.lr=1e-3"])
    begin(study, plan, storage="postgresql+psycopg://me@host/db")
    assert SECRET not in study.record_file.read_text()
    command = yaml.safe_load(study.record_file.read_text())["command"]
    assert "--folds 3" in command and "@host/db" in command
    assert command.endswith("train.lr=1e-3")


def test_there_is_one_driver_at_a_time(study: Study):
    study.folder.mkdir(parents=True)
    refused = pytest.raises(InputError, match="being run by another process")
    with only_driver(study), refused, only_driver(study):
        pass
    with only_driver(study):
        pass


def test_a_refused_start_leaves_nothing(study: Study, plan: Plan):
    with pytest.raises(InputError), only_driver(study):
        begin(study, change(plan, variants=1))
    assert not study.folder.parent.exists()


def test_a_refused_start_takes_nothing_that_was_there(study: Study, plan: Plan):
    study.folder.mkdir(parents=True)
    (study.folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError), only_driver(study):
        begin(study, change(plan, variants=1))
    assert [path.name for path in study.folder.iterdir()] == ["notes.txt"]


def test_a_refused_continuation_leaves_the_study_as_it_was(begun: Study, plan: Plan):
    before = {path: path.read_bytes() for path in begun.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError), only_driver(begun):
        begin(begun, change(plan, variants=1))
    begun.lock_file.unlink()
    assert before == {p: p.read_bytes() for p in begun.folder.rglob("*") if p.is_file()}


def test_who_waits_for_the_lock_of_a_refused_start_gets_it(study: Study):
    """The refused one removes the lock file that the other has open."""
    held, entered = threading.Event(), threading.Event()

    def wait_and_drive() -> None:
        held.wait()
        with only_driver(study):
            assert study.lock_file.exists()
            entered.set()

    waiting = threading.Thread(target=wait_and_drive)
    waiting.start()
    with pytest.raises(InputError), only_driver(study):
        held.set()
        time.sleep(0.2)
        raise InputError("refused")
    waiting.join()
    assert entered.is_set()
