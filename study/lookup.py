"""Which study a command is about: by its name, its path, or its age."""

from pathlib import Path

from cityseg.errors import InputError
from study.store import Study, newest


def find(study: str | None, results: Path) -> Study:
    """A study by its name within `results`, or by its path; None: the one written to last.

    Raises:
        InputError: it is not there.
    """
    if study is None:
        return newest(results)
    for candidate in (Study(results / study), Study(Path(study))):
        if candidate.exists():
            return candidate
    known = sorted(path.parent.name for path in results.glob("*/study.yaml"))
    raise InputError(
        f"no study {study}",
        got=f"neither {results / study} nor {study} holds a study.yaml",
        expected=f"one of {', '.join(known)}" if known else None,
        remedy="" if known else "make one with: python -m study.run",
    )
