"""Sets a training run up: the network with its adapter, what it is held against, the formats, the optimizer, the length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError
from whet.generate.divergence import refuse_other_vocabulary
from whet.generate.evaluation import without_dropout
from whet.model import Model
from whet.train.combine import WeightedSum, combine
from whet.train.distributed import World, world
from whet.train.length import Length
from whet.train.policy import HFPolicy
from whet.train.precision import Choice, choose
from whet.train.provider import total_steps
from whet.train.settings import TrainSettings
from whet.train.sharding import shard
from whet.train.token_values import reader
from whet.train.training import Training


def prepare(
    model: Model,
    provider: Any,
    objective: Any,
    settings: TrainSettings,
    adapter: Any,
    optimizer: Any,
    temperature: float,
    in_place: bool,
    already: Mapping[str, float] | None = None,
    reference: Model | None = None,
) -> Training:
    """Makes a run that can begin; the arguments are those of :func:`whet.train.loop.fit`.

    Raises:
        RecipeError: nothing would be trained, or settings that do not fit the model or each other.
    """
    objective, adapter = combine(objective), parts.build("adapter", adapter)
    optimizer, ranks = parts.build("optimizer", optimizer), world()
    precision, start_dtype = precision_of(settings, model), model.network.dtype
    policy = _policy(model, objective, adapter, precision, temperature, in_place, reference)
    shape = shard(policy, ranks)
    _bind(provider, policy, ranks)
    parameters, length = _trained(policy, adapter), _length(provider, settings)
    training = Training(
        model=model,
        policy=policy,
        objective=objective,
        provider=provider,
        adapter=adapter,
        optimizer=optimizer(parameters),
        parameters=parameters,
        settings=settings,
        length=length,
        limit=_limit(settings, model),
        precision=precision,
        start_dtype=start_dtype,
        identity=_identity(settings, objective, adapter, optimizer, policy, length),
        world=ranks,
        shape=shape,
        already=already or {},
    )
    if length.budget is not None:
        length.spent = training.spent()[length.budget.unit]
    return training


def _policy(
    model: Model,
    objective: Any,
    adapter: Any,
    precision: Choice,
    temperature: float,
    in_place: bool,
    reference: Model | None,
) -> HFPolicy:
    """The network to train with its adapter, the value head, and the models that it is held against."""
    others = _references(objective.needs, model, reference, precision.compute, in_place)
    network: Any = model.network if in_place else model.copy().network
    width = _width(network)
    network = _attached(adapter, network, model.quantized)
    head = _value_head(width, model.network.device) if "values" in objective.needs else None
    return HFPolicy(network, precision.compute, temperature, head, others)


def _trained(policy: HFPolicy, adapter: Any) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the optimizer gets, by name.

    Raises:
        RecipeError: there are none.
    """
    parameters = [(n, p) for n, p in policy.network.named_parameters() if p.requires_grad]
    if policy.value_head is not None:
        parameters += [(f"value_head.{n}", p) for n, p in policy.value_head.named_parameters()]
    if not parameters:
        raise RecipeError(f"adapter {parts.effective(adapter)}: it leaves nothing to train")
    return parameters


def _length(provider: Any, settings: TrainSettings) -> Length:
    if settings.budget:
        return Length(None, Budget.parse(settings.budget))
    return Length(total_steps(provider, steps=settings.steps, epochs=settings.epochs, tokens=settings.tokens))


def _identity(
    settings: TrainSettings, objective: Any, adapter: Any, optimizer: Any, policy: HFPolicy, length: Length
) -> dict[str, Any]:
    """What a checkpoint must agree in to be continued."""
    return {
        "settings": settings.fixed(),
        "objective": _described(objective),
        "adapter": parts.effective(adapter),
        "optimizer": parts.effective(optimizer),
        "temperature": policy.temperature,
        "compute": str(policy.compute),
        "steps": length.steps,
    }


def _attached(adapter: Any, network: Any, codes: Mapping[str, Any]) -> Any:
    """The network to train.

    Raises:
        RecipeError: the model is quantized and the adapter would make it dense.
    """
    if not codes:
        return adapter.attach(network)
    if not hasattr(adapter, "attach_codes"):
        name = parts.effective(adapter)["name"]
        raise RecipeError(
            f"adapter {name}: the model is quantized and would come out dense; take adapter scales, which keeps its codes, or train the "
            "stage that it was quantized from"
        )
    return adapter.attach_codes(network, codes)


def _references(
    needs: frozenset[str], start: Model, reference: Model | None, compute: torch.dtype, in_place: bool
) -> dict[str, HFPolicy]:
    """The models that the objective holds the policy against, as policies that are not trained; each process has them whole.

    Raises:
        RecipeError: it needs another model and none was given.
        ModelError: the models' tokens do not mean the same.
    """
    found = {}
    if "reference_logits" in needs:
        if reference is None:
            raise RecipeError("the objective holds the policy against another model: give one as the train step's `reference`")
        refuse_other_vocabulary(start, reference)
        found["reference"] = HFPolicy(reference.network.eval(), compute)
    if "start_logits" in needs:
        found["start"] = HFPolicy((start.copy() if in_place else start).network.eval(), compute)
    return found


def _bind(provider: Any, policy: HFPolicy, ranks: World) -> None:
    """Gives the provider what it reads off the policy.

    Rollouts carry the value head's predictions and, where training rounds its products, the trainer's log-probabilities for the
    sampler's, which differ from them by that rounding: the ratio must begin at 1. A reacting schedule is told the policy's
    losses on rows that it does not train on.
    """
    read = partial(reader, share=policy.shares_packs, stems=policy.shares_stems, device=policy.device, world=ranks)
    if hasattr(provider, "bind"):
        provider.bind(
            old_values=read(policy.values) if policy.value_head is not None else None,
            old_logps=read(policy.logps) if policy.compute is not torch.float32 else None,
        )
    if hasattr(provider, "bind_reader"):
        provider.bind_reader(_without_dropout(policy, read(policy.logps)))


def _without_dropout(policy: HFPolicy, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Reads in evaluation mode."""

    def reading(examples: Any) -> Any:
        with without_dropout(policy.network):
            numbers = read(examples)
        policy.forget()
        return numbers

    return reading


def _limit(settings: TrainSettings, model: Model) -> int:
    context = model.context or (1 << 30)
    if settings.max_length is not None and settings.max_length > context:
        raise RecipeError(f"max_length: {settings.max_length} is more than the model's context of {context} tokens")
    return settings.max_length or context


def precision_of(settings: TrainSettings, model: Model) -> Choice:
    """The format of training's products on this model's device."""
    return choose(settings.precision, model.network.device, _width(model.network))


def _width(network: Any) -> int:
    return int(getattr(network.config.get_text_config(), "hidden_size", 0) or 0)


def _value_head(width: int, device: torch.device) -> nn.Linear:
    """A linear layer that says 0 at first, so that it does not disturb the start."""
    head = nn.Linear(width, 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _described(objective: Any) -> Any:
    if isinstance(objective, WeightedSum):
        return [{"weight": weight, **parts.effective(o)} for _, weight, o in objective.parts]
    return parts.effective(objective)
