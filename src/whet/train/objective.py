"""What an objective gets and gives: a policy that computes log-probabilities of a batch, and a loss with named terms.

An objective is a part: a frozen dataclass (its fields are its settings) that is called with ``(policy, batch)``::

    @dataclass(frozen=True)
    class SFT:
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, policy: Policy, batch: Batch) -> Loss: ...

``needs`` names what the loop must provide: ``pairs`` (chosen and rejected of one unit in one batch), ``reference``
(``token_values["reference_logps"]``), ``rollouts`` (groups sampled from the policy, with ``old_logps`` and ``reward``),
``demonstrations`` (a reference completion per prompt), ``values`` (a value head), ``reference_logits`` and ``start_logits``
(the step's ``reference`` model, and the model that training starts from, as the references ``reference`` and ``start`` of
``policy.per_token``). The loss is the micro-batch's share of
the step's loss: sums over the micro-batch divided by ``batch.totals``, so that adding the micro-batches up gives exactly
the loss of the whole step. An objective whose ``needs`` depend on its settings makes it a property.

An objective may have more, each optional:

* ``state_dict() -> dict`` and ``load_state_dict(state)``: what it remembers between steps (a running mean), as plain
  numbers that JSON can hold. The loop saves it in the checkpoint and gives it back on resume. Such state must not change
  within a step, or the loss would depend on how the step is split into micro-batches.
* ``plan`` and ``prepare(examples) -> list[Example]`` (:class:`RolloutObjective`): only for objectives that need ``rollouts``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch, Example


@dataclass(frozen=True)
class Loss:
    """``total`` is differentiated; ``terms`` are detached shares that add up over the micro-batches of a step."""

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Policy(Protocol):
    """The model being trained, as an objective sees it."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each label, float32 [N, S], 0 where nothing is trained; repeated calls share one forward."""

    def logps_and_entropy(self, batch: Batch, entropy_gradient: bool = True) -> tuple[Tensor, Tensor]:
        """The same and the entropy of the next-token distribution (nats), both float32 [N, S]; say if you only read the entropy."""

    def per_token(self, batch: Batch, function: Callable[..., Tensor], references: Sequence[str] = ()) -> Tensor:
        """``function(logits, labels, *reference logits)`` of the M trained tokens, by pieces: logits float32 [m, V], labels [m],
        references without gradient; its results joined, [M, ...]."""

    def values(self, batch: Batch) -> Tensor:
        """The value head's prediction at each position, float32 [N, S]; only if the objective needs ``values``."""


class Objective(Protocol):
    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, policy: Policy, batch: Batch) -> Loss: ...


@dataclass(frozen=True)
class RolloutPlan:
    """What an objective asks of the rollouts of one prompt.

    ``greedy``: one more completion, decoded greedily, as a baseline. ``demonstration``: the reference completion as a
    further row, ``inside`` takes the place of one sampled row, ``beside`` comes on top. ``resample``: groups whose rewards
    are all equal are replaced by fresh prompts. ``overlong``: share of ``max_new_tokens`` at the end of which length is
    penalized, rising from 0 to 1. ``smallest_group``: fewest sampled rows that the advantage is defined for.
    """

    greedy: bool = False
    demonstration: Literal["none", "inside", "beside"] = "none"
    resample: bool = False
    overlong: float = 0.0
    smallest_group: int = 1


class RolloutObjective(Objective, Protocol):
    """An objective that learns from sampled groups."""

    @property
    def plan(self) -> RolloutPlan: ...

    def prepare(self, examples: Sequence[Example]) -> list[Example]:
        """Turns the rewards of *whole* groups into what the loss reads (``token_values["advantages"]``); called once per
        rollout by the provider, before the rollout is divided into steps and micro-batches. May drop or add rows."""
