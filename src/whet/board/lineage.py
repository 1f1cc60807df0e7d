"""Lineage as a graph: what a model or data set was made from, and what was made from it, across all runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from urllib.parse import quote

from whet.board.records import Step
from whet.run import figures

OUTSIDE = "outside"
"""Section of a model that no recorded step made."""

MOST = 120
"""Nodes of a graph."""

COLOURS = {
    "data": "#a16207",
    "base": "#475569",
    "train": "#1f6feb",
    "edit": "#7e22ce",
    "quantize": "#0f766e",
    "measure": "#66717e",
    "export": "#15803d",
    OUTSIDE: "#1d2733",
}
WIDE, HIGH, APART, BELOW = 150, 42, 202, 62
"""Of a box, and from one to the next."""

DARK, PALE = "#8090a0", "#c3cbd4"
"""Of an arrow, and of one from a model that was tried and not used."""

Edge = tuple[str, str]


@dataclass(frozen=True)
class Node:
    """An artifact. ``runs``: those that made or used it, newest first."""

    identity: str
    name: str
    section: str
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Nodes by identity, and edges from what is read to what is made.

    ``left_out``: nodes that were too many. ``weights``: of the edges into an edit of several models, where its receipt tells; 0 of a
    model that it tried and did not use.
    """

    nodes: Mapping[str, Node]
    edges: frozenset[Edge]
    left_out: int = 0
    weights: Mapping[Edge, float] = field(default_factory=dict)


def graph_of(steps: Sequence[Step], outside: str = "model") -> Graph:
    """All artifacts of these steps; ``outside`` is what a model is called that none of them made."""
    nodes: dict[str, Node] = {}
    for step in steps:
        known = nodes.get(step.identity, Node(step.identity, step.name, step.section))
        nodes[step.identity] = replace(known, runs=(*known.runs, step.run))
    edges: set[Edge] = set()
    weights: dict[Edge, float] = {}
    for step in steps:
        for place, source in step.inputs.items():
            if source not in nodes and _is_model(place):
                nodes[source] = Node(source, outside, OUTSIDE)
            if source in nodes and source != step.identity and not place.startswith("against."):
                edges.add((source, step.identity))
        weights |= {(source, step.identity): weight for source, weight in _weights(step).items()}
    return Graph(nodes, frozenset(edges), weights=weights)


def _weights(step: Step) -> dict[str, float]:
    """Source -> weight of the models that an edit of several read."""
    names = step.settings.get("models") or ()
    told = dict(zip(step.receipt.get("models") or (), step.receipt.get("weights") or ()))
    if len(names) < 2 or not told:
        return {}
    rest = 0.0 if "ingredients" in step.receipt else None
    found = {step.inputs.get(f"models.{index}"): told.get(name, rest) for index, name in enumerate(names)}
    return {source: float(weight) for source, weight in found.items() if source is not None and weight is not None}


def around(whole: Graph, identity: str) -> Graph:
    """What a node was made from, and what was made from it."""
    parents, children = _neighbours(whole.edges)
    kept = [identity, *_reached(identity, parents), *_reached(identity, children)]
    kept = list(dict.fromkeys(kept))
    shown = set(kept[:MOST])
    edges = {(a, b) for a, b in whole.edges if a in shown and b in shown}
    return Graph({i: whole.nodes[i] for i in kept[:MOST]}, frozenset(edges), len(kept) - len(shown), whole.weights)


def draw(graph: Graph, chosen: str = "") -> str:
    """The graph as SVG, from left to right; boxes lead to their own pages."""
    columns = _columns(graph)
    places = {i: (16 + APART * c, 16 + BELOW * r) for c, column in enumerate(columns) for r, i in enumerate(column)}
    out = [_arrow(places[a], places[b], graph.weights.get((a, b))) for a, b in sorted(graph.edges)]
    out += [_box(graph.nodes[i], place, i == chosen) for i, place in places.items()]
    width = 32 + WIDE + APART * (len(columns) - 1)
    height = 32 + HIGH + BELOW * (max(map(len, columns), default=1) - 1)
    if any(graph.weights.get(edge) == 0 for edge in graph.edges):
        width, height = max(width, 180), height + 18
        out.append(f'<path d="M16 {height - 12} h34" stroke="{PALE}" stroke-width="1.4" stroke-dasharray="5 4"/>')
        out.append(figures.text(58, height - 8, "tried, not used", size=12, colour=figures.FAINT))
    return figures.svg(width, height, out, "lineage")


