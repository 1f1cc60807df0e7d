"""What a paper claims, the small comparison that tests it, and what it gave: the files ``claims/<paper-id>.yaml``.

::

    paper: masked-thought                 # the file's name
    title: "Masked Thought: ..."
    claim: Hiding a part of the solution while fine-tuning makes the model more accurate
    paper_figure: 42.8 to 47.3% on GSM8K
    test: what is compared here, and why it could show the direction
    comparison:                           # a recipe with a section `compare`
      model: nano
      ...
      compare: {variants: {sft: {...}, masked-thought: {...}}, seeds: [11, 12, 13]}
    judge: {better: masked-thought, than: sft, smallest: 0.01, at_least: {sft: 0.3}}
    results: []                           # appended by `whet claims run`, never changed

The file is the ledger. A comparison's settings are fixed before it runs: ``whet claims run`` refuses unless git says that
``comparison`` and ``judge`` are committed as they stand, and keeps their fingerprint and the commit with the result. An entry of
``results`` may also come from a script (``run``) with its own ``settings`` and a list of figures; a file that has only such a
result may have its fields at the top.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Gt

from whet import parts
from whet.errors import RecipeError, unknown
from whet.recipe_text import parse

REPRODUCED, NOT_SEEN, CONTRADICTED = "reproduced", "not seen at this scale", "contradicted at this scale"
VERDICTS = (REPRODUCED, NOT_SEEN, CONTRADICTED)

STATED = ("paper", "title", "claim", "paper_figure", "test")
COMPARED = ("comparison", "judge", "results")
SCRIPTED = ("settings", "run", "seeds", "result", "verdict", "note", "date", "version", "cost_seconds")
"""The fields of a script's result, beside the ``test`` that it carried out."""
RESULT = (
    *("date", "version", "fingerprint", "commit", "task", "metric", "better", "than", "effect", "interval", "p", "comparisons"),
    *("seeds", "arms", "kept", "cost", "verdict", "reason"),
)
"""The fields of a comparison's result. The effect, its interval and p are left out where nothing could be compared; ``kept`` holds
what the variants have on the tasks of ``judge.keeps``."""
OPTIONAL = ("settings", "note", "effect", "interval", "p", "comparisons", "kept")


@dataclass(frozen=True)
class Judge:
    """When the comparison bears the claim out.

    better, than: variants; of several in ``than`` each has to be beaten.  task: the one that decides; default the first.
    also: further tasks, at least one of which has to show the opposite too before the claim counts as contradicted.
    smallest: difference of interest, in the metric's unit (0.01: one point of accuracy).  at_least, at_most: variant -> value
    that it must reach, or may not exceed, on the task, or else the comparison could not have shown the claim.
    keeps: task -> the most that ``better`` may lose there against each of ``than``, shown by the interval, not only likely.
    paper_effect: the paper's own difference in the same unit, where it has one.
    """

    better: str
    than: Any
    task: str | None = None
    also: tuple[str, ...] = ()
    smallest: Annotated[float, Gt(0)] = 0.01
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)
    keeps: Mapping[str, float] = field(default_factory=dict)
    paper_effect: float | None = None

    @property
    def rivals(self) -> tuple[str, ...]:
        """The variants that ``better`` has to beat."""
        return (self.than,) if isinstance(self.than, str) else tuple(self.than)

    @property
    def named(self) -> set[str]:
        """All variants that the judge speaks of."""
        return {self.better, *self.rivals, *self.at_least, *self.at_most}


@dataclass(frozen=True)
class Claim:
    """A claim's file, read and checked. ``comparison`` and ``judge`` are ``None`` where only a script has tested it."""

    path: Path
    paper: str
    title: str
    claim: str
    paper_figure: str
    test: str
    comparison: Mapping[str, Any] | None
    judge: Judge | None
    results: tuple[Mapping[str, Any], ...]
    fingerprint: str


