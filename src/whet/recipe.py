"""What a user writes, typed: a recipe is named steps in six sections, carried out in the order of their references.

A recipe is YAML (or a mapping)::

    whet: 1
    name: quickstart
    model: nano                     # a bundled model, a folder, a hub id, or an architecture to start from scratch
    data:
      - {name: problems, source: {name: nanoworld, rows: 4000}}
    train:
      - {name: sft, data: problems, objective: sft, lr: 1e-3, epochs: 2}
    quantize:
      - {name: w4, model: sft, bits: 4, compensate: gptq, data: problems}
    measure:
      - {name: scores, tasks: [{name: answers, data: {name: nanoworld, rows: 400}}]}
    export:
      - {name: out, model: w4, to: compressed-tensors}

A setting that names a part is the part's name or a mapping with ``name`` and the part's own settings. Every error names
the line of the file, the field, the value and what is allowed, and is raised before any compute is spent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import parts
from whet.errors import RecipeError, unknown
from whet.recipe_order import check_name, check_references, ordered
from whet.recipe_steps import (
    BASE,
    SECTIONS,
    DataStep,
    EditStep,
    MeasureStep,
    Step,
    TrainStep,
)
from whet.recipe_text import apply_override, located, read_yaml

FORMAT = 1
"""Version of the recipe format that this whet writes and reads."""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. ``steps`` are in the order in which they are carried out; ``document`` is what was written."""

    name: str
    model: Any
    seed: int
    about: str
    steps: tuple[tuple[str, Step], ...]
    document: Mapping[str, Any]
    tokenizer_data: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    """Further models that steps may name: name -> a bundled model, a folder or a hub id."""

    def step(self, name: str) -> Step:
        return next(step for _, step in self.steps if step.name == name)

    def section(self, name: str) -> list[Any]:
        return [step for section, step in self.steps if section == name]


