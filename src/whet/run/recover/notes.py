"""What has to be said of a recovery beside its numbers: what the repair undoes, rows that were not used, examples it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from whet import parts
from whet.data.messages import prompt_text
from whet.run.recover.plan import DIAGNOSIS, REFERENCE, REPAIR

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult
    from whet.run.ledger import StepRecord


def adapter_notes(adapter: Any, keeping: str) -> list[str]:
    """What the asked-for adapter undoes of the change. One that would make a quantized model dense is refused by training."""
    if adapter is None or keeping != "sparse" or parts.effective(parts.build("adapter", adapter))["name"] == "sparse":
        return []
    return [f"the model was pruned, and the adapter {adapter!r} fills its zeros again; the adapter sparse keeps them"]


def row_notes(steps: Mapping[str, StepRecord]) -> list[str]:
    """Rows of the pool that could not be diagnosed, and a selection that chose less than it was asked for."""
    diagnosed, chosen = steps[DIAGNOSIS].receipt["drift"], steps[REPAIR].receipt.get("paser", {})
    notes = []
    if left_out := diagnosed["rows_unusable"]:
        notes.append(
            f"{left_out} of the pool's {diagnosed['rows_in']} rows were left out: their reply is blank, or they are longer than the context"
        )
    if chosen and chosen["rows_out"] < chosen["rows_asked"]:
        notes.append(
            f"paser chose {chosen['rows_out']} rows of {chosen['rows_asked']} asked for, and refused {chosen['rows_refused']} that may "
            "contradict chosen ones; --select '{name: paser, consistent: false}' takes them too"
        )
    return notes


def trained_on(results: Mapping[str, Mapping[str, TaskResult]], repair: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Task -> how many of its examples have a prompt that stands in the rows of the repair; tasks without any are left out."""
    prompts = {prompt_text(row).strip() for row in repair}
    found = {
        task: sum(bool(o.prompt) and o.prompt.strip() in prompts for o in by_stage[REFERENCE].outcomes)
        for task, by_stage in results.items()
    }
    return {task: count for task, count in found.items() if count}


def overlap_notes(trained: Mapping[str, int]) -> list[str]:
    """What it means that measured examples were trained on."""
    return [
        f"{task}: the repair trained on {count} of the measured prompts, so its scores there are partly memory and no bound is shown by "
        "them; measure on rows that are not in the pool"
        for task, count in trained.items()
    ]
