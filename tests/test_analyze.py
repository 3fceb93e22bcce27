"""`python -m study.analyze`: what it prints and writes, and how it ends."""

import io
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_study import EPOCHS, add_epochs, add_row, finish, make_study, make_study_of_rows
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from cityseg.cell import (
    Confusion,
    Counts,
    read_confusion,
    read_epochs,
    write_confusion,
    write_epochs,
)
from cityseg.data import index
from cityseg.errors import DiskError
from study import analysis, analyze, counts, evidence, gallery, plots, summary, tables
from study.analysis import PAPER
from study.space import Search
from study.store import Study

MARK = analysis.SYNTHETIC


@pytest.fixture
def study(tmp_path) -> Study:
    """Only the second fold is finished, the others are not begun: few figures, quick tests."""
    study = make_study(tmp_path / "results")
    finish(study, 2)
    return study


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["analyze", *map(str, words)])
    return analyze.main()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def test_all_files_are_written_listed_and_marked_synthetic(study, monkeypatch, capsys):
    assert run(monkeypatch, "--results", study.folder.parent) == 0

    stems, kinds = ("table1", "classes", "effort"), ("csv", "md", "tex")
    expected = {f"{stem}.{kind}" for stem in stems for kind in kinds} | {"summary.json"}
    drawn = ("history_f2", "panel_f2", "classes", "confusion", "frames")
    expected |= {f"{stem}.{kind}" for stem in drawn for kind in ("png", "pdf")} | {"report.html"}
    assert names(study.analysis) == expected
    printed = capsys.readouterr().out
    listed = printed[printed.index("Written:") :].splitlines()[1:]
    assert {f"{stem}{kind}" for stem, kind in _endings(listed)} == {
        str(study.analysis / name) for name in expected
    }
    assert " ".join(printed.split()).count(MARK) == 4, "in the headline and under three tables"
    for path in study.analysis.iterdir():
        assert MARK in _readable(path), path.name


def _endings(lines: list[str]) -> list[tuple[str, str]]:
    """Stem and ending of each file in a list such as `out/table1.csv .md .tex`."""
    return [
        (line[: line.rindex(".", 0, (line + " ").index(" "))], kind)
        for line in lines
        for kind in line[line.rindex(".", 0, (line + " ").index(" ")) :].split()
    ]


def _readable(path: Path) -> str:
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.info["Description"]
    return path.read_text(encoding="latin-1").replace("\\", "")  # PDF escapes parentheses


def test_every_row_of_a_csv_carries_the_mark_and_the_full_number(study):
    variant = analysis.read_variant(study)
    table = analysis.fold_table(variant)

    records = analyze.read_records(study)
    analyze.report_tables(Console(file=io.StringIO()), table, records.classes, study.analysis)

    table1 = pd.read_csv(study.analysis / "table1.csv")
    classes = pd.read_csv(study.analysis / "classes.csv")

    assert set(table1["data"]) == set(classes["data"]) == {MARK}
    assert table1["best_full"][1] == table.miou("best", "full")[1]
    assert table1["best_full"][[0, 2]].isna().all()
    assert list(table1["fold"]) == ["1", "2", "3", "mean", "std"]
    assert len(classes) == 4 * 19


def test_figures_say_that_the_data_is_synthetic_and_which_fold_it_is(study):
    history, panel = _drawn(study)

    for figure in (history, panel):
        assert MARK in texts(figure)
        assert "fake_1, fold 2 of 3" in texts(figure)
    assert "best epoch (2)" in texts(history)
    assert {"Frame", "Label", "Prediction", "Errors", "car", "ignored"} <= {
        text.get_text() for text in panel.findobj(Text) if isinstance(text, Text)
    }


def _drawn(study: Study) -> tuple[Figure, Figure]:
    variant = analysis.read_variant(study)
    frames = {frame.name: frame for frame in index(variant.record.data.root, "train")}
    history, panel = analysis.history(variant, 2), analysis.panel(variant, 2, frames)
    assert history is not None
    assert panel is not None
    return plots.draw_history(history), plots.draw_panel(panel)


