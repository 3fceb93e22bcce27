"""`python -m study.fetch`: a study at a URL as an ordinary folder, weights and all."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import tyro

from cityseg import commandline
from cityseg.errors import InputError, user_command
from study.home import CELL_FILES, PULL_LOCK, RemoteHome
from study.objects import url_of


def fetch(
    url: Annotated[str, tyro.conf.Positional], folder: Annotated[Path, tyro.conf.Positional]
) -> int:
    """Copy a study from its URL into a folder, where every command takes it for one of its own.

    Args:
        url: Of the study, such as s3://bucket/studies/paper.
        folder: To be made, such as results/paper; it must not be there.
    """
    if url_of(url) is None:
        raise InputError("what to fetch", got=url, expected="a URL such as s3://bucket/study")
    if folder.exists():
        raise InputError(f"{folder} is there already", remedy="give a folder that is not")
    home = RemoteHome(url_of(url) or "", folder)
    try:
        home.pull(CELL_FILES)
        if not home.study.exists():
            raise InputError(f"no study {url}")
    except BaseException:  # half a study would be taken for one, and be in the way of the next try
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / PULL_LOCK).unlink(missing_ok=True)
    print(home.study.folder)
    return 0


@user_command
def main() -> int:
    """Run the command."""
    return commandline.call(fetch, prog="python -m study.fetch")


if __name__ == "__main__":
    sys.exit(main())
