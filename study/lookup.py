"""Which study a command is about: by its name, its path or URL, or its age."""

from collections.abc import Sequence
from pathlib import Path

from cityseg.errors import InputError
from study.home import SHOWN_FILES, Home, open_home, studies_at
from study.objects import url_of
from study.store import Study, newest


def find(study: str | None, results: Path) -> Study:
    """The folder of the study that `find_home` finds."""
    return find_home(study, results).study


def find_home(study: str | None, results: Path, patterns: Sequence[str] = SHOWN_FILES) -> Home:
    """A study by its name within `results`, or by its path or URL; None: the one written to last.

    Args:
        study: name, path or URL.
        results: folder that holds the studies, or a URL; there None is the only one.
        patterns: of a cell's files that are fetched, of a study at a URL.

    Raises:
        InputError: it is not there.
    """
    url, above = url_of(study or ""), url_of(results)
    if url is None and above is None:
        return Home(_find_folder(study, results))
    home = open_home(url or f"{above}/{study or _only_study(above or '')}", "reader")
    home.pull(patterns)
    if not home.study.exists():
        raise _absent(home.where, "it holds no study", studies_at(home.where.rpartition("/")[0]))
    return home


def _find_folder(study: str | None, results: Path) -> Study:
    if study is None:
        return newest(results)
    for candidate in (Study(results / study), Study(Path(study))):
        if candidate.exists():
            return candidate
    known = sorted(path.parent.name for path in results.glob("*/study.yaml"))
    raise _absent(study, f"neither {results / study} nor {study} holds a study.yaml", known)


def _only_study(url: str) -> str:
    names = studies_at(url)
    if len(names) != 1:
        raise _absent(f"chosen at {url}", f"{len(names)} of them", names)
    return names[0]


def _absent(study: str, got: str, known: list[str]) -> InputError:
    return InputError(
        f"no study {study}",
        got=got,
        expected=f"one of {', '.join(known)}" if known else None,
        remedy="" if known else "make one with: python -m study.run",
    )
