"""The pages of a comparison, and of two models side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import quote, urlencode

from whet.board import live, pairs
from whet.board.records import Records
from whet.board.words import cut, differing
from whet.budget import shown
from whet.measure.estimates import is_better_high
from whet.run.compare import figures
from whet.run.compare.headline import headline
from whet.run.compare.verdicts import Verdict
from whet.run.ledger import ComparisonRecord, Run

IN_WORDS = {
    "better": "{second} beats {first}",
    "worse": "{second} loses to {first}",
    "same": "{second} and {first} are the same, up to what matters",
    "open": "no difference seen between {second} and {first}",
    "floor": "{second} and {first} are both at chance: not judged",
    "ceiling": "{second} and {first} are both perfect: not judged",
    "unmatched": "no winner between {second} and {first}",
}
"""A verdict's kind in a few words."""

NAMED = 6
"""Pairs that are named in a sentence."""

ON_A_PAGE = 6
"""Items shown at a time."""


def in_words(verdict: Mapping[str, Any]) -> str:
    """A verdict in a few words."""
    return IN_WORDS.get(verdict["kind"], "{second} against {first}").format(**verdict)


def headlines(record: ComparisonRecord) -> list[dict[str, str]]:
    """What a comparison found: of two variants the verdict, of more their order, on each task."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for verdict in record.result.get("verdicts", []):
        by_task.setdefault(verdict["task"], []).append(verdict)
    return [_headline(task, verdicts) for task, verdicts in by_task.items()]


def _headline(task: str, verdicts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    if len(verdicts) > 1:
        return {"kind": "open", "text": order(verdicts), "task": task}
    (one,) = verdicts
    effect = "" if one["effect"] is None else f", {one['effect']:+.3g}"
    return {"kind": one["kind"], "text": in_words(one), "task": task + effect}


def order(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The order of a task's variants, and the pairs that no verdict orders."""
    names = {field.name for field in fields(Verdict)}
    known: list[dict[str, Any]] = [{k: math.nan if x is None else x for k, x in v.items() if k in names} for v in verdicts]
    unordered = [f"{v['first']} and {v['second']}" for v in verdicts if v["kind"] == "open"]
    said = headline([Verdict(**v) for v in known])
    if not unordered or len(unordered) == len(verdicts):
        return said
    more = len(unordered) - NAMED
    return f"{said} Not told apart: {'; '.join(unordered[:NAMED])}{f'; and {more} more' if more > 0 else ''}."


