"""Which cell runs next, and when a row is closed: the search itself, without Ray.

Everything is decided from the table on disk. What is decided is written there before anything
follows from it, so a schedule that was killed goes on as if it had not been.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from cityseg import atomic
from study.progress import Board, RowProgress
from study.pruning import MIN_FINISHED, RowCurves, judge
from study.space import Parameters, given_rows
from study.store import Row

Cell = tuple[int, int]
"""Variant and fold."""


class Proposals(Protocol):
    """Where rows come from that nobody gave, and who is told how rows stand."""

    def propose(self, variant: int) -> Parameters:
        """Values for a new row."""
        ...

    def synchronise(self, rows: list[RowProgress]) -> None:
        """Pass on how all rows stand."""
        ...

    def mirror(self, row: RowProgress) -> None:
        """Pass on how a row stands."""
        ...


class Schedule:
    """Hands out the cells of a study's open rows, row by row, and closes rows.

    A failed row of an earlier run is tried again; pruned and finished rows are not.
    """

    def __init__(
        self,
        board: Board,
        advisor: Proposals | None,
        closed: Callable[[RowProgress], None] = lambda row: None,
    ):
        """Take up a study where its table stands.

        Args:
            board: the table.
            advisor: proposes rows; None where all are given.
            closed: called with each row that is done, failed or pruned from now on.
        """
        self.board = board
        self._advisor = advisor
        self._closed = closed
        self._given = list(given_rows(board.record.search, board.record.config))
        self._curves: dict[int, RowCurves] = {}
        for row in list(board):
            if row.status == "failed":
                board.forgive(row.variant)
        self._open = [row.variant for row in board if row.is_open]
        self._finished = sum(row.status == "done" for row in board)
        if advisor:
            advisor.synchronise(list(board))
        for variant in list(self._open):
            self._judge(variant)

    @property
    def wanted(self) -> int:
        """Rows in all."""
        return self.board.record.search.variants or 1

    def next_cell(self, live: Collection[Cell]) -> Cell | None:
        """A cell to run beside those in `live`; None if there is none now.

        Rows are completed in order, and a new one is begun only when no other has a cell left: its
        values can then rest on all that is known. Where rows are pruned, and enough are finished to
        judge by, a row's folds run in turn, and free slots take up the next row instead: a losing
        row is then found out by its first cell (benchmarks/pruning.md).
        """
        ready = list(self._ready(live))
        busy = {variant for variant, _ in live} if self._in_turn else set()
        for cell in ready:
            if cell[0] not in busy:
                return cell
        if len(self.board.rows) < self.wanted:
            return self._begin_row(), 1
        return ready[0] if ready else None

    @property
    def _in_turn(self) -> bool:
        return self.board.record.search.prune and self._finished >= MIN_FINISHED

    def _ready(self, live: Collection[Cell]) -> Iterator[Cell]:
        for variant in self._open:
            for cell in self.board.rows[variant].cells:
                if cell.status != "done" and (variant, cell.fold) not in live:
                    yield variant, cell.fold

    def observe(self, variant: int, fold: int) -> bool:
        """Take up what a cell has written. Returns whether its row goes on."""
        if variant not in self._open:
            return False
        row = self.board.update(variant, fold)
        if row.cell(fold).status == "done" and self._advisor and row.is_open:
            self._advisor.mirror(row)
        self._judge(variant)
        return variant in self._open

    def fail(self, variant: int, fold: int, reason: str) -> None:
        """A cell cannot go on: its row fails with it."""
        atomic.write_text(self.board.study.cell(variant, fold).failure, reason + "\n")
        self.observe(variant, fold)

    def is_open(self, variant: int) -> bool:
        """Whether cells of this row are still wanted."""
        return variant in self._open

    def _begin_row(self) -> int:
        variant = max(self.board.rows) + 1
        known = [row.parameters for row in self.board]
        given = next((row for row in self._given if row not in known), None)
        if given is not None:
            row = Row(variant=variant, origin="given", parameters=given)
        else:
            assert self._advisor is not None, "more rows wanted than given, and none to propose any"
            sampler = self.board.record.search.sampler
            row = Row(variant=variant, origin=sampler, parameters=self._advisor.propose(variant))
        self.board.study.write_row(row)
        progress = self.board.add(row)
        self._open.append(variant)
        if self._advisor:
            self._advisor.mirror(progress)
        return variant

    def _judge(self, variant: int) -> None:
        """Close a row that is complete, has failed, or was left behind by the leading ones."""
        row = self.board.rows[variant]
        if row.is_open and self.board.record.search.prune:
            verdict = judge(self._evidence(row), list(self._others(variant)), len(row.cells))
            if verdict.prune:
                atomic.write_text(self.board.study.pruned_file(variant), verdict.reason + "\n")
                self.board.mark_pruned(variant, verdict.reason)
        row = self.board.rows[variant]
        if not row.is_open:
            self._open.remove(variant)
            self._finished += row.status == "done"
            if self._advisor:
                self._advisor.mirror(row)
            self._closed(row)

    def _others(self, variant: int) -> Iterator[RowCurves]:
        for row in self.board:
            if row.variant != variant and row.status != "failed":
                yield self._evidence(row)

    def _evidence(self, row: RowProgress) -> RowCurves:
        """The row's curves; those of closed rows are kept, for there may be many."""
        if row.variant in self._curves:
            return self._curves[row.variant]
        objective = self.board.objective
        curves: dict[int, Float64[np.ndarray, " n"]] = {
            cell.fold: cell.curve(objective) for cell in row.cells if cell.epochs
        }
        evidence = RowCurves(row.variant, row.cells[0].total, curves)
        if not row.is_open:
            self._curves[row.variant] = evidence
        return evidence
