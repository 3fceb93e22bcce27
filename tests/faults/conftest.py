"""After the tests: how many faults of each kind were met as the catalogue says."""

import re
from collections import Counter

import pytest

FAULT = re.compile(r"test_catalogue\.py::.*\[([\w ]+): ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    kinds: dict[str, Counter[str]] = {"passed": Counter(), "failed": Counter()}
    for outcome, counter in kinds.items():
        found = (FAULT.search(report.nodeid) for report in terminalreporter.getreports(outcome))
        counter.update(match[1] for match in found if match)
    for outcome, counter in kinds.items():
        if counter:
            by_kind = ", ".join(f"{kind} {count}" for kind, count in counter.items())
            terminalreporter.write_line(f"faults {outcome}: {counter.total()} ({by_kind})")
