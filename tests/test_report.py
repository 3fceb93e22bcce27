"""`report.html`: what stands in it, and that a real browser shows it as a user would have it."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest
from fake_study import (
    FOLDS,
    FRAMES,
    add_epochs,
    add_row,
    finish,
    make_study,
    make_study_of_rows,
)
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from servers import require

from cityseg.data import Kind
from study import analysis, evidence, gallery, illustrations, report, tables, verdicts
from study.gallery import GalleryFrame, Pictures
from study.illustrations import Illustration
from study.report import ReportContents, ReportTable
from study.space import Search
from study.store import Row, Study

BROWSER_OPTIONS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOSTILE: Final = "<script>document.title = 'harmed'<"
"""A study's name; a folder's may hold all of it but the slash."""
HOSTILE_VALUE: Final = "</script></style><img src=x onerror=\"document.title='harmed'\">"
LIMIT_BYTES: Final = 15_000_000


def contents_of(
    study: Study, drawn: Sequence[Illustration] = (), *, embed_frames: bool = False
) -> ReportContents:
    """Of the best row."""
    rows = analysis.variant_table(study)
    row = analysis.read_variant(study, rows.best.number if rows.best else 0)
    panels, why = gallery.read_panels(row)
    return report.report_contents(
        rows,
        analysis.fold_table(row),
        gallery.read_gallery(row, panels, gallery.licence_of(row, embed_frames), why),
        intervals=evidence.interval_table(row),
        compared=evidence.comparison_table(rows),
        illustrations=drawn,
        files=[path for one in drawn for path in one.files],
    )


def hostile_study(results: Path, kind: Kind = "synthetic") -> Study:
    """Rows, of which the best is finished, with markup wherever a user may put words."""
    study = make_study_of_rows(results, kind)
    study.cell(4, 2).failure.write_text(f"{HOSTILE_VALUE}\n")
    study.write_row(Row(variant=5, origin="given", parameters={"model.weights": HOSTILE_VALUE}))
    record = study.read()
    search = record.search.model_copy(update={"variants": 8})
    study.write(
        record.model_copy(
            update={"name": HOSTILE, "command": f"run {HOSTILE_VALUE}", "search": search}
        )
    )
    return study


class Reader(HTMLParser):
    """Which elements there are, and the words of all but style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.handlers: list[str] = []
        self._raw = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def plain_contents(
    tmp_path: Path, kind: Kind = "synthetic", *, embed_frames: bool = False
) -> ReportContents:
    """Of a study of one row, all folds done."""
    study = make_study(tmp_path / "results", kind)
    for fold in (1, 2, 3):
        finish(study, fold)
    return contents_of(study, embed_frames=embed_frames)


def test_the_verdict_comes_first_then_tables_figures_frames_and_the_origin(tmp_path):
    study = make_study_of_rows(tmp_path / "results")
    contents = contents_of(study)

    page = report.render(contents, tmp_path)

    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == ["Verdict", "Tables", "Figures", "Frames", "Configuration", "Origin"]
    comparison = evidence.comparison_table(analysis.variant_table(study))
    assert comparison is not None
    assert contents.verdict[0].startswith(comparison.comparisons[0].verdict)
    selection = comparison.selection
    assert tables.decimals(selection.corrected) in contents.verdict[1]
    assert tables.decimals(selection.naive) in contents.verdict[1]
    text = read(page).text
    assert text.index(contents.verdict[0]) < text.index("A heading sorts its column")
    record = study.read()
    for fact in (record.data.fingerprint, record.folds_hash, record.command, str(record.data.root)):
        assert fact in text


def test_an_interval_is_told_once_where_the_base_row_is_missing(tmp_path):
    """Two finished rows have a selection, but nothing to be compared with."""
    study = make_study(tmp_path / "results", search=Search(variants=3))
    for variant in (1, 2):
        add_row(study, variant, {"train.lr": 1e-3 * variant})
        for fold in (1, 2, 3):
            finish(study, fold, variant=variant, wrong_px=variant + fold)

    words = " ".join(contents_of(study).verdict)

    interval = evidence.interval_table(analysis.read_variant(study, 1))
    assert interval is not None
    low = tables.decimals(interval.scores[1].corrected.interval.low)
    assert words.count(f"{low} to ") == 1


