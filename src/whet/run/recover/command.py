"""``whet recover``: from the words on the command line to a repaired model, its proof and its page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whet.errors import RecipeError
from whet.model import bundled_models, quiet_transformers
from whet.recipe import read
from whet.run.comparisons import read_stage_results
from whet.run.models import open_model
from whet.run.recover.page import headline, write_page
from whet.run.recover.plan import REPAIRED, Recovery, adapter_for, recovery_document, share_of
from whet.run.recover.proof import Proof, prove
from whet.run.runner import run_recipe
from whet.run.steps import MODEL
from whet.run.store import Store


@dataclass(frozen=True)
class Recovered:
    """A finished recovery: its run, the proof, the page, and the repaired model's folder."""

    run: str
    proof: Proof
    page: Path
    model: Path

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run,
            "page": str(self.page),
            "model": str(self.model),
            "recovered": dict(self.proof.recovered),
            "bounds": [vars(bound) for bound in self.proof.bounds],
            "met": self.proof.met,
        }

    def text(self) -> str:
        """What is printed."""
        lines = [f"\n{headline(self.proof)}"]
        lines += [f"  {'met' if bound.met else 'NOT MET'}: {bound.text}" for bound in self.proof.bounds]
        return "\n".join([*lines, f"repaired model: {self.model}", f"page: {self.page}"])


def recover(
    asked: Recovery,
    *,
    within: float | None = None,
    max_negative_flips: float | None = None,
    out: str | Path | None = None,
    store: Store | None = None,
    quiet: bool = False,
    run: Callable[..., Any] = run_recipe,
) -> Recovered:
    """Diagnoses, selects, repairs and proves.

    Args:
        asked: the models, the pool and how it is to be repaired.
        within: largest loss against the reference that is allowed, as a share (0.01: one point of accuracy).
        max_negative_flips: largest share of examples that the reference solved and the repaired model may not.
        out: a folder that also gets the page and the repaired model.
        store: default: the folder ``$WHET_HOME``.
        quiet: print nothing.
        run: carries the recipe out.

    Raises:
        RecipeError, ModelError, DataError: what cannot be repaired; nothing has been trained.
    """
    quiet_transformers()
    store = store or Store.open()
    document = recovery_document(asked, None if asked.adapter else adapter_for(open_model(asked.model)))
    result = run(read(document), store=store, quiet=quiet)
    proof = prove(read_stage_results(result.folders["proof"]), within, max_negative_flips)
    page = write_page(result.run, proof, result.report.parent)
    model = result.folders[REPAIRED] / MODEL
    if out is not None:
        target = Path(out)
        target.mkdir(parents=True, exist_ok=True)
        for file in page.parent.iterdir():
            shutil.copy(file, target / file.name)
        model = Path(shutil.copytree(model, target / "model", dirs_exist_ok=True))
        page = target / page.name
    return Recovered(result.run.id, proof, page, model)


def recover_command(options: Any) -> Recovered:
    """The command line's words as a recovery, carried out."""
    settings = dict(Recovery("", "", "").settings)
    given = dict(_setting(text) for text in options.set)
    if {"steps", "tokens", "epochs", "budget"} & given.keys():
        settings.pop("epochs")
    asked = Recovery(
        model=_model(options.model),
        reference=_model(options.reference),
        data=options.data,
        budget=share_of(options.budget),
        by=options.by,
        select=_part(options.select),
        objective=_part(options.objective),
        adapter=_part(options.adapter) if options.adapter else None,
        tasks=[_part(task) for task in options.task],
        settings={**settings, **given},
        seed=options.seed,
        about=f"What the change from {options.reference} to {options.model} broke, and its repair.",
    )
    within = share_of(options.within) if options.within else None
    flips = share_of(options.max_negative_flips) if options.max_negative_flips else None
    return recover(asked, within=within, max_negative_flips=flips, out=options.out, quiet=options.json)


def _model(text: str) -> str:
    """A folder, a run's stage as its folder, or the name as it is: a bundled model's or a hub id."""
    from whet.run.show import find_model_folder

    if not Path(text).is_dir() and (text in bundled_models() or ("/" in text and ":" not in text)):
        return text
    folder = find_model_folder(text)
    return str(folder / MODEL if (folder / MODEL).is_dir() else folder)


def _part(text: str) -> Any:
    """A part's name, or its recipe form in YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is neither a part nor a mapping such as '{{name: paser, clusters: 8}}': {error}") from None


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {text!r}: write field=value, as in lr=1e-4")
    return name, _part(value)
