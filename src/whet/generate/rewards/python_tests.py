"""1 if the completion's program passes the row's unit tests, else 0; the code runs in a sandbox.

The row carries ``tests`` (asserts, functions ``test_*``, or ``check(candidate)``, which is called with the row's ``entry_point``)
and may carry ``prefix``, code that stands before the program. The program is found by the rule of
:mod:`whet.generate.code_blocks`; a completion without one scores 0. Tests and program run in two processes that exchange plain
data only (:mod:`whet.generate.sandbox`), so that the program cannot write its own verdict; hence tests can call functions with
data and compare what they return, but not handle the program's own classes, and only the standard library is there.

With ``partial`` the reward is the share of assert statements that hold: each counts once, is false if it ever failed, and does
not stop the others; where something else stops the tests, the statements not reached count as false.

A program that does not finish in time, or whose process ends before its tests, scores 0 and is counted as a failure. Tests that
cannot be run whatever the program is (no Python, nothing tested) stop with a ``DataError``.

Defaults: 10 s, 1 GiB and one process per completion; as many completions at a time as there are cores; bubblewrap where it
works, else the weaker sandbox with a warning (``sandbox: bubblewrap`` refuses that).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from whet.data.rows import text_cell
from whet.errors import DataError
from whet.generate.code_blocks import program
from whet.generate.sandbox import NOTES, Job, Limits, Verdict, choose, run_all
from whet.generate.scoring import Judged


@dataclass(frozen=True)
class PythonTests:
    """``tests``, ``entry_point``, ``prefix``: columns of the row, the last two optional. ``seconds``: wall time of code and
    tests. ``memory`` in MiB. ``processes``: processes and threads that the code may be. ``workers``: completions at a time."""

    tests: str = "tests"
    entry_point: str = "entry_point"
    prefix: str = "prefix"
    partial: bool = False
    seconds: Annotated[float, Gt(0)] = 10.0
    memory: Annotated[int, Ge(64)] = 1024
    processes: Annotated[int, Gt(0)] = 1
    workers: Annotated[int, Gt(0)] | None = None
    sandbox: Literal["auto", "bubblewrap", "subprocess"] = "auto"

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return self.judge(rows, completions).values

    def judge(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Judged:
        """The rewards, why completions failed to be judged, and for the receipt: the sandbox and how often each status came.

        Raises:
            DataError: a row without tests, or whose tests cannot be run whatever the program is.
            WhetError: there is no sandbox, or not the one demanded.
        """
        jobs = [self._job(row, completion) for row, completion in zip(rows, completions)]
        mode = choose(self.sandbox)
        limits = Limits(self.seconds, self.memory, self.processes)
        verdicts = iter(run_all([job for job in jobs if job], limits, mode, self.workers))
        judged = [next(verdicts) if job else Verdict("no code") for job in jobs]
        for row, verdict in zip(rows, judged):
            if verdict.status == "broken":
                raise DataError(f"column {self.tests!r}: the tests {row[self.tests][:80]!r} cannot be used: {verdict.why}")
        return Judged(
            [self._value(verdict) for verdict in judged],
            {i: f"{v.status}: {v.why}" for i, v in enumerate(judged) if v.status in ("timeout", "ended")},
            {"sandbox": NOTES[mode], "verdicts": dict(sorted(Counter(v.status for v in judged).items()))},
        )

    def _job(self, row: Mapping[str, Any], completion: str) -> Job | None:
        tests = text_cell(row, self.tests)
        prefix, entry_point = (
            text_cell(row, column) if row.get(column) is not None else "" for column in (self.prefix, self.entry_point)
        )
        found = program(completion, prefix, entry_point)
        return Job(found.code, tests, found.prefix, entry_point, self.partial) if found else None

    def _value(self, verdict: Verdict) -> float:
        if verdict.status == "passed":
            return 1.0
        return verdict.passed / verdict.total if self.partial and verdict.total else 0.0
