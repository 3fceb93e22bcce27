"""Figures: they show their record's numbers, and can be read in a paper's column."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import (
    FOLDS,
    FRAMES,
    add_epochs,
    add_row,
    finish,
    make_study,
    make_study_of_rows,
    target,
)
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import confusion_matrix

from cityseg.cell import Confusion, Counts, read_epochs, write_confusion, write_epochs
from cityseg.labels import CLASS_NAMES, IGNORE, NUM_CLASSES
from study import analysis, evidence, figures, gallery, illustrations, plots, views
from study.analysis import Variant
from study.comparison import Comparison
from study.evidence import ComparisonTable
from study.space import Dimension, Range, Search
from study.store import Study


@pytest.fixture
def rows(tmp_path) -> Study:
    """Six of eight rows; see `make_study_of_rows`."""
    return make_study_of_rows(tmp_path / "results")


def variant(study: Study, number: int = 0) -> Variant:
    return analysis.read_variant(study, number)


def class_table(study: Study) -> analysis.ClassTable:
    return analysis.class_table(analysis.fold_table(variant(study)), "best", "full")


def compared(study: Study) -> ComparisonTable:
    table = evidence.comparison_table(analysis.variant_table(study))
    assert table is not None
    return table


def texts(figure: Figure | Axes) -> list[str]:
    found = (text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
    return [text for text in found if text]


def places(line: Line2D) -> list[float]:
    """Of its points along the x axis."""
    return np.asarray(line.get_xdata(), np.float64).tolist()


def rename(study: Study, name: str) -> None:
    study.write(study.read().model_copy(update={"name": name}))


def every_figure(study: Study) -> Iterator[Figure]:
    """One of each kind, of the study's best row."""
    table = analysis.variant_table(study)
    best = variant(study, table.best.number if table.best else 0)
    folds = analysis.fold_table(best)
    panels, _ = gallery.read_panels(best)
    frames, history = views.worst_and_best(best, panels), analysis.history(best, 1)
    assert frames is not None
    assert history is not None
    yield plots.draw_history(history)
    yield plots.draw_panel(frames)
    yield figures.draw_classes(analysis.class_table(folds, "best", "full"))
    yield figures.draw_confusion(views.confusion_shares(folds, "best_full"))
    yield figures.draw_forest(compared(study))
    yield figures.draw_search(views.search_view(table))
    yield figures.draw_effort(views.effort_view(table))
    shares = {"train.plateau_patience": 0.7, "a.very.long.name.of.a.setting": 0.3}
    note = "Eight rows are too few to believe this; it takes twenty."
    yield figures.draw_importance(shares, note, f"{best.title}: importance", best.data)


@pytest.fixture
def drawn(monkeypatch) -> list[Text]:
    """Every piece of text that is drawn, as it is: not those that an axis only keeps at hand."""
    texts: list[Text] = []
    draw = Text.draw

    def record(self: Text, renderer: Any) -> None:
        if self.get_text().strip() and self.get_visible():
            texts.append(self)
        draw(self, renderer)

    monkeypatch.setattr(Text, "draw", record)
    return texts


@pytest.mark.parametrize("name", ["a", "a_study_of_a_long_name_with_many_words_in_it"])
def test_every_figure_is_a_column_or_a_text_wide_and_can_be_read(rows, name, drawn):
    rename(rows, name)
    for figure in every_figure(rows):
        drawn.clear()
        FigureCanvasAgg(figure).draw()
        points = [float(text.get_fontsize()) for text in drawn]
        boxes = {text.get_text(): text.get_window_extent() for text in drawn}

        assert figure.get_figwidth() in (3.3, 7.0)
        assert min(points) >= 7
        assert max(points) <= 9
        paper = figure.bbox.padded(1)  # a hundredth of an inch, for rounding
        for words, box in boxes.items():
            assert paper.containsx(box.x0), words
            assert paper.containsx(box.x1), words
            assert paper.containsy(box.y0), words
            assert paper.containsy(box.y1), words
        title = next(box for words, box in boxes.items() if analysis.SYNTHETIC in words)
        assert title.y0 >= max(axes.bbox.y1 for axes in figure.axes) - 1, "no axes in the title"


def test_a_dollar_in_a_name_is_no_formula(rows):
    rename(rows, r"$\nothing$")

    for figure in every_figure(rows):
        FigureCanvasAgg(figure).draw()

        assert any(r"$\nothing$" in text for text in texts(figure))


def test_the_scale_of_colours_falls_in_lightness_all_the_way():
    rgb = figures.SCALE(np.linspace(0, 1, 101))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]

    assert (np.diff(luminance) < 0).all()


