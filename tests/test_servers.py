"""The servers that other tests rely on: started, used, stopped, and missed loudly where CI is."""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest
from servers import REQUIRED, connects, free_port, is_free, postgres, require, serving


def test_postgres_holds_tables_and_wants_its_password():
    with postgres() as url:
        with psycopg.connect(url) as one:
            one.execute("create table cell (fold int)")
            one.execute("insert into cell values (3)")
        with psycopg.connect(url) as other:
            assert other.execute("select fold from cell").fetchall() == [(3,)]
            addresses = other.execute("show listen_addresses").fetchone()
        assert addresses == ("127.0.0.1",)
        secret = url.partition("cityseg:")[2].partition("@")[0]
        assert not connects(url.replace(secret, "guess"))
    assert not connects(url)


def test_postgres_is_stopped_under_an_open_connection():
    with postgres() as url:
        left_open = psycopg.connect(url)
        pid = left_open.info.backend_pid
    assert not psutil.pid_exists(pid)
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("select 1")
    left_open.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as response:
            return response.status == 200
    except urllib.error.URLError:
        return False


def test_a_server_is_ready_within_the_block_and_gone_after_it(tmp_path: Path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with serving(command, lambda: answers(url), tmp_path / "log") as process:
        assert answers(url) and not is_free(port)
    assert is_free(port)
    assert process.returncode is not None and not answers(url)


def test_a_server_that_ends_at_once_is_told_with_what_it_printed(tmp_path: Path):
    command = [sys.executable, "-c", "raise SystemExit('no such option')"]
    with (
        pytest.raises(AssertionError, match=r"ended too early.*\n.*no such option"),
        serving(command, lambda: False, tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "failed")])
def test_a_missing_program_skips_and_where_required_fails(
    required: str, outcome: str, tmp_path: Path
):
    """In a pytest of its own, with an empty PATH: what it reports is what CI would see."""
    (tmp_path / "test_it.py").write_text(
        "import servers\ndef test_it():\n    servers.require('prometheus')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", tmp_path],
        env={"PATH": "", REQUIRED: required, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert f"1 {outcome}" in ended.stdout, ended.stdout
    assert "Debian's package prometheus" in ended.stdout


def test_postgres_programs_are_found_off_the_path(monkeypatch: pytest.MonkeyPatch):
    require("initdb")  # skips where PostgreSQL is not installed
    monkeypatch.setenv("PATH", "")
    assert require("initdb").is_file()
