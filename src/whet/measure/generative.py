"""What every task that lets the model write has in common: prompts, sampling, counting, and the frame of its result.

A task brings rows and a way to score completions; this module shows the rows to the model through its own chat template (or
as plain text), samples, and counts what a bare average hides: completions that did not end by themselves, outputs from which
nothing could be parsed, prompts that do not fit the context. The last two score 0 and stay in the average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from whet.data.chat import prompt_ids, prompt_messages
from whet.data.messages import prompt_text
from whet.data.rows import text_cell
from whet.errors import RecipeError
from whet.generate.completion import Completion, Sampling
from whet.generate.kept import generate_in_blocks
from whet.generate.scoring import Reward, score
from whet.measure.conditions import conditions, digest
from whet.measure.rows import Row, Rows, draw_rows, draw_shots
from whet.model import Model, OtherTemplate, checked_template


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The settings that generative tasks share.

    ``limit`` rows of ``split`` are drawn by ``seed``, equally many for each value of the column ``balance`` if that is set;
    estimates are also given for each value of the columns ``by``. ``few_shot`` rows of ``few_shot_split`` are shown first, as
    earlier turns of the chat. ``form`` ``chat`` renders prompts with the model's chat template, ``plain`` as text.
    Decoding is greedy by default; ``samples`` completions per prompt need a ``temperature`` above 0. ``batch_tokens`` is what
    the engine holds at once; it changes speed and memory only. A chat template that is not the one stored with the weights is
    refused, unless ``other_template`` is ``allow``.
    """

    split: str = "test"
    limit: Annotated[int, Gt(0)] | None = None
    balance: str | None = None
    by: tuple[str, ...] = ("skill",)
    few_shot: Annotated[int, Ge(0)] = 0
    few_shot_split: str = "train"
    form: Literal["chat", "plain"] = "chat"
    samples: Annotated[int, Gt(0)] = 1
    temperature: Annotated[float, Ge(0)] = 0.0
    top_k: Annotated[int, Ge(0)] = 0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    max_new_tokens: Annotated[int, Gt(0)] = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    batch_tokens: Annotated[int, Gt(0)] = 32768
    other_template: OtherTemplate = "refuse"

    def __post_init__(self) -> None:
        if self.samples > 1 and self.temperature == 0:
            raise RecipeError(
                f"samples: {self.samples} greedy completions of a prompt are all the same; set temperature above 0, or samples: 1"
            )

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.max_new_tokens, self.stop)

    def write(self, model: Model, source: Callable[[str], Any]) -> Written:
        """Draws the rows and lets the model answer them.

        Raises:
            ModelError: ``form`` is ``chat`` and the model's chat template is not the one stored with its weights.
        """
        if self.form == "chat":
            checked_template(model, self.other_template)
        drawn = draw_rows(source, self.split, self.limit, self.balance, self.seed)
        shots = draw_shots(source, self.few_shot_split, self.few_shot, drawn.rows, self.seed)
        prompts = [_prompt(row, shots, model, self.form) for row in drawn.rows]
        fits = [not model.context or len(prompt) < model.context for prompt in prompts]
        engine: dict[str, Any] = {}
        completions = generate_in_blocks(
            model,
            [prompt for prompt, fit in zip(prompts, fits) if fit],
            self.sampling,
            group_size=self.samples,
            seed=self.seed,
            keys=[position for position, fit in zip(drawn.positions, fits) if fit],
            batch_tokens=self.batch_tokens,
            receipt=engine,
        )
        groups = iter(_groups(completions, self.samples))
        return Written(model, drawn, shots, prompts, [next(groups) if fit else () for fit in fits], self, engine)


