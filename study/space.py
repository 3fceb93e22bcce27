"""The rows of a study as data: which configurations are tried beside the base one.

A row (a variant) is a mapping of dotted configuration keys to values, laid over the base
configuration; row 0 is empty, so that every study holds its own baseline.
"""

import itertools
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cityseg import plainyaml
from cityseg.config import Config, Section, Seed, parse, shown, validate
from cityseg.errors import InputError

Parameters = dict[str, Any]
"""Dotted configuration keys and the values that a row has there, plain data."""
Objective = Literal["best_full", "best_low", "last_full", "last_low"]
"""Score of a cell, as named in the fold table: by the best epoch (chosen by low-res mIoU) or the
last, at full or low resolution."""
Origin = Literal["base", "given", "tpe", "random", "gp"]
"""Where a row came from: the configuration itself, the rows or the grid given, or a sampler."""

SAME_IN_ALL_ROWS: Final = ("folds", "city", "resources", "evaluate.full_every")
"""Sections and keys that all rows share: the split, the data, and what changes no number."""
HEAVY: Final = (
    "model.encoder",
    "model.weights",
    "model.decoder_width",
    "model.context",
    "model.decoder_blocks",
    "data.input_size",
    "train.batch_size",
    "evaluate.batch_size",
)
"""Keys that memory, disk and what is fetched beforehand depend on, together."""
MOST_ROWS: Final = 100_000


