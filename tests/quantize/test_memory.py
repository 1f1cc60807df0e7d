"""What quantizing will need is said before it starts, and refused where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from whet.errors import RecipeError
from whet.model import Model
from whet.quantize import memory


def test_the_forecast_grows_with_tokens_and_not_with_layers(tiny_model: Model) -> None:
    one, two = (memory.forecast_memory(tiny_model.network, tokens) for tokens in (100_000, 200_000))
    assert two["activations"] - one["activations"] == 100_000 * 64 * 4
    assert one["hessians"] == two["hessians"] == 8 * (6 * 64**2 + 128**2)


def test_more_than_is_free_is_refused(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(memory.forecast_memory(tiny_model.network, 1000).values())
    for free, fits in ((needed, True), (None, True), (needed - 1, False)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        if fits:
            assert sum(memory.refuse_too_large(tiny_model.network, 1000).values()) == needed
        else:
            with pytest.raises(RecipeError, match=r"for 1,000 calibration tokens, .* give fewer or shorter calibration rows"):
                memory.refuse_too_large(tiny_model.network, 1000)


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="reads /proc/meminfo")
def test_free_memory_is_read_from_the_system() -> None:
    free = memory.free_memory(torch.device("cpu"))
    assert free is not None and 2**20 < free < 2**50
