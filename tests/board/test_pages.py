"""The board in a browser: a reader finds the reason, curves move, what a model wrote stays text."""

from __future__ import annotations

from typing import Any

import pytest

ADDRESSES = {
    "/": "small",
    "/runs": "small-0-0",
    "/runs/small-1-2": "What was made from what",
    "/comparisons": "small",
    "/comparisons/small-20260101-000000-aaaa": "carrying",
    "/races": "scores: quick <i> 1.000, steady 0.667",
    "/races/sprint-20260101-000000-bbbb": "self-tuning: 3 runs, each of 1.5 times",
    "/claims": "Hiding helps",
    "/claims/hidden": "Hidden words",
    "/models/tuned00": "Lineage",
    "/search?q=small": "found",
    "/pages/small-20260101-000000-aaaa/compare.html": "whole page",
}


@pytest.mark.parametrize(("address", "words"), ADDRESSES.items())
def test_every_page_renders_without_complaint_and_from_this_board_alone(page: Any, address: str, words: str) -> None:
    assert page.goto(address).status == 200
    assert words in page.inner_text("body")
    assert page.evaluate("window.taken") is None


def test_a_first_reader_finds_why_b_lost_in_two_clicks(page: Any) -> None:
    page.goto("/")
    page.click("a.card:has-text('masked <i> loses to plain')")
    page.click("a:has-text('why?')")
    assert "The largest part comes from carrying" in page.inner_text("main")
    assert page.inner_text("table tr:nth-child(2) td:nth-child(1)") == "carrying"
    assert "50.0%" in page.inner_text("table:has-text('ended by themselves')")

    page.click("table >> text=carrying")
    assert page.inner_text("a.chip[title='show all']") == "carrying ×"
    first, second = page.locator(".flip").first.locator(".two mark").all_inner_texts()
    assert first.strip(" .") != second.strip(" .") and int(second.strip(" .")) == int(first.strip(" .")) + 1


def test_a_race_leads_to_its_comparison_and_back_and_shows_both_clocks(page: Any) -> None:
    page.goto("/")
    page.click("a.card:has-text('sprint')")
    page.wait_for_url("**/races/sprint-**")
    text = page.inner_text("main")
    assert "Time to the target, in steps" in text and "The same in processor seconds" in text
    assert page.inner_text("tr:has(b:text-is('steady')) >> td >> nth=2") == "0.667"
    assert page.inner_text("tr:has(b:text-is('steady')) >> td >> nth=3") == "1.000"
    assert "tunes lr = 0.1..1 on the clock, 2 points in turn" in text and "4, never, 6" in text and "0.4, never, 0.6" in text
    page.click("td a:has-text('small-20260101')")
    page.wait_for_url("**/comparisons/small-**")
    page.click("a:has-text('its race')")
    page.wait_for_url("**/races/sprint-**")


def test_what_a_model_wrote_stays_text(page: Any) -> None:
    page.goto("/comparisons/small-20260101-000000-aaaa/pair?task=answers&a=plain&b=masked+%3Ci%3E")
    assert "<script>window.taken=1</script><img src=x" in page.locator(".flip pre").first.inner_text()
    assert page.evaluate("window.taken") is None and page.locator("main img, main script").count() == 0


def test_the_curve_moves_while_a_run_trains_and_the_page_notices_its_end(page: Any, training: Any) -> None:
    page.goto("/")
    curve = page.locator("#live polyline")
    curve.wait_for()
    before = curve.get_attribute("points")
    training.point(3)
    page.wait_for_function("old => document.querySelector('#live polyline').getAttribute('points') !== old", arg=before)
    assert "step 4 of 40" in page.inner_text("#live")
    training.end()
    page.locator("#live section").wait_for(state="detached")
    assert "done" in page.inner_text("tr:has-text('alive-')")


def test_search_finds_settings_beyond_ascii_and_leads_there(page: Any) -> None:
    page.goto("/")
    page.fill("input[name=q]", "überlänge tuned")
    page.press("input[name=q]", "Enter")
    page.wait_for_url("**/search**")
    page.click("a.card >> nth=0")
    page.wait_for_url("**/runs/small-**")


def test_lineage_is_drawn_and_leads_from_box_to_box(page: Any) -> None:
    page.goto("/models/rows0")
    assert page.locator("svg g, svg a").count() >= 1 + 6 + 6
    page.click("svg a:has-text('tuned12')")
    page.wait_for_url("**/models/tuned12")
    assert page.locator("svg rect").count() == 4