def test_figures_show_the_curves_and_the_errors(study, tmp_path):
    history, panel = _drawn(study)

    for figure, colors in {
        history: [tuple(round(255 * part) for part in plots.TRAIN_COLOR)],
        panel: [plots.WRONG_COLOR, plots.IGNORED_COLOR, (70, 130, 180)],
    }.items():
        png, pdf = plots.save(figure, tmp_path / "figure", "subject")
        with Image.open(png) as image:
            pixels = np.array(image.convert("RGB"))
        for color in colors:
            assert (pixels == color).all(-1).sum() > 500, color
        assert pdf.read_bytes().startswith(b"%PDF")
        assert pdf.read_bytes().rstrip().endswith(b"%%EOF")


def test_the_errors_picture_is_red_where_wrong_and_black_where_ignored(study):
    _, panel = _drawn(study)

    picture = np.asarray(panel.axes[3].images[0].get_array())  # the first row's last picture

    assert (picture[6, :2] == plots.WRONG_COLOR).all()
    assert (picture[7] == plots.IGNORED_COLOR).all()
    assert (picture == plots.WRONG_COLOR).all(-1).sum() == 2


def test_drawing_leaves_no_global_state(study):
    with mpl.rc_context({"font.size": 33}):
        before = dict(mpl.rcParams)

        _drawn(study)

        assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_one_epoch_at_a_constant_rate_can_be_drawn(tmp_path):
    study = make_study(tmp_path / "results")
    add_epochs(study, 1, [0.2])

    history = analysis.history(analysis.read_variant(study), 1)

    assert history is not None
    written = plots.save(plots.draw_history(history), tmp_path / "one", "one epoch")
    assert all(path.stat().st_size > 0 for path in written)


def test_a_curve_goes_on_past_epochs_that_were_not_scored_at_full_resolution(tmp_path):
    study = make_study(tmp_path / "results")
    add_epochs(study, 1, [0.1, 0.2, 0.3, 0.4])
    variant = analysis.read_variant(study)
    table = variant.cell(1).epochs
    seldom = [
        replace(e, miou_full=math.nan) if e.epoch in (2, 3) else e for e in read_epochs(table)
    ]
    write_epochs(table, seldom)

    history = analysis.history(variant, 1)

    assert history is not None
    full = next(
        line
        for axes in plots.draw_history(history).axes
        for line in axes.lines
        if line.get_label() == "full-res"
    )
    assert np.asarray(full.get_xdata()).tolist() == [1, 4]
    assert np.isfinite(np.asarray(full.get_ydata())).all()


def test_a_running_study_is_analysed_as_far_as_it_is(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "results")
    finish(study, 1)
    add_epochs(study, 2, [0.1, 0.2])

    assert run(monkeypatch, study.folder) == 0

    printed = " ".join(capsys.readouterr().out.split())
    assert "Mean of 1 of 3 folds" in printed
    assert f"Missing: fold 2: epoch 2 of {EPOCHS}; fold 3: not started." in printed
    figures = {name for name in names(study.analysis) if name.endswith(".png")}
    drawn = ("history_f1", "history_f2", "panel_f1", "classes", "confusion", "frames")
    assert figures == {f"{stem}.png" for stem in drawn}


def test_cityscapes_is_not_marked_and_its_panels_stay_in_the_study(tmp_path, monkeypatch):
    study = make_study(tmp_path / "results", "cityscapes")
    finish(study, 1)

    assert run(monkeypatch, study.folder, "--out", tmp_path / "out") == 0

    frames = {"panel_f1.png", "panel_f1.pdf", "frames.png", "frames.pdf"}
    assert names(study.analysis) == frames
    assert "data:image/webp" not in (tmp_path / "out" / "report.html").read_text()
    assert "history_f1.png" in names(tmp_path / "out")
    assert not any("panel" in name for name in names(tmp_path / "out"))
    markdown = (tmp_path / "out" / "table1.md").read_text()
    assert "0.6773" in markdown
    assert "synthetic" not in markdown


@pytest.fixture
def rows(tmp_path) -> Study:
    """Six of eight rows, and no frames: no panels are drawn."""
    study = make_study_of_rows(tmp_path / "results")
    shutil.rmtree(study.read().data.root)
    return study


@pytest.fixture
def _no_histories(monkeypatch):
    """Drawing takes seconds, and is shown by other tests."""
    monkeypatch.setattr(analyze, "write_figures", lambda *_: [])