def read_claims(folder: Path) -> list[Claim]:
    """All claims of a folder, in the order of their names.

    Raises:
        RecipeError: there are none, or one of them cannot be read.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise RecipeError(f"{folder}: no claims here; say where their files are with --folder")
    return [read_claim(path) for path in paths]


def find_claim(folder: Path, paper: str) -> Claim:
    """The claim of one paper."""
    path = folder / f"{paper}.yaml"
    if not path.is_file():
        if not any(folder.glob("*.yaml")):
            raise RecipeError(f"{folder}: no claims here; say where their files are with --folder")
        raise RecipeError(unknown("claim", paper, [p.stem for p in folder.glob("*.yaml")]) + f" (files of {folder})")
    return read_claim(path)


def read_claim(path: Path) -> Claim:
    """Reads a claim's file.

    Raises:
        RecipeError: not readable, an unknown or missing field, a judge that cannot be carried out; names file and field.
    """
    document = _document(path.read_text(encoding="utf-8"), str(path))
    for key in document:
        if key not in (*STATED, *COMPARED, *SCRIPTED):
            raise RecipeError(f"{path}: {key}: {unknown('field of a claim', str(key), (*STATED, *COMPARED, *SCRIPTED))}")
    for key in STATED:
        if not isinstance(document.get(key), str) or not document[key].strip():
            raise RecipeError(f"{path}: {key}: a claim needs this field, as text; got {document.get(key)!r}")
    if document["paper"] != path.stem:
        raise RecipeError(f"{path}: paper: {document['paper']!r} is not the file's name; rename one of them")
    comparison, judge = _compared(document, str(path))
    return Claim(
        path=path,
        **{key: " ".join(document[key].split()) for key in STATED},
        comparison=comparison,
        judge=judge,
        results=tuple(_results(document, str(path))),
        fingerprint=fingerprint(document) if comparison else "",
    )


def fingerprint(document: Mapping[str, Any]) -> str:
    """What a result rests on, as 16 hexadecimal digits: the comparison's settings and the rule of the verdict."""
    text = json.dumps({key: document.get(key) for key in ("comparison", "judge")}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def append_result(claim: Claim, result: Mapping[str, Any]) -> None:
    """Adds a result at the end of a claim's file, in one piece; nothing else of the file changes.

    Raises:
        RecipeError: the file's comparison is another now, or its last field is not ``results``; nothing is written.
    """
    text = claim.path.read_text(encoding="utf-8")
    document = _document(text, str(claim.path))
    if fingerprint(document) != claim.fingerprint:
        raise RecipeError(
            f"{claim.path}: comparison or judge changed while the comparison ran, so the result does not belong to the file; "
            "restore them, or commit them and run again"
        )
    added = _with_entry(text, document, result)
    expected = {**document, "results": [*(document.get("results") or []), dict(result)]}
    if added is None or _document(added, str(claim.path)) != expected:
        raise RecipeError(f"{claim.path}: results: has to be the file's last field, a list; move it there and run again")
    unfinished = claim.path.with_name(f".{claim.path.name}.{os.getpid()}")
    unfinished.write_text(added, encoding="utf-8")
    unfinished.replace(claim.path)


def standing_commit(claim: Claim) -> str | None:
    """The commit in which the claim's comparison stands as it does in the file; ``None`` where there is no git to ask.

    Raises:
        RecipeError: the file, or its comparison as it stands, is not committed.
    """
    name = claim.path.name
    if _git(claim.path, "rev-parse", "--is-inside-work-tree") is None:
        return None
    committed = _git(claim.path, "show", f"HEAD:./{name}")
    way_out = f"commit it before it is run (git add {claim.path} && git commit), so that its history shows that they came first"
    if committed is None:
        raise RecipeError(f"{claim.path}: is not committed, so nothing shows that its settings came before the result; {way_out}")
    if fingerprint(_document(committed, f"{name} as committed")) != claim.fingerprint:
        raise RecipeError(
            f"{claim.path}: 'comparison' or 'judge' differs from the last commit; restore it (git checkout {claim.path}) or {way_out}"
        )
    return (_git(claim.path, "log", "-1", "--format=%h", "--", name) or "").strip() or None


def _git(path: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(path.resolve().parent), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _document(text: str, source: str) -> dict[str, Any]:
    document = parse(text, source)
    if not isinstance(document, dict):
        raise RecipeError(f"{source}: a claim is a mapping with {', '.join(STATED)}, a comparison and its judge")
    return document


def _compared(document: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any] | None, Judge | None]:
    comparison, judge = document.get("comparison"), document.get("judge")
    if comparison is None and judge is None:
        if "verdict" not in document:
            raise RecipeError(f"{source}: comparison: a claim needs a comparison and a judge, or the result of a script")
        return None, None
    for key in ("comparison", "judge"):
        if not isinstance(document.get(key), Mapping):
            raise RecipeError(f"{source}: {key}: expected a mapping, got {document.get(key)!r}")
    for key in SCRIPTED:
        if key in document:
            raise RecipeError(f"{source}: {key}: belongs to a script's result; with a comparison it is an entry of 'results'")
    assert isinstance(comparison, Mapping) and isinstance(judge, Mapping)
    asked = comparison.get("compare")
    if not isinstance(asked, Mapping):
        raise RecipeError(f"{source}: comparison.compare: expected a mapping with 'variants' or 'vary', got {asked!r}")
    if "margin" in asked:
        raise RecipeError(f"{source}: comparison.compare.margin: is judge.smallest; remove it")
    values = parts.validate(parts.settings_of(Judge), judge, f"{source}: judge", "a judge")
    found: Judge = parts.construct(Judge, values, f"{source}: judge")
    than = found.than if isinstance(found.than, (list, tuple)) else [found.than]
    if not than or not all(isinstance(name, str) for name in than):
        raise RecipeError(f"{source}: judge.than: expected a variant's name or a list of them, got {found.than!r}")
    return comparison, found


def _results(document: Mapping[str, Any], source: str) -> list[Mapping[str, Any]]:
    if "comparison" not in document:
        given: Any = [{key: document[key] for key in ("test", *SCRIPTED) if key in document}]
    else:
        given = document.get("results") or []
    if not isinstance(given, list):
        raise RecipeError(f"{source}: results: expected a list, got {given!r}")
    for number, result in enumerate(given):
        where = f"{source}: results.{number}" if "comparison" in document else source
        _check_result(result, where)
    return given


def _check_result(result: Any, where: str) -> None:
    if not isinstance(result, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {result!r}")
    known = ("test", *SCRIPTED) if is_scripted(result) else RESULT
    for key in result:
        if key not in known:
            raise RecipeError(f"{where}.{key}: {unknown('field of a result', str(key), known)}")
    for key in known:
        if key not in result and key not in OPTIONAL:
            raise RecipeError(f"{where}.{key}: a result needs this field")
    if result["verdict"] not in VERDICTS:
        raise RecipeError(f"{where}.verdict: {unknown('verdict', str(result['verdict']), VERDICTS)}")


def is_scripted(result: Mapping[str, Any]) -> bool:
    """Whether a result comes from a script and not from a comparison."""
    return "run" in result


def _with_entry(text: str, document: Mapping[str, Any], result: Mapping[str, Any]) -> str | None:
    """The file's text with one more result; ``None`` if ``results`` is not its last field."""
    if list(document)[-1] != "results":
        return None if "results" in document else f"{text.rstrip()}\nresults:\n{_entry(result, '')}"
    head, _, tail = text.rpartition("\nresults:")
    first = re.search(r"^( *)- ", tail, re.MULTILINE) if document["results"] else None
    if first is None:
        return f"{head}\nresults:\n{_entry(result, '')}"
    return f"{text.rstrip()}\n{_entry(result, first[1])}"


def _entry(result: Mapping[str, Any], indentation: str) -> str:
    dumped = yaml.safe_dump([dict(result)], sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return "".join(f"{indentation}{line}\n" for line in dumped.splitlines())