def test_the_page_warns_in_the_words_of_the_tables(tmp_path):
    contents = plain_contents(tmp_path)
    study = Study(tmp_path / "results" / "fake_1")
    table = evidence.interval_table(analysis.read_variant(study))
    assert table is not None

    warned = [*verdicts.few_cities(table), *verdicts.missed(table)]
    assert len(warned) == 2
    assert all(words in contents.warnings for words in warned)
    assert all(words in verdicts.interval_caption(table) for words in warned)
    (words,) = verdicts.few_cities(replace(table, cities=1))
    assert words.startswith("The frames are of 1 city, too few")


def test_statistics_stay_below_and_only_numbers_are_set_to_the_right():
    text = pd.DataFrame(
        {"Fold": ["1", "2", "Mean"], "mIoU": ["0.1", "–", "0.1"], "Of": ["3 of 3", "1/3", "<0.001"]}
    )

    table = ReportTable("t", "", text, footer=1)

    assert table.numeric == [False, True, True]
    assert [line[0] for line in table.body] == ["1", "2"]
    assert [line[0] for line in table.foot] == ["Mean"]


def test_names_with_markup_are_words_and_nothing_else(tmp_path):
    study = hostile_study(tmp_path / "results")
    harmless = make_study_of_rows(tmp_path / "other" / "results")

    pages = [report.render(contents_of(one), tmp_path) for one in (study, harmless)]

    hostile, plain = map(read, pages)
    assert hostile.handlers == []
    assert HOSTILE in hostile.text
    assert " ".join(HOSTILE_VALUE.split()) in hostile.text
    assert hostile.tags.count("script") == plain.tags.count("script") == 1
    assert hostile.tags.count("img") == plain.tags.count("img")


def test_the_policy_names_exactly_the_style_and_the_script_of_the_page(tmp_path):
    page = report.render(plain_contents(tmp_path), tmp_path)

    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for kind, tag in {"style-src": "style", "script-src": "script"}.items():
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"{kind} 'sha256-{report._hash(source)}'" in policy[1]


@pytest.mark.parametrize(
    ("kind", "embed_frames", "pictures", "forbids"),
    [
        ("synthetic", False, True, False),
        ("cityscapes", False, False, False),
        ("other", False, False, False),
        ("cityscapes", True, True, True),
        ("other", True, True, True),
    ],
)
def test_licensed_frames_are_in_the_page_only_if_asked_for_and_then_it_says_so(
    tmp_path, kind: Kind, embed_frames: bool, pictures: bool, forbids: bool
):
    contents = plain_contents(tmp_path, kind, embed_frames=embed_frames)

    page = report.render(contents, tmp_path)

    assert ("data:image/webp" in page) == pictures
    assert ("Do not distribute it." in read(page).text) == forbids
    assert all(name in page for name in FRAMES), "names and scores are always there"
    assert ("--embed-frames</code> makes a page" in page) != pictures, "and how to get pictures"
    command = contents.commands[report.ANALYZE]
    assert ("--embed-frames" in command) == forbids, "the page as it is"