@pytest.mark.usefixtures("_no_histories")
def test_of_several_rows_all_are_compared_and_the_best_is_shown_fold_by_fold(
    rows, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "100")
    assert run(monkeypatch, rows.folder) == 0

    printed = capsys.readouterr().out
    assert printed.index("v002 (best)") < printed.index("Study fake_1 v002:")
    assert "Study fake_1 v000" not in printed
    assert printed.index("Study fake_1 v002: 3 folds") < printed.index(
        "how far the mIoU of 3 folds"
    )
    of_row = ("table1", "classes", "intervals", "gaps")
    stems = ("variants", "comparisons", "effort", *(f"{stem}_v002" for stem in of_row))
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("csv", "md", "tex")}
    assert names(rows.analysis) == expected | {"summary.json", "report.html"}
    for name in names(rows.analysis):
        assert MARK in _readable(rows.analysis / name), name
        assert Path(name).stem in printed[printed.index("Written:") :]
    assert "no importance of settings: 3 finished rows, it takes 4 at least" in printed


def test_files_of_a_row_do_not_overwrite_those_of_another(tmp_path, monkeypatch):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})
    for variant in (0, 1):
        add_epochs(study, 1, [0.1], variant)
    shutil.rmtree(study.read().data.root)
    assert run(monkeypatch, study.folder, "--variant", 0) == 0
    before = {path: path.stat().st_mtime_ns for path in study.analysis.iterdir()}
    assert {"table1.csv", "history_f1.png"} <= names(study.analysis)

    assert run(monkeypatch, study.folder, "--variant", 1) == 0

    assert {"table1_v001.csv", "history_v001_f1.png"} <= names(study.analysis)
    changed = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    of_the_study = {"summary.json", "report.html"} | {
        f"{stem}.{kind}" for stem in ("variants", "effort") for kind in ("csv", "md", "tex")
    }
    assert changed - {f"effort.{kind}" for kind in ("png", "pdf")} == of_the_study


def test_panels_of_a_row_are_named_after_it(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})
    finish(study, 1, variant=1)

    variant = analysis.read_variant(study, 1)
    panels, why = gallery.read_panels(variant)
    written = analyze.write_panels(variant, panels)

    assert not why
    assert {path.stem for path in written} == {"panel_v001_f1", "frames_v001"}


@pytest.mark.usefixtures("_no_histories")
def test_without_a_finished_row_the_base_one_is_shown(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})
    finish(study, 1, variant=1)

    assert run(monkeypatch, study.folder) == 0

    assert "Study fake_1: 3 folds" in capsys.readouterr().out


def test_a_row_that_is_not_there_is_one_line_and_exit_code_2(rows, monkeypatch, capsys):
    assert run(monkeypatch, rows.folder, "--variant", 6) == 2

    error = capsys.readouterr().err
    assert error == "error: study fake_1: got --variant 6, expected one of its 6 rows, 0 to 5\n"


@pytest.mark.usefixtures("_no_histories")
def test_a_study_of_one_row_has_no_table_of_rows(study, monkeypatch, capsys):
    assert run(monkeypatch, study.folder) == 0

    assert "variants" not in capsys.readouterr().out
    assert not any("variants" in name for name in names(study.analysis))


def test_the_csv_of_rows_holds_everything_in_full_precision(rows):
    table = analysis.variant_table(rows)

    analyze.report_rows(Console(file=io.StringIO()), table, None, rows.analysis)

    numbers = pd.read_csv(rows.analysis / "variants.csv", index_col="row")
    assert list(numbers.index) == ["v002", "v001", "v000", "v003", "v004", "v005"]
    assert set(numbers["data"]) == {MARK}
    assert numbers["best"].to_dict() == {f"v00{n}": n == 2 for n in range(6)}
    for row in table.rows:
        line = numbers.loc[f"v00{row.number}"]
        for objective in ("best_low", "best_full", "last_low", "last_full"):
            there = row.spread(objective)
            np.testing.assert_equal(line[f"{objective}_mean"], there.mean)
            np.testing.assert_equal(line[f"{objective}_std"], there.std)
        np.testing.assert_equal(line["to_base_mean"], row.difference.mean)
        np.testing.assert_equal(line["train.lr"], row.parameters.get("train.lr", np.nan))
    assert numbers["note"]["v003"] == "epoch 2: 0.05 | below [v002]"
    assert numbers["status"]["v004"] == "failed"


