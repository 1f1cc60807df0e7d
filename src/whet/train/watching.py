"""Measures a model while it trains: a task at even shares of the run, without touching the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from whet.generate.evaluation import without_dropout
from whet.train.training import Training

Task = Callable[[Any], Any]


def watcher(task: Task, times: int) -> Callable[[Training], None]:
    """A function for :func:`whet.train.loop.fit` that measures at ``1/times``, ``2/times``, ... and the end of the run.

    Each measurement is kept in the receipt's ``validation``: the step, what the run had spent by then in every unit of a budget,
    and the task's estimates over all examples as (value, low, high). It is not timed and not counted, and draws no random number
    that training would have drawn.
    """

    def watch(training: Training) -> None:
        seen = training.meter.validation
        at, of = training.length.position(training.step)
        finished = training.length.finished(training.step)
        if finished or at * times >= of * (seen[-1]["mark"] + 1 if seen else 1):
            mark = times if finished else at * times // of
            seen.append({"mark": mark, "step": training.step, **training.spent(), "estimates": _measure(task, training)})

    return watch


def _measure(task: Task, training: Training) -> dict[str, list[float]]:
    network: Any = training.network()
    with torch.random.fork_rng(), without_dropout(network):
        result = task(replace(training.model, network=network, quantized={}))
    return {name: [e.value, e.low, e.high] for name, e in result.estimates.items() if "[" not in name}
