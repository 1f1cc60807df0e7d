"""``whet forecast``: a law, what it is fitted to, and the sizes that it is asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whet import parts
from whet.errors import RecipeError
from whet.forecast.observations import Observed, observations_of, read_observations
from whet.forecast.predicted import Forecasted


def forecast(
    law: Any,
    observations: Observed | str | Path | Sequence[Mapping[str, Any]] | None = None,
    *,
    at: Sequence[float] | float = (),
    comparison: str | None = None,
    run: str | None = None,
    x: str | None = None,
    group: str | None = None,
    metric: str | None = None,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
) -> Forecasted:
    """Fits a law to what was observed and asks it about other sizes.

    Args:
        law: a part of the kind ``forecast``, such as ``"posttrain-power-law"`` or ``{"name": "curve-stop", "within": 0.02}``.
        observations: a CSV file or rows with the columns ``size``, ``score``, and where there are any ``seed`` and ``group``.
        at: the sizes asked about.
        comparison: instead, a finished comparison whose variants differ in size, see :func:`whet.run.observing.from_comparison`.
        run: instead, a run whose train step was watched by ``validate``, see :func:`whet.run.observing.from_run`.
        x: the size: a column, a field of the variants' recipe, or ``rows``, ``tokens``, ``examples``, ``flops``, ``seconds``.
        group: what tells curves apart: a column, a field, or ``preference``.
        metric: the score: a column, or an estimate of the task.
        task: of a comparison; default its first.
        model: a model that the cold-start probe of ``budget-split`` looks at; ``data``: a source or rows for it.

    Raises:
        RecipeError: none or several of the three kinds of observations, or a setting that would not be read.
        DataError: observations that the law refuses.
    """
    built = parts.build("forecast", law, "law")
    observed = _observed(built, observations, comparison, run, x, group, metric, task)
    if model is not None or data is not None:
        built, note = _probed(built, model, data)
        observed = dataclasses.replace(observed, notes=(*observed.notes, note))
    found: Forecasted = built(observed, [float(at)] if isinstance(at, (int, float)) else [float(size) for size in at])
    return found


def _observed(
    law: Any,
    observations: Any,
    comparison: str | None,
    run: str | None,
    x: str | None,
    group: str | None,
    metric: str | None,
    task: str | None,
) -> Observed:
    given = [
        name for name, value in (("observations", observations), ("comparison", comparison), ("run", run)) if value is not None
    ]
    if len(given) > 1 or (not given and not getattr(law, "optional", False)):
        raise RecipeError(
            f"forecast: {parts.effective(law)['name']} is fitted to one of: a CSV file (columns size and score), a comparison, a run; "
            f"got {' and '.join(given) or 'none'}"
        )
    unread = {"observations": {"task": task}, "comparison": {}, "run": {"group": group, "task": task}}
    for name, value in (unread[given[0]] if given else {"x": x, "group": group, "metric": metric, "task": task}).items():
        if value is not None:
            raise RecipeError(
                f"forecast: {name}: {value!r} would not be read with {given[0] if given else 'no observations'}; remove it"
            )
    if comparison is not None:
        from whet.run.observing import ROWS, from_comparison

        by = group or getattr(law, "grouped_by", None)
        return from_comparison(comparison, x=x or ROWS, group=by, metric=metric, task=task)
    if run is not None:
        from whet.run.observing import from_run

        return from_run(run, x=x or "examples", metric=metric)
    return _read(observations, x or "size", metric or "score", group)


def _read(observations: Any, x: str, metric: str, group: str | None) -> Observed:
    from whet.measure.estimates import is_better_high

    if isinstance(observations, Observed):
        return observations
    named: dict[str, Any] = {"x": x, "metric": metric, "group": group}
    from_file = isinstance(observations, (str, Path))
    rows = read_observations(observations, **named) if from_file else observations_of(observations or (), **named)
    notes = ("smaller sets of rows are taken to lie in larger ones",) if rows else ()
    return Observed(rows, metric, not is_better_high(metric), notes)


def _probed(law: Any, model: Any, data: Any) -> tuple[Any, str]:
    """The law told what the cold-start probe found, and what it found."""
    from whet.api import dataset, load
    from whet.forecast.probe import cold_start

    name = parts.effective(law)["name"]
    if not hasattr(law, "format_rate"):
        raise RecipeError(f"forecast: {name} needs no model; remove model and data, which budget-split's cold-start probe reads")
    if model is None or data is None:
        raise RecipeError("forecast: the cold-start probe needs both: a model, and data with prompts and chosen replies")
    if law.format_rate is not None:
        raise RecipeError(f"forecast: law.format_rate is {law.format_rate:g} and would be measured too; remove one of them")
    found = cold_start(load(_model(model)), dataset(data))
    return dataclasses.replace(law, format_rate=found.format_rate.value), str(found)


def _model(reference: Any) -> Any:
    """``RUN:STAGE`` as the folder of that stage; anything else as it is."""
    from whet.run.show import find_model_folder

    return (
        find_model_folder(reference)
        if isinstance(reference, str) and ":" in reference and not Path(reference).is_dir()
        else reference
    )