@dataclass(frozen=True)
class Written:
    """What the model wrote: ``completions[i]`` answer ``drawn.rows[i]``, none if the prompt ``prompts[i]`` fills the context."""

    model: Model
    drawn: Rows
    shots: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[Completion]]
    settings: Generation
    engine: Mapping[str, Any] = field(default_factory=dict)

    def scored(self, reward: Reward) -> tuple[list[tuple[float, ...]], Mapping[str, Any]]:
        """The reward of every completion, by row (one 0 for a row whose prompt did not fit), and the scoring's receipt."""
        rows = [row for row, group in zip(self.drawn.rows, self.completions) for _ in group]
        scores = score(reward, rows, [c.text for group in self.completions for c in group])
        flat = iter(scores.values)
        return [tuple(next(flat) for _ in group) or (0.0,) for group in self.completions], scores.receipt

    def conditions(self, extractor: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions of the scores; ``extractor`` says how an answer is read from a completion and judged."""
        s = self.settings
        sampling = {name: getattr(s.sampling, name) for name in ("temperature", "top_k", "top_p", "min_p", "max_new_tokens")}
        return conditions(
            self.model,
            self.drawn.rows,
            self.prompts,
            {
                "form": s.form,
                "few_shot": {"rows": s.few_shot, "hash": digest([dict(row) for row in self.shots])},
                "sampling": {**sampling, "stop": list(s.stop), "samples": s.samples, "seed": s.seed if s.temperature else None},
                "extractor": dict(extractor),
            },
        )

    def receipt(self) -> dict[str, Any]:
        """What was asked and written, in counts; ``ended`` is the share of completions that ended by themselves."""
        every = [c for group in self.completions for c in group]
        finish = Counter(c.finish for c in every)
        over = sum(not group for group in self.completions)
        return {
            **self.drawn.receipt,
            "completions": len(every),
            "ended": (finish["eos"] + finish["stop"]) / len(every) if every else 0.0,
            "finish": dict(finish),
            "prompts over the context": over,
            "policy over the context": "scored 0 and kept in the average",
            "prompt_tokens": sum(len(p) for p in self.prompts),
            "generated_tokens": sum(len(c.ids) for c in every),
            "engine": dict(self.engine),
        }

    def shown(self, index: int) -> str:
        """The row's prompt as a reader wants it: its own text, without template and worked examples."""
        return prompt_text(self.drawn.rows[index])


def confidence(completion: Completion) -> float:
    """Geometric mean of the probabilities of the completion's tokens: a confidence that does not fall with length alone."""
    return math.exp(sum(completion.logps) / len(completion.logps)) if completion.logps else 0.0


def baselines(rows: Sequence[Row], reward: Reward, group: str = "skill") -> dict[str, float]:
    """What needs no model: ``copy`` answers with the prompt, ``majority`` with the group's most frequent answer.

    ``reference`` is the score of the reference completions themselves; below 1 the extractor, not the model, loses points.
    Baselines that need a column which the rows lack are left out.
    """
    found = {"copy": _mean_reward(reward, rows, [prompt_text(row) for row in rows])}
    if all(isinstance(row.get("completion"), str) for row in rows):
        found["reference"] = _mean_reward(reward, rows, [row["completion"] for row in rows])
        if all(row.get("answer") is not None for row in rows):
            found["majority"] = _mean_reward(reward, rows, _majority(rows, group))
    return found


def _majority(rows: Sequence[Row], group: str) -> list[str]:
    """For each row the completion of a row with the most frequent answer of its group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(group)), []).append(row)
    common = {name: Counter(str(row["answer"]) for row in members).most_common(1)[0][0] for name, members in groups.items()}
    texts = {
        name: next(str(r["completion"]) for r in groups[name] if str(r["answer"]) == answer) for name, answer in common.items()
    }
    return [texts[str(row.get(group))] for row in rows]


def _mean_reward(reward: Reward, rows: Sequence[Row], completions: Sequence[str]) -> float:
    return float(score(reward, rows, completions).receipt["mean"])


def _groups(completions: Sequence[Completion], size: int) -> list[Sequence[Completion]]:
    return [completions[i : i + size] for i in range(0, len(completions), size)]


def _prompt(row: Row, shots: Sequence[Row], model: Model, form: str) -> list[int]:
    if form == "plain":
        text = "".join(f"{text_cell(shot, 'prompt')}\n{text_cell(shot, 'completion')}\n\n" for shot in shots)
        return list(model.tokenizer(f"{text}{text_cell(row, 'prompt')}\n", verbose=False)["input_ids"])
    if not shots:
        return prompt_ids(row, model.tokenizer)
    turns = [
        turn
        for shot in shots
        for turn in (*prompt_messages(shot), {"role": "assistant", "content": text_cell(shot, "completion")})
    ]
    return prompt_ids({"messages": [*turns, *prompt_messages(row)]}, model.tokenizer)
