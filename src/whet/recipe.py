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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from whet import parts
from whet.errors import RecipeError, unknown
from whet.parts import Kind
from whet.recipe_text import apply_override, located, read_yaml

FORMAT = 1
"""Version of the recipe format that this whet writes and reads."""

LONGEST_NAME = 80
"""Characters of a recipe's or step's name."""

BASE = "base"
"""How steps refer to the recipe's own model."""


@dataclass(frozen=True)
class DataStep:
    """Makes a dataset: from a source, or from another data step, passed through synthesis, labels and selection."""

    name: str
    source: Annotated[Any, Kind("source")] | None = None
    """Where rows come from; exactly one of ``source`` and ``data`` is given."""
    data: str | None = None
    """Another data step whose rows are taken."""
    split: str = "train"
    model: str | None = None
    """The stage whose model ``synthesize``, ``label`` and ``select`` use, in this order; default the recipe's model."""
    reference: str | None = None
    """The stage that ``label`` and ``select`` hold the model against, where they compare two."""
    synthesize: Annotated[tuple[Any, ...], Kind("synthesize")] = ()
    label: Annotated[tuple[Any, ...], Kind("label")] = ()
    select: Annotated[tuple[Any, ...], Kind("select")] = ()


@dataclass(frozen=True)
class TrainStep:
    """Trains a stage's model. ``settings`` holds the fields of ``whet.train.settings.TrainSettings`` that were given."""

    name: str
    data: str
    model: str | None = None
    """The stage to start from; default the training step before this one, or the recipe's model."""
    format: Annotated[Any, Kind("format")] | None = None
    """Default: ``preference`` where the objective needs pairs, else ``chat``."""
    objective: Any = "sft"
    """A part, or a list of parts each with a ``weight``."""
    adapter: Annotated[Any, Kind("adapter")] = "full"
    optimizer: Annotated[Any, Kind("optimizer")] = "adamw"
    schedule: Annotated[Any, Kind("schedule")] = "shuffle"
    reference: str | None = None
    """The stage that objectives hold the policy against; default the one to start from, for those that can do with it."""
    reward: Annotated[Any, Kind("reward")] | None = None
    """Only for objectives that need rollouts."""
    rollouts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``whet.train.rollouts.RolloutSettings``; only for objectives that need rollouts."""
    validate: Annotated[Any, Kind("task")] | None = None
    """A task on validation rows that is measured ``validations`` times while it trains, neither timed nor counted."""
    validations: Annotated[int, Gt(0)] = 8
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditStep:
    """Merges or rescales weights of several stages without training."""

    name: str
    models: tuple[str, ...]
    method: Annotated[Any, Kind("edit")]
    base: str | None = None
    """The common ancestor, where the method needs one; default the recipe's model."""
    score: Annotated[Any, Kind("task")] | None = None
    """The held-out task that selecting methods (a greedy soup) score candidates with; never a test set."""


@dataclass(frozen=True)
class QuantizeStep:
    """Quantizes a stage's model. ``settings`` holds the fields of ``whet.quantize.settings.QuantizeSettings`` that were given."""

    name: str
    model: str | None = None
    data: str | None = None
    """The data step whose rows calibrate; needed where a piece reads activations."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureStep:
    """Measures stages on tasks and compares each stage with the one it came from."""

    name: str
    tasks: Annotated[tuple[Any, ...], Kind("task")]
    models: tuple[str, ...] = ()
    """Default: the recipe's model and every stage."""
    against: Mapping[str, str] = field(default_factory=dict)
    """Stage -> the stage that it is compared with; default the one that it was made from."""


@dataclass(frozen=True)
class ExportStep:
    """Writes a stage's model in a form that other software loads."""

    name: str
    to: Annotated[Any, Kind("export")]
    model: str | None = None


Step = DataStep | TrainStep | EditStep | QuantizeStep | MeasureStep | ExportStep

SECTIONS: dict[str, type] = {
    "data": DataStep,
    "train": TrainStep,
    "edit": EditStep,
    "quantize": QuantizeStep,
    "measure": MeasureStep,
    "export": ExportStep,
}

MODEL_SECTIONS = ("train", "edit", "quantize")
"""Sections whose steps make a model."""


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
    _check_name(document["name"], "name", "a recipe")
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
    _check_references(steps, document.get("tokenizer_data"), others)
    return Recipe(
        name=document["name"],
        model=model,
        seed=seed,
        about=document.get("about") or "",
        steps=tuple(_ordered(steps, others)),
        document=document,
        tokenizer_data=document.get("tokenizer_data"),
        models=others,
    )