def test_a_study_that_has_only_begun_has_a_page_that_says_so(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    finish(study, 1)
    add_epochs(study, 2, [0.1, 0.2])
    begun = report.render(contents_of(study), tmp_path)
    nothing = report.render(contents_of(make_study(tmp_path / "new" / "results")), tmp_path)

    assert "fold 2: epoch 2 of 4; fold 3: not started" in read(begun).text
    assert "1 of 3 folds" in read(begun).text
    assert "No fold is finished yet." in read(nothing).text
    assert "None yet." in read(nothing).text


def test_a_data_set_that_is_gone_is_told_in_the_page(tmp_path):
    study = make_study(tmp_path / "results")
    finish(study, 1)
    shutil.rmtree(study.read().data.root)

    text = read(report.render(contents_of(study), tmp_path)).text

    assert f"The data set is no longer at {study.read().data.root}." in text
    assert all(name in text for name in FOLDS[0])


def test_settings_that_differ_are_told_apart_from_the_others(tmp_path):
    study = make_study_of_rows(tmp_path / "results")
    rows, differing, whole = contents_of(study).settings

    assert list(rows.text.columns) == ["Row", "Origin", "model.dropout", "train.lr"]
    assert rows.text.to_numpy().tolist()[:3] == [
        ["v000", "base", "0.0", "0.0001"],
        ["v001", "given", "0.1", "0.0001"],
        ["v002", "given", "0.1", "0.0002"],
    ]
    assert differing.text.to_numpy().tolist() == [
        ["model.dropout", "0.0", "0.0", "0.1"],
        ["train.epochs", "65", "4", "4"],
        ["train.lr", "0.0001", "0.0001", "0.0002"],
    ]
    assert {"data.input_size", "train.batch_size"} <= set(whole.text["Setting"])


def test_the_command_shown_names_the_study_and_a_row_that_is_not_the_usual_one(tmp_path):
    study = make_study_of_rows(tmp_path / "my results")
    rows, row = analysis.variant_table(study), analysis.read_variant(study, 1)
    panels, why = gallery.read_panels(row)
    shown = gallery.read_gallery(row, panels, "open", why)

    contents = report.report_contents(rows, analysis.fold_table(row), shown)

    assert contents.commands[report.ANALYZE] == (
        f"python -m study.analyze '{study.folder}' --variant 1"
    )


def test_links_lead_to_files_beside_the_page_and_never_out_of_its_folder(tmp_path):
    folder = tmp_path / "a # b"
    folder.mkdir()
    contents = plain_contents(tmp_path)
    panel = folder / "panel_f2.png"
    files = (panel, folder / "table 1.csv", tmp_path / "elsewhere.csv", folder / "javascript:x")

    page = report.render(replace(contents, files=files), folder)

    links = re.findall(r'href="([^"]*)"', page)
    assert {"./panel_f2.png", "./table%201.csv", "./javascript%3Ax"} <= set(links)
    assert links.count("./panel_f2.png") == 1 + len(FOLDS[1]), "and from each of the fold's frames"
    assert not any("elsewhere" in link or link.startswith("javascript") for link in links)
    assert "elsewhere.csv" in page


def test_the_largest_page_stays_below_its_limit(tmp_path):
    """As many pictures and figures as their budgets allow, and a table of a thousand rows."""
    contents = plain_contents(tmp_path)
    count = 300
    part = bytes(gallery.BUDGET_BYTES // count // 4)
    pictures = Pictures(256, 128, part, part, part, part)
    frames = [
        GalleryFrame(f"monchengladbach_000000_{i:06d}", 1, 0.5, (0.123456,) * 19, True, pictures)
        for i in range(count)
    ]
    noise = np.random.default_rng(0).integers(0, 256, (500, 640, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    one = Illustration("Noise", "Of a figure's size.", tmp_path / "noise.png")
    words = pd.DataFrame({f"Column {i}": ["a value: 0.123456"] * 1000 for i in range(10)})
    contents = replace(
        contents,
        gallery=replace(contents.gallery, frames=tuple(frames)),
        illustrations=(one,) * 8,
        tables=(ReportTable("Rows", "", words),),
    )

    path = report.write_report(tmp_path / "report.html", contents)

    assert 14_000_000 < path.stat().st_size < LIMIT_BYTES
    page = path.read_text()
    embedded = page.count("data:image/png")
    assert 0 < embedded < 8
    assert page.count("Noise (noise.png)") == 8 - embedded, "the others are named"


@dataclass
class Watched:
    """A page in a browser, and everything that it must not do."""

    page: Page
    wrongs: list[str] = field(default_factory=list)

    @staticmethod
    def watch(page: Page) -> "Watched":
        watched = Watched(page)
        wrongs = watched.wrongs
        page.on("console", lambda message: wrongs.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrongs.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrongs.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: watched._check(request.url))
        return watched

    def _check(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.wrongs.append(f"request: {url}")


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with markup in its names."""
    folder = tmp_path_factory.mktemp("report")
    study = hostile_study(folder / "results")
    drawn = illustrations.write_row_figures(
        analysis.fold_table(analysis.read_variant(study, 2)), folder
    )
    return report.write_report(folder / "report.html", contents_of(study, drawn))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real one, without a network."""
    chromium = require("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, report_file: Path) -> Iterator[Page]:
    """The report, opened from the disk; afterwards, nothing went wrong meanwhile."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    watched = Watched.watch(page)
    page.goto(report_file.as_uri())
    yield page
    assert watched.wrongs == []
    assert "harmed" not in page.evaluate("document.title.replace(/'harmed'/g, '')")
    page.close()


def table(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


def column(where: Locator, number: int) -> list[str]:
    return where.locator(f"tbody td:nth-child({number})").all_text_contents()


def test_the_page_opens_from_the_disk_without_an_error_or_a_request(page: Page):
    expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{HOSTILE} v002")
    pictures = page.locator("img").evaluate_all(
        "all => all.map(one => one.complete && one.naturalWidth > 0)"
    )
    assert len(pictures) > 4 * len(FRAMES)
    assert all(pictures)


def test_a_script_that_is_not_the_pages_own_does_not_run(browser: Browser, report_file: Path):
    page = browser.new_page()
    page.goto(report_file.as_uri())
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.harmed = true";
          document.body.append(script);
          const image = document.createElement("div");
          image.innerHTML = '<img src="data:," onerror="window.harmed = true">';
          document.body.append(image);
        }"""
    )
    page.wait_for_function("document.querySelector('div > img[src=\"data:,\"]').complete")

    assert page.evaluate("window.harmed") is None
    page.close()


def test_a_heading_sorts_by_click_and_again_the_other_way(page: Page):
    rows = table(page, "Rows")
    button = rows.get_by_role("button", name="Full-Res mIoU", exact=True)
    heading = rows.get_by_role("columnheader", name="Full-Res mIoU", exact=True)
    before = column(rows, 3)

    button.click()

    expect(heading).to_have_attribute("aria-sort", "ascending")
    rising = column(rows, 3)
    numbers = [float(text) for text in rising if text != "–"]
    assert numbers == sorted(numbers)
    assert rising[len(numbers) :] == ["–"] * (len(rising) - len(numbers)), "no score comes last"
    assert sorted(rising) == sorted(before)
    button.click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    falling = column(rows, 3)
    assert falling[: len(numbers)] == rising[: len(numbers)][::-1]
    assert falling[-1] == "–", "whichever way"
    rows.get_by_role("button", name="Row", exact=True).click()
    expect(heading).not_to_have_attribute("aria-sort", re.compile(".*"))
    assert [label[:4] for label in column(rows, 1)] == [f"v00{n}" for n in range(6)]


def test_numbers_with_signs_are_sorted_as_numbers(page: Page):
    rows = table(page, "Rows against the base one")

    rows.get_by_role("button", name="95 % from", exact=True).click()

    numbers = [float(text) for text in column(rows, 3)]
    assert numbers == sorted(numbers)
    assert len([number for number in numbers if number < 0]) > 1


def test_a_table_is_sorted_by_keys_alone_and_its_foot_stays(page: Page):
    classes = table(page, "IoU by class, full-res")
    foot = classes.locator("tfoot").text_content()
    classes.focus()

    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    heading = classes.get_by_role("columnheader", name="Fold 1", exact=True)
    expect(heading).to_have_attribute("aria-sort", "ascending")
    numbers = [float(text) for text in column(classes, 2) if text != "–"]
    assert numbers == sorted(numbers)
    assert len(numbers) > 2
    assert classes.locator("tfoot").text_content() == foot
    assert foot
    assert "mIoU" in foot


def names(page: Page) -> list[str]:
    """Of the frames that are to be seen, in their order."""
    return page.locator(".gallery > li:visible h3").all_text_contents()


def scores(page: Page) -> list[float]:
    texts = page.locator(".gallery > li:visible .score").all_text_contents()
    return [float(text.split()[-1]) for text in texts]


def test_frames_are_sorted_and_filtered(page: Page):
    assert scores(page) == sorted(scores(page)), "the worst first"
    assert set(names(page)) == set(FRAMES)

    page.get_by_role("combobox", name="Order").select_option("best first")
    assert scores(page) == sorted(scores(page), reverse=True)

    page.get_by_role("combobox", name="Order").select_option("by name")
    assert names(page) == sorted(FRAMES)

    page.get_by_role("combobox", name="Fold").select_option("2")
    assert names(page) == sorted(FOLDS[1])
    expect(page.get_by_role("status")).to_have_text("2 frames shown")


def test_a_class_leaves_the_frames_that_have_it_and_their_score_of_it(page: Page):
    page.get_by_role("combobox", name="Class").select_option("car")
    page.get_by_role("combobox", name="Order").select_option("worst first")

    assert set(names(page)) == set(FRAMES[1::2]), "every other frame has a car"
    assert scores(page) == [1.0] * 3, "no pixel of a car is wrong"
    assert "car IoU" in page.locator(".gallery > li:visible .score").all_text_contents()[0]
    page.get_by_role("combobox", name="Class").select_option("road")
    assert len(names(page)) == len(FRAMES)
    assert scores(page) == sorted(scores(page))
    assert scores(page)[0] < 1


def opacities(frame: Locator) -> list[float]:
    return frame.locator("img").evaluate_all(
        "all => all.map(one => +getComputedStyle(one).opacity)"
    )


def test_a_slider_goes_through_the_pictures_by_keys(page: Page):
    frame, other = (page.locator(".gallery > li:visible").nth(i) for i in (0, 1))
    slider = frame.get_by_role("slider")
    assert opacities(frame) == [1, 0, 0, 0]

    slider.focus()
    page.keyboard.press("ArrowRight")
    assert opacities(frame) == [1, 0.5, 0, 0], "the label over the frame"
    expect(slider).to_have_attribute("aria-valuetext", "Frame and label")
    page.keyboard.press("ArrowRight")
    assert opacities(frame) == [0, 1, 0, 0]
    expect(frame.locator(".slide span")).to_have_text("Label")
    page.keyboard.press("End")
    assert opacities(frame) == [0, 0, 0, 1]
    expect(slider).to_have_attribute("aria-valuetext", "Errors")
    assert opacities(other) == [1, 0, 0, 0], "each by its own"


def test_one_slider_moves_all_frames(page: Page):
    page.get_by_label("All frames show").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")

    frames = page.locator(".gallery > li:visible")
    assert [opacities(frames.nth(i)) for i in range(frames.count())] == [[0, 0, 1, 0]] * len(FRAMES)
    texts = page.locator(".gallery > li:visible .slide span").all_text_contents()
    assert texts == ["Prediction"] * len(FRAMES)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_is_no_wider_than_its_window(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 800})

    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) <= 0


def test_every_control_has_a_name_and_can_be_reached_by_tab(page: Page):
    controls = page.locator("select, input, th button, summary, a[href], .scroll, pre")
    unnamed = controls.evaluate_all(
        """all => all.filter(one => !(one.textContent.trim() || one.ariaLabel
             || one.labels?.[0]?.textContent.trim())).map(one => one.outerHTML)"""
    )
    assert unnamed == []
    unreachable = controls.evaluate_all(
        "all => all.filter(one => one.tabIndex < 0).map(one => one.outerHTML)"
    )
    assert unreachable == []


def luminance(page: Page, what: str, selector: str) -> float:
    """0 (black) to 1, by the definition of WCAG."""
    color = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{what}")
    rgb = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground_by_day_and_by_night(page: Page, scheme):
    page.emulate_media(color_scheme=scheme)

    ground = luminance(page, "backgroundColor", "body")
    assert (ground < 0.1) == (scheme == "dark")
    for selector in ("body", ".caption", "nav a", ".warnings li", ".headlines dd"):
        ink = luminance(page, "color", selector)
        contrast = (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
        assert contrast > 4.5, selector


def test_paper_shows_all_four_pictures_and_no_controls(page: Page):
    page.emulate_media(media="print", color_scheme="dark")

    frame = page.locator(".gallery > li:visible").first
    assert opacities(frame) == [1, 1, 1, 1]
    lefts = [
        box["x"] for box in (frame.locator("img").nth(i).bounding_box() for i in range(4)) if box
    ]
    assert lefts == sorted(set(lefts)), "side by side"
    expect(page.locator(".controls")).to_be_hidden()
    expect(page.get_by_role("navigation")).to_be_hidden()
    assert luminance(page, "backgroundColor", "body") == 1
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0, "what is folded is printed, too"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def test_without_scripts_everything_is_there(browser: Browser, report_file: Path):
    page = browser.new_page(java_script_enabled=False)
    page.goto(report_file.as_uri())

    expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
    for image in page.locator(".gallery > li").first.locator("img").all():
        expect(image).to_be_visible()
    expect(page.locator(".controls")).to_be_hidden()
    page.close()


def test_a_page_without_pictures_filters_and_sorts_all_the_same(browser: Browser, tmp_path):
    contents = plain_contents(tmp_path, "cityscapes")
    path = report.write_report(tmp_path / "report.html", contents)
    page = browser.new_page()
    watched = Watched.watch(page)
    page.goto(path.as_uri())

    page.get_by_role("combobox", name="Fold").select_option("3")
    page.get_by_role("combobox", name="Order").select_option("best first")

    assert set(names(page)) == set(FOLDS[2])
    assert scores(page) == sorted(scores(page), reverse=True)
    assert page.get_by_role("slider").count() == 0
    assert watched.wrongs == []
    page.close()
