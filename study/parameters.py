"""A row's values in few words: short names of their keys, numbers of three digits."""

import json
from collections.abc import Iterable
from typing import Any

from study.space import Parameters, Search

BASE_IN_SHORT = "(base)"


def varied_keys(search: Search, rows: Iterable[Parameters] = ()) -> list[str]:
    """All dotted keys that a study's rows may change, sorted."""
    keys = {*search.space, *search.grid}
    for row in (*search.rows, *rows):
        keys.update(row)
    return sorted(keys)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, or as many of the last as tell it from the others."""
    keys = set(keys)
    names = {}
    for key in sorted(keys):
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        names[key] = next((end for end in ends if _is_only_end(end, keys)), key)
    return names


def _is_only_end(end: str, keys: set[str]) -> bool:
    return sum(key == end or key.endswith(f".{end}") for key in keys) == 1


def in_short(parameters: Parameters, names: dict[str, str]) -> str:
    """Such as `lr 0.0003, dropout 0.1`, in the order of `names`; `(base)` for no values."""
    ordered = [key for key in names if key in parameters]
    ordered += [key for key in parameters if key not in names]
    words = (f"{names.get(key, key)} {value_in_short(parameters[key])}" for key in ordered)
    return ", ".join(words) or BASE_IN_SHORT


def value_in_short(value: object) -> str:
    """A value; a float in three digits, a list with crosses between, such as 256x512."""
    if isinstance(value, list | tuple):
        return "x".join(value_in_short(part) for part in value)
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    mantissa, e, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def as_scalar(value: object) -> Any:
    """A value as one field of a CSV, or one of Optuna's choices: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
