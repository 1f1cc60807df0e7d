"""Tells errors of form from errors of reasoning: what fine-tuning on few examples repairs, and what it does not.

A wrong reply to a prompt whose every intermediate state is known is one of three:

    format  no answer can be extracted, or fewer states are written than the problem has
    step    the form is right, and one of the states is wrong; the first wrong one is located
    other   all states are right and the answer is not: it contradicts them, or more was written after them

The three rates and accuracy add up to 1. Held against the number of training examples, the format rate falls first: a handful
of examples teaches the form, reasoning goes on improving. What counts as a state of a reply: ``whet.generate.verify.states_of``.

Shapes: one kind per completion; an example with several completions has the share of each kind among them.

Paper: superficial-alignment — Revisiting the Superficial Alignment Hypothesis
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from whet.errors import DataError
from whet.generate.verify import final_answer, states_of
from whet.measure.estimates import documents_of, mean, values_of
from whet.measure.metrics.steps import step_scores
from whet.measure.outcome import Estimate, Outcome

Kind = Literal["format", "step", "other"]
KINDS: tuple[Kind, ...] = ("format", "step", "other")


def error_of(text: str, states: Sequence[Any], right: bool) -> tuple[Kind, int] | None:
    """What is wrong with a reply, and which state is the first wrong one (from 1; 0 where that is not the error).

    Args:
        text: the reply.
        states: the true ones, the final one last; at least one.
        right: whether its answer was judged right; then nothing is wrong, whatever its steps.

    >>> error_of("7\\n9\\n#### 8", ["7", "8"], False), error_of("#### 9", ["7", "8"], False)
    (('step', 2), ('format', 0))
    """
    if right:
        return None
    written = states_of(text)
    if final_answer(text) is None or len(written) < len(states):
        return "format", 0
    reached = step_scores(states, written).prefix_length
    return ("step", reached + 1) if reached < len(states) else ("other", 0)


def error_shares(texts: Sequence[str], states: Any, right: Sequence[bool]) -> dict[str, float]:
    """The share of each kind of error among the completions (at least one) of one prompt, by the name of its score.

    Raises:
        DataError: the row has no states.
    """
    if not states:
        raise DataError(
            "errors: a row has no 'states'; use a source that gives every intermediate state (chain-mod10, nanoworld)"
        )
    found = [error_of(text, list(states), ok) for text, ok in zip(texts, right)]
    return {score_of(kind): sum(e is not None and e[0] == kind for e in found) / len(found) for kind in KINDS}


def score_of(kind: Kind) -> str:
    """The name of a kind's score: ``format_error``, ..."""
    return f"{kind}_error"


def style_vs_skill(outcomes: Sequence[Outcome], *, kind: Kind = "format") -> Estimate:
    """The rate of one kind of error over examples, with Wilson's interval (BCa where examples have several completions).

    Raises:
        DataError: the outcomes do not tell errors apart; the task ``answers`` does with ``errors: true``.
    """
    return mean(values_of(outcomes, score_of(kind)), groups=documents_of(outcomes))
