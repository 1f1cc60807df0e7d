"""Measures the stages of a run on the same examples and compares each with the stage it came from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError

if TYPE_CHECKING:
    from whet.measure import compare as judge
    from whet.measure.outcome import TaskResult
    from whet.model import Model

RESULTS, COMPARISONS = "results.json", "comparisons.json"


@dataclass(frozen=True)
class Comparison:
    """One judged pair of stages as the report shows it.

    ``kind`` is ``better``, ``worse`` or ``same``; ``verdict`` the sentence; ``effect``, ``low``, ``high`` are second minus
    first; ``p`` is Holm-corrected over the comparisons of the step; ``flips`` counts examples; ``examples`` are flips to read.
    """

    task: str
    first: str
    second: str
    kind: str
    verdict: str
    effect: float
    low: float
    high: float
    p: float
    detectable: float
    flips: Mapping[str, int]
    examples: Sequence[Mapping[str, str]]


def measure_stages(
    tasks: Sequence[Callable[[Model], TaskResult]],
    stages: Sequence[str],
    load: Callable[[str], Model],
    folder: Path,
    progress: Path,
    reference: str | None = None,
) -> tuple[dict[str, list[TaskResult]], list[dict[str, Any]]]:
    """Runs every task on every stage; writes one result file each; returns results by task and the listing of the files.

    Finished results, and the completions of an unfinished one, are kept in ``progress``, where a stopped run finds them again.
    With a ``reference`` stage, which is measured too, each task's negative flips are further results.
    """
    from dataclasses import replace

    from whet.generate.kept import kept_in
    from whet.measure.results import read_result, write_result

    progress.mkdir(parents=True, exist_ok=True)

    results: dict[str, list[TaskResult]] = {}
    listing: list[dict[str, Any]] = []
    for stage in dict.fromkeys([*([reference] if reference else []), *stages]):
        model = load(stage)
        for task in tasks:
            file = f"{len(listing):03d}.jsonl"
            if not (progress / file).is_file():
                with kept_in(progress / f"{len(listing):03d}"):
                    write_result(replace(task(model), model=stage), progress / file)
            shutil.copy(progress / file, folder / file)
            result = read_result(folder / file)
            mib = sum(p.numel() * p.element_size() for p in model.network.parameters()) / 2**20
            listing.append({"stage": stage, "task": result.task, "file": file, "mib": mib})
            results.setdefault(result.task, []).append(result)
    if reference:
        _add_flips(results, listing, reference, stages, folder)
    (folder / RESULTS).write_text(json.dumps(listing, indent=1))
    return results, listing


def _add_flips(
    results: dict[str, list[TaskResult]], listing: list[dict[str, Any]], reference: str, stages: Sequence[str], folder: Path
) -> None:
    """Adds what each stage gets wrong that the reference gets right, as further results.

    Raises:
        RecipeError: of no task more is better.
    """
    from whet.measure.metrics.flips import flip_result
    from whet.measure.results import write_result

    mib = {entry["stage"]: entry["mib"] for entry in listing}
    found: dict[str, list[TaskResult]] = {}
    for measured in results.values():
        old = next(r for r in measured if r.model == reference)
        for flipped in (flip_result(old, r) for r in measured if r.model in stages):
            if flipped is not None:
                file = f"{len(listing):03d}.jsonl"
                write_result(flipped, folder / file)
                listing.append({"stage": flipped.model, "task": flipped.task, "file": file, "mib": mib[flipped.model]})
                found.setdefault(flipped.task, []).append(flipped)
    if not found:
        raise RecipeError(
            f"measure: reference {reference!r}: flips are counted where more is better, and no task has such a score "
            f"({', '.join(results)}); add a task with answers, or leave 'reference' out"
        )
    results.update(found)


def read_stage_results(folder: Path) -> dict[str, dict[str, TaskResult]]:
    """Task -> stage -> result, of a measure step's artifact."""
    from whet.measure.results import read_result

    found: dict[str, dict[str, TaskResult]] = {}
    for entry in json.loads((folder / RESULTS).read_text()):
        found.setdefault(entry["task"], {})[entry["stage"]] = read_result(folder / entry["file"])
    return found


