"""Carries a recipe out: each step once, found again by its identity, recorded in the ledger."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.model import quiet_transformers, resolve
from whet.recipe import BASE, MODEL_SECTIONS, Recipe, Step, read, references
from whet.run import identity as ids
from whet.run.bundled import find_recipe
from whet.run.ledger import Ledger, Run, StepRecord
from whet.run.machine import machine, peak_memory_mib, versions
from whet.run.report import write_report
from whet.run.steps import Inputs, carry_out, make_base
from whet.run.store import Store

RECEIPT = "receipt.json"


@dataclass(frozen=True)
class RunResult:
    """A finished run: its record, where its report lies, and where the artifacts of its steps are."""

    run: Run
    report: Path
    folders: Mapping[str, Path]

    def summary(self) -> dict[str, Any]:
        """The run as plain data."""
        steps = [
            {
                "name": s.name,
                "section": s.section,
                "status": s.status,
                "why": s.why,
                "artifact": str(self.folders[s.name]),
                "cost": s.cost,
            }
            for s in self.run.steps
        ]
        return {"run": self.run.id, "report": str(self.report), "steps": steps}

    def closing(self) -> str:
        """What is printed when a run ends."""
        return f"\nrun {self.run.id} done\nreport: {self.report}\nwhet show {self.run.id}"


def run_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    store: Store | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
) -> RunResult:
    """Runs a recipe; finished steps are reused, a stopped run goes on where it was.

    Args:
        recipe: a file, a bundled recipe's name, a mapping, or a recipe already read.
        overrides: ``path=value`` each.
        store: default: the folder ``$WHET_HOME``.
        out: a folder that also gets the report and the exports.
        quiet: print nothing.

    Raises:
        RecipeError: the recipe cannot be carried out; raised before anything runs.
        WhetError: a step failed; the run is recorded as failed and its finished steps are kept.
    """
    if not isinstance(recipe, Recipe):
        recipe = read(find_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe, overrides)
    quiet_transformers()
    store = store or Store.open()
    return _Runner(recipe, store, Ledger.beside(store.scratch), (lambda _: None) if quiet else print).run(
        Path(out) if out else None
    )


class _Runner:
    """One run in progress."""

    def __init__(self, recipe: Recipe, store: Store, ledger: Ledger, say: Callable[[str], None]) -> None:
        self.recipe, self.store, self.ledger, self.say = recipe, store, ledger, say
        self.identities: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        now = dt.datetime.now(dt.timezone.utc)
        self.run_record = Run(
            id=f"{recipe.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            recipe=recipe.name,
            document=dict(recipe.document),
            seed=recipe.seed,
            status="running",
            started=now,
            finished=None,
            versions=versions(),
            machine=machine(),
            steps=[],
        )

    def run(self, out: Path | None) -> RunResult:
        self.ledger.save(self.run_record)
        self.say(f"run {self.run_record.id}")
        status = "failed"
        try:
            self._base()
            for section, step in self.recipe.steps:
                self._step(section, step)
            status = "done"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            self.ledger.finish(self.run_record.id, status)
        record = self.ledger.run(self.run_record.id)
        report = write_report(record, self.folders, self.store.scratch / "runs" / record.id)
        if out is not None:
            report = self._copy_out(report, out)
        return RunResult(record, report, self.folders)

    def _base(self) -> None:
        """The recipe's own model: made from scratch as a step of its own, else identified by its weights."""
        if isinstance(self.recipe.model, str):
            resolve(self.recipe.model)
            self.folders[BASE] = Path(self.recipe.model)
            return
        if self.recipe.tokenizer_data:
            name = self.recipe.tokenizer_data
            self._step("data", self.recipe.step(name))
        self._step("base", self.recipe.model, name=BASE)

    def _input_identities(self, section: str, step: Any) -> dict[str, str]:
        if section == "base":
            name = self.recipe.tokenizer_data
            return {"tokenizer_data": self.identities[name]} if name else {}
        found = {field: self.identities[target] for field, target in references(section, step).items()}
        if section == "measure":
            found |= {f"stage.{name}": self.identities[name] for name in self.stages(step)}
        if _uses_base(section, step) or BASE in getattr(step, "models", ()):
            found[BASE] = self._base_identity()
        return found

    def _base_identity(self) -> str:
        if BASE not in self.identities:
            model = Inputs(self.recipe, self.folders).model(BASE)
            self.identities[BASE] = str(model.lineage["weights"])
        return self.identities[BASE]

    def stages(self, step: Any) -> list[str]:
        """The stages that a measuring step measures: those that it names, else the recipe's model and all."""
        every = [BASE, *(s.name for section, s in self.recipe.steps if section in MODEL_SECTIONS)]
        self._base_identity()
        return list(step.models) or every

    def _step(self, section: str, step: Step | Any, name: str | None = None) -> None:
        name = name or step.name
        if name in self.folders and name in self.identities:
            return
        settings = ids.effective_settings(section, step) if section != "base" else ids.plain(step)
        inputs = self._input_identities(section, step) | ids.fingerprints(step)
        code = ids.code_hash(section, step)
        identity = ids.identity(section, settings, inputs, self.recipe.seed, code)
        reused = self.store.has(identity)
        record = StepRecord(
            run_id=self.run_record.id,
            position=len(self.identities) if section != "base" else -1,
            name=name,
            section=section,
            identity=identity,
            status="reused" if reused else "running",
            why="" if not reused else "inputs, settings, code and seed are those of a finished step",
            inputs={**inputs, "code": code},
            settings=settings,
            receipt={},
            cost={},
        )
        if not reused:
            record.why = self._why(record)
        self.say(f"\n[{section}] {name}: {'reused' if reused else record.why}")
        self.ledger.save(record)
        if not reused:
            self._carry_out(section, step, record)
        self.identities[name] = identity
        self.folders[name] = self.store.get(identity)
        saved = json.loads((self.folders[name] / RECEIPT).read_text())
        record.receipt, record.cost = saved["receipt"], saved["cost"]
        record.status = "reused" if reused else "done"
        self.ledger.save(record)
        self._say_receipt(record)

    def _why(self, record: StepRecord) -> str:
        """Why a step runs: what differs from the newest finished step of the same name and recipe."""
        for run in self.ledger.runs():
            for old in run.steps:
                if run.recipe == self.recipe.name and old.name == record.name and old.status in ("done", "reused"):
                    changed = [f"setting {k}" for k in record.settings if old.settings.get(k) != record.settings[k]]
                    changed += [f"input {k}" for k in record.inputs if old.inputs.get(k) != record.inputs[k]]
                    changed += [] if run.seed == self.recipe.seed else ["seed"]
                    return f"runs: changed since {run.id}: {', '.join(changed)}" if changed else "runs: its artifact is gone"
        return "runs: the first time"

    def _carry_out(self, section: str, step: Any, record: StepRecord) -> None:
        started = time.perf_counter()
        checkpoint = self.store.checkpoints(record.identity)
        inputs = Inputs(self.recipe, self.folders, self.stages(step) if section == "measure" else ())

        def write(folder: Path) -> None:
            if section == "base":
                receipt = make_base(self.recipe, inputs, folder)
            else:
                receipt = carry_out(section, step, inputs, folder, checkpoint)
            cost = {
                "seconds": round(time.perf_counter() - started, 2),
                "peak_memory_mib": peak_memory_mib(),
                **receipt.pop("cost", {}),
            }
            (folder / RECEIPT).write_text(
                json.dumps({"receipt": receipt, "cost": cost, "step": record.name}, indent=1, default=str)
            )

        try:
            self.store.put(record.identity, write)
        except BaseException as error:
            record.status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            record.receipt = {"error": f"{type(error).__name__}: {error}"}
            self.ledger.save(record)
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)

    def _say_receipt(self, record: StepRecord) -> None:
        from whet.run.show import receipt_lines

        for line in receipt_lines(record.receipt, record.cost):
            self.say(f"  {line}")

    def _copy_out(self, report: Path, out: Path) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        for step in self.recipe.section("export"):
            shutil.copytree(self.folders[step.name], out / step.name, dirs_exist_ok=True)
        for file in report.parent.iterdir():
            shutil.copy(file, out / file.name)
        return out / report.name


def _uses_base(section: str, step: Any) -> bool:
    if section == "base":
        return False
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    if section == "data":
        return bool(fields["synthesize"] or fields["select"]) and fields["model"] in (None, BASE)
    if section == "edit":
        return fields["base"] in (None, BASE)
    return section in ("train", "quantize", "export") and fields["model"] in (None, BASE)
