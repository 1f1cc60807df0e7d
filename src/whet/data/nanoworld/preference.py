"""Pairs of replies of which one is worse for a stated reason."""

from __future__ import annotations

import random
from collections.abc import Sequence

from whet.data.nanoworld.formats import Formats
from whet.data.nanoworld.problem import ANSWER, Hand, Problem, Work
from whet.data.nanoworld.words import RUDE

REASONS = ("wrong-step", "wrong-answer", "wrong-format", "rude", "too-long", "wrong-language")
"""wrong-step: a step is wrong and the rest follows from it; wrong-answer: right steps, wrong last line; wrong-format: no answer
line, or the right content in a form that was not asked for; rude: insults first; too-long: says everything twice;
wrong-language: repeats the sentence instead of translating it."""
TRIES = 8


STEPLESS = ("facts", "styles")
"""Skills whose replies are the answer line alone."""


def applicable(skill: str, reasons: Sequence[str] = REASONS) -> list[str]:
    """Those of the reasons that a pair of this skill can have: no wrong step without steps, no wrong language without two."""
    wrong = {"wrong-step"} if skill in STEPLESS else set()
    if skill != "translation":
        wrong.add("wrong-language")
    return [reason for reason in reasons if reason not in wrong]


def rejected(problem: Problem, reason: str, rng: random.Random) -> str:
    """A reply that is worse than the right one for that reason alone."""
    right = problem.work(Hand())
    if reason == "wrong-step":
        return slipped(problem, rng).reply
    if reason == "wrong-answer":
        return Work(right.lines, wrong_answer(problem, right, rng)).reply
    if reason == "wrong-language":
        return Work((), problem.others()[0]).reply
    if reason == "rude":
        return f"{rng.choice(RUDE)}\n{right.reply}"
    if reason == "too-long":
        again = "\n".join(("Let me say it all again.", *right.lines, f"So it is {right.answer}", "As I said before:"))
        return "\n".join((*right.lines, again, ANSWER + right.answer))
    if isinstance(problem, Formats):
        return Work(right.lines, problem.bare(right.answer)).reply
    return "\n".join((*right.lines, f"So it is {right.answer}"))


def slipped(problem: Problem, rng: random.Random) -> Work:
    """A solution with one wrong step that is carried on; with a wrong answer too unless no slip tried changes it."""
    clean = Hand()
    right = problem.work(clean)
    work = right
    for _ in range(TRIES):
        work = problem.work(Hand(rng.randint(1, clean.count), rng))
        if work.answer != right.answer:
            break
    return work


def wrong_answer(problem: Problem, right: Work, rng: random.Random) -> str:
    """An answer that looks like the right one and is not."""
    others = [other for other in problem.others() if other != right.answer]
    if problem.skill != "formats" and others:
        return rng.choice(others)
    for _ in range(TRIES):
        answer = slipped(problem, rng).answer
        if answer != right.answer:
            return answer
    return f"{right.answer} {right.answer}"
