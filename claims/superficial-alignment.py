"""What the comparison of the claim says of style, and how well the power law fitted to few examples predicts many.

Reads the newest comparison ``claim-superficial-alignment`` of the ledger (``whet claims run superficial-alignment`` makes it). Decision, fixed
beforehand: reproduced if the share of replies with the form of the answer is at least 95% at 100 examples in the mean over seeds,
accuracy is higher at 3,200 than at 100 by at least one point with a 95% interval (paired t over seeds) above 0, and the law fitted to
25 to 800 examples predicts the mean error at 3,200 within 30% and closer than the error at 800.
"""

from __future__ import annotations

from _report import gap, row, show

from whet.forecast.observations import Observation, Observed
from whet.forecast.posttrain_power_law import PosttrainPowerLaw
from whet.run.observing import from_comparison

LARGEST, SEEN, FEW = 3200, 800, 100


def by_size(metric: str) -> dict[int, list[float]]:
    """The metric at each size, seed by seed."""
    found: dict[int, list[float]] = {}
    for o in sorted(from_comparison("claim-superficial-alignment", metric=metric).rows, key=lambda o: (o.size, o.seed)):
        found.setdefault(int(o.size), []).append(o.score)
    return found


def main() -> None:
    accuracy, formless = by_size("accuracy"), by_size("format_error")
    rows = [row(f"accuracy, {n} examples", values) for n, values in accuracy.items()]
    rows += [row(f"replies with the form, {n} examples", [1 - v for v in values]) for n, values in formless.items()]
    few = tuple(Observation(n, v, seed) for n, values in accuracy.items() if n <= SEEN for seed, v in enumerate(values))
    forecast = PosttrainPowerLaw()(Observed(few, "accuracy"), [LARGEST])
    forecast.print()
    predicted, observed = 1 - forecast.predictions[0].value, [1 - v for v in accuracy[LARGEST]]
    mean, constant = sum(observed) / len(observed), 1 - sum(accuracy[SEEN]) / len(accuracy[SEEN])
    print(f"error at {LARGEST}: predicted {predicted:.4f}, observed {mean:.4f}, as at {SEEN} {constant:.4f}")
    print(f"relative error: law {abs(predicted - mean) / mean:.4f}, staying {abs(constant - mean) / mean:.4f}")
    show([*rows, gap(f"accuracy: {LARGEST} minus {FEW} examples", accuracy[LARGEST], accuracy[FEW])])


if __name__ == "__main__":
    main()
