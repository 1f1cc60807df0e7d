"""From rows to a trained model: makes rows into what the one loop is fed with, and says what all of it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import parts
from whet.data.mixture import refuse_unmixable
from whet.generate.divergence import refuse_other_vocabulary
from whet.model import Model, template_hash
from whet.train.combine import combine
from whet.train.feed import Feed, fixed, sampled
from whet.train.loop import FitResult, fit
from whet.train.sampled import sampled_outputs
from whet.train.settings import TrainSettings
from whet.train.setup import precision_of
from whet.train.watching import watcher

if TYPE_CHECKING:
    from whet.train.objective import Objective


def train(
    model: Model,
    rows: Any,
    *,
    objective: Sequence[tuple[float, Objective]],
    settings: Mapping[str, Any],
    format: Any = None,
    adapter: Any = "full",
    optimizer: Any = "adamw",
    schedule: Any = "shuffle",
    reward: Any = None,
    rollouts: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[..., None] | None = None,
    validate: Any = None,
    validations: int = 8,
    reference: Model | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Trains a copy of the model on dataset rows; the arguments are the fields of a recipe's train step.

    Args:
        model: where to start.
        rows: a dataset with the columns that ``format`` (or, for rollouts, the reward) reads.
        objective: (weight, objective) pairs.
        settings: fields of :class:`TrainSettings`; ``seed`` defaults to the next argument.
        format: default ``preference`` where the objective needs pairs, else ``chat``.
        adapter, optimizer, schedule, reward: parts or their recipe forms.
        rollouts: fields of :class:`RolloutSettings`.
        seed: of the order and of every random draw.
        checkpoint: folder of the checkpoints; a run found in it is continued.
        on_step: called with the log of each step.
        validate: a task that measures the model ``validations`` times while it trains; see :mod:`whet.train.watching`.
        reference: what objectives that read one hold the policy against; default the starting model, where that makes sense.

    Returns:
        The trained model and its receipt (``curve`` holds every step, ``cost`` tokens and FLOPs, ``outputs`` what the model
        now answers to ten of its prompts and how many answers ended, ``without_effect`` given options that changed nothing).
    """
    chosen = TrainSettings(
        **parts.validate(parts.settings_of(TrainSettings), {"seed": seed, **settings}, "train", "a train step")
    )
    learner: Any = combine(objective[0][1] if len(objective) == 1 and objective[0][0] == 1.0 else objective)
    schedule = parts.build("schedule", schedule)
    refuse_unmixable(schedule, learner.needs)
    if reference is not None:
        refuse_other_vocabulary(model, reference)
    anchor, compute = reference or model, precision_of(chosen, model).compute

    def fit_on(provider: Any, steps: int | None = None, **more: Any) -> FitResult:
        length = chosen if steps is None else replace(chosen, steps=steps, epochs=None, tokens=None, budget=None)
        return fit(model, provider, learner, length, adapter=adapter, optimizer=optimizer, reference=reference, **more)

    if "rollouts" in learner.needs:
        feed = sampled(rows, reward, learner, rollouts or {}, schedule, chosen.seed, anchor, compute)
    else:
        scored = (anchor, compute) if "reference" in learner.needs else None
        format = format or ("preference" if "pairs" in learner.needs else "chat")
        feed = fixed(model, rows, format, schedule, chosen, scored, fit_on, checkpoint)
    result = fit_on(
        feed.provider,
        temperature=feed.temperature,
        checkpoint_folder=checkpoint,
        on_step=on_step,
        already=feed.already,
        watch=watcher(validate, validations) if validate is not None else None,
    )
    return _finished(model, result, feed, settings)


def _finished(model: Model, result: FitResult, feed: Feed, settings: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """The trained model and the receipt of the whole step."""
    receipt = {"data": dict(feed.prepared), **result.receipt} if feed.prepared else dict(result.receipt)
    receipt |= {"without_effect": idle} if (idle := _without_effect(settings, feed.prepared)) else {}
    # The weights are used to this template from now on, whatever the model started with.
    made = replace(result.model, lineage={**result.model.lineage, "template": template_hash(model.tokenizer)})
    receipt |= {"outputs": outputs} if (outputs := sampled_outputs(made, feed.units)) else {}
    receipt |= {"skills_graph": dict(feed.graph)} if feed.graph else {}
    receipt["cost"] = _whole_cost(receipt, model.parameters, feed)
    return made, receipt


def _without_effect(settings: Mapping[str, Any], prepared: Mapping[str, Any]) -> list[str]:
    """The options that the user gave and that changed nothing on these rows, with the reason."""
    if not prepared or prepared["rows_overlong"]:
        return []
    why = f"no row is longer than {prepared['max_length']} tokens (longest {prepared['longest']})"
    return [f"{name}: {settings[name]} changed nothing, {why}" for name in ("max_length", "overlong") if settings.get(name)]


def _whole_cost(receipt: Mapping[str, Any], weights: int, feed: Feed) -> dict[str, Any]:
    """Tokens, FLOPs and examples of the step: on top of the loop's own what came before it (a reference model, a graph of skills), sampling, and
    what a schedule had measured, whose operations the loop has counted. What is only looked at (``outputs``, validation) does not
    count.
    """
    cost, provider = receipt["cost"], receipt.get("provider") or {}
    read = int(provider.get("prefill_tokens", 0)) + int(provider.get("decode_tokens", 0))
    before = feed.already
    return {
        "tokens": int(cost["tokens"]) + read + int(provider.get("measured_tokens", 0)) + int(before.get("tokens", 0)),
        "flops": float(cost["flops"]) + 2.0 * weights * read + before.get("flops", 0.0),
        "examples": int(receipt["rows"]) + int(before.get("examples", 0)),
        "seconds_training": round(float(cost["seconds"]) + before.get("seconds", 0.0), 2),
        "processor_training": round(float(cost["processor"]) + before.get("processor", 0.0), 2),
    }
