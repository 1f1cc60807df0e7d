"""Decontamination removes planted copies of evaluation items and keeps unrelated rows."""

from __future__ import annotations

import pytest
from datasets import Dataset

from whet.data.context import Context
from whet.data.select.ngram_decontaminate import NgramDecontaminate
from whet.errors import DataError

ITEM = "A robe takes two bolts of blue fiber and half that much white fiber, so how many bolts does it take in total?"
OTHER = "Natalia sold clips to forty eight of her friends in April and then she sold half as many clips in May, how many?"


def evaluation(split):
    assert split == "test"
    return Dataset.from_list([{"prompt": ITEM}, {"prompt": "What is 3 plus 4?"}])


def run(prompts, **options):
    context = Context()
    data = Dataset.from_list([{"prompt": prompt, "url": url} for url, prompt in prompts])
    return NgramDecontaminate(evaluation, **options)(data, context)["prompt"][:], context.receipt


def test_a_planted_copy_is_removed_and_others_stay():
    copy = "Please solve: " + ITEM.upper().replace(",", " ,") + " Think."
    kept, receipt = run([("a", OTHER), ("a", copy), ("b", "What is 3 plus 5?"), ("b", "Well, what is 3 plus 4?")])
    assert kept == [OTHER, "What is 3 plus 5?"]
    assert (receipt["rows_in"], receipt["rows_out"], receipt["items_matched"], receipt["items_shorter_than_n"]) == (4, 2, 2, 1)
    assert receipt["removed"][0] == copy


def test_half_of_an_item_is_the_border():
    words = ITEM.split()
    assert run([("a", " ".join(words[:10])), ("a", OTHER)])[0] == [" ".join(words[:10]), OTHER]
    assert run([("a", " ".join(words[:14])), ("a", OTHER)])[0] == [OTHER]


def test_tolerance_and_whole_sources():
    rows = [("a", ITEM), ("a", OTHER), ("b", OTHER)]
    assert run(rows, by="url", tolerance=0.6)[0] == [ITEM, OTHER, OTHER]
    kept, receipt = run(rows, by="url", drop_source=True)
    assert kept == [OTHER]
    assert receipt["share_of_items_matched"] == {"a": 0.5}


def test_errors():
    with pytest.raises(DataError, match=r"is it the same data"):
        run([("a", ITEM)])
    with pytest.raises(DataError, match=r"by: no column 'site'; there are: prompt, url"):
        run([("a", ITEM)], by="site")
