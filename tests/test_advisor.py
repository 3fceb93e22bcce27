"""Optuna beside the table: what its storages are told, and what its samplers propose."""

import gc
import io
import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from fake_study import EPOCHS, add_epochs, add_row, finish, make_study
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from servers import free_port, postgres, small_disk
from sqlalchemy import Engine, event

from cityseg.errors import InputError
from cityseg.labels import NUM_CLASSES
from study.advisor import OWNER, Advisor
from study.progress import Board
from study.space import Choices, Parameters, Range, Search
from study.storage import without_password
from study.store import Row, Study

SPACE: dict[str, Range | Choices] = {
    "train.lr": Range(low=1e-5, high=1e-2, log=True),
    "model.dropout": Range(low=0.0, high=0.5, step=0.125),
    "train.batch_size": Range(low=2, high=8),
    "model.encoder": Choices(choices=["resnet18", "resnet50"]),
    "data.input_size": Choices(choices=[[64, 128], [512, 1024]]),
}
"""Every form of dimension; the base row of the fake study is within."""
SEARCH = Search(variants=40, space=SPACE, startup=4)
STATES = [TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL]


@pytest.fixture(autouse=True)
def _quick_and_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing waits for the disk, and no connection outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    engines: list[Engine] = []

    def connected(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("pragma synchronous = off")

    def made(self: RDBStorage, *arguments: Any, **others: Any) -> None:
        init(self, *arguments, **others)
        engines.append(self.engine)

    init = RDBStorage.__init__
    monkeypatch.setattr(RDBStorage, "__init__", made)
    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)
    gc.collect()
    for engine in engines:
        engine.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "journal", "postgres"])