def test_the_tables_of_rows_fit_eighty_columns(rows):
    console = Console(width=80, file=io.StringIO())

    table = analysis.variant_table(rows)
    analyze.report_rows(console, table, evidence.comparison_table(table), rows.analysis)

    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "p (Holm)" in printed, "of the rows' comparisons"
    assert "0.7389" in printed
    assert "+0.0222" in printed


def test_reasons_break_neither_markdown_nor_latex(rows):
    table = analysis.variant_table(rows)
    analyze.report_rows(Console(file=io.StringIO()), table, None, rows.analysis)

    lines = (rows.analysis / "variants.md").read_text().splitlines()
    cells = [line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")]
    assert set(cells) == {9}, "eight columns in every line"
    latex = (rows.analysis / "variants.tex").read_text()
    assert r"0.05 \textbar{} below [v002]" in latex


def test_markdown_keeps_every_digit():
    text = pd.DataFrame({"Fold": ["1", "Mean"], "mIoU": ["0.5000", "0.2510"]})

    lines = tables.markdown(text).splitlines()

    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["1", "0.5000"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["Mean", "0.2510"]


def test_without_the_data_there_are_no_panels_and_it_says_so(study, monkeypatch, capsys):
    root = analysis.read_variant(study).record.data.root
    shutil.rmtree(root)

    assert run(monkeypatch, study.folder) == 0

    assert f"The data set is no longer at {root}." in capsys.readouterr().out
    assert not any("panel" in name for name in names(study.analysis))


def test_a_study_is_found_by_name_by_path_and_by_age(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    for name, time_s in {"old": 1000, "new": 3000, "middle": 2000}.items():
        os.utime(make_study(results, name=name).record_file, (time_s, time_s))

    for words, found in {(): "new", ("old",): "old", (results / "middle",): "middle"}.items():
        assert run(monkeypatch, *words, "--results", results) == 0
        assert f"Study {found}:" in capsys.readouterr().out


def test_a_wrong_name_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    assert run(monkeypatch, "--results", results) == 2
    make_study(results)
    capsys.readouterr()

    assert run(monkeypatch, "nope", "--results", results) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nope" in error
    assert "expected one of fake_1" in error


def test_a_narrow_terminal_cuts_no_digit():
    text = pd.DataFrame({"Class": ["road"]} | {f"Fold {k}": [f"0.{k:04d}"] for k in range(1, 13)})
    console = Console(width=40, file=io.StringIO())

    tables.show(console, text, "caption")

    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert all(f" 0.{k:04d} " in printed for k in range(1, 13))


def test_latex_is_escaped_and_whole():
    text = pd.DataFrame({"Fold": ["1", "Mean_&"], "mIoU %": ["–", "0.5000"]})

    latex = tables.latex(text, "a_b 100% #1 \\x")

    assert r"\caption{a\_b 100\% \#1 \textbackslash{}x}" in latex
    assert "Fold & mIoU \\% \\\\\n\\midrule\n1 & -- \\\\\nMean\\_\\& & 0.5000 \\\\\n" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert latex.rstrip().endswith(r"\end{table}")


def test_neither_ray_nor_torch_is_imported():
    code = "import sys, study.analyze; print({'ray', 'torch', 'optuna'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.usefixtures("_no_histories")
def test_the_verdict_comes_first(rows, monkeypatch, capsys):
    assert run(monkeypatch, rows.folder, "--no-figures") == 0
    compared = evidence.comparison_table(analysis.variant_table(rows))
    assert compared is not None

    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"{compared.comparisons[0].verdict}. Data: {MARK}.")
    assert printed.count(compared.comparisons[0].verdict) == 1
    assert printed.index("Written:") > printed.rindex("┃")


def paper_study(tmp_path) -> Study:
    """A study whose counts give the paper's six scores, to four decimals.

    Each frame holds two classes of equal union, so that the mIoU is 1 - 2 wrong / union.
    """
    study = make_study(tmp_path / "results", "cityscapes")
    for fold in (1, 2, 3):
        finish(study, fold)
        low, full = (_with_miou(scores[fold - 1]) for scores in (PAPER.low, PAPER.full))
        best, last = Counts(2, low, full), Counts(EPOCHS, low, full)
        names = read_confusion(study.cell(0, fold).confusion).names
        write_confusion(study.cell(0, fold).confusion, Confusion(names, best, last))
    shutil.rmtree(study.read().data.root)
    return study


def _with_miou(score: float) -> np.ndarray:
    wrong = round(10_000 * (1 - score))
    counts = np.zeros((2, 19, 19), np.int64)
    counts[:, :2, :2] = [[20_000 - 2 * wrong, wrong], [wrong, 20_000 - 2 * wrong]]
    return counts


def test_of_the_papers_six_numbers_mean_std_and_interval_come_out(tmp_path, monkeypatch, capsys):
    study = paper_study(tmp_path)
    assert run(monkeypatch, study.folder, "--no-figures") == 0

    printed = " ".join(capsys.readouterr().out.split())
    # by hand: mean -+ 4.302653 (t, 2 degrees of freedom) x sqrt(1/3 + 1/2) x sample std 0.014629
    claim = "is 0.6553; other trainings on such folds would give 0.5978 to 0.7127"
    assert printed.startswith(
        f"The full-res mIoU of the best epoch by low-res mIoU of fake_1 {claim}"
    )
    table = pd.read_csv(study.analysis / "table1.csv").set_index("fold")
    for column, mean, std in (("best_low", PAPER.mean_low, PAPER.std_low),
                              ("best_full", PAPER.mean_full, PAPER.std_full)):  # fmt: skip
        assert table[column]["mean"] == pytest.approx(mean, abs=1e-4)
        assert table[column]["std"] == pytest.approx(std, abs=1e-4)
    low = pd.read_csv(study.analysis / "intervals.csv").set_index(["objective", "class"])
    # the same for low-res: 0.677267, sample std 0.011509
    assert low["t_low"]["best_low", "mIoU"] == pytest.approx(0.677267 - 0.045203, abs=1e-5)
    assert low["t_high"]["best_low", "mIoU"] == pytest.approx(0.677267 + 0.045203, abs=1e-5)


def test_everything_that_is_printed_fits_eighty_columns(tmp_path, monkeypatch, capsys):
    study = paper_study(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, study.folder, "--no-figures") == 0

    printed = capsys.readouterr().out
    assert max(len(line) for line in printed[: printed.index("Written:")].splitlines()) <= 80
    for heading in ("Prec.", "Sample std", "Differ by", "CPU core h"):
        assert heading in printed


def test_without_figures_none_is_drawn(study, monkeypatch):
    assert run(monkeypatch, study.folder, "--no-figures") == 0

    assert {path.suffix for path in study.analysis.iterdir()} == {".csv", ".md", ".tex", ".json"}


@pytest.fixture
def several(tmp_path) -> Path:
    """Results with studies `one` and `two`, which agree, and `other`, of other data."""
    results = tmp_path / "results"
    for name in ("one", "two", "other"):
        study = make_study(results, name=name)
        for fold in (1, 2, 3):
            finish(study, fold, wrong_px=fold + 3 * (name == "two"))
    record = Study(results / "other").read()
    data = record.data.model_copy(update={"fingerprint": "1"})
    Study(results / "other").write(record.model_copy(update={"data": data}))
    return results


def test_several_studies_stand_side_by_side(several, monkeypatch, capsys):
    assert run(monkeypatch, "one", "two", "other", "--results", several) == 0

    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("two v000 is worse than one v000") or printed.startswith(
        "No difference of two v000 to one v000 is shown"
    )
    assert "other v000 is not paired with one v000: they are of different data" in printed
    files = names(several / "one" / "analysis")
    assert files == {f"studies.{kind}" for kind in ("csv", "md", "tex", "json")}
    read = summary.read_summary(several / "one" / "analysis" / "studies.json")
    assert [study.name for study in read.studies] == ["one", "two", "other"]
    assert MARK in printed
    for path in (several / "one" / "analysis").iterdir():
        assert MARK in _readable(path), path.name


def test_two_rows_are_compared_by_name(several, tmp_path, monkeypatch, capsys):
    words = ("--compare", "two", "one", "--results", several, "--out", tmp_path / "out")
    assert run(monkeypatch, *words) == 0

    printed = " ".join(capsys.readouterr().out.split())
    assert "two v000 to one v000" in printed or "two v000 is worse than one v000" in printed
    stem = "compare_two-v000_one-v000"
    assert names(tmp_path / "out") == {f"{stem}.{kind}" for kind in ("csv", "md", "tex", "json")}
    (pair,) = pd.read_csv(tmp_path / "out" / f"{stem}.csv").to_dict("records")[1:]
    assert pair["to_first"] < 0
    assert pair["verdict"] in " ".join((tmp_path / "out" / f"{stem}.md").read_text().split())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--compare", "one", "other"), "one v000 and other v000 cannot be paired: they are of"),
        (("--compare", "one", "one/v000"), "one v000 and one v000 cannot be paired: they are the"),
        (("--compare", "one", "three"), "no study three"),
        (("one", "two", "--variant", 0), "--variant goes with one study"),
        (("one", "three"), "no study three"),
        (("--compare", "one", "two", "--variant", 0), "--variant goes with one study"),
        (("one", "two", "--embed-frames"), "--embed-frames goes with one study"),
        (("one", "other", "--compare", "one", "two"), "--compare: got 2 studies beside it"),
    ],
)
def test_a_pairing_that_would_be_false_is_one_line_and_exit_code_2(
    several, monkeypatch, capsys, words, error
):
    assert run(monkeypatch, *words, "--results", several) == 2

    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {error}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_rows_of_one_study_are_compared_by_number(rows, monkeypatch, capsys):
    assert run(monkeypatch, rows.folder, "--compare", "v002", "v001") == 0

    assert "fake_1 v002 to fake_1 v001" in " ".join(capsys.readouterr().out.split())
    assert "compare_fake_1-v002_fake_1-v001.csv" in names(rows.analysis)


