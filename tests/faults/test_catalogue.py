"""Every bad input of the catalogue: one line, its exit code, nothing written, nothing lost."""

import re
import shutil
from pathlib import Path

import pytest
from catalogue import CATALOGUE, Fault
from place import Place, make_template


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A sound folder, to be copied."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def place(template: Place, tmp_path: Path) -> Place:
    """A folder to do harm to."""
    return Place(Path(shutil.copytree(template.here, tmp_path / "here")))


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: f"{fault.kind}: {fault.what}")
def test_a_fault_is_one_line_and_nothing_is_written_or_lost(fault: Fault, place: Place):
    fault.do(place)
    before = place.snapshot()
    ended = place.run(fault.command, fault.words)
    kind = "error" if fault.code == 2 else "failed"
    pattern = re.escape(f"{kind}: {fault.line}\n").replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, ended.err), ended.err + ended.out[-200:]
    assert ended.code == fault.code
    left = {path: content for path, content in before.items() if path not in fault.gone}
    assert place.snapshot() == left