def read(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        source: a YAML file, or the mapping it would hold.
        overrides: ``path=value`` each, such as ``train.0.objective=dpo`` or ``train.sft.lr=1e-4``.

    Raises:
        RecipeError: anything that could not be carried out, with file and line where it came from a file.
    """
    lines: dict[str, int] = {}
    document = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source), lines)
    for override in overrides:
        document = apply_override(document, override)
    try:
        return _recipe(document)
    except RecipeError as error:
        raise RecipeError(located(str(error), str(source), lines)) from None


_TOP = {"whet", "name", "model", "models", "seed", "about", "tokenizer_data", *SECTIONS}


def _recipe(document: Mapping[str, Any]) -> Recipe:
    for key in document:
        if key == "compare":
            raise RecipeError("compare: this file describes a comparison; carry it out by 'whet compare'")
        if key not in _TOP:
            raise RecipeError(f"{key}: {unknown('section', str(key), _TOP)}")
    version = document.get("whet", FORMAT)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecipeError(f"whet: expected the version of the recipe format, {FORMAT}, got {version!r}")
    if version > FORMAT:
        raise RecipeError(
            f"whet: this recipe has format {version!r}, this whet reads up to {FORMAT}; update whet (pip install -U whet)"
        )
    if not isinstance(document.get("name"), str):
        raise RecipeError("name: a recipe needs a name, a short text")
    check_name(document["name"], "name", "a recipe")
    seed = document.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise RecipeError(f"seed: expected an integer from 0 to 2^63 - 1, got {seed!r}")
    for key in ("about", "tokenizer_data"):
        if not isinstance(document.get(key), (str, type(None))):
            raise RecipeError(f"{key}: expected text, got {document[key]!r}")
    model = document.get("model", "nano")
    if isinstance(model, Mapping):
        model = parts.build("architecture", model, "model")
    elif not isinstance(model, str) or not model.strip():
        raise RecipeError(f"model: expected a model's name, folder or hub id, or an architecture, got {model!r}")
    steps, others = list(_steps(document)), _other_models(document.get("models") or {})
    check_references(steps, document.get("tokenizer_data"), others)
    return Recipe(
        name=document["name"],
        model=model,
        seed=seed,
        about=document.get("about") or "",
        steps=tuple(ordered(steps, others)),
        document=document,
        tokenizer_data=document.get("tokenizer_data"),
        models=others,
    )


def _other_models(models: Any) -> dict[str, str]:
    if not isinstance(models, Mapping):
        raise RecipeError(f"models: expected a mapping of names to models, got {models!r}")
    for name, reference in models.items():
        check_name(str(name), f"models.{name}", "a model")
        if name == BASE:
            raise RecipeError(f"models.{BASE}: '{BASE}' is the recipe's own model; take another name")
        if not isinstance(reference, str) or not reference.strip():
            raise RecipeError(f"models.{name}: expected a model's name, folder or hub id, got {reference!r}")
    return {str(name): reference for name, reference in models.items()}


def _steps(document: Mapping[str, Any]) -> Iterator[tuple[str, Step]]:
    previous = BASE
    for section, kind in SECTIONS.items():
        entries = document.get(section) or []
        if not isinstance(entries, list):
            raise RecipeError(f"{section}: expected a list of steps, got {type(entries).__name__}")
        for index, entry in enumerate(entries):
            where = f"{section}.{index}"
            if not isinstance(entry, Mapping):
                raise RecipeError(f"{where}: expected a mapping with the step's fields, got {entry!r}")
            step = build_step(section, kind, {"name": f"{section}-{index}", **entry}, where)
            if section in ("train", "quantize", "export") and step.model is None:
                step = dataclasses.replace(step, model=previous)
            if section == "train":
                previous = step.name
            yield section, step


def build_step(section: str, kind: type, entry: Mapping[str, Any], where: str) -> Any:
    """Validates one step's mapping into its dataclass, parts built."""
    known = {k: s for k, s in parts.settings_of(kind).items() if k != "settings"}
    extra = settings_class(section)
    own = {k: v for k, v in entry.items() if k in known or extra is None}
    values = parts.validate(known, own, where, f"a {section} step")
    if extra is not None:
        fields = parts.settings_of(extra)
        given = {k: v for k, v in entry.items() if k not in known}
        for key in given:
            if key not in fields:
                raise RecipeError(f"{where}.{key}: {unknown(f'field of a {section} step', str(key), [*known, *fields])}")
        values["settings"] = given
        parts.construct(extra, parts.validate(fields, given, where, f"a {section} step"), where)
    step = kind(**values)
    _check_step(step, where)
    return step


def settings_class(section: str) -> type | None:
    """The dataclass whose fields a section's steps take beside their own."""
    if section == "train":
        from whet.train.settings import TrainSettings

        return TrainSettings
    if section == "quantize":
        from whet.quantize.settings import QuantizeSettings

        return QuantizeSettings
    return None


def _check_step(step: Step, where: str) -> None:
    if isinstance(step, DataStep) and (step.source is None) == (step.data is None):
        raise RecipeError(f"{where}: give exactly one of 'source' and 'data'")
    for name, what in (("models", "stage"), ("tasks", "task")):
        # A measuring step without models measures all.
        if not getattr(step, name, "none here") and not (isinstance(step, MeasureStep) and name == "models"):
            raise RecipeError(f"{where}.{name}: the list is empty; name at least one {what}")
    if isinstance(step, EditStep) and step.score is None and "score" in getattr(step.method, "needs", ()):
        raise RecipeError(f"{where}.score: this method selects on held-out data and needs a task to score with, such as replies")
    if isinstance(step, TrainStep):
        from whet.data.mixture import refuse_unmixable

        needs = frozenset().union(*(o.needs for _, o in objectives(step.objective, f"{where}.objective")))
        if "rollouts" in needs and step.reward is None:
            raise RecipeError(f"{where}.reward: this objective learns from rollouts and needs a reward, such as exact-answer")
        _check_reference(step, needs, where)
        refuse_unmixable(step.schedule, needs, f"{where}.schedule")
        for name, given in (("reward", step.reward is not None), ("rollouts", bool(step.rollouts))):
            if given and "rollouts" not in needs:
                raise RecipeError(f"{where}.{name}: the objective takes no rollouts and would not read this; remove it")
        unread = [name for name in ("batch_size", "epochs", "tokens") if name in step.settings and "rollouts" in needs]
        if unread:
            raise RecipeError(
                f"{where}.{unread[0]}: rollouts are sized by rollouts.prompts and 'steps'; this would not be read, remove it"
            )
        if "rollouts" in needs and step.format is not None:
            raise RecipeError(
                f"{where}.format: rollouts take their prompts through the chat template; this would not be read, remove it"
            )
        if "rollouts" in needs and (cut := step.settings.get("overlong")) in ("chunk", "truncate"):
            raise RecipeError(
                f"{where}.overlong: {cut!r} would not be read: a completion is judged as a whole and never cut; bound it with "
                "rollouts.max_new_tokens, or set overlong: drop or error"
            )
        if step.rollouts:
            rollout_settings(step.rollouts, f"{where}.rollouts")


def _check_reference(step: TrainStep, needs: frozenset[str], where: str) -> None:
    if "reference_logits" in needs and step.reference is None:
        raise RecipeError(
            f"{where}.reference: this objective holds the policy against another model; name its stage: an earlier step, or one of "
            "the recipe's `models`"
        )
    if step.reference is not None and not needs & {"reference", "reference_logits"}:
        raise RecipeError(f"{where}.reference: the objective holds the policy against no other model; remove it")
    if {"reference_logits", "rollouts"} <= needs:
        raise RecipeError(f"{where}.objective: an objective that needs right replies cannot be added to one that samples its own")


def rollout_settings(given: Mapping[str, Any], where: str = "rollouts") -> Any:
    """The ``whet.train.rollout_settings.RolloutSettings`` of a train step's ``rollouts``."""
    from whet.train.rollout_settings import RolloutSettings

    return parts.construct(RolloutSettings, parts.validate(parts.settings_of(RolloutSettings), given, where, "rollouts"), where)


def objectives(spec: Any, where: str = "objective") -> list[tuple[float, Any]]:
    """The (weight, objective) pairs of a recipe's ``objective``: one part, or a list of parts each with a ``weight``."""
    if not isinstance(spec, list):
        return [(1.0, parts.build("objective", spec, where))]
    pairs = []
    for index, item in enumerate(spec):
        if not isinstance(item, (str, Mapping)):
            raise RecipeError(
                f"{where}.{index}: expected an objective's name or a mapping with 'name' and 'weight', got {item!r}"
            )
        item = {"name": item} if isinstance(item, str) else dict(item)
        weight = item.pop("weight", 1.0)
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight):
            raise RecipeError(f"{where}.{index}.weight: expected a finite number, got {weight!r}")
        pairs.append((float(weight), parts.build("objective", item, f"{where}.{index}")))
    if not pairs:
        raise RecipeError(f"{where}: the list is empty; name at least one objective")
    return pairs


def needs_no_model(recipe: Recipe, name: str) -> bool:
    """Whether the rows of a data step come from a source alone, through however many steps."""
    step = recipe.step(name)
    if not isinstance(step, DataStep) or step.synthesize or step.label or step.select:
        return False
    return step.data is None or needs_no_model(recipe, step.data)
