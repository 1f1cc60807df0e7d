"""Hybrid post-training: a prompt is learned from its rollouts if enough of them solve it, else from its demonstration.

Supervised and reinforcement gradients are parts of one objective, so nothing forces one schedule for all prompts. Each
prompt q is sampled ``group_size`` times and the solved completions (reward >= ``solved``) are counted:

    solved(q) <= gate           the rollouts are discarded and the demonstration is imitated
    solved(q) <= gate_off       the demonstration is learned off-policy, with the reshaped likelihood f(pi) = pi/(pi + shape)
    else                        the rollouts are learned from

    L = 1/Q sum_q [ w_on L_on(q) + w_off L_off(q) ] + w_sft L_sft

    L_on   omega = (R - mean of the prompt's rollouts) * r, no clip; token sum / max_new_tokens, mean over the rollouts
    L_off  omega = (R - mean over rollouts and demonstration) * shape * pi / (pi + shape)^2; token sum / max_new_tokens
    L_sft  sft_weight * (mean of -log pi over all tokens of imitated demonstrations) * (share of prompts that are imitated)

With gate -1 this is Dr. GRPO, with gate = group_size supervised training on the demonstrations. ``hpt-soft`` replaces the
gate by a table: row n holds (w_on, w_off, w_sft) for n solved of 8; other group sizes are scaled to it.

The two branches are divided by different numbers, so ``sft_weight`` also absorbs the length scale: watch ``gated``, the
share of prompts that are imitated. A prompt without a demonstration is refused, or learned from its rollouts alone.

Defaults: gate 0 (strong base; 2 for a weak one), sft_weight 1 (0.3 was used for a 1.5B model), entropy 0.001: the paper's.

Paper: unified-post-training — Towards a Unified View of Large Language Model Post-Training
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from whet.data.example import Example
from whet.errors import DataError, RecipeError
from whet.train.advantages import advantages_of, whole_groups
from whet.train.objective import Loss, RolloutPlan
from whet.train.policy_gradient import (
    Pieces,
    aggregate,
    differentiable,
    estimate,
    is_demonstration,
    longest_completion,
    refuse_other_temperature,
    row_weights,
    token_share,
    token_value,
)

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch
    from whet.train.objective import Policy

PRESETS = {
    "hpt-soft": {
        "about": "hybrid post-training whose demonstration is always there, with weights by the number of solved rollouts",
        "table": [
            [1, 1, 1], [0, 0, 1], [0.125, 0.5, 0.5], [0.25, 1, 0.25], [0.5, 0.5, 0.125],
            [1, 0.25, 0], [1, 0.125, 0], [1, 0, 0], [1, 0, 0],
        ],
    },
}  # fmt: skip

Weights = tuple[float, float, float]


@dataclass(frozen=True)
class HPT:
    """``table``: weights (on, off, sft) by number of solved rollouts, instead of the gates. ``without_demonstration``: what
    happens to a prompt that has none. See the module for the rest."""

    needs: ClassVar[frozenset[str]] = frozenset({"rollouts", "demonstrations"})

    gate: Annotated[int, Ge(-1)] = 0
    gate_off: Annotated[int, Ge(-1)] | None = None
    table: tuple[Weights, ...] | None = None
    solved: float = 1.0
    sft_weight: Annotated[float, Ge(0)] = 1.0
    shape: Annotated[float, Gt(0)] = 0.1
    entropy: float = 0.001
    without_demonstration: Literal["refuse", "rollouts"] = "refuse"

    def __post_init__(self) -> None:
        if self.table is not None and (self.gate != 0 or self.gate_off is not None):
            raise RecipeError("table and gate exclude each other: give the weights by number solved, or the gates")
        if self.gate_off is not None and self.gate_off <= self.gate:
            raise RecipeError(f"gate_off {self.gate_off} must be above gate {self.gate}, or no prompt falls between them")

    @property
    def plan(self) -> RolloutPlan:
        return RolloutPlan(demonstration="beside", smallest_group=2)

    def weights(self, solved: int, group_size: int) -> Weights:
        """(on, off, sft) of a prompt of whose ``group_size`` rollouts ``solved`` are right."""
        if self.table is not None:
            return self.table[solved * (len(self.table) - 1) // group_size]
        if solved <= self.gate:
            return 0.0, 0.0, 1.0
        if self.gate_off is not None and solved <= self.gate_off:
            return 0.0, 1.0, 0.0
        return 1.0, 0.0, 0.0

    def prepare(self, examples: Sequence[Example]) -> list[Example]:
        """Decides each prompt's branch; keeps the rows that it needs, with advantages and ``weight`` (and ``sft_weight``)."""
        whole_groups(examples, smallest=2)
        in_order = sorted(examples, key=lambda e: e.unit)
        return [row for _, group in groupby(in_order, key=lambda e: e.unit) for row in self._of_prompt(list(group))]

    def _of_prompt(self, group: Sequence[Example]) -> list[Example]:
        sampled = [e for e in group if not e.values.get("is_demo")]
        rollouts = [replace(e, values={**e.values, "group_size": float(len(sampled))}) for e in sampled]
        demonstrations = [e for e in group if e.values.get("is_demo")]
        solved = sum(e.values["reward"] >= self.solved - 1e-9 for e in rollouts)
        on, off, sft = self.weights(solved, len(rollouts))
        if not demonstrations:
            if self.without_demonstration == "refuse" and (off or sft):
                raise DataError(
                    f"the prompt of unit {group[0].unit} is to be imitated ({solved} of {len(rollouts)} solved) but has no "
                    "demonstration. Ways out: rows with a 'completion', or without_demonstration: rollouts"
                )
            on, off, sft = 1.0, 0.0, 0.0
        kept = [_weighted(e, on / len(rollouts), 0.0) for e in advantages_of(rollouts, "group")[0]] if on else []
        if off or sft:
            kept += [_weighted(e, off, sft) for e in advantages_of(group, "group")[0] if e.values.get("is_demo")]
        return kept

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        refuse_other_temperature(policy, batch)
        logps, entropy = policy.logps_and_entropy(batch, entropy_gradient=bool(self.entropy))
        advantages = token_value(batch, "advantages").to(logps.dtype)
        demo = is_demonstration(batch)
        longest = longest_completion(batch) * batch.totals.units
        on = estimate(Pieces(denominator="old"), batch, logps, advantages)
        off = estimate(Pieces(denominator="one", shape=self.shape), batch, logps, advantages)
        weight = batch.values["weight"].double() / longest
        terms = {
            "on_policy": aggregate(batch, differentiable(on, logps), weight * ~demo),
            "off_policy": aggregate(batch, differentiable(off, logps), weight * demo),
            "sft": self.sft_weight * aggregate(batch, -logps, _sft_weights(batch)),
        }
        if self.entropy:
            terms["entropy_bonus"] = -self.entropy * aggregate(batch, entropy, row_weights("token", batch))
        total = torch.stack(list(terms.values())).sum()
        on_rows = batch.of_row((~demo).to(logps.dtype))
        logged = {
            "gated": (batch.values["sft_weight"] > 0).double().sum() / batch.totals.units,
            "ratio": token_share(batch, torch.where(on_rows > 0, on.ratio, torch.ones_like(on.ratio))),
            "entropy": token_share(batch, entropy),
        }
        return Loss(total, {"loss": total.detach(), **{n: t.detach() for n, t in terms.items()}, **logged})


def _weighted(example: Example, weight: float, sft_weight: float) -> Example:
    return replace(example, values={**example.values, "weight": weight, "sft_weight": sft_weight})


def _sft_weights(batch: Batch) -> Tensor:
    """[R]: w_sft of a demonstration, over the step's imitated tokens and times its share of imitated prompts."""
    for name in ("step_sft_tokens", "step_sft_units"):
        if name not in batch.values:
            raise DataError(f"the rows have no value {name!r}; whet.train.advantages.with_step_counts(examples) writes it")
    tokens, units = (batch.values[name].double() for name in ("step_sft_tokens", "step_sft_units"))
    return batch.values["sft_weight"].double() * units / (tokens.clamp(min=1) * batch.totals.units)
