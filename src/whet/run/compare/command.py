"""``whet compare``: from the words on the command line to a page and an entry in the ledger."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.run.compare.carry import Comparison, compare_recipe
from whet.run.compare.page import summary, write_page
from whet.run.compare.plan import vary_argument
from whet.run.store import Store


def compare_command(
    recipe: str,
    overrides: Sequence[str] = (),
    vary: Sequence[str] = (),
    tune: Sequence[str] = (),
    *,
    out: str | None = None,
    quiet: bool = False,
    **asked: Any,
) -> tuple[dict[str, Any], str]:
    """Runs a comparison and writes its page; returns it as plain data and the text that is printed.

    ``vary`` and ``tune`` are as on the command line; ``asked`` are further fields of a comparison.
    """
    if vary:
        asked["vary"] = dict(vary_argument(text) for text in vary)
    if tune:
        asked["tune"] = dict(_tune_argument(text) for text in tune)
    store = Store.open()
    comparison = compare_recipe(recipe, overrides, store=store, say=(lambda _: None) if quiet else print, **asked)
    page = write_page(comparison, store.scratch / "runs" / comparison.id)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        for file in page.parent.iterdir():
            shutil.copy(file, Path(out) / file.name)
        page = Path(out) / page.name
    return summary(comparison), closing(comparison, page)


def closing(comparison: Comparison, page: Path) -> str:
    """What is printed when a comparison ends: every verdict, and where the page lies."""
    lines = [f"\ncomparison {comparison.id}"]
    for verdict in comparison.verdicts:
        lines.append(f"  {verdict.task}: {verdict.second} against {verdict.first}: {verdict.sentence()}")
    for target in comparison.targets:
        ratio = "neither reaches it" if target.ratio != target.ratio else f"{target.ratio:.2f} times the {target.unit}"
        lines.append(
            f"  to {target.metric} {target.target:g}: {target.second} against {target.first}: {ratio}, p = {target.p:.2g} ({target.test})"
        )
    lines += [f"  {name}: {arm.failed or arm.stopped}" for name, arm in comparison.arms.items() if arm.failed or arm.stopped]
    return "\n".join([*lines, *comparison.notes, f"page: {page}"])


def _tune_argument(text: str) -> tuple[str, str]:
    path, equals, span = text.partition("=")
    if not equals:
        raise RecipeError(f"--tune {text!r}: write field=low..high, as in lr=1e-4..1e-2")
    return path, span