def _other_models(models: Any) -> dict[str, str]:
    if not isinstance(models, Mapping):
        raise RecipeError(f"models: expected a mapping of names to models, got {models!r}")
    for name, reference in models.items():
        _check_name(str(name), f"models.{name}", "a model")
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
        needs = frozenset().union(*(o.needs for _, o in objectives(step.objective, f"{where}.objective")))
        if "rollouts" in needs and step.reward is None:
            raise RecipeError(f"{where}.reward: this objective learns from rollouts and needs a reward, such as exact-answer")
        _check_reference(step, needs, where)
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
    """The ``whet.train.rollouts.RolloutSettings`` of a train step's ``rollouts``."""
    from whet.train.rollouts import RolloutSettings

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


def references(section: str, step: Step) -> dict[str, str]:
    """Field -> the step that it refers to (data steps and stages alike), the recipe's own model left out."""
    found: dict[str, str | None] = {}
    for name in ("data", "model", "reference", "base"):
        found[name] = getattr(step, name, None)
    for index, name in enumerate(getattr(step, "models", ())):
        found[f"models.{index}"] = name
    for stage, name in getattr(step, "against", {}).items():
        found[f"against.{stage}"] = name
    return {k: v for k, v in found.items() if v is not None and v != BASE}


def needs_no_model(recipe: Recipe, name: str) -> bool:
    """Whether the rows of a data step come from a source alone, through however many steps."""
    step = recipe.step(name)
    if not isinstance(step, DataStep) or step.synthesize or step.label or step.select:
        return False
    return step.data is None or needs_no_model(recipe, step.data)


def _check_references(steps: list[tuple[str, Step]], tokenizer_data: str | None, others: Mapping[str, str]) -> None:
    names: dict[str, str] = dict.fromkeys(others, "models")
    for where, section, step in _numbered(steps):
        if step.name in names or step.name == BASE:
            raise RecipeError(
                f"{where}.name: two steps are called {step.name!r}; names must differ ('{BASE}' is the recipe's model)"
            )
        _check_name(step.name, f"{where}.name", "a step")
        names[step.name] = section
    data = [n for n, s in names.items() if s == "data"]
    stages = [BASE, *(n for n, s in names.items() if s in (*MODEL_SECTIONS, "models"))]
    for where, section, step in _numbered(steps):
        for name, target in references(section, step).items():
            allowed = data if name == "data" else stages
            if target not in allowed:
                raise RecipeError(f"{where}.{name}: {unknown('data step' if name == 'data' else 'stage', target, allowed)}")
            if names[target] == "quantize" and (section == "quantize" or (name.startswith("models.") and section == "edit")):
                raise RecipeError(
                    f"{where}.{name}: stage {target!r} is quantized, and codes can be neither merged nor quantized again; take "
                    "the stage that it was made from"
                )
        for stage in getattr(step, "against", {}):
            if stage not in stages:
                raise RecipeError(f"{where}.against: {unknown('stage', str(stage), stages)}")
    if tokenizer_data is not None and tokenizer_data not in data:
        raise RecipeError(f"tokenizer_data: {unknown('data step', tokenizer_data, data)}")


def _numbered(steps: list[tuple[str, Step]]) -> Iterator[tuple[str, str, Step]]:
    """(place in the recipe, section, step) of each step."""
    counts = dict.fromkeys(SECTIONS, 0)
    for section, step in steps:
        yield f"{section}.{counts[section]}", section, step
        counts[section] += 1


def _check_name(name: str, where: str, what: str) -> None:
    """Refuses names that could not stand in a path, in ``RUN:STAGE`` or in an override."""
    problem = _problem(name)
    if problem:
        raise RecipeError(f"{where}: the name {name[:80]!r} of {what} {problem}; take letters, digits, '-' and '_'")


def _problem(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    wrong = sorted({c for c in name if c in "/\\:" or not c.isprintable()})
    if wrong:
        return f"holds {' and '.join(map(repr, wrong))}"
    if name[0] in ".-":
        return "begins with '.' or '-'"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters, more than {LONGEST_NAME}"
    return "is a number, as positions in the recipe are" if name.isdigit() else None


def _ordered(steps: list[tuple[str, Step]], others: Collection[str]) -> list[tuple[str, Step]]:
    """Topological order that keeps the written order where it can."""
    done: set[str] = set()
    order: list[tuple[str, Step]] = []
    remaining = list(steps)
    every_model = {s.name for section, s in steps if section in MODEL_SECTIONS}
    while remaining:
        for entry in remaining:
            section, step = entry
            wanted = set(references(section, step).values())
            if isinstance(step, MeasureStep) and not step.models:
                wanted |= every_model
            if wanted <= done | set(others):
                break
        else:
            circle = ", ".join(step.name for _, step in remaining)
            raise RecipeError(
                f"{remaining[0][0]}: the steps {circle} wait for each other; a step may only use what comes before it"
            )
        remaining.remove(entry)
        order.append(entry)
        done.add(step.name)
    return order
