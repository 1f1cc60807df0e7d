"""The model in training as objectives see it: log-probabilities at trained positions, with bounded memory.

Logits are computed only where a token is trained, and in float32 from there on; of large vocabularies only a piece of
positions has its logits in memory at a time. The last hidden states of a batch are kept until the next batch, so that
several objectives, or the log-probabilities and the values, share one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from whet.data.example import Batch
from whet.errors import ModelError
from whet.train.probe import backbone_and_head, inner, keeps_rows_apart, shares_stems, tree_mask

LOGIT_BYTES = 256 << 20
"""Logits above this size are computed in pieces and again in the backward pass."""


@dataclass
class Work:
    """Positions that went through the network, padding included: the FLOPs meter's counts."""

    forward: int = 0
    backward: int = 0


@dataclass
class _Cache:
    batch: Batch | None = None
    grad: bool = False
    hidden: Tensor | None = None
    logits: Tensor | None = None


@dataclass
class HFPolicy:
    """A ``transformers`` (or PEFT) causal language model as a policy.

    ``compute`` is the format of the products (``float32``: no casting). ``temperature`` divides the logits: log-probabilities
    are then those of a sampler at that temperature. ``value_head`` maps the last hidden state to one number.
    ``shares_packs`` says whether the network keeps packed rows apart, ``shares_stems`` whether rows may also share their
    beginning, as found by probes; pass both to ``pack``. ``references`` are other models, by name, that
    :meth:`per_token` holds this one against; they have the same vocabulary and are not trained.
    """

    network: nn.Module
    compute: torch.dtype = torch.float32
    temperature: float = 1.0
    value_head: nn.Linear | None = None
    references: Mapping[str, HFPolicy] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    shares_packs: bool = field(init=False)
    shares_stems: bool = field(init=False)
    _parts: tuple[Any, nn.Module] | None = field(init=False, repr=False)
    _cache: _Cache = field(init=False, repr=False, default_factory=_Cache)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: log-probabilities need one above 0")
        self._parts = backbone_and_head(self.network)
        others = self.references.values()
        self.shares_packs = keeps_rows_apart(self.network) and all(other.shares_packs for other in others)
        self.shares_stems = self.shares_packs and shares_stems(self.network) and all(other.shares_stems for other in others)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding: ids below this can be fed in."""
        return int(inner(self.network).get_input_embeddings().weight.shape[0])

    @property
    def pad_token(self) -> int | None:
        """The configuration's pad token."""
        return getattr(inner(self.network).config, "pad_token_id", None)

    @property
    def backbone(self) -> nn.Module | None:
        """What gives the last hidden states, where the logits are exactly the output layer's of them."""
        return self._parts[0] if self._parts is not None else None

    def run_backbone_by(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        """Calls ``function`` from now on in place of the backbone, with the same inputs, for the last hidden states."""
        assert self._parts is not None
        self._parts = (function, self._parts[1])

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each label, float32 [N, S], 0 where nothing is trained."""
        targets = batch.labels[batch.mask]
        return _spread(batch, self._per_target(batch, targets, _logps))

    def logps_and_entropy(self, batch: Batch, entropy_gradient: bool = True) -> tuple[Tensor, Tensor]:
        """The same, and the entropy of the next-token distribution in nats; both float32 [N, S], 0 where nothing is trained.

        ``entropy_gradient``: whether the entropy is differentiable; without, the backward pass over the logits is half the work.
        """
        function = partial(_logps_and_entropy, entropy_gradient=entropy_gradient)
        both = self._per_target(batch, batch.labels[batch.mask], function)
        return _spread(batch, both[:, 0]), _spread(batch, both[:, 1])

    def per_token(self, batch: Batch, function: Callable[..., Tensor], references: Sequence[str] = ()) -> Tensor:
        """``function(logits, labels, *others)`` of the M trained tokens, a piece of them at a time: ``logits`` float32 [m, V],
        ``labels`` [m], ``others`` the logits of the named references, without gradient. The results [m, ...] joined: [M, ...].
        """
        others = [self.references[name] for name in references]
        return self._per_target(batch, batch.labels[batch.mask], function, others)

    def values(self, batch: Batch) -> Tensor:
        """The value head's prediction at each position, float32 [N, S].

        Raises:
            ModelError: the policy has no value head.
        """
        if self.value_head is None:
            raise ModelError("this policy has no value head; an objective that reads values must list 'values' in its needs")
        self._forward(batch, hidden=True)
        assert self._cache.hidden is not None
        return self.value_head(self._cache.hidden.float()).squeeze(-1)

    def forget(self) -> None:
        """Drops the kept forward; called after the backward pass, and when weights change."""
        self._cache = _Cache()
        for other in self.references.values():
            other.forget()

    def _per_target(
        self, batch: Batch, targets: Tensor, function: Callable[..., Tensor], others: Sequence[HFPolicy] = ()
    ) -> Tensor:
        states = [self._states(batch)]
        with torch.no_grad():
            states += [other._states(batch) for other in others]

        def of_piece(targets: Tensor, own: Tensor, *theirs: Tensor) -> Tensor:
            with torch.no_grad():
                logits = [other._logits(state) for other, state in zip(others, theirs)]
            return function(self._logits(own), targets, *logits)

        size = min(policy._piece(len(targets), 1 + len(others)) for policy in (self, *others))
        if size >= len(targets):
            return of_piece(targets, *states)
        pieces = zip(targets.split(size), *(state.split(size) for state in states))
        return torch.cat([checkpoint(of_piece, *piece, use_reentrant=False) for piece in pieces])

    def _states(self, batch: Batch) -> Tensor:
        """What :meth:`_logits` turns into logits at each trained position, [M, width]: hidden states, or the logits themselves."""
        self._forward(batch)
        kept = self._cache.logits if self._parts is None else self._cache.hidden
        assert kept is not None
        return kept[batch.mask]

    def _piece(self, targets: int, models: int) -> int:
        """Positions whose logits, of so many models, are in memory at a time."""
        if self._parts is None or not targets:
            return max(1, targets)
        head = self._parts[1]
        vocabulary = getattr(head, "out_features", None) or next(head.parameters()).shape[0]
        return max(1, min(targets, LOGIT_BYTES // (4 * vocabulary * models)))

    def _logits(self, states: Tensor) -> Tensor:
        if self._parts is not None:
            with self._autocast():
                states = self._parts[1](states)
        return states.float() / self.temperature if self.temperature != 1.0 else states.float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.compute, enabled=self.compute is not torch.float32)

    def _forward(self, batch: Batch, hidden: bool = False) -> None:
        """Runs the network unless its output for these inputs is at hand."""
        cache, grad = self._cache, torch.is_grad_enabled()
        at_hand = cache.hidden is not None or (cache.logits is not None and not hidden)
        if at_hand and cache.grad == grad and cache.batch is not None and _same_inputs(cache.batch, batch):
            return
        positions = batch.input_ids.numel()
        self.work.forward += positions
        self.work.backward += positions if grad else 0
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
        if batch.stem is not None:
            products = next(self.network.parameters()).dtype if self.compute is torch.float32 else self.compute
            inputs["attention_mask"] = tree_mask(batch.row, batch.stem, products)
        with self._autocast():
            if self._parts is not None:
                self._cache = _Cache(batch, grad, hidden=self._parts[0](**inputs)[0])
            else:
                out: Any = self.network(**inputs, output_hidden_states=hidden)
                self._cache = _Cache(batch, grad, out.hidden_states[-1] if hidden else None, out.logits)


def _same_inputs(a: Batch, b: Batch) -> bool:
    return a.input_ids is b.input_ids and a.position_ids is b.position_ids


def _spread(batch: Batch, per_target: Tensor) -> Tensor:
    mask = batch.mask
    return per_target.new_zeros(mask.shape).masked_scatter(mask, per_target)


def _logps(logits: Tensor, targets: Tensor) -> Tensor:
    return -functional.cross_entropy(logits, targets, reduction="none")


def _logps_and_entropy(logits: Tensor, targets: Tensor, entropy_gradient: bool) -> Tensor:
    all_logps = functional.log_softmax(logits, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(all_logps.exp() * all_logps).sum(-1)
    return torch.stack([all_logps.gather(-1, targets[:, None]).squeeze(-1), entropy], dim=-1)
