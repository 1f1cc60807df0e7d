"""From rows to a trained model: formats the rows, computes reference log-probabilities once, and hands all to the one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whet import parts
from whet.data.example import Example
from whet.data.prepare import prepare
from whet.generate.divergence import refuse_other_vocabulary
from whet.model import Model, template_hash
from whet.train.combine import combine
from whet.train.distributed import world
from whet.train.loop import fit
from whet.train.policy import HFPolicy
from whet.train.precision import attention_for
from whet.train.provider import FixedExamples
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.sampled import sampled_outputs
from whet.train.settings import TrainSettings
from whet.train.token_values import reader
from whet.train.training import precision_of
from whet.train.watching import watcher

if TYPE_CHECKING:
    from whet.train.objective import Objective

SCORE_TOKENS = 8192
"""Positions of a forward pass that only scores."""


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
    combined = combine(objective[0][1] if len(objective) == 1 and objective[0][0] == 1.0 else objective)
    schedule = parts.build("schedule", schedule)
    anchor = reference or model
    if reference is not None:
        refuse_other_vocabulary(model, reference)
    temperature = 1.0
    prepared: dict[str, Any] = {}
    units: list[list[Example]] = []
    if "rollouts" in combined.needs:
        sampling = RolloutSettings(**parts.validate(parts.settings_of(RolloutSettings), rollouts or {}, "rollouts", "rollouts"))
        learner: Any = combined
        provider: Any = RolloutProvider(
            rows, parts.build("reward", reward), learner, sampling, schedule=schedule, seed=chosen.seed
        )
        if "reference" in combined.needs:
            provider.bind(reference_logps=reference_reader(anchor, sampling.temperature, precision_of(chosen, model).compute))
        temperature = sampling.temperature
    else:
        units, prepared = _units(model, rows, format or ("preference" if "pairs" in combined.needs else "chat"), chosen)
        if "reference" in combined.needs:
            units = with_reference_logps(anchor, units, precision_of(chosen, model).compute)
            prepared["reference_tokens"] = sum(len(e) for unit in units for e in unit)
        provider = FixedExamples(units, schedule, seed=chosen.seed, batch_size=chosen.batch_size)
    result = fit(
        model,
        provider,
        combined,
        chosen,
        adapter=adapter,
        optimizer=optimizer,
        temperature=temperature,
        checkpoint_folder=checkpoint,
        on_step=on_step,
        already=int(prepared.get("reference_tokens", 0)),
        watch=watcher(validate, validations) if validate is not None else None,
        reference=reference,
    )
    receipt = {"data": prepared, **result.receipt} if prepared else dict(result.receipt)
    receipt |= {"without_effect": idle} if (idle := _without_effect(settings, prepared)) else {}
    # The weights are used to this template from now on, whatever the model started with.
    made = replace(result.model, lineage={**result.model.lineage, "template": template_hash(model.tokenizer)})
    receipt |= {"outputs": outputs} if (outputs := sampled_outputs(made, units)) else {}
    receipt["cost"] = _whole_cost(receipt, model.parameters, prepared)
    return made, receipt


def _without_effect(settings: Mapping[str, Any], prepared: Mapping[str, Any]) -> list[str]:
    """The options that the user gave and that changed nothing on these rows, with the reason."""
    if not prepared or prepared["rows_overlong"]:
        return []
    why = f"no row is longer than {prepared['max_length']} tokens (longest {prepared['longest']})"
    return [f"{name}: {settings[name]} changed nothing, {why}" for name in ("max_length", "overlong") if settings.get(name)]


def _units(model: Model, rows: Any, format: Any, settings: TrainSettings) -> tuple[list[list[Example]], dict[str, Any]]:
    limit = settings.max_length or model.context or 1 << 30
    return prepare(
        rows,
        parts.build("format", format),
        model.tokenizer,
        max_length=limit,
        overlong=settings.overlong,
        vocabulary=model.vocabulary,
    )


def reference_reader(
    model: Model, temperature: float = 1.0, compute: torch.dtype = torch.float32
) -> Callable[[Sequence[Example]], list[list[float]]]:
    """Reads the log-probabilities of a model that training leaves as it is.

    ``compute``: the format of the products. In the format of training the policy begins exactly at its reference.
    """
    policy = HFPolicy(model.network, compute, temperature)
    read = reader(
        policy.logps,
        micro_tokens=SCORE_TOKENS,
        share=policy.shares_packs,
        stems=policy.shares_stems,
        device=policy.device,
        world=world(),
    )

    def in_fast_attention(examples: Sequence[Example]) -> list[list[float]]:
        with attention_for(model.network, compute, max(map(len, examples), default=0)):
            numbers = read(examples)
        policy.forget()
        return numbers

    return in_fast_attention


def with_reference_logps(
    model: Model, units: Sequence[Sequence[Example]], compute: torch.dtype = torch.float32
) -> list[list[Example]]:
    """The units with ``token_values["reference_logps"]``, computed once before training; see :func:`reference_reader`."""
    read = reference_reader(model, compute=compute)
    numbers = iter(read([replace(e, unit=k) for k, unit in enumerate(units) for e in unit]))
    return [[replace(e, token_values={**e.token_values, "reference_logps": next(numbers)}) for e in unit] for unit in units]


def _whole_cost(receipt: Mapping[str, Any], weights: int, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens and FLOPs of the step, with those of the reference model and of sampling on top of the loop's own; what is only looked
    at (``outputs``, validation) does not count.
    """
    cost = dict(receipt["cost"])
    sampled = receipt.get("provider") or {}
    extra = (
        int(prepared.get("reference_tokens", 0)) + int(sampled.get("prefill_tokens", 0)) + int(sampled.get("decode_tokens", 0))
    )
    return {
        "tokens": int(cost["tokens"]) + extra,
        "flops": float(cost["flops"]) + 2.0 * weights * extra,
        "seconds_training": round(float(cost["seconds"]), 2),
    }
