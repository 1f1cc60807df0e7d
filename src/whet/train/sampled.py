"""What a freshly trained model writes: a few prompts of its own training rows answered, to see whether it has learnt to stop.

A model whose end token was never a target (a mask by token id where padding and end share one, a template that closes
replies with nothing) trains with a good loss and never stops; only its own outputs show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.data.example import Example
from whet.errors import ModelError
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.model import Model

OUTPUTS = 10
"""Outputs that are sampled."""
SHOWN = 3
"""Outputs that the receipt shows."""
LONGEST = 256
"""Tokens after which an output counts as not ended, at most; twice the longest of the reference replies if that is less."""


def sampled_outputs(model: Model, units: Sequence[Sequence[Example]]) -> dict[str, Any]:
    """Answers up to ten prompts, spread over the units, greedily.

    Args:
        model: the trained model.
        units: what it was trained on; an example's prompt is what stands before its first trained token. Rows without a
            prompt (plain text) are passed over.

    Returns:
        ``sampled`` outputs, how many ``ended`` by themselves, ``ended_share``, ``limit`` in tokens, ``tokens`` read and
        written, and the first ``outputs``; empty if no row has a prompt or the network cannot generate.
    """
    found = [pair for unit in units for pair in _prompts(unit, model.context)]
    if not found:
        return {}
    chosen = [found[i * len(found) // min(OUTPUTS, len(found))] for i in range(min(OUTPUTS, len(found)))]
    limit = min(LONGEST, 2 * max(reply for _, reply in chosen))
    prompts = [prompt for prompt, _ in chosen]
    try:
        completions = generate(model, prompts, Sampling(temperature=0.0, max_new_tokens=limit))
    except ModelError as error:
        return {"not_sampled": str(error)}
    ended = sum(c.finish == "eos" for c in completions)
    return {
        "sampled": len(completions),
        "ended": ended,
        "ended_share": ended / len(completions),
        "limit": limit,
        "tokens": sum(map(len, prompts)) + sum(len(c.ids) for c in completions),
        "outputs": [f"[{c.finish}] {c.text[:200]!r}" for c in completions[:SHOWN]],
    }


def _prompts(unit: Sequence[Example], context: int) -> list[tuple[Sequence[int], int]]:
    """(prompt ids, reply length) of a unit's first example, if it has a prompt that leaves room for an answer."""
    example = unit[0]
    before = list(example.trained).index(True)
    fits = not context or before < context
    return [(example.input_ids[:before], example.trained_tokens)] if before > 1 and fits else []
