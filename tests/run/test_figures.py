"""The figures are well-formed SVG that say what they show and escape what they are given."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from whet.run.figures import Point, curves, nice_ticks, stages


def test_stages_hold_every_value_and_escape_names() -> None:
    svg = stages([Point("<b>", 0.5, 0.4, 0.6, "note & more"), Point("sft", 0.8, 0.7, 0.9, after="<b>")], [3.0, 1.0], "accuracy")
    tree = ElementTree.fromstring(svg)
    texts = [e.text for e in tree.iter() if e.tag.endswith("text")]
    assert "<b>" in texts and "0.8" in texts and "1.00" in texts
    assert len([e for e in tree.iter() if e.tag.endswith("circle")]) == 2
    assert len([e for e in tree.iter() if e.tag.endswith("line") and e.attrib["stroke"] == "#c9d1da"]) == 1


def test_curves_leave_out_nan_and_empty_series() -> None:
    assert curves([("loss", [0, 1], [math.nan, math.nan])], "step") == ""
    tree = ElementTree.fromstring(curves([("loss", [0, 1, 2], [3.0, math.nan, 1.0])], "step"))
    line = next(e for e in tree.iter() if e.tag.endswith("polyline"))
    assert len(line.attrib["points"].split()) == 2


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_span_the_range_with_few_round_numbers(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(abs(low), span)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
