"""What a law is fitted to, read from the ledger: a comparison's variants as sizes and scores, or a run's validation curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import DataError, RecipeError, StoreError, unknown
from whet.forecast.observations import Observation, Observed
from whet.run.ledger import ComparisonRecord, Ledger, Run, StepRecord
from whet.run.store import Store

ROWS, PREFERENCE = "rows", "preference"
UNITS = ("tokens", "examples", "flops", "seconds")
"""Sizes that what a variant spent gives; beside them ``rows``, and any field of the recipe by its path."""


@dataclass(frozen=True)
class Arm:
    """One variant at one seed: its name, its recipe, its run, and those of its train steps that not all variants share."""

    variant: str
    seed: int
    document: Mapping[str, Any]
    run: Run
    own: tuple[StepRecord, ...]

    @property
    def rows(self) -> int:
        """Rows that its own train steps learnt from."""
        return sum(_rows(step) for step in self.own)

    @property
    def preference(self) -> float:
        """The share of preference pairs among them."""
        pairs = sum(_rows(s) for s in self.own if s.receipt["data"]["examples_out"] == 2 * s.receipt["data"]["units_out"])
        return pairs / self.rows


def from_comparison(
    reference: str, *, x: str = ROWS, group: str | None = None, metric: str | None = None, task: str | None = None
) -> Observed:
    """The variants of a finished comparison as observations.

    Args:
        reference: the comparison's id, the beginning of it, its name (the newest), or ``last``.
        x: the size: ``rows`` that the variant's own train steps learnt from, what it spent (``tokens``, ``examples``, ``flops``,
            ``seconds``), or a field by its path, such as ``data.chosen.select.share``.
        group: what tells curves apart: a field's path, or ``preference``, the share of preference pairs among the rows.
        metric: an estimate of the task, such as ``format_error``; default its main one.
        task: default the first.

    Raises:
        StoreError: no such comparison, or one that has not finished.
        RecipeError: a task, field or metric that is not there.
        DataError: a smaller set of rows does not lie in the larger one.
    """
    store = Store.open()
    ledger = Ledger.beside(store.scratch)
    record = ledger.comparison(reference)
    if "by_seed" not in record.result:
        raise StoreError(f"comparison {record.id} is {record.status} and has no results yet; run it to its end")
    scores, main = _scores(record, task)
    arms = list(_arms(record, scores, {run.id: run for run in ledger.runs()}))
    read = _main(scores) if metric in (None, main) else _estimate(store, str(metric), task)
    rows = tuple(Observation(_size(a, x, record), read(a), a.seed, _group(a, group)) for a in arms)
    notes = [f"comparison {record.id}: {x} against {metric or main}, {len({a.variant for a in arms})} variants"]
    left = [
        f"{name} ({v['failed'] or v['stopped']})" for name, v in record.result["variants"].items() if v["failed"] or v["stopped"]
    ]
    notes += [f"with fewer seeds or none: {', '.join(left)}"] if left else []
    if x == ROWS or x.startswith("data."):
        notes.append(check_nested(store, arms, rows))
    return Observed(rows, metric or main, _lower(metric or main), tuple(notes))


def from_run(reference: str, *, x: str = "examples", metric: str | None = None) -> Observed:
    """The validation curve of a run's train step as observations.

    Args:
        reference: a run's id, the beginning of it, its recipe's name or ``last``; ``RUN:STEP`` for another step than its last one
            that was watched.
        x: ``examples``, ``tokens``, ``flops``, ``seconds`` or ``step``.
        metric: an estimate of the task; default the first.

    Raises:
        StoreError: no such run, or no step of it that was watched.
        RecipeError: a metric that is not there.
    """
    name, _, wanted = reference.partition(":")
    run = Ledger.beside(Store.open().scratch).run(name)
    watched = [s for s in run.steps if s.receipt.get("validation") and wanted in ("", s.name)]
    if not watched:
        raise StoreError(f"run {run.id} has no {wanted or 'train'} step that was watched; give its train step 'validate', a task")
    step, seen = watched[-1], watched[-1].receipt["validation"]
    chosen = metric or next(iter(seen[0]["estimates"]))
    for name, allowed in ((chosen, seen[0]["estimates"]), (x, seen[0])):
        if name not in allowed:
            raise RecipeError(
                f"run {run.id}, step {step.name}: {unknown('figure', name, [n for n in allowed if n != 'estimates'])}"
            )
    rows = tuple(Observation(float(point[x]), float(point["estimates"][chosen][0]), run.seed) for point in seen)
    notes = [f"run {run.id}, step {step.name}: {x} against {chosen}"]
    if (schedule := step.settings.get("lr_schedule")) != "constant":
        notes.append(
            f"its learning rate followed {schedule!r}, which bends the curve by itself; a constant one shows what data gives"
        )
    return Observed(rows, chosen, _lower(chosen), tuple(notes))


def _scores(record: ComparisonRecord, task: str | None) -> tuple[Mapping[str, Mapping[str, float]], str]:
    """Variant -> seed -> main figure, of a task, and the name of that figure."""
    tasks = record.result["by_seed"]
    if task is not None and task not in tasks:
        raise RecipeError(f"comparison {record.id}: {unknown('task', task, tasks)}")
    chosen = task or next(iter(tasks))
    return tasks[chosen], next((v["metric"] for v in record.result["verdicts"] if v["task"] == chosen), "score")


def _arms(record: ComparisonRecord, scores: Mapping[str, Mapping[str, float]], runs: Mapping[str, Run]) -> Iterator[Arm]:
    from whet.run.compare.variants import make_variants

    asked = record.document["compare"]
    plain = {key: value for key, value in record.document.items() if key != "compare"}
    documents = {v.name: v.document for v in make_variants(plain, asked.get("vary") or {}, asked.get("variants") or {})}
    variants = record.result["variants"]
    found = [(name, int(seed), runs[variants[name]["runs"][str(seed)]]) for name, by_seed in scores.items() for seed in by_seed]
    for name, seed, run in found:
        trained = [{s.identity for s in other.steps if s.section == "train"} for _, at, other in found if at == seed]
        common = set.intersection(*trained)
        own = [s for s in run.steps if s.section == "train" and s.identity not in common]
        yield Arm(name, seed, documents[name], run, tuple(own))


def _rows(step: StepRecord) -> int:
    counted = step.receipt.get("data") or {}
    if "units_out" not in counted:
        raise RecipeError(f"train step {step.name!r} learns from rollouts, not from rows; name a field of the recipe with x")
    return int(counted["rows_out"])


def _main(scores: Mapping[str, Mapping[str, float]]) -> Callable[[Arm], float]:
    return lambda arm: float(scores[arm.variant][str(arm.seed)])


def _estimate(store: Store, metric: str, task: str | None) -> Callable[[Arm], float]:
    """Reads an estimate from the artifacts of an arm's measure steps."""
    from whet.run.comparisons import read_stage_results

    def read(arm: Arm) -> float:
        known: set[str] = set()
        for step in arm.run.steps:
            for name, by_stage in read_stage_results(store.get(step.identity)).items() if step.section == "measure" else ():
                estimates = next(iter(by_stage.values())).estimates
                known |= set(estimates)
                if metric in estimates and task in (None, name):
                    return float(estimates[metric].value)
        raise RecipeError(f"{arm.variant}, seed {arm.seed}: {unknown('metric', metric, known)}")

    return read


