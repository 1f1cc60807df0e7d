"""``whet check``: the equalities that must hold, measured on the user's own model and rows, before anything is spent.

Everything runs on a few rows: the numbers are real, the whole takes well under a minute for a small model. Steps whose rows
are made by a model are checked once those rows exist; the result says which were left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import parts
from whet.measure.invariants import Invariant, check_all
from whet.model import Model, quiet_transformers
from whet.recipe import Recipe, objectives, read
from whet.recipe_steps import TrainStep
from whet.recipe_text import read_yaml
from whet.run.bundled import find_recipe
from whet.run.forecast import Forecast, Generation, forecast_recipe
from whet.run.models import open_model
from whet.run.preflight import preflight
from whet.run.seen import seen_notes

if TYPE_CHECKING:
    from whet.data.example import Example

ROWS = 32
"""Rows of each training step that are looked at."""
SAMPLED, SHOWN = 64, 10
"""Prompts that are answered once, and how many of the answers are shown."""
SMALL = 50_000_000
"""Weights up to which the checks that copy the model on disk or train it a little are run."""


@dataclass(frozen=True)
class CheckResult:
    """What ``whet check`` found."""

    checks: Sequence[Invariant]
    rendered: Mapping[str, Sequence[str]]
    samples: Sequence[Mapping[str, str]]
    ended: int
    forecast: Forecast
    notes: Sequence[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.holds for check in self.checks)

    def data(self) -> dict[str, Any]:
        """The result as plain data."""
        return {**asdict(self), "passed": self.passed}

    def text(self) -> str:
        """The result as it is printed."""
        lines = ["invariants on your model and rows", *(f"  {check}" for check in self.checks)]
        for name, rows in self.rendered.items():
            lines += ["", f"rows of {name} as trained (⟦trained tokens⟧)", *("  " + row.replace("\n", "\n  ") for row in rows)]
        if self.samples:
            lines += ["", f"{len(self.samples)} sampled outputs, {self.ended} ended by themselves"]
            lines += [f"  [{s['finish']}] {s['prompt']!r} -> {s['completion']!r}" for s in self.samples]
        return "\n".join([*lines, "", *self.forecast.lines(), *(f"note: {note}" for note in self.notes)])


def check_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> CheckResult:
    """Checks a recipe's invariants on its own model and data and forecasts its cost; of a comparison, those of every variant.

    Raises:
        RecipeError: the recipe cannot be carried out.
        DataError: rows that cannot be read or formatted.
    """
    quiet_transformers()
    if _is_comparison(recipe):
        from whet.run.compare.check import check_comparison

        return check_comparison(recipe, overrides)
    parsed = read(find_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe, overrides)
    model = _base(parsed)
    preflight(parsed, model, lambda name: rows_of(parsed, name))
    checks: list[Invariant] = []
    rendered: dict[str, Sequence[str]] = {}
    notes = seen_notes(parsed, lambda name: rows_of(parsed, name))
    prepared: dict[str, tuple[list[list[Example]], dict[str, Any]]] = {}
    for step in parsed.section("train"):
        rows = rows_of(parsed, step.data)
        if rows is None:
            notes.append(f"train step {step.name!r}: its rows are made by a model, so they are checked when they exist")
            continue
        if "rollouts" in _needs(step):
            continue
        if "reference_logits" in _needs(step):
            notes.append(
                f"train step {step.name!r}: its objective reads another model's predictions; it is tried when both exist"
            )
            continue
        units, receipt = _prepare(step, model, rows)
        prepared[step.name] = units, receipt
        rendered[step.name] = receipt["rendered"]
        checks += _training_checks(step, model, units)
    flat = [e for units, _ in prepared.values() for unit in units for e in unit][:ROWS]
    samples, sampling_checks, generation = _sampling(parsed, model)
    checks += _reading_checks(model, flat) + sampling_checks
    if model.parameters <= SMALL:
        checks += _small_checks(parsed, model, prepared)
    else:
        notes.append(f"{model.parameters:,} weights: merging and resuming are checked by the tests, not on this model")
    forecast = forecast_recipe(
        parsed, model, {k: u for k, (u, _) in prepared.items()}, generation, lambda name: rows_of(parsed, name)
    )
    ended = sum(s["finish"] != "length" for s in samples)
    return CheckResult(checks, rendered, samples, ended, forecast, notes)


def _is_comparison(recipe: str | Path | Mapping[str, Any]) -> bool:
    """Whether a recipe has a section ``compare``."""
    return "compare" in (recipe if isinstance(recipe, Mapping) else read_yaml(find_recipe(recipe), {}))


def _base(recipe: Recipe) -> Model:
    if isinstance(recipe.model, str):
        return open_model(recipe.model)
    rows = rows_of(recipe, recipe.tokenizer_data or "")
    return recipe.model(list(rows["text"][:2000]) if rows is not None else [], recipe.seed)


def rows_of(recipe: Recipe, name: str) -> Any:
    """The rows of a data step, or ``None`` if a model makes or selects them."""
    step = next((s for s in recipe.section("data") if s.name == name), None)
    if step is None or step.synthesize or step.select:
        return None
    return rows_of(recipe, step.data) if step.data else step.source(step.split)


def _needs(step: TrainStep) -> frozenset[str]:
    return frozenset().union(*(o.needs for _, o in objectives(step.objective)))


def _prepare(step: TrainStep, model: Model, rows: Any) -> tuple[list[list[Example]], dict[str, Any]]:
    from whet.data.prepare import prepare
    from whet.train.reference import with_reference_logps

    needs = _needs(step)
    chosen = step.format or parts.build("format", "preference" if "pairs" in needs else "chat")
    limit = int(step.settings.get("max_length") or model.context or 2048)
    taken = rows.select(range(min(ROWS, len(rows))))
    units, receipt = prepare(taken, chosen, model.tokenizer, max_length=limit, overlong=step.settings.get("overlong", "drop"))
    return (with_reference_logps(model, units) if "reference" in needs else units), receipt


def _training_checks(step: TrainStep, model: Model, units: Sequence[Sequence[Example]]) -> list[Invariant]:
    from whet.train.combine import combine
    from whet.train.invariants import check_accumulation, check_packing

    few = [replace(e, unit=k) for k, unit in enumerate(units[:8]) for e in unit]
    objective = combine(objectives(step.objective))
    split, packed = check_accumulation(model, few, objective), check_packing(model, few)
    pieces = split["micro_batches"]
    return [
        Invariant(
            f"{step.name}: accumulation",
            f"1x{pieces} against {pieces}x1, largest relative gradient difference",
            split["gradient"],
            1e-4,
        ),
        Invariant(
            f"{step.name}: packing",
            "rows packed against each alone, largest difference of a log-probability",
            packed["logps"],
            1e-3,
        ),
    ]


def _reading_checks(model: Model, examples: Sequence[Example]) -> list[Invariant]:
    few = [e for e in examples if len(e) > 4][:6]
    if not few:
        return []
    halves = [(list(e.input_ids[: len(e) // 2]), list(e.input_ids[len(e) // 2 :])) for e in few]
    return check_all(model, [a for a, _ in halves], [b for _, b in halves])


def _sampling(recipe: Recipe, model: Model) -> tuple[list[dict[str, str]], list[Invariant], Generation]:
    """Ten sampled outputs, the agreement of sampler and trainer on them, and how fast and long the model writes."""
    import time

    from whet.data.chat import prompt_ids, prompt_messages
    from whet.generate.completion import Sampling
    from whet.generate.engine import generate

    drawn = (rows_of(recipe, step.name) for step in recipe.section("data"))
    rows = next((r for r in drawn if r is not None and {"prompt", "messages"} & set(r.column_names)), None)
    if rows is None or not model.tokenizer.chat_template:
        return [], [], Generation(0.0, 0.0)
    taken = [rows[i] for i in range(min(SAMPLED, len(rows)))]
    prompts = [prompt_ids(row, model.tokenizer) for row in taken]
    started = time.perf_counter()
    completions = generate(model, prompts, Sampling(max_new_tokens=128), seed=recipe.seed)
    written = sum(len(c.ids) for c in completions)
    generation = Generation(written / (time.perf_counter() - started), written / len(completions))
    asked = ["".join(m["content"] for m in prompt_messages(row)[-1:]) for row in taken[:SHOWN]]
    shown = [{"prompt": prompt, "completion": c.text, "finish": c.finish} for prompt, c in zip(asked, completions)]
    return shown, [_ratio_check(model, prompts, completions)], generation


def _ratio_check(model: Model, prompts: Sequence[Sequence[int]], completions: Sequence[Any]) -> Invariant:
    from whet.train.invariants import check_ratio

    found = check_ratio(model, [(prompts[c.prompt], c.ids, c.logps) for c in completions])
    statement = f"mean ratio of their probabilities on {found['tokens']} fresh tokens, distance from 1"
    return Invariant("sampler and trainer", statement, found["ratio"], 1e-4 if model.network.dtype.itemsize == 4 else 0.05)


def _small_checks(recipe: Recipe, model: Model, prepared: Mapping[str, tuple[Any, Any]]) -> list[Invariant]:
    checks = [_merge_check(model)] if recipe.section("edit") else []
    supervised = [s for s in recipe.section("train") if s.name in prepared and "pairs" not in _needs(s)]
    return checks + ([_resume_check(supervised[0], model, prepared[supervised[0].name][0])] if supervised else [])


def _merge_check(model: Model) -> Invariant:
    from whet.edit.run import run_edit

    with tempfile.TemporaryDirectory() as folder:
        merged, _ = run_edit([model, model], "soup", output=Path(folder) / "merged")
        new = open_model(merged).network.state_dict()
    old = model.network.state_dict()
    worst = max(float((new[k].float() - old[k].float()).abs().max()) for k in old if old[k].is_floating_point())
    return Invariant("merging", "the model merged with itself, largest change of a weight", worst, 0.0)


def _resume_check(step: TrainStep, model: Model, units: Sequence[Sequence[Example]]) -> Invariant:
    """Four training steps in one go against two, a stop, and two more."""
    from whet.train.loop import fit
    from whet.train.provider import FixedExamples, fixed_order
    from whet.train.settings import TrainSettings

    def trained(folder: Path | None, stop: int | None) -> Any:
        def on_step(entry: Any) -> None:
            if stop is not None and entry.step + 1 == stop:
                raise _Stopped

        provider = FixedExamples(units, fixed_order(step.schedule), batch_size=4)
        settings = TrainSettings(steps=4, checkpoint_every=2, lr=float(step.settings.get("lr", 1e-3)))
        objective = objectives(step.objective)
        return fit(
            model,
            provider,
            objective,
            settings,
            adapter=step.adapter,
            checkpoint_folder=folder,
            resume=True,
            on_step=on_step,
            progress=False,
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with suppress(_Stopped):
            trained(folder, 2)
        resumed, whole = trained(folder, None).model, trained(None, None).model
    pairs = zip(resumed.network.state_dict().values(), whole.network.state_dict().values())
    worst = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    return Invariant(
        "resume",
        "stopped and continued against undisturbed, largest difference of a weight",
        worst,
        0.0 if model.device.type == "cpu" else 1e-4,
    )


class _Stopped(Exception):
    """Ends the first half of the resume check."""