def _is_model(field: str) -> bool:
    return field in ("model", "base", "reference") or field.startswith(("models.", "stage."))


def _neighbours(edges: Collection[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    parents: dict[str, list[str]] = {}
    children: dict[str, list[str]] = {}
    for a, b in sorted(edges):
        parents.setdefault(b, []).append(a)
        children.setdefault(a, []).append(b)
    return parents, children


def _reached(start: str, neighbours: Mapping[str, Sequence[str]]) -> list[str]:
    """Everything that can be reached, the nearest first."""
    found: dict[str, None] = {}
    front = list(neighbours.get(start, ()))
    while front:
        found.update(dict.fromkeys(front))
        front = [n for i in front for n in neighbours.get(i, ()) if n not in found]
    return list(found)


def _columns(graph: Graph) -> list[list[str]]:
    """Nodes by their longest way from a source; within a column near what they were made from."""
    parents, _ = _neighbours(graph.edges)
    depth: dict[str, int] = {}

    def level(identity: str) -> int:
        if identity not in depth:
            depth[identity] = 1 + max((level(p) for p in parents.get(identity, ())), default=-1)
        return depth[identity]

    columns: list[list[str]] = [[] for _ in range(1 + max(map(level, graph.nodes), default=-1))]
    for identity in graph.nodes:
        columns[depth[identity]].append(identity)
    row: dict[str, float] = {}
    for column in columns:
        own = {i: [row[p] for p in parents.get(i, ())] for i in column}
        column.sort(key=lambda i: (sum(own[i]) / len(own[i]) if own[i] else 0.0, graph.nodes[i].name, i))
        row |= {i: float(r) for r, i in enumerate(column)}
    return columns


def _arrow(start: tuple[int, int], end: tuple[int, int], weight: float | None) -> str:
    (x0, y0), (x1, y1) = (start[0] + WIDE, start[1] + HIGH // 2), (end[0], end[1] + HIGH // 2)
    bend = (x1 - x0) // 2 if x1 - x0 < APART else 40
    colour, dashes = (PALE, ' stroke-dasharray="5 4"') if weight == 0 else (DARK, "")
    line = f'd="M{x0} {y0} C{x0 + bend} {y0} {x1 - bend} {y1} {x1 - 5} {y1}" fill="none" stroke="{colour}" stroke-width="1.4"'
    head = f'<path d="M{x1 - 7} {y1 - 4} L{x1} {y1} L{x1 - 7} {y1 + 4} Z" fill="{colour}"/>'
    beside = y0 - 5 if y1 >= y0 else y0 + 14
    label = figures.text(x0 + 5, beside, f"× {weight:.3g}", size=11, colour=figures.FAINT) if weight else ""
    return f"<path {line}{dashes}/>{head}{label}"


def _box(node: Node, place: tuple[int, int], chosen: bool) -> str:
    (x, y), colour = place, COLOURS.get(node.section, figures.FAINT)
    name = node.name if len(node.name) <= 19 else node.name[:18] + "…"
    box = (
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7" fill="{"#e8f0fe" if chosen else "#fff"}" '
        f'stroke="{colour}" stroke-width="{2.6 if chosen else 1.4}"/>'
        + figures.text(x + 10, y + 18, name, size=13, weight="600")
        + figures.text(x + 10, y + 33, f"{node.section} · {node.identity[:8]}", size=11, colour=colour)
        + f"<title>{escape(f'{node.section} {node.name}, {node.identity}')}</title>"
    )
    return f"<g>{box}</g>" if node.section == OUTSIDE else f'<a href="/models/{quote(node.identity, safe="")}">{box}</a>'
