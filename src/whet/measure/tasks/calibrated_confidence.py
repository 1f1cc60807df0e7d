"""Calibrates a task's confidences: fits a calibrator on one split, and judges the confidences before and after on another.

Any task that keeps a confidence in its answers (``choices``, ``answers`` and their relatives) is measured on the calibration split
and on its own. The answers, and so the accuracy, are the task's; the metric is the Brier score of the calibrated confidence.
Calibration error (15 and 25 bins) and AUROC of the confidence against correctness stand beside it, each before and after.

Views, for ``transform-calibrator``, are the same rows seen otherwise by the same model. Each entry of ``views`` names what differs
from the task: another layout of the prompt (``{form: plain}``, ``{prefix: "Answer:"}``, ``{few_shot: 2}``), or ``data`` that asks
the same in other words, under the same ids. Each number in ``dropout`` is one more view, with that share of channels left out.
Every prediction then costs 1 + views passes.

Refused: calibration rows that the model was trained on, as far as its lineage tells (it keeps a hash of the whole training set, of
the model's own and its parents' training, and no rows); a prompt in both splits; fewer wrong answers than the calibrator asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from annotated_types import Gt, Lt

from whet import parts
from whet.data.rows import row_hash
from whet.errors import DataError, RecipeError
from whet.measure.calibrated import calibrated
from whet.measure.outcome import TaskResult
from whet.measure.thinned import thinned
from whet.model import Model
from whet.parts import Kind


@dataclass(frozen=True, kw_only=True)
class CalibratedConfidence:
    """``task`` is calibrated by ``calibrator`` on ``fit_limit`` (default all) rows of ``fit_split``; its own split and limit are
    what is judged. ``views`` and ``dropout`` as above; ``seed`` of dropout and of the tests; ``title`` names the result."""

    task: Annotated[Any, Kind("task")]
    calibrator: Annotated[Any, Kind("calibrator")] = "temperature-scaling"
    fit_split: str = "validation"
    fit_limit: Annotated[int, Gt(0)] | None = None
    views: tuple[Any, ...] = ()
    dropout: tuple[Annotated[float, Gt(0), Lt(1)], ...] = ()
    seed: int = 0
    title: str = "calibrated-confidence"

    def __post_init__(self) -> None:
        task = parts.build("task", self.task, "task")
        known = parts.settings_of(type(task))
        if not {"data", "split", "limit"} <= known.keys():
            raise RecipeError(
                f"task: {parts.effective(task)['name']!r} has no data, split and limit, so it cannot be measured on two splits"
            )
        if task.split == self.fit_split:
            raise RecipeError(
                f"fit_split: {self.fit_split!r} is the split that is judged; fit on another one (validation), or set task.split"
            )
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "calibrator", parts.build("calibrator", self.calibrator, "calibrator"))
        object.__setattr__(self, "views", tuple(_view(task, view, f"views.{i}") for i, view in enumerate(self.views)))

    @property
    def tasks(self) -> tuple[Any, ...]:
        """What is measured: the task and its views, each on the calibration split and on its own."""
        shown = (self.task, *self.views)
        return (*(replace(task, split=self.fit_split, limit=self.fit_limit) for task in shown), *shown)

    def __call__(self, model: Model) -> TaskResult:
        source = parts.build("source", self.task.data, "data")
        refuse_trained(model, source(self.fit_split), self.fit_split)
        half = 1 + len(self.views)
        fit, *fit_views = self._measured(model, self.tasks[:half])
        test, *test_views = self._measured(model, self.tasks[half:])
        found = calibrated(fit, test, self.calibrator, fit_views=fit_views, test_views=test_views, seed=self.seed)
        every = (fit, *fit_views, test, *test_views)
        read = {name: sum(int(r.receipt.get(name, 0)) for r in every) for name in ("prompt_tokens", "generated_tokens")}
        return replace(found, task=self.title, receipt={**found.receipt, **read})

    def _measured(self, model: Model, tasks: tuple[Any, ...]) -> list[TaskResult]:
        results = [task(model) for task in tasks]
        for number, share in enumerate(self.dropout):
            with thinned(model, share, self.seed + number) as other:
                found = tasks[0](other)
            dropout = {"share": share, "seed": self.seed + number}
            results.append(replace(found, conditions={**found.conditions, "dropout": dropout}))
        return results


def _view(task: Any, view: Any, where: str) -> Any:
    """The task with what differs in the view."""
    if isinstance(view, type(task)):
        return view
    if not isinstance(view, Mapping) or not view:
        raise RecipeError(f"{where}: expected a mapping with what differs from the task, such as {{form: plain}}, got {view!r}")
    given = {field.name: getattr(task, field.name) for field in fields(task) if field.init} | dict(view)
    what = f"task {parts.effective(task)['name']!r}"
    return parts.construct(type(task), parts.validate(parts.settings_of(type(task)), given, where, what), where)


def refuse_trained(model: Model, rows: Any, split: str) -> None:
    """Refuses calibration rows that are the training set of the model or of a parent of it.

    Raises:
        DataError: the lineage names this set of rows.
    """
    trained = _training_sets(model.lineage)
    if not trained:
        return
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row_hash(row).encode())
    if digest.hexdigest()[:16] in trained:
        raise DataError(
            f"fit_split: {split!r} holds the rows that {model.name!r} was trained on, on which it is surer than elsewhere; "
            "calibrate on rows that it has not seen"
        )


def _training_sets(lineage: Mapping[str, Any]) -> set[str]:
    """Hashes of the training sets of a model and its parents, as far as they are known."""
    steps = [lineage.get("step"), *(parent.get("step") for parent in lineage.get("parents") or [])]
    receipts = [step.get("receipt") or {} for step in steps if step and step.get("section") == "train"]
    prepared = [receipt.get("data") for receipt in receipts]
    return {str(data["data"]) for data in prepared if isinstance(data, Mapping) and "data" in data}