def test_studies_whose_names_hold_dots_are_compared_in_files_of_their_own(tmp_path, monkeypatch):
    results = tmp_path / "results"
    for px, name in enumerate(("lr0.1", "lr0.2", "lr0.3"), 1):
        for fold in (1, 2, 3):
            finish(make_study(results, name=name), fold, wrong_px=px)
    for other in ("lr0.2", "lr0.3"):
        words = ("--compare", "lr0.1/v000", other, "--results", results, "--out", tmp_path / "out")
        assert run(monkeypatch, *words) == 0

    assert names(tmp_path / "out") == {
        f"compare_lr0.1-v000_{other}-v000.{kind}"
        for other in ("lr0.2", "lr0.3")
        for kind in ("csv", "md", "tex", "json")
    }


def test_a_study_that_may_only_be_read_has_all_but_its_panels(study, tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise DiskError("cannot write panel_f2.png: Permission denied")

    monkeypatch.setattr(analyze, "write_panels", refuse)
    assert run(monkeypatch, study.folder, "--out", tmp_path / "out") == 0

    assert "no panels: cannot write panel_f2.png: Permission denied" in capsys.readouterr().out
    assert {"report.html", "summary.json", "history_f2.png"} <= names(tmp_path / "out")
    assert not study.analysis.exists()


def test_the_row_that_is_shown_is_read_once(tmp_path, monkeypatch):
    """Once among the others, and once for all that is made of it."""
    study = make_study(tmp_path / "results")
    for fold in (1, 2, 3):
        finish(study, fold)
    reads: list[Path] = []
    read = counts.read_packed
    monkeypatch.setattr(counts, "read_packed", lambda path: (reads.append(path), read(path))[1])
    assert run(monkeypatch, study.folder) == 0

    assert sorted(reads) == sorted(2 * [study.cell(0, fold).confusion for fold in (1, 2, 3)])


def test_numbers_alone_import_nothing_that_draws(study):
    code = (
        "import sys; from study import analyze;"
        f"sys.argv = ['analyze', {str(study.folder)!r}, '--no-figures'];"
        "assert analyze.main() == 0;"
        "print(sorted({'matplotlib', 'seaborn'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == "[]\n"


def test_without_optuna_the_analysis_says_so_and_goes_on(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=4))
    for variant in range(4):
        if variant:
            add_row(study, variant, {"train.lr": 1e-3 * variant})
        for fold in (1, 2, 3):
            finish(study, fold, variant=variant, wrong_px=variant + fold)
    code = (
        "import sys; sys.modules['optuna'] = None;"
        f"sys.argv = ['analyze', {str(study.folder)!r}, '--no-figures'];"
        "from study import analyze; code = analyze.main();"
        "assert not {'ray', 'torch'} & set(sys.modules); sys.exit(code)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "no importance of settings: it is Optuna's, which is not installed" in done.stdout
    assert (study.analysis / "summary.json").is_file()
