"""``whet recover``: from the words on the command line to a repaired model, its proof and its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from whet import parts
from whet.errors import RecipeError
from whet.model import bundled_models, quiet_transformers
from whet.recipe import read
from whet.run.comparisons import read_stage_results
from whet.run.models import open_model
from whet.run.recover.groups import Results, grouped
from whet.run.recover.notes import adapter_notes, overlap_notes, row_notes, trained_on
from whet.run.recover.page import headline, write_page
from whet.run.recover.plan import DIAGNOSIS, REPAIR, REPAIRED, Recovery, adapter_for, recovery_document, share_of
from whet.run.recover.proof import Proof, prove
from whet.run.report import check_out, copy_out
from whet.run.runner import run_recipe
from whet.run.steps import MODEL, ROWS
from whet.run.store import Store

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Recovered:
    """A finished recovery: its run, the proof, the page, and the repaired model's folder."""

    run: str
    proof: Proof
    page: Path
    model: Path
    notes: Sequence[str] = ()

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run,
            "page": str(self.page),
            "model": str(self.model),
            "recovered": dict(self.proof.recovered),
            "verdicts": {
                change.task: {"change": change.verdict, "repair": repair.verdict, "left": left.verdict}
                for change, repair, left in zip(self.proof.broke, self.proof.repaired, self.proof.left)
            },
            "capabilities": {task: [c.data() for c in several] for task, several in self.proof.capabilities.items()},
            "bounds": [vars(bound) for bound in self.proof.bounds],
            "met": self.proof.met,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """What is printed."""
        lines = [f"\n{headline(self.proof)}"]
        lines += [f"note: {note}" for note in self.notes]
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
    check_out(out)
    store = store or Store.open()
    keeping = adapter_for(open_model(asked.model))
    document, notes = recovery_document(asked, keeping), adapter_notes(asked.adapter, keeping)
    result = run(read(document), store=store, quiet=quiet)
    results, how = _by_group(asked, document, result.folders)
    trained = trained_on(results, _rows(result.folders[REPAIR]))
    proof = prove(results, within, max_negative_flips, how, trained)
    notes += [*row_notes({step.name: step for step in result.run.steps}), *overlap_notes(trained)]
    page = write_page(result.run, proof, result.report.parent, notes)
    model = result.folders[REPAIRED] / MODEL
    if out is not None:
        page = copy_out(page, {"model": model}, Path(out))
        model = page.parent / "model"
    return Recovered(result.run.id, proof, page, model, notes)


def _by_group(asked: Recovery, document: Mapping[str, Any], folders: Mapping[str, Path]) -> tuple[Results, dict[str, str]]:
    """The measured results, their examples in the groups of the diagnosis."""
    pool = _rows(folders[DIAGNOSIS])
    held_out = parts.build("source", document["data"][0]["source"])("test") if asked.by and not asked.tasks else ()
    results = read_stage_results(folders["proof"])
    return grouped(results, pool, lambda: open_model(asked.reference), asked.by, held_out)


def _rows(folder: Path) -> Dataset:
    """The rows of a data step."""
    from datasets import load_from_disk

    rows: Any = load_from_disk(str(folder / ROWS))
    return rows


def recovery(model: str, reference: str, data: Any, budget: str | float = 0.04, **fields: Any) -> Recovery:
    """What is asked for, from a user's words: models as on the command line, ``settings`` on top of the defaults.

    Args:
        model, reference: a folder, ``RUN:STAGE``, a bundled model or a hub id.
        data: see :class:`Recovery`.
        budget: a share of the pool, such as ``4%``.
        fields: further fields of :class:`Recovery`.
    """
    given = dict(fields.pop("settings", {}))
    settings = dict(Recovery("", "", "").settings)
    if {"steps", "tokens", "epochs", "budget"} & given.keys():
        settings.pop("epochs")
    fields.setdefault("about", f"What the change from {reference} to {model} broke, and its repair.")
    return Recovery(
        model=_model(model),
        reference=_model(reference),
        data=data,
        budget=share_of(budget, "budget"),
        settings={**settings, **given},
        **fields,
    )


def recover_command(options: Any) -> Recovered:
    """The command line's words as a recovery, carried out."""
    asked = recovery(
        options.model,
        options.reference,
        options.data,
        options.budget,
        by=options.by,
        select=_part(options.select),
        objective=_part(options.objective),
        adapter=_part(options.adapter) if options.adapter else None,
        flip_aware=options.flip_aware,
        tasks=[_part(task) for task in options.task],
        settings=dict(_setting(text) for text in options.set),
        seed=options.seed,
    )
    within = share_of(options.within, "within") if options.within else None
    flips = share_of(options.max_negative_flips, "max_negative_flips") if options.max_negative_flips else None
    return recover(asked, within=within, max_negative_flips=flips, out=options.out, quiet=options.json)


def _model(text: str) -> str:
    """A folder, a run's stage as its folder, or the name as it is: a bundled model's or a hub id."""
    from whet.run.show import find_model_folder

    if not Path(text).is_dir() and (text in bundled_models() or ("/" in text and ":" not in text)):
        return text
    folder = find_model_folder(text)
    return str((folder / MODEL if (folder / MODEL).is_dir() else folder).absolute())


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
