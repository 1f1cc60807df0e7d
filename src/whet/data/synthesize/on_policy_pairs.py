"""Preference pairs from the model's own completions: a right one against a wrong one for each prompt.

For each prompt ``group_size`` completions are sampled from the model and scored with a reward. The first of the best ones is
``chosen``, the first that scores at least ``margin`` less is ``rejected``. Completions that did not end by themselves are left
out, since as training text they would end where the model did not. A prompt whose completions are all alike gives no
pair: it is counted. Pairs that the policy itself produced keep preference training close to what it will produce.

Rows keep their columns and get ``chosen``, ``rejected`` and ``reason``.

Defaults: 8 completions at temperature 1; a margin of 0.5.

Paper: tulu3 — TÜLU 3: Pushing Frontiers in Open Language Model Post-Training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from whet.data.chat import prompt_ids
from whet.data.context import Context
from whet.data.tables import to_dataset
from whet.errors import DataError
from whet.generate.completion import Completion, Sampling
from whet.generate.kept import generate_in_blocks
from whet.generate.scoring import Reward, score
from whet.parts import Kind, effective

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class OnPolicyPairs:
    """``reward``: scores completions. ``group_size``: completions per prompt. ``margin``: least difference of the two scores.
    ``max_new_tokens``: longest completion. ``stop``: strings that end one. ``system``: put first if a prompt has none.
    """

    reward: Annotated[Reward, Kind("reward")]
    group_size: Annotated[int, Ge(2)] = 8
    margin: Annotated[float, Gt(0), Le(1)] = 0.5
    temperature: Annotated[float, Gt(0)] = 1.0
    max_new_tokens: Annotated[int, Gt(0)] = 256
    stop: tuple[str, ...] = ()
    system: str | None = None

    def __call__(self, data: Dataset, context: Context) -> Dataset:
        model = context.need_model("on-policy-pairs")
        rows: list[dict[str, Any]] = list(data)
        prompts = [prompt_ids(row, model.tokenizer, system=self.system) for row in rows]
        engine_receipt: dict[str, Any] = {}
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens, stop=self.stop)
        completions = generate_in_blocks(
            model, prompts, sampling, group_size=self.group_size, seed=context.seed, receipt=engine_receipt
        )
        context.spend(int(engine_receipt.get("prefill_tokens", 0)) + int(engine_receipt.get("decode_tokens", 0)), model)
        repeated = [row for row in rows for _ in range(self.group_size)]
        scores = score(self.reward, repeated, [completion.text for completion in completions])
        groups = [slice(start, start + self.group_size) for start in range(0, len(completions), self.group_size)]
        pairs = [self._pair(row, completions[group], scores.values[group]) for row, group in zip(rows, groups)]
        context.receipt.update(self._receipt(rows, pairs, completions, scores.values))
        context.receipt.update(tokens_prompt=sum(map(len, prompts)), scores=dict(scores.receipt), engine=engine_receipt)
        made = [pair for pair in pairs if pair]
        if not made:
            raise DataError(
                f"on-policy-pairs: none of {len(rows)} prompts gave a right and a wrong completion (mean score "
                f"{scores.receipt['mean']:.2f}). Ways out: a larger group_size, a smaller margin, easier or harder prompts"
            )
        return to_dataset(made, "on-policy-pairs")

    def _pair(self, row: Mapping[str, Any], completions: Sequence[Completion], values: Sequence[float]) -> dict[str, Any] | None:
        ended = [(value, completion.text) for value, completion in zip(values, completions) if completion.finish != "length"]
        best, chosen = max(ended, key=lambda pair: pair[0], default=(0.0, ""))
        lower = [(value, text) for value, text in ended if value <= best - self.margin and text.strip() != chosen.strip()]
        if not lower:
            return None
        value, rejected = lower[0]
        reason = f"{effective(self.reward)['name']} gives {best:g} against {value:g}"
        return {**row, "chosen": chosen, "rejected": rejected, "reason": reason}

    def _receipt(
        self, rows: Sequence[Any], pairs: Sequence[Any], completions: Sequence[Completion], values: Sequence[float]
    ) -> dict[str, Any]:
        groups = [values[start : start + self.group_size] for start in range(0, len(values), self.group_size)]
        return {
            "rows_in": len(rows),
            "rows_out": sum(pair is not None for pair in pairs),
            "prompts_without_pair": sum(pair is None for pair in pairs),
            "prompts_all_right": sum(min(group) == 1.0 for group in groups),
            "prompts_all_wrong": sum(max(group) == 0.0 for group in groups),
            "completions": len(completions),
            "completions_unfinished": sum(completion.finish == "length" for completion in completions),
            "tokens_generated": sum(len(completion.ids) for completion in completions),
        }
