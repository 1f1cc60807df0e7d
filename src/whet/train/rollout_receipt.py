"""What the rollouts of a run really were: counts over the whole run, and the figures of the last rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from whet.data.example import Example
from whet.generate.completion import Completion


@dataclass
class RolloutReceipt:
    """Counts over the run.

    ``groups_with_signal``: groups with an advantage that is not 0, or a demonstration that is imitated; ``groups_without``
    the others; ``groups_resampled``: replaced by fresh prompts before that. ``rows_dropped``: sampled rows that the objective
    did not use. ``prompts_too_long``: passed over. ``reward_failures``: completions that the reward could not score (they
    count 0). ``reward_details``: what the reward says of its last scoring. ``last``: of the last rollout, replaced groups included: ``reward`` and its spread, ``ended`` (share that
    stopped by itself), mean and longest ``completion_tokens``; then ``groups_with_signal``, ``groups``, ``step``.
    """

    rollouts: int = 0
    completions: int = 0
    completions_ended: int = 0
    completion_tokens: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    groups_with_signal: int = 0
    groups_without: int = 0
    groups_resampled: int = 0
    demonstrations: int = 0
    rows_dropped: int = 0
    prompts_too_long: int = 0
    reward_failures: int = 0
    failed: list[str] = field(default_factory=list)
    reward_details: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    def sampled(
        self,
        engine: Mapping[str, Any],
        failures: Mapping[int, str],
        completions: Sequence[Completion],
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Counts one call of the engine and of the reward."""
        self.completions += len(completions)
        self.completions_ended += sum(c.finish != "length" for c in completions)
        self.completion_tokens += sum(len(c.ids) for c in completions)
        self.prefill_tokens += int(engine.get("prefill_tokens", 0))
        self.decode_tokens += int(engine.get("decode_tokens", 0))
        self.reward_failures += len(failures)
        self.reward_details = dict(details or {})
        self.failed = (self.failed + [f"{completions[i].text[:120]!r}: {why}" for i, why in failures.items()])[:3]

    def rollout(
        self,
        step: int,
        scored: Sequence[Example],
        rows: Sequence[Example],
        prepared: Sequence[Example],
        groups: int,
        with_signal: int,
    ) -> None:
        """Counts one finished rollout: all rows that were scored, those of its groups, what the objective made of them, the
        number of groups, and of those with signal."""
        own = _sampled(scored)
        rewards = [e.values["reward"] for e in own]
        lengths = [e.trained_tokens for e in own]
        mean = sum(rewards) / len(rewards)
        demonstrations = sum(e.values["is_demo"] > 0 for e in prepared)
        self.rollouts += 1
        self.groups_with_signal += with_signal
        self.groups_without += groups - with_signal
        self.demonstrations += demonstrations
        self.rows_dropped += len(_sampled(rows)) - (len(prepared) - demonstrations)
        self.last = {
            "step": step,
            "reward": mean,
            "reward_std": (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5,
            "ended": sum(e.values["ended"] for e in own) / len(own),
            "completion_tokens": sum(lengths) / len(lengths),
            "longest": max(lengths),
            "groups": groups,
            "groups_with_signal": with_signal,
            "demonstrations": demonstrations,
        }

    def summary(self) -> dict[str, Any]:
        """Everything as plain data, with the shares that one looks for."""
        groups = self.groups_with_signal + self.groups_without
        return {
            **asdict(self),
            "ended_share": self.completions_ended / max(1, self.completions),
            "mean_completion_tokens": self.completion_tokens / max(1, self.completions),
            "signal_share": self.groups_with_signal / max(1, groups),
        }


def _sampled(rows: Sequence[Example]) -> list[Example]:
    return [e for e in rows if not e.values["is_demo"] and not e.values["is_baseline"]]
