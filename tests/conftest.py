"""What all tests share: shapes checked at run time, no network, and a tiny city."""

import atexit
import os
import shutil
import tempfile

if "CITYSEG_TEST_CACHE" not in os.environ:  # the processes of pytest-xdist share their parent's
    os.environ["CITYSEG_TEST_CACHE"] = tempfile.mkdtemp(prefix="cityseg-tests-")
    atexit.register(shutil.rmtree, os.environ["CITYSEG_TEST_CACHE"], ignore_errors=True)
os.environ["CITYSEG_CACHE"] = os.environ["CITYSEG_TEST_CACHE"]
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
for official in ("CITYSCAPES_DATASET", "CITYSCAPES_RESULTS"):
    os.environ.pop(official, None)

from jaxtyping import install_import_hook

# Before anything of ours is imported: every shape and type in a signature is then checked.
install_import_hook("cityseg", "beartype.beartype")

from pathlib import Path

import hypothesis
import pytest
import torch
from tiny import tiny_config, write_city

from cityseg.config import Config
from cityseg.data import Frame, index

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")

# Float sums depend on how many threads share them, and threads of small sums mostly wait.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for weights on the network fails at once."""

    def refuse(url: str, *_: object, **__: object) -> None:
        raise AssertionError(f"a test tried to download {url}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the tiny city; to be read only."""
    return write_city(tmp_path_factory.mktemp("tiny_city"))


@pytest.fixture(scope="session")
def frames(tiny_city: Path) -> list[Frame]:
    """The twelve frames of the tiny city."""
    return index(tiny_city, "train")


@pytest.fixture
def config() -> Config:
    """A configuration that trains in seconds."""
    return tiny_config()