class Range(Section):
    """Numbers from low to high, both included; whole ones if the key's values are."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw the logarithm evenly."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Only low, low + step, ... up to high."""

    @field_validator("low", "high", "step", mode="before")
    @classmethod
    def _is_number(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.field_name == "step":
            return None
        number = _number(value)
        if not math.isfinite(number):
            got = repr(value)[:40]
            raise ValueError(f"{info.field_name}: got {got}, expected: a finite number")
        return number if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ends_fit(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.step is not None and not _divides(self.step, self.low, self.high):
            raise ValueError(f"high {self.high} is not low + a multiple of step {self.step}")
        return self


def _number(value: object) -> float:
    """A number, or the word that PyYAML takes 1e-4 for; else NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _divides(step: float, low: float, high: float) -> bool:
    """As decimals, which is how Optuna divides, too."""
    step_, low_, high_ = (Decimal(str(number)) for number in (step, low, high))
    try:
        return (high_ - low_) % step_ == 0
    except ArithmeticError:  # more steps than a decimal has digits
        return False


class Choices(Section):
    """One of some values; a plain list in YAML is the same."""

    choices: Annotated[list[Any], Field(min_length=1)]


def _form(value: object) -> str:
    chosen = isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value)
    return "choices" if chosen else "range"


Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_form)
]


class Search(Section):
    """Section `search` of a study's configuration: its rows, and how they are chosen and kept."""

    variants: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None
    """Rows in all, the base one included; by default the base one and those given."""
    rows: list[Parameters] = Field(default_factory=list)
    """Rows by hand, such as `- {train.lr: 3e-4, model.dropout: 0.1}`."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Rows by hand: all combinations of these values."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    """What a sampler draws further rows from, such as `train.lr: {low: 1e-5, high: 1e-3, log:
    true}`, `train.batch_size: [2, 4]`."""
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    """Optuna's sampler: tree-structured Parzen estimator, uniform draws, or Gaussian process."""
    startup: Annotated[int, Field(ge=1)] = 8
    """Rows before tpe and gp begin to learn from scores; drawn at random."""
    seed: Seed | None = None
    """Seed of the sampler; by default the configuration's."""
    objective: Objective = "best_full"
    """What is compared: its mean over the folds is what the sampler maximises."""
    prune: bool = False
    """Stop rows that fall behind the leading ones on the same folds and epochs."""
    keep_weights: Annotated[str, Field(pattern=r"^(all|best|none|top-[1-9]\d*)$")] = "best"
    """Rows whose best weights stay on disk once their folds are done: all, the best one, none, or
    the top-N by the objective."""

    @field_validator("space", mode="before")
    @classmethod
    def _lists_are_choices(cls, space: object) -> object:
        if not isinstance(space, dict):
            return space
        return {k: {"choices": v} if isinstance(v, list) else v for k, v in space.items()}

    @property
    def kept_rows(self) -> float:
        """How many rows keep their weights."""
        fixed = {"all": math.inf, "best": 1, "none": 0}
        if self.keep_weights in fixed:
            return fixed[self.keep_weights]
        return int(self.keep_weights.removeprefix("top-"))


def read_search(
    settings: dict[str, Any],
    config: Config,
    check: Callable[[Config], None] = lambda _: None,
    there: int | None = None,
) -> Search:
    """Validate a `search` section against the configuration that its rows change.

    Every row, both ends of every range and every choice, alone and in pairs, are tried, so that no
    later draw is refused. Values come back as the configuration reads them: `1e-4` as a number.

    Args:
        settings: the plain section.
        config: the base configuration.
        check: refuses (InputError) a configuration that its study cannot train.
        there: rows that the study was to have when it was run before: the default for `variants`,
            which is then not checked.

    Raises:
        InputError: an unknown key, a value out of range, no number where a range is; and as
            `check_count` for a new study.
    """
    space = {k: _dimension(k, v) for k, v in _mapping(settings.get("space")).items()}
    settings = {**settings, "space": space} if space else settings
    search = validate(Search, settings, source="search")

    def typed_row(where: str, row: Parameters) -> Parameters:
        check(changed := apply(config, row, f"search.{where}"))
        return {key: value_of(changed, key) for key in row}

    def typed(where: str, key: str, value: object) -> Any:
        return typed_row(where, {key: value})[key]

    rows = [typed_row("rows", row) for row in search.rows]
    grid = {k: [typed("grid", k, v) for v in values] for k, values in search.grid.items()}
    space = {k: _typed_dimension(k, v, typed) for k, v in search.space.items()}
    search = search.model_copy(update={"rows": rows, "grid": grid, "space": space})
    _check_grid(grid)
    for one, other in itertools.combinations(_ends(search), 2):
        if one.keys() != other.keys():
            check(apply(config, one | other, "search.space"))
    if search.variants is None and (there or not space):
        given = 1 + len(given_rows(search, config))
        search = search.model_copy(update={"variants": max(given, there or 0)})
    _check_pruning(search, config)
    if there is None:
        check_count(search, config)
    return search


def _check_pruning(search: Search, config: Config) -> None:
    full_every = config.evaluate.full_every
    if search.prune and search.objective.endswith("_full") and full_every > 1:
        raise InputError(
            f"search.prune by {search.objective}, which wants that score of every epoch",
            got=f"evaluate.full_every={full_every}", expected="1",
            remedy="or set search.objective to best_low or last_low",
        )  # fmt: skip


def _mapping(settings: object) -> dict[str, Any]:
    return settings if isinstance(settings, dict) else {}


def _dimension(key: object, settings: object) -> Range | Choices:
    """A dimension as it stands in YAML; what is wrong with it is told with its key."""
    if isinstance(settings, Range | Choices):
        return settings
    if isinstance(settings, list):
        settings = {"choices": settings}
    if not isinstance(settings, dict):
        raise InputError(
            f"search.space: {key}", got=repr(settings),
            expected="{low: NUMBER, high: NUMBER} or a list of values",
        )  # fmt: skip
    form = Choices if _form(settings) == "choices" else Range
    return validate(form, settings, f"search.space: {key}")


def _check_grid(grid: dict[str, list[Any]]) -> None:
    combinations = math.prod(len(values) for values in grid.values())
    if combinations > MOST_ROWS:
        raise InputError(
            "search.grid", got=f"{combinations} combinations", expected=f"at most {MOST_ROWS}"
        )


def _typed_dimension(
    key: str, dimension: Range | Choices, typed: Callable[[str, str, object], Any]
) -> Range | Choices:
    if isinstance(dimension, Choices):
        return Choices(choices=[typed("space", key, value) for value in dimension.choices])
    ends = [typed("space", key, end) for end in (dimension.low, dimension.high)]
    odd = [end for end in ends if isinstance(end, bool) or not isinstance(end, int | float)]
    if odd:
        raise InputError(
            f"search.space: {key}", got=f"a range, but its values are as {odd[0]!r}",
            expected="a list of values",
        )  # fmt: skip
    if isinstance(ends[0], int) and not float(dimension.step or 1).is_integer():
        raise InputError(
            f"search.space: {key}", got=f"step {dimension.step}", expected="a whole step"
        )
    return Range(low=ends[0], high=ends[1], log=dimension.log, step=dimension.step)


def check_count(search: Search, config: Config) -> None:
    """Refuse a number of rows that the section cannot give.

    Raises:
        InputError: too few for the rows given, or more than these and no space to draw from.
    """
    given = 1 + len(given_rows(search, config))
    if search.variants is None:
        raise InputError(
            "search.space is given without a number of rows", remedy="give --variants N"
        )
    if search.variants < given:
        raise InputError(
            "search.variants", got=search.variants,
            expected=f"at least {given}: the base row and the {given - 1} given",
        )  # fmt: skip
    if search.variants > given and not search.space:
        raise InputError(
            "search.variants", got=f"{search.variants} rows, but only {given} are given",
            expected="search.space to draw the others from",
            remedy="such as configs/search.yaml has",
        )  # fmt: skip


def grid_of(words: tuple[str, ...]) -> dict[str, list[Any]]:
    """A grid from words such as `train.lr=[1e-4, 3e-4]`.

    Raises:
        InputError: a word that is not of this form, or a key that was given already.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        key, _, text = word.partition("=")
        try:
            values = plainyaml.load(text)
        except plainyaml.DocumentError:
            values = None
        if not key or not isinstance(values, list) or not values:
            raise InputError("--grid", got=shown(word), expected="such as train.lr=[1e-4,3e-4]")
        if key in grid:
            raise InputError("--grid", got=f"{key} twice", expected="all its values in one list")
        grid[key] = values
    return grid


def extremes(search: Search, config: Config) -> list[Config]:
    """The base configuration, the given rows, and rows at the ends of the space.

    What a row takes of memory and disk grows with each key alone, and with some together: of these
    there are all combinations, so that they tell the most.
    """
    heavy = [[end for end in _ends(search) if key in end] for key in HEAVY if key in search.space]
    corners = [
        {key: value for end in ends for key, value in end.items()}
        for ends in itertools.product(*heavy)
    ]
    rows = ({}, *given_rows(search, config), *_ends(search), *corners)
    return [apply(config, row, "search") for row in rows]


def _ends(search: Search) -> list[Parameters]:
    """Rows of one key each: both ends of the ranges, and all choices."""
    return [
        {key: value}
        for key, dimension in search.space.items()
        for value in (
            dimension.choices if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        )
    ]


def given_rows(search: Search, config: Config) -> list[Parameters]:
    """Rows by hand and of the grid, in order, without those that repeat the base row or another."""
    grid = [
        dict(zip(search.grid, values, strict=True))
        for values in itertools.product(*search.grid.values())
    ]
    rows: list[Parameters] = []
    seen = {json.dumps(config.identity())}
    for row in (*search.rows, *(grid if search.grid else [])):
        identity = json.dumps(apply(config, row, "search").identity())
        if identity not in seen:
            seen.add(identity)
            rows.append(row)
    return rows


def apply(config: Config, parameters: Parameters, source: str) -> Config:
    """The base configuration with a row's values laid over it.

    Raises:
        InputError: a key that is unknown, a whole section, or the same in all rows; a value out of
            range.
    """
    settings = config.model_dump(mode="json")
    for key, value in parameters.items():
        *sections, leaf = key.split(".")
        if key in SAME_IN_ALL_ROWS or key.split(".")[0] in SAME_IN_ALL_ROWS:
            raise InputError(f"{source}: {key}", got="a value a row", expected="one for all rows")
        inner = settings
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict) or isinstance(inner.get(leaf), dict):
            raise InputError(f"{source}: {key}", expected="one setting's dotted key")
        inner[leaf] = value
    return parse(settings, source)


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key, as plain data."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
