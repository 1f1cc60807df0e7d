"""The rule that turns a comparison into the verdict on a claim.

With the effect d turned so that the claim says d > 0, and a smallest difference of interest delta fixed beforehand:

- *reproduced*: the 95% interval lies above 0, the Holm-corrected p is below the level, and d >= delta, against every rival; and
  of what has to be kept on other tasks, the 95% interval shows that no more was lost than allowed.
- *contradicted at this scale*: the same the other way round, d <= -delta, on at least two tasks.
- *not seen at this scale*: everything else, with the reason: a precondition failed (so that the comparison could not have shown
  it), the opposite on one task alone, no effect (the 90% interval lies inside +-delta), or too few seeds and items to tell, and
  how many more it would take.

The verdict speaks of this set-up alone, never of the paper's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError
from whet.run.claims import CONTRADICTED, NOT_SEEN, REPRODUCED, Judge

if TYPE_CHECKING:
    from whet.run.compare.verdicts import Verdict

Arms = Mapping[str, tuple[float, float, float]]
"""Variant -> its value on the task that decides, with the 95% interval."""


@dataclass(frozen=True)
class Against:
    """One rival: the verdict of the comparison, turned so that ``effect`` above 0 is what the claim says."""

    rival: str
    effect: float
    low: float
    high: float
    verdict: Verdict

    @property
    def sure(self) -> bool:
        """Whether the difference, either way, is one after the correction."""
        return self.verdict.p < self.verdict.alpha and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Decision:
    """The verdict, why, and the rival that decided it: the closest of those that were not beaten, else of all (``None``: nothing
    could be compared)."""

    verdict: str
    reason: str
    against: Against | None = None


def decide(judge: Judge, verdicts: Sequence[Verdict], arms: Arms, missing: Mapping[str, str] | None = None) -> Decision:
    """Applies the rule.

    Args:
        judge: of the claim's file.
        verdicts: all of the comparison.
        arms: what each variant reached on the task that decides.
        missing: variants without a result at some seed, and why.

    Raises:
        RecipeError: a pair of the judge's variants was not compared on its task.
    """
    lacking = [f"{name} lacks results ({why})" for name, why in (missing or {}).items() if name in judge.named]
    if lacking:
        return Decision(NOT_SEEN, "untestable: " + "; ".join(lacking))
    task = judge.task or verdicts[0].task
    faced = turned(judge, verdicts, task)
    open_ = [a for a in faced if not (a.sure and a.effect >= judge.smallest)]
    closest = min(open_ or faced, key=lambda a: a.effect)
    failed = [*_preconditions(judge, arms), *_unjudged(faced)]
    if failed:
        return Decision(NOT_SEEN, "untestable: " + "; ".join(failed), closest)
    if not open_:
        size = ", same size as the paper's" if _same_size(judge, closest) else ""
        said = f"{closest.effect:+.4g} against {closest.rival}, at least {judge.smallest:g}{size}"
        kept, lost = _kept(judge, verdicts)
        return Decision(NOT_SEEN if lost else REPRODUCED, "; ".join([said, *(lost or kept)]), closest)
    return _not_reproduced(judge, verdicts, task, closest)


def turned(judge: Judge, verdicts: Sequence[Verdict], task: str) -> list[Against]:
    """The pairs that the judge asks for on a task, each seen from the variant that should be better."""
    of_task = [v for v in verdicts if v.task == task]
    found = []
    for rival in judge.rivals:
        pair = [v for v in of_task if {v.first, v.second} == {judge.better, rival}]
        if not pair:
            raise RecipeError(f"judge: {judge.better!r} and {rival!r} were not compared with each other on {task!r}")
        found.append(_turn(pair[0], rival))
    return found


def _turn(verdict: Verdict, rival: str) -> Against:
    if (verdict.first == rival) == verdict.better_high:
        return Against(rival, verdict.effect, verdict.low, verdict.high, verdict)
    return Against(rival, -verdict.effect, -verdict.high, -verdict.low, verdict)


def _preconditions(judge: Judge, arms: Arms) -> Iterator[str]:
    """What the file demands of the arms and they do not have."""
    for name, bound in judge.at_least.items():
        if arms[name][0] < bound:
            yield f"{name} has {arms[name][0]:.4g}, less than the {bound:g} that the test needs"
    for name, bound in judge.at_most.items():
        if arms[name][0] > bound:
            yield f"{name} has {arms[name][0]:.4g}, more than the {bound:g} that leaves room to improve"


def _unjudged(faced: Sequence[Against]) -> Iterator[str]:
    """Why the comparison names no winner whatever the numbers are."""
    for against in faced:
        verdict = against.verdict
        if verdict.guard:
            yield f"{verdict.first} and {verdict.second} are both at the {verdict.guard}"
        if verdict.unmatched:
            yield verdict.unmatched


def _kept(judge: Judge, verdicts: Sequence[Verdict]) -> tuple[list[str], list[str]]:
    """What was kept on the other tasks, and what was not shown to be kept, in words."""
    kept, lost = [], []
    for task, most in judge.keeps.items():
        for against in turned(judge, verdicts, task):
            said = f"{task} {against.effect:+.4g} against {against.rival}, at worst {against.low:+.4g}"
            if against.low > -most:
                kept.append(f"kept {said}")
            else:
                lost.append(f"{said}, which does not show that it loses less than {most:g}")
    return kept, lost


def _same_size(judge: Judge, against: Against) -> bool:
    return judge.paper_effect is not None and against.low <= judge.paper_effect <= against.high


def _not_reproduced(judge: Judge, verdicts: Sequence[Verdict], task: str, closest: Against) -> Decision:
    from whet.run.compare.verdicts import power_words

    said = f"{closest.effect:+.4g} against {closest.rival}"
    if _opposite(closest, judge):
        seconded = [t for t in judge.also if any(_opposite(a, judge) for a in turned(judge, verdicts, t))]
        if seconded:
            return Decision(CONTRADICTED, f"{said}, and so on {', '.join(seconded)}", closest)
        return Decision(NOT_SEEN, f"the opposite, {said}, on one task alone; a contradiction needs two", closest)
    verdict = closest.verdict
    if verdict.equal_p < verdict.alpha:
        return Decision(NOT_SEEN, f"no effect: {said}, and the 90% interval lies inside ±{judge.smallest:g}", closest)
    if closest.sure and closest.effect < judge.smallest:
        return Decision(NOT_SEEN, f"{said} is less than the {judge.smallest:g} of interest", closest)
    seen = power_words(verdict.detectable)
    more = (verdict.detectable / judge.smallest) ** 2
    if math.isfinite(more) and more > 1:
        seen += f"; to see {judge.smallest:g} takes about {math.ceil(more)} times as many seeds and items"
    return Decision(NOT_SEEN, f"inconclusive: {said}; {seen}", closest)


def _opposite(against: Against, judge: Judge) -> bool:
    judged = not (against.verdict.guard or against.verdict.unmatched)
    return judged and against.sure and against.effect <= -judge.smallest


def plain_effect(against: Against) -> dict[str, Any]:
    """The effect as a result keeps it."""
    return {
        "than": against.rival,
        "effect": round(against.effect, 4),
        "interval": [round(against.low, 4), round(against.high, 4)],
        "p": float(f"{against.verdict.p:.3g}"),
        "comparisons": against.verdict.comparisons,
    }
