"""The cold-start probe: does a model already write the form of the answer, so that preferences have something to choose from?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from whet.forecast.splits import COLD
from whet.measure.metrics.style_vs_skill import style_vs_skill
from whet.measure.outcome import Estimate
from whet.measure.statistics import wilson
from whet.measure.tasks.answers import Answers
from whet.measure.tasks.replies import Replies
from whet.model import Model

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ColdStart:
    """What a base does before any training. ``format_rate``: share of its sampled replies that have the form of the answer.
    ``perplexity``: of the chosen replies. ``cold``: preferences alone would fail, demonstrations come first.
    """

    format_rate: Estimate
    perplexity: Estimate

    @property
    def cold(self) -> bool:
        return self.format_rate.value < COLD

    def data(self) -> dict[str, Any]:
        """The probe as plain data."""
        return {**asdict(self), "cold": self.cold}

    def __str__(self) -> str:
        rate, perplexity = self.format_rate, self.perplexity
        said = "cold start: demonstrations first" if self.cold else "no cold start"
        return (
            f"probe: {100 * rate.value:.1f}% [{100 * rate.low:.1f}, {100 * rate.high:.1f}] of {rate.n} sampled replies have "
            f"the form of the answer; perplexity of the chosen replies {perplexity.value:.4g}; {said}"
        )


def cold_start(
    model: Model, rows: Dataset | Sequence[Mapping[str, Any]], *, limit: int = 200, max_new_tokens: int = 256, seed: int = 0
) -> ColdStart:
    """Samples one reply to each of ``limit`` prompts at temperature 1 and reads the chosen replies.

    Args:
        model: the base.
        rows: ``prompt`` with ``chosen`` (or ``completion``) and what the reward ``exact-answer`` reads; where they have
            ``states``, a reply that leaves steps out does not have the form.
        limit: prompts, drawn by the seed.
        max_new_tokens: longest reply.

    Raises:
        DataError: rows without these columns.
    """
    from datasets import Dataset

    data = rows if isinstance(rows, Dataset) else Dataset.from_list([dict(row) for row in rows])
    if "chosen" in data.column_names:
        data = data.map(lambda row: {"completion": row["chosen"]})
    limit, stepwise = min(limit, len(data)), "states" in data.column_names
    task = Answers(
        data=lambda split: data, limit=limit, temperature=1.0, max_new_tokens=max_new_tokens, seed=seed, by=(), errors=stepwise
    )
    outcomes = task(model).outcomes
    if stepwise:
        wrong = style_vs_skill(outcomes, kind="format")
        rate = Estimate(1 - wrong.value, 1 - wrong.high, 1 - wrong.low, wrong.n, wrong.method)
    else:
        rate = wilson(sum(bool(outcome.answer) for outcome in outcomes), len(outcomes))
    return ColdStart(rate, Replies(data=lambda split: data, limit=limit, seed=seed)(model).estimates["perplexity"])