def _lower(metric: str) -> bool:
    from whet.measure.estimates import is_better_high

    return not is_better_high(metric)


def _size(arm: Arm, x: str, record: ComparisonRecord) -> float:
    if x == ROWS:
        if not arm.own:
            raise RecipeError(f"variant {arm.variant!r} trains nothing of its own, so it has no rows; name a field with x")
        return float(arm.rows)
    if x in UNITS:
        return float(record.result["variants"][arm.variant]["spent"][x])
    value = _field(arm, x)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(
            f"x: {x} is {value!r} in variant {arm.variant!r}; a size is a number. There are also: {', '.join((ROWS, *UNITS))}"
        )
    return float(value)


def _group(arm: Arm, group: str | None) -> str:
    if group is None:
        return ""
    if group == PREFERENCE:
        return f"{arm.preference:.4g}"
    value = _field(arm, group)
    return str(value.get("name", value) if isinstance(value, Mapping) else value)


def _field(arm: Arm, path: str) -> Any:
    """The value of a variant's recipe at a path of keys, positions and names of steps."""
    node: Any = arm.document
    for part in path.split("."):
        if isinstance(node, Sequence) and not isinstance(node, str):
            named = {str(item.get("name", i)): item for i, item in enumerate(node) if isinstance(item, Mapping)}
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else named.get(part)
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None:
            raise RecipeError(f"{path}: variant {arm.variant!r} has nothing at {part!r}; name a field of its recipe")
    return node


def check_nested(store: Store, arms: Sequence[Arm], rows: Sequence[Observation]) -> str:
    """Checks by the rows' content that at one seed each smaller set lies in the next larger one, and says so.

    Raises:
        DataError: it does not; names both variants.
    """
    sets: dict[tuple[str, int], list[tuple[float, Arm]]] = {}
    for arm, row in zip(arms, rows):
        sets.setdefault((row.group, row.seed), []).append((row.size, arm))
    try:
        for several in sets.values():
            before: tuple[Arm, set[str]] | None = None
            for _, arm in sorted(several, key=lambda pair: pair[0]):
                now = _content(store, arm)
                if before and not before[1] <= now:
                    raise DataError(
                        f"the rows of {before[0].variant!r} do not all lie in those of {arm.variant!r} (seed {arm.seed}): sizes have to be nested, "
                        "or luck of the draw looks like growth; select random with rows or share takes nested sets at one seed"
                    )
                before = (arm, now)
    except StoreError:
        return "whether smaller sets lie in larger ones could not be checked: their rows are no longer in the store"
    return "each smaller set of rows lies in the next larger one (checked by content)"


def _content(store: Store, arm: Arm) -> set[str]:
    from datasets import load_from_disk

    from whet.data.rows import row_hash
    from whet.run.steps import ROWS as FOLDER

    folders = [store.get(step.inputs["data"]) / FOLDER for step in arm.own]
    return {row_hash(row) for folder in folders for row in load_from_disk(str(folder))}