def test_the_map_of_classes_shows_every_number_and_grey_where_there_is_none(tmp_path):
    study = make_study(tmp_path / "results")
    finish(study, 1)
    finish(study, 3)
    table = class_table(study)

    axes = figures.draw_classes(table).axes[0]

    mesh = next(item for item in axes.collections if isinstance(item, QuadMesh))
    shares = np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)
    np.testing.assert_array_equal(shares[:, :3], table.iou.T)
    np.testing.assert_array_equal(shares[:, 3], [spread.mean for spread in table.spreads])
    words = np.array([text.get_text() for text in axes.texts]).reshape(NUM_CLASSES, 4)
    road, wall = CLASS_NAMES.index("road"), CLASS_NAMES.index("wall")
    assert list(words[road]) == [f"{v:.2f}" if v == v else "–" for v in shares[road]]
    assert list(words[wall]) == ["–"] * 4
    assert words[road][1] == "–", "the second fold is not done"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "mean"]


@pytest.mark.parametrize("folds", [10, 40])
def test_many_folds_take_the_width_of_the_text(tmp_path, folds):
    study = make_study(tmp_path / "results")
    finish(study, 1)
    few = class_table(study)
    iou = np.random.default_rng(0).random((folds, NUM_CLASSES))
    table = analysis.ClassTable(few.folds, "best", "full", iou, few.spreads)

    figure = figures.draw_classes(table)

    FigureCanvasAgg(figure).draw()
    assert figure.get_figwidth() == 7
    assert bool(figure.axes[0].texts) == (folds == 10), "numbers only where they can be read"
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_confusion_shares_are_scikit_learns(tmp_path):
    study = make_study(tmp_path / "results")
    for fold in (1, 2, 3):
        finish(study, fold)
    labels, predictions = [], []
    for fold, names in enumerate(FOLDS, 1):
        for name in names:
            label = target(FRAMES.index(name))
            prediction = np.where(label == IGNORE, 0, label)
            prediction[6, :fold] = 1
            labels.append(label[label != IGNORE])
            predictions.append(prediction[label != IGNORE])
    expected = confusion_matrix(
        np.concatenate(labels), np.concatenate(predictions), labels=range(NUM_CLASSES),
        normalize="true",
    )  # fmt: skip

    record = views.confusion_shares(analysis.fold_table(variant(study)), "best_full")

    there = ~np.isnan(record.shares).all(1)
    assert list(np.flatnonzero(there)) == [0, 10, 13], "road, sky, car: in some label"
    np.testing.assert_allclose(record.shares[there], expected[there], atol=1e-15)
    np.testing.assert_allclose(record.shares[there].sum(1), 1)


def test_the_confusion_matrix_writes_per_cent_and_has_labels_as_rows(tmp_path):
    study = make_study(tmp_path / "results")
    counts = np.zeros((1, NUM_CLASSES, NUM_CLASSES), np.int64)
    counts[0, 2, 8], counts[0, 2, 2], counts[0, 2, 0] = 25, 975, 0
    counts[0, 8, 8], counts[0, 8, 2] = 9_960, 40  # rounds to 0 and is left empty
    finish(study, 1, counts)

    record = views.confusion_shares(analysis.fold_table(variant(study)), "best_full")
    axes = figures.draw_confusion(record).axes[0]

    written = {}
    for text in axes.texts:
        x, y = text.get_position()
        written[int(x), int(y)] = text.get_text()
    assert written == {(8, 2): "2", (2, 2): "98", (8, 8): "100"}
    assert axes.get_xlabel() == "Prediction"
    assert axes.get_ylabel() == "Label"


