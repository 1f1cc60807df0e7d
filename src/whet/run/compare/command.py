"""``whet compare``: from the words on the command line to a page and an entry in the ledger."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing as closed_at_end
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.run.cluster import check_reach, open_pool
from whet.run.compare.arms import Comparison
from whet.run.compare.carry import Say, compare_recipe
from whet.run.compare.page import PAGE
from whet.run.compare.summary import summary
from whet.run.compare.variants import vary_argument
from whet.run.compare.verdicts import Verdict
from whet.run.report import check_out, copy_out
from whet.run.store import Store
from whet.workers import Local


@dataclass(frozen=True)
class Compared:
    """A finished comparison and where its ``page`` lies."""

    comparison: Comparison
    page: Path

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """Every judged pair on every task; ``kind`` and ``sentence()`` say what was found."""
        return self.comparison.verdicts

    def data(self) -> dict[str, Any]:
        """The comparison as plain data, as the ledger keeps it."""
        return {**summary(self.comparison), "page": str(self.page)}

    def text(self) -> str:
        """What is printed when a comparison ends: every verdict, and where the page lies."""
        return "\n".join([*lines(summary(self.comparison)), f"page: {self.page}"])

    def print(self) -> None:
        """Prints the verdicts."""
        print(self.text())


def compare_and_show(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    on: str | None = None,
    out: str | Path | None = None,
    say: Say = print,
    **asked: Any,
) -> Compared:
    """Runs a comparison, on a pool if ``on`` names one.

    Args:
        recipe: a file, a bundled recipe's name, or a mapping; with or without a section ``compare``.
        overrides: ``path=value`` each, for all variants.
        on: where variants are run: an address as :func:`whet.run.cluster.open_pool` takes it; default here.
        out: a folder that also gets the page and its data.
        say: told what happens.
        asked: fields of :class:`whet.run.compare.plan.Asked`.

    Raises:
        RecipeError: a comparison that cannot be carried out; nothing has run.
        WhetError: fewer than two variants gave a result.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise RecipeError("whet compare is one process; instead of torchrun use --on to run variants side by side")
    check_out(out)
    store = Store.open()
    with closed_at_end(open_pool(on)) as pool:
        check_reach(pool, store, whole_recipes=True)
        mapped = None if isinstance(pool, Local) else pool.map
        comparison = compare_recipe(recipe, overrides, store=store, pool=mapped, say=say, **asked)
    page = store.scratch / "runs" / comparison.id / PAGE
    if out is not None:
        page = copy_out(page, {}, Path(out))
    return Compared(comparison, page)


def compare_command(
    recipe: str, overrides: Sequence[str] = (), vary: Sequence[str] = (), tune: Sequence[str] = (), **rest: Any
) -> Compared:
    """:func:`compare_and_show` with ``vary`` and ``tune`` as they stand on the command line; given, they replace the file's."""
    if vary:
        rest["vary"] = _once("--vary", [vary_argument(text) for text in vary])
    if tune:
        rest["tune"] = _once("--tune", [_tune_argument(text) for text in tune])
    return compare_and_show(recipe, overrides, **rest)


def lines(data: Mapping[str, Any]) -> list[str]:
    """A comparison's summary as text."""
    out = [f"comparison {data['id']}"]
    out += [f"  {v['task']}: {v['second']} against {v['first']}: {v['sentence']}" for v in data["verdicts"]]
    for t in data["targets"]:
        reached = f"to {t['metric']} {t['target']:g}: {t['second']} against {t['first']}: {t['ratio_text']}"
        out.append(f"  {reached}, p = {t['p']:.2g} ({t['test']})")
    out += [f"  {name}: {why}" for name, v in data["variants"].items() if (why := v["failed"] or v["stopped"])]
    return [*out, *data["notes"]]


def _once(option: str, given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The fields with what was given for them.

    Raises:
        RecipeError: a field comes twice, of which one would be ignored.
    """
    paths = [path for path, _ in given]
    for path in paths:
        if paths.count(path) > 1:
            raise RecipeError(f"{option} {path}: is given twice; say it once, with all of it")
    return dict(given)


def _tune_argument(text: str) -> tuple[str, str]:
    path, equals, span = text.partition("=")
    if not equals:
        raise RecipeError(f"--tune {text!r}: write field=low..high, as in lr=1e-4..1e-2")
    return path, span
