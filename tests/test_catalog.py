"""Papers are found by words of their titles and cards."""

from __future__ import annotations

from whet.catalog import bm25, describe_part, papers, search_papers


def test_bm25_prefers_rare_words_and_short_documents() -> None:
    scores = bm25(["rare"], {"a": ["rare", "word"], "b": ["rare"] + ["filler"] * 50, "c": ["word"]})
    assert scores["a"] > scores["b"] > scores["c"] == 0


def test_every_paper_of_a_part_is_found_by_its_title() -> None:
    for paper, (title, _) in papers().items():
        rows, text = search_papers(title)
        assert paper in [r["paper"] for r in rows[:3]]
        assert title in text


def test_a_query_finds_the_method() -> None:
    assert search_papers("quantization second order error feedback")[0][0]["paper"] == "gptq"
    assert search_papers("masking reasoning steps")[0][0]["paper"] == "masked-thought"
    assert search_papers("zzzz qqqq")[0] == []


def test_a_part_is_described_with_its_defaults() -> None:
    data, text = describe_part("objective", "dpo")
    assert data["settings"]["beta"] == "0.1"
    assert "beta = 0.1" in text