def compare_stages(
    results: Mapping[str, Sequence[TaskResult]], rivals: Mapping[str, Sequence[str]], folder: Path
) -> list[Comparison]:
    """Judges each measured stage against its rivals on every task, Holm-corrected over the step, and writes the file."""
    from whet.measure.compare import compare, corrected

    judged = []
    for measured in results.values():
        by_stage = {r.model: r for r in measured}
        judged += [compare(by_stage[p], r) for s, r in by_stage.items() for p in rivals.get(s, ()) if p in by_stage]
    rows = {r.task: {o.model: o for o in rs} for rs in results.values() for r in rs}
    found = [_shown(c, rows[c.task]) for c in corrected(judged)] if judged else []
    (folder / COMPARISONS).write_text(json.dumps([vars(c) for c in found], indent=1))
    return found


def read_comparisons(path: Path) -> list[Comparison]:
    """Reads what :func:`compare_stages` wrote."""
    return [Comparison(**entry) for entry in json.loads(path.read_text())]


def _shown(comparison: judge.Comparison, by_stage: Mapping[str, TaskResult]) -> Comparison:
    test = comparison.test
    examples = [
        {
            "kind": "lost" if f.kind == "negative" else "gained",
            "skill": f.labels.get("skill", ""),
            "prompt": f.prompt,
            "reference": f.reference,
            "before": f.old,
            "after": f.new,
        }
        for f in comparison.examples
    ]
    verdict = comparison.verdict
    return Comparison(
        task=comparison.task,
        first=comparison.old,
        second=comparison.new,
        kind=verdict if verdict in ("better", "worse") else "same",
        verdict=_sentence(comparison),
        effect=float(test.effect or 0.0),
        low=float(test.low or 0.0),
        high=float(test.high or 0.0),
        p=comparison.p,
        detectable=comparison.detectable,
        flips=_counts(by_stage[comparison.old], by_stage[comparison.new]) if comparison.flips else {},
        examples=examples,
    )


def _sentence(comparison: judge.Comparison) -> str:
    from whet.measure.compare import alone

    test = comparison.test
    unit = " nats per token" if comparison.metric == "perplexity" else ""
    digits = _digits(test.low or 0.0, test.high or 0.0)
    change = (
        f"{comparison.old_value:.{digits}f} to {comparison.new_value:.{digits}f}{unit}, difference {test.effect or 0:+.{digits}f} "
        f"[{test.low or 0:+.{digits}f}, {test.high or 0:+.{digits}f}], {test.name} p = {comparison.p:.2g}"
    )
    if comparison.comparisons > 1:
        said = alone(test.low, test.high, comparison.verdict != "no difference found", comparison.comparisons)
        change += f" (Holm over {comparison.comparisons}{said})"
    seen = f"A difference of {comparison.detectable:.3f} would have been seen with 80% power."
    if math.isinf(comparison.detectable):
        seen = "These examples could have shown none, however large, with 80% power."
    sentences = {
        "better": f"better. {change}.",
        "worse": f"worse. {change}.",
        "equivalent": f"the same within ±{comparison.margin:g}. {change}.",
        "no difference found": f"no difference seen. {change}. {seen}",
        "floor": f"not judged: both are at chance. {change}.",
        "ceiling": f"not judged: both are at the ceiling. {change}.",
    }
    return sentences[comparison.verdict]


def _digits(low: float, high: float) -> int:
    """Decimals that show an interval with two figures: three, and up to six where it lies very near 0."""
    widest = max(abs(low), abs(high))
    return min(6, max(3, 1 - math.floor(math.log10(widest)))) if widest > 0 and math.isfinite(widest) else 3


def _counts(old: TaskResult, new: TaskResult) -> dict[str, int]:
    from whet.measure.metrics.flips import paired

    pairs = paired(old.outcomes, new.outcomes)
    return {
        "gained": sum(b.score > a.score for a, b in pairs),
        "lost": sum(b.score < a.score for a, b in pairs),
        "both_right": sum(a.score == b.score > 0 for a, b in pairs),
        "both_wrong": sum(a.score == b.score == 0 for a, b in pairs),
    }
