"""Linear layers through oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whet.generate import products
from whet.generate.products import fast_linears
from whet.model import Model


@pytest.mark.parametrize("packed_bytes", [0, 1 << 30], ids=["as they lie", "packed"])
@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (2, 40, 24)])
def test_products_are_torchs(shape: tuple[int, ...], packed_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "PACKED_BYTES", packed_bytes)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 33), nn.Linear(33, 7, bias=False))
    inputs = torch.randn(shape)
    with torch.no_grad():
        expected = network(inputs)
        with fast_linears(network):
            torch.testing.assert_close(network(inputs), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(network(inputs), expected)


def test_layers_are_themselves_again_after_an_error(tiny_model: Model) -> None:
    before = [dict(vars(module)) for module in tiny_model.network.modules()]
    with pytest.raises(RuntimeError, match="stop"), fast_linears(tiny_model.network):
        raise RuntimeError("stop")
    assert [list(vars(module)) for module in tiny_model.network.modules()] == [list(names) for names in before]


def test_other_formats_and_replaced_layers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_available", lambda: True)

    class Own(nn.Linear):
        pass

    replaced = nn.Linear(4, 4)
    replaced.forward = lambda inputs: inputs + 1  # type: ignore[method-assign]
    network = nn.ModuleList([nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).double(), Own(4, 4), replaced])
    with fast_linears(network):
        assert ["forward" in vars(layer) for layer in network] == [False, False, False, True]
        assert torch.equal(replaced(torch.zeros(4)), torch.ones(4))
    assert "forward" in vars(replaced)


def test_new_weights_are_seen_the_next_time(tiny_model: Model) -> None:
    layer = tiny_model.network.model.layers[0].mlp.up_proj
    inputs = torch.ones(1, layer.in_features)
    with torch.no_grad():
        with fast_linears(tiny_model.network):
            before = layer(inputs)
        layer.weight.mul_(2)
        with fast_linears(tiny_model.network):
            torch.testing.assert_close(layer(inputs), 2 * before)


def test_bfloat16_inputs_under_autocast_are_left_to_torch() -> None:
    network, inputs = nn.Sequential(nn.Linear(24, 33)), torch.randn(20, 24).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = network(inputs)
        with fast_linears(network):
            assert torch.equal(network(inputs), expected)
