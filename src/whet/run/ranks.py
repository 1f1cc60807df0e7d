"""A recipe carried out by several processes: the first does everything but training, the others train along with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.recipe import Recipe
from whet.recipe_steps import TrainStep
from whet.run.making import train_model
from whet.run.steps import Inputs
from whet.train.distributed import World


def call_others(world: World, name: str, folders: Mapping[str, Path], checkpoint: Path) -> None:
    """The first rank: asks the others to come to a training step."""
    world.tell({"train": name, "folders": {k: str(v) for k, v in folders.items()}, "checkpoint": str(checkpoint)})


def dismiss_others(world: World, run: str, report: Path, folders: Mapping[str, Path]) -> None:
    """The first rank: the run is done."""
    world.tell({"run": run, "report": str(report), "folders": {k: str(v) for k, v in folders.items()}})
    world.gather(None)


def train_along(recipe: Recipe, world: World) -> tuple[str, Path, dict[str, Path]]:
    """The other ranks: train whenever the first calls, until the run is done; then its id, report and artifacts.

    Raises:
        OtherRank: the first rank failed.
        StoreError: this machine does not see the first rank's artifacts.
    """
    while True:
        message = world.hear()
        folders = {name: Path(folder) for name, folder in message["folders"].items()}
        if "train" not in message:
            world.gather(None)
            return message["run"], Path(message["report"]), folders
        step: Any = recipe.step(message["train"])
        assert isinstance(step, TrainStep)
        inputs = Inputs(recipe, folders)
        _refuse_unseen(inputs, step)
        train_model(step, inputs.model(step.model), inputs.dataset(step.data), recipe.seed, Path(message["checkpoint"]))


def _refuse_unseen(inputs: Inputs, step: TrainStep) -> None:
    needed = [inputs.model_folder(step.model), inputs.folders[step.data]]
    for folder in needed:
        if isinstance(folder, Path) and not folder.exists():
            raise StoreError(
                f"{folder}, which the first process has, is not on this machine; set WHET_HOME to a folder that all share"
            )
