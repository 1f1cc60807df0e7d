"""The replies task is the training loss on held-out rows."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset

from whet.data.chat import encode
from whet.data.messages import messages_of
from whet.errors import DataError
from whet.measure.tasks.replies import Replies
from whet.model import Model

ROWS = [{"prompt": "What is 3 plus 4?", "completion": "The answer is 7."}, {"prompt": "abc", "completion": "xyz 12"}]


def test_it_equals_the_cross_entropy_of_a_plain_forward(tiny_model: Model) -> None:
    result = Replies(data=lambda split: Dataset.from_list(ROWS))(tiny_model)
    total = tokens = 0.0
    for row in ROWS:
        example = encode(messages_of(row, None), tiny_model.tokenizer)
        ids = torch.tensor([list(example.input_ids)])
        logps = tiny_model.network(ids).logits.detach().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(example.trained[1:])
        total -= float(logps[mask].sum())
        tokens += int(mask.sum())
    assert result.estimates["perplexity"].value == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert result.receipt["tokens"] == tokens


def test_overlong_rows_are_counted_and_all_overlong_is_refused(tiny_model: Model) -> None:
    long = {"prompt": "a", "completion": "7 " * 400}
    result = Replies(data=lambda split: Dataset.from_list([*ROWS, long]))(tiny_model)
    assert result.receipt["rows over the context"] == 1
    assert len(result.outcomes) == 2
    with pytest.raises(DataError, match="every row is longer than the model's context of 256"):
        Replies(data=lambda split: Dataset.from_list([long]))(tiny_model)