def test_the_forest_shows_each_difference_with_its_interval_and_the_base_line(rows):
    table = compared(rows)

    axes = figures.draw_forest(table).axes[0]

    points = [places(line)[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([100 * one.difference for one in table.comparisons])
    bars = [places(line) for line in axes.lines if line.get_marker() != "o"]
    ends = [[100 * one.interval.low, 100 * one.interval.high] for one in table.comparisons]
    assert bars[0] == [0, 0], "the base row's line"
    assert bars[1:] == [pytest.approx(end) for end in ends]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0].startswith("v002  dropout 0.1, lr 0.0002")
    low, high = ends[0]
    assert f"{points[0]:+.2f} [{low:+.2f}, {high:+.2f}]" in texts(axes)


def test_what_is_shown_is_filled_and_what_is_not_is_hollow(rows, monkeypatch):
    table = compared(rows)
    monkeypatch.setattr(Comparison, "is_shown", property(lambda self: self.row == "v001"))

    axes = figures.draw_forest(table).axes[0]

    points = [line for line in axes.lines if line.get_marker() == "o"]
    faces = [colors.to_hex(line.get_markerfacecolor()) for line in points]
    assert [one.row for one in table.comparisons] == ["v002", "v001"]
    assert faces[0] == "#ffffff"
    assert faces[1] != "#ffffff"


def test_a_forest_of_many_rows_is_cut_and_says_so(rows):
    table = compared(rows)
    many = ComparisonTable(table.rows, table.comparisons * 30, table.selection)

    figure = figures.draw_forest(many)

    assert len(figure.axes[0].get_yticklabels()) == 40
    assert "the best 40 of 60 rows" in " ".join(texts(figure))
    assert figure.get_figheight() < 9.5, "of a page"


def test_a_search_has_a_panel_a_parameter_and_log_axes_where_the_space_is_log(tmp_path):
    space: dict[str, Dimension] = {
        "train.lr": Range(low=1e-5, high=1e-2, log=True),
        "train.plateau_factor": Range(low=0.1, high=0.9),
    }
    study = make_study(tmp_path / "results", search=Search(variants=4, space=space))
    values = {
        1: {"train.lr": 1e-3, "train.plateau_factor": 0.2},
        2: {"train.lr": 1e-4},
        3: {"seed": 7},
    }
    for number, row in values.items():
        add_row(study, number, row)
    for number in (0, 1, 2):
        for fold in (1, 2, 3):
            finish(study, fold, variant=number, wrong_px=3 + number + fold)
    view = views.search_view(analysis.variant_table(study))

    figure = figures.draw_search(view)

    scales = {axes.get_xlabel(): axes.get_xscale() for axes in figure.axes}
    assert scales == {"plateau_factor": "linear", "seed": "linear", "lr": "log"}
    assert view.rows == ("v000", "v001", "v002", "v003")
    assert next(axis for axis in view.axes if axis.key == "train.lr").values == (
        1e-4,
        1e-3,
        1e-4,
        1e-4,
    ), "the base row's where it is not changed"
    assert (view.best, view.base) == (0, 0)
    lr = next(axes for axes in figure.axes if axes.get_xlabel() == "lr")
    finished, without, *_ = lr.lines
    np.testing.assert_array_equal(finished.get_xdata(), [1e-4, 1e-3, 1e-4])
    np.testing.assert_array_equal(finished.get_ydata(), view.scores[:3])
    np.testing.assert_array_equal(without.get_xdata(), [1e-4])
    assert "no score" in texts(figure)


def test_values_that_are_no_numbers_stand_side_by_side(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=3))
    add_row(study, 1, {"data.input_size": [64, 96], "train.compile": True})
    add_row(study, 2, {"data.input_size": [64, 128]})
    for number in (0, 1, 2):
        for fold in (1, 2, 3):
            finish(study, fold, variant=number)

    figure = figures.draw_search(views.search_view(analysis.variant_table(study)))

    labels = {a.get_xlabel(): [t.get_text() for t in a.get_xticklabels()] for a in figure.axes}
    assert labels == {"input_size": ["512x1024", "64x128", "64x96"], "compile": ["False", "True"]}


def test_importance_is_in_order_and_carries_its_note():
    shares = {"train.lr": 0.25, "model.dropout": 0.75}

    figure = figures.draw_importance(shares, "Of 8 rows.", "s", "d")

    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model.dropout", "train.lr"]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [0.75, 0.25]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first on top"
    assert "Of 8 rows." in texts(figure)


def test_effort_follows_every_row_as_far_as_all_its_folds_are(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=4, objective="last_full"))
    for number in (1, 2, 3):
        add_row(study, number, {"seed": number})
    for fold in (1, 2, 3):
        finish(study, fold)
        add_epochs(study, fold, [0.2 * fold, 0.4, 0.6][: 4 - fold], 1)
    add_epochs(study, 1, [0.1], 2)
    study.pruned_file(1).write_text("worse\n")
    view = views.effort_view(analysis.variant_table(study))

    base, pruned = view.rows
    assert (base.name, base.status) == ("v000", "done")
    assert (pruned.name, pruned.status) == ("v001", "pruned")
    assert view.left_out == 2
    assert list(base.epochs) == [3, 6, 9, 12]
    assert base.score == pytest.approx([0.05, 0.15, 0.15, 0.1])
    assert list(pruned.epochs) == [3], "the third fold has one epoch"
    assert pruned.score == pytest.approx([(0.1 + 0.2 + 0.3) / 3])
    axes = figures.draw_effort(view).axes[0]
    curves = next(item for item in axes.collections if isinstance(item, LineCollection))
    np.testing.assert_allclose(curves.get_segments()[0], np.column_stack([base.epochs, base.score]))
    ends = {line.get_label(): np.asarray(line.get_xydata())[-1].tolist() for line in axes.lines}
    assert ends["pruned"] == pytest.approx([3, 0.2])
    assert ends["finished"] == pytest.approx([12, 0.1])


