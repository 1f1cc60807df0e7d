"""The ledger of claims as text: in the terminal, and as the table of ``docs/claims.md``."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whet.budget import shown
from whet.run.claims import Claim, is_scripted

NOT_RUN = "not run yet"
UNCHECKED = "there is no git here, so that it cannot be checked that the settings came before the result"

HEAD = """\
# Claims

What papers claim, and what a comparison as small as these models says of its direction. Made from the files in `claims/` by
`whet claims --table`; `whet claims ID` shows one in full. A verdict speaks of this set-up alone, never of the paper's scale:
*reproduced* (the interval lies on the claim's side after correction, and the effect is as large as was asked for),
*contradicted at this scale* (the opposite on two tasks), or *not seen at this scale*, which is everything else: no effect, an
effect too small to tell, or a test that could not have shown it. Effects of comparisons are above 0 where the claim says so (of
perplexity: in nats per token), intervals are 95%. A claim that was tested several times has as many rows.

| paper | claim | the paper's figure | ours | seeds | cost | verdict | date, version |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def markdown(claims: Sequence[Claim]) -> str:
    """The ledger as the page ``docs/claims.md``, without a line break at its end."""
    return "\n".join([HEAD, *(line for claim in claims for line in _rows(claim))])


def brief(claim: Claim) -> str:
    """A claim as the ledger lists it in the terminal: what is claimed, the paper's figure, and every result in two lines."""
    lines = [f"{claim.paper}: {claim.title}", *_wrapped("claim ", claim.claim), *_wrapped("paper ", claim.paper_figure)]
    for result in claim.results:
        lines += _wrapped("ours  ", ours(result))
        lines.append(
            f"        {result['verdict']}; {_seeds(result)}; {_cost(result)}; {result['date']}, whet {result['version']}"
        )
    return "\n".join(lines if claim.results else [*lines, f"        {NOT_RUN}"])


def full(claim: Claim) -> str:
    """A claim with its test and everything that its results hold."""
    lines = [brief(claim), "", *_wrapped("test  ", claim.test)]
    if claim.judge:
        lines += _wrapped("judge ", _rule(claim))
    for result in claim.results:
        lines += ["", f"{result['date']}, whet {result['version']}: {result['verdict']}"]
        if is_scripted(result) and claim.comparison:
            lines += _wrapped("      ", f"By a script ({result['run']}), with another test: {result['test']}")
        lines += _wrapped("      ", str(result.get("reason") or result.get("note") or ""))
        lines += [f"        {name}: {value:.4g} {_interval(between)}" for name, value, *between in _figures(result)]
        if not is_scripted(result):
            fixed = f"commit {result['commit']}" if result["commit"] else UNCHECKED
            lines.append(f"        settings {result['fingerprint']}; {fixed}")
    return "\n".join(lines)


def ours(result: Mapping[str, Any]) -> str:
    """A result's figure with its interval, in one line. Of a script's figures it is the first that compares."""
    if is_scripted(result):
        rows = result["result"]
        row = next((r for r in rows if "p" in r and r["mean"] is not None), rows[0])
        p = row.get("p_holm", row.get("p"))
        return f"{row['name']}: {row['mean']:.4g} {_interval(row['interval'])}" + (f", p = {p:.2g}" if p is not None else "")
    if "effect" not in result:
        return f"{result['better']} against {result['than']}: not compared"
    corrected = f" (Holm over {result['comparisons']})" if result["comparisons"] > 1 else ""
    figure = f"{result['effect']:+.4g} {_interval(result['interval'])} {result['metric']}, p = {result['p']:.2g}"
    return f"{result['better']} against {result['than']}: {figure}{corrected}"


def _rule(claim: Claim) -> str:
    judge = claim.judge
    assert judge is not None
    bounds = [f"{name} has at least {value:g}" for name, value in judge.at_least.items()]
    bounds += [f"{name} has at most {value:g}" for name, value in judge.at_most.items()]
    said = f"{judge.better} better than {', '.join(judge.rivals)} by {judge.smallest:g} or more"
    said += "".join(f", and losing less than {most:g} of {task}" for task, most in judge.keeps.items())
    return said + (f"; could show it if {', '.join(bounds)}" if bounds else "")


def _rows(claim: Claim) -> Iterator[str]:
    """One row for each result; what is the same in all of them stands in the first."""
    said = [f"[{claim.paper}](../claims/{claim.path.name}): {claim.title}", claim.claim, claim.paper_figure]
    if not claim.results:
        yield _row([*said, "", "", "", NOT_RUN, ""])
    for number, result in enumerate(claim.results):
        cells = said if number == 0 else [claim.paper, "the same", "the same"]
        seeds = _seeds(result).partition(" ")[2]
        yield _row([*cells, ours(result), seeds, _cost(result), result["verdict"], f"{result['date']}, {result['version']}"])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """(name, value, low, high) of everything that a result measured."""
    if is_scripted(result):
        # A script leaves a figure open that could not be computed.
        yield from ((row["name"], row["mean"], *row["interval"]) for row in result["result"] if row["mean"] is not None)
    else:
        yield from ((name, *values) for name, values in result["arms"].items())
        for task, arms in result.get("kept", {}).items():
            yield from ((f"{task}: {name}", *values) for name, values in arms.items())


def _interval(between: Sequence[float]) -> str:
    low, high = between
    return f"[{low:.4g}, {high:.4g}]" if math.isfinite(low) and math.isfinite(high) else "(no interval)"


def _seeds(result: Mapping[str, Any]) -> str:
    seeds = list(result["seeds"])
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    text = f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
    return f"seed {text}" if len(seeds) == 1 else f"seeds {text}"


def _cost(result: Mapping[str, Any]) -> str:
    if is_scripted(result):
        return f"{result['cost_seconds']} s"
    return f"{result['cost']['seconds']} s, {shown(result['cost']['tokens'])} tokens"


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=f"  {label}", subsequent_indent="        ")