def storage(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("server") if request.param == "postgres" else request.param


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study whose name no other has on the server."""
    return make_study(tmp_path / "results", name=f"fake_{uuid.uuid4().hex}", search=SEARCH)


def done(study: Study, fold: int, scores: list[float], variant: int) -> None:
    """A finished cell; the counts are of no matter here."""
    add_epochs(study, fold, scores, variant)
    finish(study, fold, np.zeros((2, NUM_CLASSES, NUM_CLASSES), np.int64), variant)


def row_of(lr: float, **others: Any) -> Parameters:
    plain = {"model.dropout": 0.125, "train.batch_size": 4, "model.encoder": "resnet18"}
    return {"train.lr": lr, **plain, "data.input_size": [64, 128], **others}


def rows_of_all_kinds(study: Study) -> None:
    """v000 done, v001 at work, v002 pruned, v003 failed."""
    for fold in (1, 2, 3):
        done(study, fold, [0.1, 0.2 * fold, 0.3, 0.1], 0)
        add_epochs(study, fold, [0.2, 0.1 * fold], 2)
    for variant in (1, 2, 3):
        add_row(study, variant, row_of(1e-3 * variant), "tpe")
    done(study, 1, [0.1, 0.5, 0.3, 0.1], 1)
    study.pruned_file(2).write_text("far behind\n")
    add_epochs(study, 1, [0.1], 3)
    study.cell(3, 2).folder.mkdir()
    study.cell(3, 2).failure.write_text("loss is nan\n")


def advise(study: Study, storage: str) -> Advisor:
    """As a driver does when it starts."""
    advisor = Advisor(study, study.read(), storage)
    advisor.synchronise(list(Board.read(study)))
    return advisor


def opened(study: Study, storage: str) -> BaseStorage:
    """As anyone else would open it."""
    if storage == "journal":
        return JournalStorage(JournalFileBackend(str(study.folder / "optuna.journal")))
    if storage == "sqlite":
        return RDBStorage(f"sqlite:///{study.folder / 'optuna.db'}")
    return RDBStorage(storage.replace("postgresql:", "postgresql+psycopg:"))


def trials_of(study: Study, storage: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name=study.folder.name, storage=opened(study, storage)).trials


def told(study: Study, storage: str) -> list[Any]:
    """All that a storage holds of the rows but when it was written."""
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs,
         t.intermediate_values)
        for t in trials_of(study, storage)
    ]  # fmt: skip


def test_every_row_stands_in_the_storage_as_it_does_in_the_table(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    trials = trials_of(study, storage)

    assert [trial.state for trial in trials] == STATES
    assert [t.user_attrs["variant"] for t in trials] == ["v000", "v001", "v002", "v003"]
    assert [t.user_attrs["origin"] for t in trials] == ["base", "tpe", "tpe", "tpe"]
    assert trials[0].params == {
        "train.lr": 1e-4, "model.dropout": 0.0, "train.batch_size": 2,
        "model.encoder": "resnet50", "data.input_size": "[512, 1024]",
    }  # fmt: skip
    assert trials[1].params == {**row_of(1e-3), "data.input_size": "[64, 128]"}
    # the best of 0.2, 0.4, 0.6 and 0.3, 0.1 at low resolution; half of it at full
    assert [trials[0].user_attrs[f"fold {k}"] for k in (1, 2, 3)] == [0.15, 0.2, pytest.approx(0.3)]
    assert trials[0].value == pytest.approx(0.65 / 3)
    assert trials[0].intermediate_values == {
        1: pytest.approx(0.05), 2: pytest.approx(0.2), 3: pytest.approx(0.65 / 3),
        4: pytest.approx(0.65 / 3),
    }  # fmt: skip
    assert trials[1].user_attrs["fold 1"] == 0.25 and "fold 2" not in trials[1].user_attrs
    assert trials[2].user_attrs["reason"] == "far behind"
    assert trials[2].intermediate_values == {1: pytest.approx(0.1), 2: pytest.approx(0.35 / 3)}
    assert trials[3].user_attrs["reason"] == "fold 2: loss is nan"
    assert [trial.value for trial in trials[1:]] == [None] * 3


def test_passing_on_the_same_again_changes_nothing(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    before = trials_of(study, storage)  # times included
    again = advise(study, storage)
    for row in Board.read(study):
        again.mirror(row)
    assert trials_of(study, storage) == before


def test_a_row_is_followed_from_its_begin_to_its_end(study: Study, storage: str):
    advisor = advise(study, storage)
    for fold in (1, 2, 3):
        done(study, fold, [0.1, 0.2, 0.3, 0.4], 0)
        advisor.mirror(Board.read(study).rows[0])
        (trial,) = trials_of(study, storage)
        assert [f"fold {k}" in trial.user_attrs for k in (1, 2, 3)] == [
            k <= fold for k in (1, 2, 3)
        ]
        assert trial.state == (TrialState.COMPLETE if fold == 3 else TrialState.RUNNING)


def test_a_lost_storage_is_made_anew(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    before = told(study, storage)
    if storage in ("sqlite", "journal"):
        next(study.folder.glob("optuna.*")).unlink()
    else:
        optuna.delete_study(study_name=study.folder.name, storage=opened(study, storage))
    advise(study, storage)
    assert told(study, storage) == before


def test_what_the_table_does_not_hold_is_thrown_away(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    before = told(study, storage)
    optuna.load_study(study_name=study.folder.name, storage=opened(study, storage)).ask()
    assert len(told(study, storage)) == 5
    advise(study, storage)
    assert told(study, storage) == before


def test_a_changed_score_or_space_is_passed_on(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    for fold in (1, 2, 3):
        done(study, fold, [0.1, 0.2, 0.3, 0.8], 0)
    advise(study, storage)
    assert trials_of(study, storage)[0].value == pytest.approx(0.4)

    record, encoders = study.read(), ["resnet18", "resnet34", "resnet50"]
    wider = SEARCH.model_copy(update={"space": {"model.encoder": Choices(choices=encoders)}})
    study.write(record.model_copy(update={"search": wider}))
    add_row(study, 4, {"model.encoder": "resnet34"})
    advise(study, storage)
    assert [list(trial.params) for trial in trials_of(study, storage)] == [["model.encoder"]] * 5


def test_a_failed_row_that_is_tried_again_gets_another_trial(study: Study, storage: str):
    rows_of_all_kinds(study)
    advise(study, storage)
    board = Board.read(study)
    board.forgive(3)
    advisor = Advisor(study, study.read(), storage)
    advisor.synchronise(list(board))
    old, new = trials_of(study, storage)[3:]
    assert (old.state, new.state) == (TrialState.FAIL, TrialState.RUNNING)
    assert old.params == new.params and old.user_attrs["variant"] == new.user_attrs["variant"]

    study.cell(3, 2).failure.unlink()
    for fold in (1, 2, 3):
        done(study, fold, [0.1, 0.2, 0.3, 0.4], 3)
    advisor.mirror(Board.read(study).rows[3])
    assert [t.state for t in trials_of(study, storage)[3:]] == [old.state, TrialState.COMPLETE]
    advise(study, storage)
    assert len(trials_of(study, storage)) == 5


def test_another_study_of_this_name_is_refused_and_left_alone(study: Study, storage: str):
    theirs = opened(study, storage)
    number = theirs.create_new_study([StudyDirection.MAXIMIZE], study.folder.name)
    theirs.create_new_trial(number)
    for owner in (None, "another id"):
        if owner:
            theirs.set_study_user_attr(number, OWNER, owner)
        with pytest.raises(InputError, match=r"holds another study named fake_.*another --name"):
            Advisor(study, study.read(), storage)
        assert opened(study, storage).get_n_trials(number) == 1


def test_a_start_that_was_killed_before_it_had_a_name_is_taken_up(study: Study, storage: str):
    opened(study, storage).create_new_study([StudyDirection.MAXIMIZE], study.folder.name)
    advise(study, storage)
    loaded = optuna.load_study(study_name=study.folder.name, storage=opened(study, storage))
    assert loaded.user_attrs == {OWNER: study.read().id}
    assert loaded.metric_names == ["mean mIoU (best_full)"]


def test_values_outside_of_the_space_are_mirrored_as_attributes(study: Study, storage: str):
    search = SEARCH.model_copy(update={"space": {
        "train.lr": Range(low=1e-3, high=1e-2), "train.batch_size": Choices(choices=[4, 8]),
        "model.dropout": Range(low=0.0, high=0.5),
    }})  # fmt: skip
    study.write(study.read().model_copy(update={"search": search}))
    add_row(study, 1, {"train.lr": 1.0, "data.augment.hue": 0.1})
    advise(study, storage)
    base, odd = trials_of(study, storage)
    assert base.params == odd.params == {"model.dropout": 0.0}
    assert odd.user_attrs == {
        "variant": "v001", "origin": "given", "train.lr": 1.0, "data.augment.hue": 0.1
    }  # fmt: skip


def test_a_score_that_is_undefined_fails_the_row_and_is_no_nan_in_json(study: Study, storage: str):
    for fold in (1, 2, 3):
        done(study, fold, [math.nan] * EPOCHS, 0)
    advise(study, storage)
    before = trials_of(study, storage)
    assert before[0].state == TrialState.FAIL and before[0].user_attrs["fold 1"] is None
    json.dumps(before[0].user_attrs, allow_nan=False)
    advise(study, storage)
    assert len(trials_of(study, storage)) == 1


def play(study: Study, advisor: Advisor, upto: int, gain: float = 1.0) -> list[Parameters]:
    """Rows 1 to `upto`, proposed and finished one after another; a higher rate scores better."""
    rows = []
    for variant in range(1, upto + 1):
        rows.append(advisor.propose(variant))
        study.write_row(Row(variant=variant, origin="tpe", parameters=rows[-1]))
        score = 0.5 + gain * 0.05 * math.log10(rows[-1]["train.lr"])
        for fold in (1, 2, 3):
            done(study, fold, [score / 2, score], variant)
        advisor.mirror(Board.read(study).rows[variant])
    return rows


def with_search(study: Study, **changes: Any) -> Study:
    record = study.read()
    study.write(record.model_copy(update={"search": record.search.model_copy(update=changes)}))
    return study


@pytest.mark.parametrize(("sampler", "rows"), [("tpe", 12), ("random", 12), ("gp", 6)])
def test_every_sampler_stays_within_the_space(study: Study, sampler: str, rows: int):
    with_search(study, sampler=sampler)
    for row in play(study, advise(study, "sqlite"), rows):
        assert list(row) == sorted(SPACE)
        assert 1e-5 <= row["train.lr"] <= 1e-2
        assert row["model.dropout"] in (0, 0.125, 0.25, 0.375, 0.5)
        assert row["train.batch_size"] in range(2, 9) and type(row["train.batch_size"]) is int
        assert row["model.encoder"] in ("resnet18", "resnet50")
        assert row["data.input_size"] in ([64, 128], [512, 1024])


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_the_same_history_gives_the_same_proposal(study: Study, tmp_path: Path, sampler: str):
    with_search(study, sampler=sampler)
    advisor = advise(study, "sqlite")
    play(study, advisor, 5)
    proposed = advisor.propose(6)
    assert (proposed != advisor.propose(7)) or sampler == "gp"  # one optimum, whoever asks
    assert advisor.propose(6) == proposed
    assert advise(study, "sqlite").propose(6) == proposed
    assert advise(study, "journal").propose(6) == proposed, "the storage is of no matter"
    moved = Study(Path(shutil.copytree(study.folder, tmp_path / "moved")))
    (moved.folder / "optuna.db").unlink()
    assert advise(moved, "sqlite").propose(6) == proposed
    with_search(moved, seed=1)
    assert (advise(moved, "sqlite").propose(6) != proposed) or sampler == "gp"


def test_a_new_process_proposes_the_same(study: Study):
    advisor = advise(study, "sqlite")
    play(study, advisor, 5)
    program = (
        "import json, sys; from pathlib import Path; from study.advisor import Advisor\n"
        "from study.progress import Board; from study.store import Study\n"
        "study = Study(Path(sys.argv[1])); advisor = Advisor(study, study.read(), 'sqlite')\n"
        "advisor.synchronise(list(Board.read(study))); print(json.dumps(advisor.propose(6)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(study.folder)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(ended.stdout) == advisor.propose(6), ended.stderr


@pytest.mark.parametrize(("sampler", "learns"), [("tpe", True), ("gp", True), ("random", False)])
def test_scores_matter_once_enough_rows_are_in(tmp_path: Path, sampler: str, learns: bool):
    proposed = []
    for gain in (1.0, -1.0):
        study = make_study(tmp_path / str(gain) / "results", search=SEARCH)
        advisor = advise(with_search(study, sampler=sampler), "sqlite")
        begin = play(study, advisor, SEARCH.startup, gain)
        proposed.append((begin, advisor.propose(SEARCH.startup + 1)))
    assert proposed[0][0] == proposed[1][0], "drawn before any score counts"
    assert (proposed[0][1] != proposed[1][1]) == learns


def test_tpe_finds_the_better_end_of_a_range(study: Study):
    with_search(study, space={"train.lr": SPACE["train.lr"]}, startup=6)
    rates = [row["train.lr"] for row in play(study, advise(study, "sqlite"), 20)]
    assert np.median(rates[10:]) > 5 * np.median(rates[:6])


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_learn_where_the_base_row_is_outside_of_the_space(study: Study, sampler: str):
    space = {"train.lr": Range(low=1e-3, high=1.0, log=True)}
    with_search(study, sampler=sampler, startup=3, space=space)
    proposed = []
    for gain in (1.0, -1.0):
        copy = Study(study.folder.with_name(f"gain{gain}"))
        shutil.copytree(study.folder, copy.folder)
        for fold in (1, 2, 3):
            done(copy, fold, [0.1] * EPOCHS, 0)
        advisor = advise(copy, "sqlite")
        play(copy, advisor, 4, gain)
        proposed.append([advisor.propose(variant) for variant in (5, 6, 7)])
    assert proposed[0] != proposed[1]


def test_a_row_that_was_tried_again_moves_no_proposal(study: Study):
    """Its second trial stands behind all others in the storage, but not in a rebuilt one."""
    play(study, advise(study, "sqlite"), 5)
    for fold in (1, 2, 3):
        study.cell(2, fold).confusion.rename(study.cell(2, fold).folder / "aside")
    study.cell(2, 3).failure.write_text("loss is nan\n")
    advise(study, "sqlite")
    for fold in (1, 2, 3):
        (study.cell(2, fold).folder / "aside").rename(study.cell(2, fold).confusion)
    advisor = advise(study, "sqlite")
    numbers = [t.user_attrs["variant"] for t in trials_of(study, "sqlite")]
    assert numbers[-1] == "v002" and len(numbers) == 7
    (study.folder / "optuna.db").unlink()
    assert advise(study, "sqlite").propose(6) == advisor.propose(6)


def test_a_torn_line_of_a_journal_is_dropped(study: Study):
    rows_of_all_kinds(study)
    advise(study, "journal")
    before = told(study, "journal")
    with (study.folder / "optuna.journal").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker')
    add_row(study, 4, row_of(5e-3))
    advise(study, "journal")
    advise(study, "journal")
    assert told(study, "journal")[:4] == before and len(told(study, "journal")) == 5


@pytest.mark.parametrize(("storage", "file"), [("sqlite", "db"), ("journal", "journal")])
def test_a_damaged_file_is_one_line_that_says_what_to_do(study: Study, storage: str, file: str):
    (study.folder / f"optuna.{file}").write_bytes(b"no storage\n" * 3)
    with pytest.raises(InputError, match=f"cannot use the storage {storage}: .*remove it") as told:
        advise(study, storage)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_a_full_disk_is_one_line_and_what_was_not_written_is_made_up_for(
    study: Study, tmp_path: Path, storage: str
):
    with small_disk(tmp_path / "disk", 4) as disk:
        small = Study(Path(shutil.copytree(study.folder, disk / study.folder.name)))
        rows_of_all_kinds(small)
        advisor = Advisor(small, small.read(), storage)
        with (disk / "filling").open("wb") as filling:
            os.posix_fallocate(filling.fileno(), 0, shutil.disk_usage(disk).free)
        with pytest.raises(InputError, match=f"cannot use the storage {storage}: .* full|space"):
            for _ in range(100):  # what is left of the file's last page is used up first
                advisor.synchronise(list(Board.read(small)))
                advisor._trials.clear()
        (disk / "filling").unlink()
        advise(small, storage)
        assert [t.user_attrs["variant"] for t in trials_of(small, storage)][:4] == [
            "v000", "v001", "v002", "v003"
        ]  # fmt: skip


def test_a_password_is_written_nowhere(study: Study, server: str):
    secret = server.partition("cityseg:")[2].partition("@")[0]
    assert len(secret) > 10
    for url in (server, f"{server.replace(f':{secret}@', '@')}?password={secret}"):
        safe = without_password(url)
        assert secret not in safe and "***" not in safe
        assert safe == server.replace("postgresql:", "postgresql+psycopg:").replace(
            f":{secret}@", "@"
        )
    advise(study, server)
    assert not [p for p in study.folder.rglob("*") if p.is_file() and secret in p.read_text("l1")]
    wrong = f"guess{secret}"
    with pytest.raises(InputError) as refused:
        Advisor(study, study.read(), server.replace(secret, wrong))
    assert "password authentication failed" in str(refused.value)
    assert wrong not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://user:s3cret@127.0.0.1:{port}/db", "127.0.0.1"),
        ("postgresql://user:s3cret@nowhere.invalid/db", "nowhere.invalid"),
        ("oracle9://user:s3cret@host/db", "oracle9"),
        ("mysql+mysqldb://user:s3cret@host/db", "needs a driver"),
        ("sqlite:////nowhere/at/all.db", "unable to open"),
    ],
)
def test_a_storage_that_is_not_to_be_had_is_one_line(study: Study, url: str, said: str):
    with pytest.raises(InputError) as refused:
        Advisor(study, study.read(), url.format(port=free_port()))
    message = str(refused.value)
    assert said in message and "s3cret" not in message and "\n" not in message


@pytest.mark.parametrize("word", ["", "postgres", "/tmp/optuna.db", "Sqlite"])
def test_no_url_is_refused_with_what_there_is(study: Study, word: str):
    with pytest.raises(InputError, match=r"--storage: .*expected sqlite, journal, or postgresql:"):
        without_password(word)


def test_a_server_that_never_answers_is_waited_for_shortly(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("study.storage.CONNECT_TIMEOUT_S", 2)  # the least that libpq takes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/db"
        with pytest.raises(InputError, match=r"cannot use the storage .*timeout"):
            Advisor(study, study.read(), url)


def test_a_storage_that_goes_away_is_one_line(study: Study):
    advisor = advise(study, "sqlite")
    (study.folder / "optuna.db").write_bytes(b"no storage" * 1000)
    done(study, 1, [0.1] * EPOCHS, 0)
    with pytest.raises(InputError, match="cannot use the storage sqlite"):
        advisor.mirror(Board.read(study).rows[0])


def get(app: Any, path: str) -> Any:
    """What a WSGI application answers, read as JSON."""
    environment = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "here",
        "SERVER_PORT": "80", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http", "wsgi.version": (1, 0),
    }  # fmt: skip
    statuses = []
    answer = b"".join(app(environment, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"], answer
    return json.loads(answer)


def test_optunas_dashboard_shows_the_study(study: Study):
    dashboard = pytest.importorskip("optuna_dashboard")
    rows_of_all_kinds(study)
    advise(study, "sqlite")
    app = dashboard.wsgi(RDBStorage(f"sqlite:///{study.folder / 'optuna.db'}"))
    (listed,) = get(app, "/api/studies")["study_summaries"]
    assert listed["study_name"] == study.folder.name
    shown = get(app, f"/api/studies/{listed['study_id']}")
    assert {entry["name"] for entry in shown["union_search_space"]} == set(SPACE)
    assert shown["objective_names"] == ["mean mIoU (best_full)"]
    assert [t["state"] for t in shown["trials"]] == ["Complete", "Running", "Pruned", "Fail"]
    assert shown["trials"][0]["values"] == [pytest.approx(0.65 / 3)]
    attributes = {entry["key"]: entry["value"] for entry in shown["trials"][2]["user_attrs"]}
    assert attributes["reason"] == "far behind" and attributes["variant"] == "v002"
    rates = {p["name"]: p["param_external_value"] for p in shown["trials"][1]["params"]}
    assert float(rates["train.lr"]) == 1e-3
