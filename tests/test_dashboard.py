"""Ray's dashboard of a running study, as a user has it: in a browser, by what was printed."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, sync_playwright
from servers import is_free, require, unavailable, wait_until
from test_study import SETTINGS, command

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time

BROWSER_OPTIONS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Chromium as root, on a machine without a GPU, and silent on the network."""

AGENT_PORT: Final = 52365
"""Of the process that serves a Ray's logs; fixed by Ray, so that a second Ray on a machine shows
none in its dashboard."""


@dataclass(frozen=True)
class Printed:
    """What a study says of its dashboard."""

    address: str
    token: str
    """As the printed command prints it."""


@pytest.fixture(scope="module")
def chromium() -> Path:
    """The browser: looked for before a study is started for it."""
    return require("chromium")


@pytest.fixture(scope="module")
def printed(
    chromium: Path, tiny_city: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Printed]:
    """A study that trains until the tests are over, of a user who never used Ray before."""
    try:
        # that of a Ray which was killed ends a minute or two later
        wait_until(lambda: is_free(AGENT_PORT), limit_s=180)
    except AssertionError:
        unavailable(f"another Ray runs on this machine: it holds port {AGENT_PORT}")
    home = tmp_path_factory.mktemp("home")
    binaries = Path(sys.executable).parent
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    options = ["--folds", 3, "--data", tiny_city, "--results", home, "--name", "tiny"]
    process = subprocess.Popen(
        command("study.run", *options, *SETTINGS, "train.epochs=9999"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if re.search(r"fold 1\s+epoch 1/9999", line):  # its log, once opened, stays as it is
                break
        hint = re.search(r"dashboard: (\S+) \(its token: (.+)\)", "".join(said))
        assert hint, "".join(said)
        asked = subprocess.run(
            shlex.split(hint[2]), env=environment, capture_output=True, text=True, check=True
        )
        yield Printed(hint[1], asked.stdout.strip())
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@pytest.fixture
def page(chromium: Path, printed: Printed) -> Iterator[Page]:
    """An empty page of a real browser, which reaches nothing but the dashboard."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_OPTIONS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        page.route(lambda url: not url.startswith(printed.address), lambda route: route.abort())
        yield page
        browser.close()


def test_a_cell_at_work_and_its_log_are_found_in_the_dashboard(
    page: Page, printed: Printed, tmp_path: Path
):
    page.goto(f"{printed.address}/#/actors")
    token = page.get_by_placeholder("Enter your authentication token")
    token.fill(printed.token)
    page.screenshot(path=tmp_path / "1_token.png")
    page.get_by_role("button", name="Submit").click()
    token.wait_for(state="detached")

    row = page.get_by_role("row").filter(has_text="v000_fold=1")
    row.filter(has_text="ALIVE").wait_for()
    page.screenshot(path=tmp_path / "2_actors.png")
    row.get_by_role("link", name="Log").click()

    page.get_by_role("tab", name="stderr").wait_for()
    wait_until(lambda: shows_an_epoch(page))
    page.screenshot(path=tmp_path / "3_log.png", full_page=True)


def shows_an_epoch(page: Page) -> bool:
    """Whether the log has an epoch's line; if not, it is loaded anew.

    Ray's dashboard shows "Failed to load" while its agent is still starting, and does not retry.
    """
    line = page.get_by_text(re.compile(r"fold 1\s+epoch \d+/9999"))
    line.or_(page.get_by_text("Failed to load")).first.wait_for()
    if line.count():
        return True
    page.reload()
    return False


def test_a_wrong_token_shows_nothing(page: Page, printed: Printed):
    with page.expect_response(lambda response: "actors" in response.url) as answer:
        page.goto(f"{printed.address}/#/actors")
    assert answer.value.status == 401
    page.get_by_placeholder("Enter your authentication token").fill(printed.token[::-1])
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("invalid").first.wait_for()
    assert page.get_by_text("v000_fold=1").count() == 0
