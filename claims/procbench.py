"""Does the share of procedures carried out without an error fall with their length, most of all beyond the trained lengths?

The bundled model is fine-tuned on six of whet's procbench tasks with 2 to 8 steps, and measured, like the untrained one, by
whet's procbench task on 2 to 16 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from _report import Row, show

import whet
from whet.measure.estimates import mean
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.statistics import holm, spearman, welch

TASKS = ("count", "search", "copy", "push-pop", "rotate", "cumulate")
TRAINED, LONGEST, SEED = 8, 16, 0
TRAIN = {"name": "procbench", "tasks": TASKS, "steps": (2, TRAINED), "problems": 100, "seed": SEED}
TEST = {"name": "procbench", "tasks": TASKS, "steps": (2, LONGEST), "problems": 5, "seed": SEED}
SCORES = {"PA": "prefix_accuracy", "SM": "sequential_match", "FM": "final_match"}
BANDS = {"2-4": (2, 4), "5-8": (5, 8), "9-12": (9, 12), "13-16": (13, 16)}


def steps(outcome: Outcome) -> int:
    return int(outcome.scores["states"])


def characters(outcome: Outcome) -> int:
    return len(outcome.prompt) + len(outcome.reference)


def values(result: TaskResult, score: str, low: int = 0, high: int = LONGEST) -> list[float]:
    return [o.scores[SCORES[score]] for o in result.outcomes if low <= steps(o) <= high]


def shown(name: str, estimate: Estimate) -> Row:
    interval = [round(estimate.low, 4), round(estimate.high, 4)]
    return {"name": name, "values": [round(estimate.value, 4)], "mean": round(estimate.value, 4), "interval": interval}


def correlation(name: str, result: TaskResult, length: Callable[[Outcome], int]) -> tuple[Row, float]:
    """Spearman's correlation of SM with a length over items."""
    scores = values(result, "SM")
    if len(set(scores)) == 1:
        return {"name": name, "values": [], "mean": None, "interval": None, "note": f"SM is {scores[0]:g} on every item"}, 1.0
    test = spearman(scores, [length(o) for o in result.outcomes])
    interval = [round(test.low or 0.0, 4), round(test.high or 0.0, 4)]
    return {"name": name, "values": [round(test.statistic, 4)], "mean": round(test.statistic, 4), "interval": interval}, test.p


def step_success(result: TaskResult, first: int, last: int) -> list[float]:
    """Of problems longer than trained: 1 or 0 for each step from ``first`` to ``last`` that was reached, by whether it was right."""
    longer = [o for o in result.outcomes if steps(o) > TRAINED]
    return [
        float(o.scores["prefix_length"] >= k)
        for o in longer
        for k in range(first, min(last, steps(o)) + 1)
        if o.scores["prefix_length"] >= k - 1
    ]


def rows(name: str, result: TaskResult) -> tuple[list[Row], list[float]]:
    """All figures of one model, and the p-values of its rows that have one, in order."""
    found = [
        shown(f"{name}: {score} at {band} steps", mean(values(result, score, *limits)))
        for score in SCORES
        for band, limits in BANDS.items()
    ]
    tested = [
        correlation(f"{name}: Spearman of SM with steps", result, steps),
        correlation(f"{name}: Spearman of SM with characters", result, characters),
    ]
    broken = sum(f < s for f, s in zip(values(result, "FM"), values(result, "SM")))
    found += [
        shown(f"{name}: ended by itself", exact(result.receipt["ended"])),
        shown(f"{name}: items with FM below SM", exact(broken)),
        shown(f"{name}: error per step", exact(result.receipt["step error"])),
    ]
    return [*found, *(row for row, _ in tested)], [p for _, p in tested]


def exact(value: float) -> Estimate:
    return Estimate(value, value, value, 1, "exact")


def break_row(result: TaskResult) -> tuple[Row, float]:
    """Success of steps up to the longest trained one minus that of later ones, in problems longer than trained."""
    early, late = step_success(result, 1, TRAINED), step_success(result, TRAINED + 1, LONGEST)
    name = "sft: step success up to step 8 minus beyond, problems of 9-16 steps"
    if min(len(early), len(late)) < 2:
        return {"name": name, "values": [], "mean": None, "interval": None, "note": "no problem got beyond step 8"}, 1.0
    test = welch(early, late)
    return shown(name, Estimate(test.effect or 0.0, test.low or 0.0, test.high or 0.0, test.n, "welch")), test.p


def with_p(found: Sequence[Row], p_values: Sequence[float]) -> list[Row]:
    corrected = holm(p_values)
    return [{**row, "p": float(f"{p:.3g}"), "p_holm": float(f"{c:.3g}")} for row, p, c in zip(found, p_values, corrected)]


def main() -> None:
    base = whet.load("nano")
    tuned = whet.train(base, TRAIN, name="sft", seed=SEED, epochs=1, batch_size=16, lr=1e-3)
    task = {"name": "procbench", "data": TEST, "max_new_tokens": 320}
    plain: list[Row] = []
    tested: list[Row] = []
    p_values: list[float] = []
    for name, model in (("base", base), ("sft", tuned)):
        result = whet.measure(model, task).results[0]
        found, p = rows(name, result)
        plain, tested, p_values = [*plain, *found[: -len(p)]], [*tested, *found[-len(p) :]], [*p_values, *p]
    row, p_break = break_row(result)
    show([*plain, *with_p([*tested, row], [*p_values, p_break])])


if __name__ == "__main__":
    main()
