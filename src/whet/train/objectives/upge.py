"""The unified policy-gradient estimator: REINFORCE, PPO, GRPO and their relatives as settings of one gradient.

Every on-policy, off-policy and supervised post-training loss of this family is, over rows i (completions) and tokens t,

    grad J = sum 1_stable[i,t] * A[i,t] / pi_ref[i,t] * grad pi[i,t]  =  sum omega[i,t] * grad log pi[i,t]
    loss   = - 1/Z * sum omega * log pi   ( + kl * KL(pi || reference) - entropy * H )

with omega = 1_stable * A * pi / pi_ref a constant. The methods differ in these pieces only, and each is a setting.

``stable``        which tokens count. ``none``: all. ``clip``: not where the ratio r = pi/pi_old has already left
                  [1 - clip_low, 1 + clip_high] in the direction that A pushes. ``sequence-clip``: the same for the whole row's
                  s = exp(mean_t log r). ``dual_clip`` also drops tokens with A < 0 and r above it.
``denominator``   pi_ref, hence pi/pi_ref: ``policy`` 1, ``old`` r, ``sequence`` s, ``clipped`` min(r, 1 + clip_high),
                  ``one`` pi itself.
``advantage``     ``one`` 1. ``reward`` R. ``running`` R less a running mean of earlier rollouts (decay 0.9). ``greedy`` R less
                  the reward of the prompt's greedy completion. ``group`` R - mean of the group. ``group-std`` that over (sample
                  std + 1e-6). ``leave-one-out`` R - mean of the others. ``return`` sum of token rewards still to come.
                  ``gae`` generalized advantage estimation with a value head. ``whiten``: then standardized over all tokens.
``aggregation``   Z. ``token``: trained tokens of the step. ``seq``: mean over rows of token means. ``sum``: mean over rows of
                  token sums. ``const``: that over the longest possible completion (``max_new_tokens``).
``kl``            coefficient. ``kl_placement`` ``loss`` adds the estimate ``kl_estimator`` to the loss (k1 = d, k2 = d^2/2,
                  k3 = exp(-d) + d - 1, d = log pi - log reference); ``reward`` takes k1 of the sampling policy off the rewards.
``rows``          ``sampled``; ``demonstrations`` (supervised: no rollouts); ``both``: sampled groups that also hold the prompt's
                  reference completion with its reward.

In ``both``, demonstrations have no old log-probabilities: their denominator is 1, so omega = A pi, or with ``shape`` g the
likelihood is reshaped to f(pi) = pi/(pi + g), omega = A g pi / (pi + g)^2, which keeps improbable tokens alive.
``sft_weight`` w adds w exp(-H) to it, and ``positive_weight`` v multiplies sampled rows of positive advantage by v exp(H),
with H the row's mean entropy, a constant.

All-equal rewards in a group give advantage 0 and so no gradient. What the loss reports as ``policy_loss`` is the value of
the named method's own loss. Of ratios, ``ratio`` is the mean over tokens; on fresh samples it must be 1.

Defaults: GRPO with clip 0.2 (PPO) and without KL, as it is most widely run; ``kl: 0`` spares the reference model. Presets
carry their papers' values: kl 0.04 of ``grpo`` (DeepSeekMath), lam 0.95, value_weight 0.1 and kl 0.05 of ``ppo`` (Tulu 3),
clips of ``dapo`` and ``gspo``; the cap 5 of ``cispo`` is the one that ScaleRL recommends.

Paper: unified-post-training — Towards a Unified View of Large Language Model Post-Training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt

from whet.data.example import Example
from whet.errors import DataError, RecipeError
from whet.train.advantages import GROUPED, Advantage, advantages_of
from whet.train.objective import Loss, RolloutPlan
from whet.train.policy_gradient import (
    Aggregation,
    Denominator,
    KLEstimator,
    Pieces,
    Stable,
    Weighted,
    aggregate,
    differentiable,
    estimate,
    is_demonstration,
    kl,
    refuse_other_temperature,
    row_mean,
    row_weights,
    token_share,
    token_value,
    value_loss,
)

if TYPE_CHECKING:
    from torch import Tensor

    from whet.data.example import Batch
    from whet.train.objective import Policy

PRESETS = {
    "upge-sft": {
        "about": "supervised training as a policy gradient: advantage 1 on demonstrations",
        "rows": "demonstrations", "stable": "none", "denominator": "policy", "advantage": "one", "aggregation": "token",
    },
    "reinforce": {
        "about": "REINFORCE: the reward times the completion's log-likelihood gradient",
        "stable": "none", "denominator": "policy", "advantage": "reward", "aggregation": "sum",
    },
    "scst": {
        "about": "self-critical training: REINFORCE with the greedy completion's reward as baseline",
        "stable": "none", "denominator": "policy", "advantage": "greedy", "aggregation": "sum",
    },
    "ppo": {
        "about": "proximal policy optimization: clipped ratios, a value head, a KL penalty in the reward",
        "advantage": "gae", "whiten": True, "aggregation": "token", "kl": 0.05, "kl_placement": "reward",
    },
    "grpo": {
        "about": "group-relative policy optimization: rewards standardized within the prompt's group, clipped ratios, a KL term",
        "kl": 0.04,
    },
    "dr-grpo": {
        "about": "GRPO without its two biases: no division by the group's std, none by the row's length",
        "advantage": "group", "aggregation": "const",
    },
    "dapo": {
        "about": "GRPO with a higher upper clip, token mean, fresh prompts for groups without signal, a soft length penalty",
        "clip_high": 0.28, "aggregation": "token", "resample": True, "overlong": 0.2,
    },
    "gspo": {
        "about": "GRPO with one ratio per completion: the geometric mean of its tokens' ratios, clipped as a whole",
        "stable": "sequence-clip", "denominator": "sequence", "clip_low": 0.0003, "clip_high": 0.0004,
    },
    "cispo": {
        "about": "clipped importance weights instead of dropped tokens: every token keeps its gradient",
        "stable": "none", "denominator": "clipped", "clip_high": 4.0, "aggregation": "token",
    },
    "rloo": {
        "about": "REINFORCE leave-one-out: the baseline is the mean reward of the group's other completions",
        "stable": "none", "denominator": "policy", "advantage": "leave-one-out", "aggregation": "sum",
        "kl": 0.05, "kl_placement": "reward",
    },
    "reinforce++": {
        "about": "clipped REINFORCE with a token KL in the return, standardized over the whole rollout; no groups needed",
        "advantage": "return", "whiten": True, "aggregation": "token", "kl": 0.001, "kl_placement": "reward",
    },
    "reinforce++-baseline": {
        "about": "REINFORCE++ whose rewards are first centred within the prompt's group",
        "advantage": "group", "whiten": True, "aggregation": "token", "kl": 0.001, "kl_estimator": "k2",
    },
    "luffy": {
        "about": "groups with one demonstration each, whose likelihood is reshaped so that improbable tokens are learned",
        "rows": "both", "stable": "none", "advantage": "group", "aggregation": "const", "shape": 0.1,
    },
    "srft": {
        "about": "supervised and reinforcement tuning at once, weighted by the policy's entropy",
        "rows": "both", "stable": "none", "aggregation": "const", "sft_weight": 0.5, "positive_weight": 0.1,
    },
}  # fmt: skip

_DECAY = 0.9


@dataclass(frozen=True)
class UPGE:
    """See the module for what each setting means.

    ``gamma``, ``lam``: of ``return`` and ``gae``. ``value_weight``, ``value_clip``: of the value head's squared error, which
    counts the worse of the prediction and its clipping to +-``value_clip`` around the old one. ``entropy``: coefficient of
    the token mean of the entropy, which is raised. ``resample``: replace groups whose rewards are all equal by fresh prompts.
    ``overlong``: share of ``max_new_tokens`` over which a length penalty rises from 0 to 1.
    """

    stable: Stable = "clip"
    denominator: Denominator = "old"
    advantage: Advantage = "group-std"
    whiten: bool = False
    aggregation: Aggregation = "seq"
    rows: Literal["sampled", "demonstrations", "both"] = "sampled"
    clip_low: Annotated[float, Gt(0), Lt(1)] = 0.2
    clip_high: Annotated[float, Gt(0)] = 0.2
    dual_clip: Annotated[float, Gt(1)] | None = None
    shape: Annotated[float, Gt(0)] | None = None
    sft_weight: Annotated[float, Ge(0)] = 0.0
    positive_weight: Annotated[float, Ge(0)] | None = None
    kl: Annotated[float, Ge(0)] = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_placement: Literal["loss", "reward"] = "loss"
    entropy: float = 0.0
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    value_weight: Annotated[float, Ge(0)] = 0.1
    value_clip: Annotated[float, Gt(0)] | None = 0.2
    resample: bool = False
    overlong: Annotated[float, Ge(0), Lt(1)] = 0.0
    _state: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for wrong, message in self._conflicts():
            if wrong:
                raise RecipeError(message)

    def _conflicts(self) -> list[tuple[bool, str]]:
        supervised, both = self.rows == "demonstrations", self.rows == "both"
        in_reward = self.kl > 0 and self.kl_placement == "reward"
        mixed = self.sft_weight > 0 or self.positive_weight is not None
        return [
            (supervised and self.advantage != "one", f"advantage {self.advantage!r}: demonstrations have no reward; use 'one'"),
            (
                supervised and self.pieces.reads_old,
                "demonstrations have no old_logps; use stable 'none' and denominator 'policy'",
            ),
            (supervised and self.whiten, "whiten: advantages that are all 1 have no spread"),
            (
                self.advantage == "one" and not supervised,
                "advantage 'one' ignores the rewards; use it with rows 'demonstrations'",
            ),
            (both and self.advantage not in ("group", "group-std"), "rows 'both' takes advantage 'group' or 'group-std'"),
            (in_reward and self.rows != "sampled", "kl_placement 'reward' needs rows 'sampled'; use kl_placement 'loss'"),
            (mixed and not both, "sft_weight and positive_weight are read with rows 'both' only"),
            (
                self.shape is not None and not (both or self.denominator == "one"),
                "shape is read with rows 'both' or denominator 'one' only",
            ),
            (
                self.dual_clip is not None and self.stable == "none",
                "dual_clip is read with stable 'clip' or 'sequence-clip' only",
            ),
            (
                self.resample and self.advantage not in GROUPED,
                f"resample: advantage {self.advantage!r} learns from equal rewards too",
            ),
        ]

    @property
    def pieces(self) -> Pieces:
        """The pieces of the sampled rows."""
        shape = self.shape if self.denominator == "one" else None
        return Pieces(self.stable, self.denominator, self.clip_low, self.clip_high, self.dual_clip, shape)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(
            name
            for name, needed in {
                "rollouts": self.rows != "demonstrations",
                "demonstrations": self.rows == "both",
                "reference": self.kl > 0,
                "values": self.advantage == "gae",
            }.items()
            if needed
        )

    @property
    def plan(self) -> RolloutPlan:
        return RolloutPlan(
            greedy=self.advantage == "greedy",
            demonstration="inside" if self.rows == "both" else "none",
            resample=self.resample,
            overlong=self.overlong,
            smallest_group=2 if self.advantage in GROUPED else 1,
        )

    def prepare(self, examples: Sequence[Example]) -> list[Example]:
        """Adds ``advantages`` (with ``gae`` also ``returns``) to the rows of whole groups; greedy baseline rows are dropped."""
        in_reward = self.kl if self.kl_placement == "reward" else 0.0
        prepared, mean = advantages_of(
            examples,
            self.advantage,
            kl=in_reward,
            gamma=self.gamma,
            lam=self.lam,
            whitened=self.whiten,
            running=self._state.get("mean"),
        )
        self._state["mean"] = mean if "mean" not in self._state else _DECAY * self._state["mean"] + (1 - _DECAY) * mean
        return prepared

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        refuse_other_temperature(policy, batch)
        logps, entropy = policy.logps_and_entropy(batch, entropy_gradient=bool(self.entropy))
        advantages = torch.ones_like(logps) if self.advantage == "one" else token_value(batch, "advantages").to(logps.dtype)
        weighted = self._weigh(batch, logps, advantages, entropy.detach())
        policy_loss = aggregate(batch, differentiable(weighted, logps), row_weights(self.aggregation, batch))
        total, terms = policy_loss, self._logged(batch, weighted, entropy)
        for name, (weight, loss) in self._extras(policy, batch, logps, entropy).items():
            total = total + weight * loss
            terms[name] = loss.detach()
        return Loss(total, {"loss": total.detach(), "policy_loss": policy_loss.detach(), **terms})

    def _weigh(self, batch: Batch, logps: Tensor, advantages: Tensor, entropy: Tensor) -> Weighted:
        demo = is_demonstration(batch)
        if self.rows != "both":
            if self.pieces.reads_old and bool(demo.any()):
                raise DataError("demonstrations have no old_logps, which this loss reads; use rows: both, or hpt")
            return estimate(self.pieces, batch, logps, advantages)
        sampled = estimate(self.pieces, batch, logps, advantages)
        shown = estimate(Pieces(denominator="one", shape=self.shape), batch, logps, advantages)
        row_entropy = row_mean(batch, entropy)
        if self.positive_weight is not None:
            factor = torch.where(advantages > 0, batch.of_row(self.positive_weight * row_entropy.exp()), torch.ones_like(logps))
            sampled = Weighted(sampled.omega * factor, sampled.value * factor, sampled.ratio, sampled.stable)
        imitation = batch.of_row(self.sft_weight * (-row_entropy).exp())
        is_demo = batch.of_row(demo.to(logps.dtype)) > 0
        return Weighted(
            torch.where(is_demo, shown.omega + imitation, sampled.omega),
            torch.where(is_demo, shown.value + imitation * logps.detach(), sampled.value),
            torch.where(is_demo, shown.ratio, sampled.ratio),
            sampled.stable | is_demo,
        )

    def _extras(self, policy: Policy, batch: Batch, logps: Tensor, entropy: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Name -> (weight, loss) of what is added to the policy's loss."""
        extras = {}
        if self.kl and self.kl_placement == "loss":
            per_token = kl(self.kl_estimator, logps, token_value(batch, "reference_logps").to(logps.dtype))
            extras["kl"] = (self.kl, aggregate(batch, per_token, row_weights(self.aggregation, batch)))
        elif self.kl:
            extras["kl"] = (0.0, token_share(batch, kl("k3", logps.detach(), token_value(batch, "reference_logps"))))
        if self.entropy:
            extras["entropy"] = (-self.entropy, aggregate(batch, entropy, row_weights("token", batch)))
        if self.advantage == "gae":
            extras["value_loss"] = (self.value_weight, value_loss(policy.values(batch), batch, self.value_clip))
        return extras

    def _logged(self, batch: Batch, weighted: Weighted, entropy: Tensor) -> dict[str, Tensor]:
        terms = {
            "ratio": token_share(batch, weighted.ratio),
            "clip_share": token_share(batch, (~weighted.stable).double()),
            "entropy": token_share(batch, entropy),
        }
        if "reward" in batch.values:
            terms["reward"] = batch.values["reward"].double().sum() / batch.totals.rows
        return terms

    def state_dict(self) -> dict[str, Any]:
        """The running mean of the rewards."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state that :meth:`state_dict` gave."""
        self._state.clear()
        self._state.update(state)
