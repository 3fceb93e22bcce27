"""YAML that holds plain data and nothing else: what a file of settings may be, and what it may not.

PyYAML's safe loader runs nothing, but takes the last of two equal keys, and follows aliases: ten
lines of them can stand for more values than a machine has bytes. Both are refused here.
"""

from typing import Any, Final

import yaml

MOST_VALUES: Final = 1_000_000
"""Values in a document, each counted as often as it is referred to."""
DEEPEST: Final = 100
"""Levels of nesting."""

MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What PyYAML lets through of a scalar that is not what its tag says, such as `!!int ''`."""


class DocumentError(ValueError):
    """A document that is no plain data, and why."""


def load(text: str) -> Any:
    """The one document in a text, as mappings, lists and scalars.

    Raises:
        DocumentError: it cannot be read as such, says a key twice, or is endless.
    """
    loader = _loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise DocumentError(f"nested deeper than {DEEPEST} levels") from None
    except yaml.YAMLError as error:
        raise DocumentError(" ".join(str(error).split())) from None
    except DocumentError:
        raise
    except MALFORMED as error:
        raise DocumentError(f"a value that is not what it claims to be ({error})") from None
    finally:
        loader.dispose()


def _loader(text: str) -> yaml.SafeLoader:
    try:
        return yaml.SafeLoader(text)
    except yaml.YAMLError as error:  # a character that no YAML may hold
        raise DocumentError(" ".join(str(error).split())) from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node stands for, aliases followed, and how deep they are nested."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise DocumentError(f"the alias in line {_line(node)} refers to itself")
        return found
    known[id(node)] = None
    inner = [_measure(child, known) for child in _children(node)]
    values = 1 + sum(count for count, _ in inner)
    depth = 1 + max((levels for _, levels in inner), default=0)
    if values > MOST_VALUES or depth > DEEPEST:
        what = f"more than {MOST_VALUES} values" if values > MOST_VALUES else f"{depth} levels"
        raise DocumentError(f"{what} in what begins in line {_line(node)}, its aliases followed")
    known[id(node)] = values, depth
    return values, depth


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                lines = f"{_line(seen[key.value])} and {_line(key)}"
                raise DocumentError(f"the key {key.value} stands twice, in lines {lines}")
            seen[key.value] = key


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