def _decided_first(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(verdicts, key=lambda v: v["kind"] not in ("better", "worse"))


def comparison_page(records: Records, record: ComparisonRecord) -> dict[str, Any]:
    """What the page of a comparison shows."""
    result = record.result
    return {
        "record": record,
        "status": records.status(record),
        "live": live.under_way(records, within=record.id),
        "progress": live.progress(records, record),
        "race": records.whole(record.id),
        "about": record.document.get("about", ""),
        "error": result.get("error", ""),
        "pages": records.pages(record.id),
        "unit": result.get("unit", "tokens"),
        "variants": [_variant(name, arm, result.get("unit", "tokens")) for name, arm in result.get("variants", {}).items()],
        "tasks": [_task(records, record, task) for task in result.get("scores", {})],
        "targets": result.get("targets", []),
        "notes": result.get("notes", []),
        "document": record.document,
    }


def _variant(name: str, arm: Mapping[str, Any], unit: str) -> dict[str, Any]:
    changes = {**arm.get("changes", {}), **arm.get("values", {})}
    spent = arm.get("spent", {})
    return {
        "name": name,
        "changes": [f"{path} = {_plain(value)}" for path, value in changes.items()],
        "spent": shown(float(spent.get(unit, 0))),
        "seconds": f"{float(spent.get('seconds', 0)):.1f}",
        "runs": list(arm.get("runs", {}).items()),
        "remark": arm.get("failed") or arm.get("stopped") or "",
    }


def _plain(value: Any) -> str:
    """A setting's value as a recipe writes it.

    >>> _plain({"name": "lora", "r": 8}), _plain(0.1)
    ('lora (r 8)', '0.1')
    """
    if isinstance(value, Mapping) and "name" in value:
        rest = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
        return f"{value['name']} ({rest})" if rest else str(value["name"])
    return str(value)


def _task(records: Records, record: ComparisonRecord, task: str) -> dict[str, Any]:
    result = record.result
    verdicts = [v for v in result["verdicts"] if v["task"] == task]
    unit = result.get("unit", "tokens")
    metric, better_high = (verdicts[0]["metric"], verdicts[0]["better_high"]) if verdicts else ("score", True)
    points = [
        figures.Point(name, float(result["variants"][name]["spent"][unit]), s["value"], s["low"], s["high"])
        for name, s in result["scores"][task].items()
        if None not in s.values()
    ]
    effects = [
        figures.Effect(f"{v['second']} − {v['first']}", v["kind"], v["effect"], v["low"], v["high"], list(v["by_seed"].values()))
        for v in verdicts
        if None not in (v["effect"], v["low"], v["high"], *v["by_seed"].values())
    ]
    return {
        "name": task,
        "metric": metric.replace("_", " "),
        "better": "Higher" if better_high else "Lower",
        "order": order(verdicts) if len(verdicts) > 1 else "",
        "reading": figures.reading(points, better_high),
        "quality": figures.quality_and_cost(points, unit, metric.replace("_", " "), better_high),
        "effects": figures.effects(effects, "difference"),
        "verdicts": [
            {**v, "words": in_words(v), "link": pair_link(f"/comparisons/{record.id}", task, v["first"], v["second"])}
            for v in _decided_first(verdicts)
        ],
        **_skills(records, record, task, better_high),
    }


def pair_link(owner: str, task: str, first: str, second: str) -> str:
    """The address of two models side by side; ``owner`` is that of their run or comparison."""
    return f"{quote(owner)}/pair?{urlencode({'task': task, 'a': first, 'b': second})}"


def runs_of(record: ComparisonRecord, variant: str) -> list[tuple[int, str]]:
    """Seed and run of each seed of a variant."""
    return [(int(seed), run) for seed, run in record.result["variants"][variant]["runs"].items()]


def _skills(records: Records, record: ComparisonRecord, task: str, better_high: bool) -> dict[str, Any]:
    """The table of means by skill (or another label that the items have)."""
    names = list(record.result["scores"][task])
    means: dict[str, dict[str, tuple[float, int]]] = {}
    label = ""
    for name in names:
        results = records.results(runs_of(record, name), task)
        found = pairs.items(results, results)
        label = label or next(iter(pairs.grouped_by(found)), "")
        if label:
            for group in pairs.groups(found, label):
                means.setdefault(group.name, {})[name] = (group.before, group.n)
    best = max if better_high else min
    rows = []
    for value, cells in sorted(means.items()):
        top = best(mean for mean, _ in cells.values())
        link = _why_link(record, task, names, label, value)
        row = [_cell(cells[name][0], top, better_high) if name in cells else None for name in names]
        rows.append({"name": value, "link": link, "n": max(n for _, n in cells.values()), "cells": row})
    return {"label": label, "names": names, "skills": rows}


def _why_link(record: ComparisonRecord, task: str, names: Sequence[str], label: str, value: str) -> str:
    """Of a skill's row: the page of the pair, if there is only one."""
    verdicts = [v for v in record.result["verdicts"] if v["task"] == task]
    if len(names) != 2 or len(verdicts) != 1:
        return ""
    pair = pair_link(f"/comparisons/{record.id}", task, verdicts[0]["first"], verdicts[0]["second"])
    return f"{pair}&{urlencode({'by': label, 'group': value})}#items"


def _cell(mean: float, top: float, tinted: bool) -> dict[str, Any]:
    """A mean with its class of tint, 0 to 9, by how far it is from 0 to 1."""
    return {"text": f"{mean:.3f}", "shade": min(9, max(0, int(10 * mean))) if tinted else 0, "top": mean == top}


def pair_page(
    names: tuple[str, str], results: tuple[pairs.Results, pairs.Results], asked: Mapping[str, str]
) -> dict[str, Any] | None:
    """What the page of two models shows; ``None`` where they have no item in common.

    Args:
        names: of both.
        results: of both: seed -> outcomes of the task.
        asked: ``by`` (label of the table), ``group`` (one value of it), ``kind`` (``lost``, ``gained``, ``changed`` or ``all``),
            ``page``; the address's own words go back into its links.
    """
    found = pairs.items(*results)
    if not found:
        return None
    metric = next(iter(results[0].values())).metric
    labels, flips = pairs.grouped_by(found), is_better_high(metric)
    by = asked["by"] if asked.get("by") in labels else next(iter(labels), "")
    table = pairs.groups(found, by)
    kinds = ["lost", "gained", "changed", "all"] if flips else ["all"]
    inside = [i for i in found if not asked.get("group") or i.labels.get(by) == asked["group"]]
    several = {kind: _of_kind(inside, kind) for kind in kinds}
    first = next((kind for kind in kinds if several[kind]), "all")
    kind = asked["kind"] if asked.get("kind") in kinds else first
    page = max(0, int(asked.get("page", "0"))) if asked.get("page", "0").isdigit() else 0
    chosen = several[kind][page * ON_A_PAGE : (page + 1) * ON_A_PAGE]
    fixed = {k: v for k, v in asked.items() if k in ("task", "a", "b")}
    state = {**fixed, "by": by, "group": asked.get("group", ""), "kind": kind}
    return {
        "first": names[0],
        "second": names[1],
        "metric": metric.replace("_", " "),
        "why": pairs.why(names, metric, table),
        "seeds": [seed for seed in results[0] if seed in results[1]],
        "count": len(found),
        "labels": [{"name": label, "here": label == by, "link": _to(fixed, by=label)} for label in labels],
        "by": by,
        "groups": [_group(group, table, flips, _to(fixed, by=by, group=group.name)) for group in table],
        "flips": flips,
        "group": asked.get("group", ""),
        "everything": _to(fixed, by=by),
        "manners": pairs.manners(*results),
        "kinds": [{"name": k, "here": k == kind, "count": len(several[k]), "link": _to(state, kind=k)} for k in kinds],
        "items": [_item(item) for item in chosen],
        "from": page * ON_A_PAGE + 1,
        "to": page * ON_A_PAGE + len(chosen),
        "of": len(several[kind]),
        "before": _to(state, page=page - 1) if page else "",
        "after": _to(state, page=page + 1) if (page + 1) * ON_A_PAGE < len(several[kind]) else "",
    }


def _to(state: Mapping[str, Any], **changed: Any) -> str:
    return "?" + urlencode({k: v for k, v in {**state, **changed}.items() if v != ""})


def _of_kind(found: Sequence[pairs.Item], kind: str) -> list[pairs.Item]:
    """The items of a kind, those of the largest change first."""
    wanted = {"lost": ("lost",), "gained": ("gained",), "changed": ("lost", "gained")}.get(kind, ("lost", "gained", ""))
    return sorted((item for item in found if item.kind in wanted), key=lambda item: -abs(item.change))


def _group(group: pairs.Group, table: Sequence[pairs.Group], better_high: bool, link: str) -> dict[str, Any]:
    """A row; its bar says what the group adds to the whole difference."""
    widest = max(abs(g.share) for g in table) or 1.0
    bar, falls = round(60 * abs(group.share) / widest, 1), group.share < 0
    return {**vars(group), "link": link, "bar": bar, "falls": falls, "bad": falls == better_high}


def _item(item: pairs.Item) -> dict[str, Any]:
    before, after = item.seen[item.telling]
    left, right = differing(cut(before.completion), cut(after.completion))
    return {
        "kind": item.kind,
        "labels": [f"{k}: {v}" for k, v in item.labels.items() if k != "document"],
        "prompt": cut(before.prompt),
        "reference": cut(before.reference),
        "sides": [_side(before, left, item, 0), _side(after, right, item, 1)],
        "seed": item.telling,
        "seeds": len(item.seen),
    }


def _side(outcome: Any, pieces: Any, item: pairs.Item, side: int) -> dict[str, Any]:
    return {"pieces": pieces, "answer": outcome.answer, "score": outcome.score, "right": item.right(side)}


def stages_of(run: Run, files: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """The measured tasks of a run, each with links from every stage to the one before."""
    by_task: dict[str, list[str]] = {}
    for task, stage in files:
        by_task.setdefault(task, []).append(stage)
    return [
        {
            "task": task,
            "links": [{"a": a, "b": b, "link": pair_link(f"/runs/{run.id}", task, a, b)} for a, b in itertools.pairwise(stages)],
        }
        for task, stages in by_task.items()
    ]