def test_effort_leaves_out_epochs_that_were_not_scored(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2, objective="last_full"))
    add_row(study, 1, {"seed": 1})
    for fold in (1, 2, 3):
        for number, scored in ((0, (2, 4)), (1, ())):
            add_epochs(study, fold, [0.2, 0.4, 0.6, 0.8], number)
            table = study.cell(number, fold).epochs
            write_epochs(table, [
                epoch if epoch.epoch in scored else replace(epoch, miou_full=math.nan)
                for epoch in read_epochs(table)
            ])  # fmt: skip
    view = views.effort_view(analysis.variant_table(study))

    (base,) = view.rows
    assert (list(base.epochs), list(base.score)) == ([6, 12], pytest.approx([0.2, 0.4]))
    assert view.left_out == 1
    drawn = illustrations.write_study_figures(analysis.variant_table(study), None, tmp_path)
    assert drawn[0].caption.endswith(" 1 row has no score on every fold yet.")


def test_the_worst_and_the_best_of_all_folds_stand_in_order_and_once(tmp_path):
    study = make_study(tmp_path / "results")
    for fold in (1, 2, 3):
        finish(study, fold)
    row = variant(study)
    panels, _ = gallery.read_panels(row)

    two, all_of_them = (views.worst_and_best(row, panels, each) for each in (2, 9))

    assert two is not None
    assert all_of_them is not None
    scores = [one.miou for one in two.rows]
    every = sorted(one.miou for panel in panels.values() for one in panel.rows)
    assert scores == [*every[:2], *every[-2:]]
    assert [one.miou for one in all_of_them.rows] == every
    assert len({one.name for one in all_of_them.rows}) == len(FRAMES)
    assert "(fold 3)" in two.rows[0].name
    assert [CLASS_NAMES[i] for i in two.classes] == ["road", "sidewalk", "sky", "car"]
    assert views.worst_and_best(row, {}) is None


def test_illustrations_are_written_with_words_and_the_mark(rows, tmp_path):
    table = analysis.variant_table(rows)
    best = variant(rows, 2)

    written = [
        *illustrations.write_study_figures(table, compared(rows), tmp_path, {"lr": 1.0}, "Few."),
        *illustrations.write_row_figures(analysis.fold_table(best), tmp_path),
    ]

    assert [one.png.name for one in written] == [
        "forest.png", "search.png", "importance.png", "effort.png", "classes_v002.png",
        "confusion_v002.png",
    ]  # fmt: skip
    assert all(path.is_file() for one in written for path in one.files)
    assert all(one.title and one.caption for one in written)
    for one in written:
        with Image.open(one.png) as image:
            assert analysis.SYNTHETIC in image.info["Description"]


def test_a_study_that_has_nothing_yet_has_no_figures(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"seed": 1})
    table = analysis.variant_table(study)

    assert illustrations.write_study_figures(table, None, tmp_path) == []
    assert illustrations.write_row_figures(analysis.fold_table(variant(study)), tmp_path) == []
    assert illustrations.write_frames(variant(study), {}) is None


def test_frames_go_to_the_study_whatever_the_folder(tmp_path):
    study = make_study(tmp_path / "results", "cityscapes")
    finish(study, 1)
    panels, _ = gallery.read_panels(variant(study))

    written = illustrations.write_frames(variant(study), panels)

    assert written is not None
    assert written.png == study.analysis / "frames.png"


def test_histories_that_are_written_already_are_taken_up_by_fold():
    files = [Path("a/history_v002_f12.png"), Path("a/history_v002_f12.pdf")]

    (one,) = illustrations.histories(files)

    assert one.title == "Training of fold 12"
    assert one.files == files


def test_damaged_or_missing_scores_are_no_number(tmp_path):
    """A frame that is all ignored has no mIoU, and is neither worst nor best."""
    study = make_study(tmp_path / "results")
    finish(study, 1)
    nothing = np.zeros((len(FOLDS[0]), NUM_CLASSES, NUM_CLASSES), np.int64)
    nothing[0, 0, 0] = 1
    counts = Counts(2, nothing, nothing)
    write_confusion(study.cell(0, 1).confusion, Confusion(FOLDS[0], counts, counts))
    panels, _ = gallery.read_panels(variant(study))

    record = views.worst_and_best(variant(study), panels)

    assert record is not None
    assert [row.miou for row in record.rows] == [1]
