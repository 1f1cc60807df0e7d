"""GRPO whose rewards are flipped with rising probability, from a base that still explores.

Base: SFT on chains in which 40% of the written steps are random digits. Every arm: 60 GRPO steps with the exact answer as
reward, flipped for all completions of a prompt together (``group``) or for each alone (``sample``).
"""

from __future__ import annotations

import time

from chain_world import Scores, chains, difference, figure, fresh, reinforce, score, show, train

SEEDS = (0, 1)
FLIPS = (("group", 0.0), ("group", 0.2), ("group", 0.4), ("group", 0.5), ("sample", 0.2), ("sample", 0.4))


def main() -> None:
    """Trains and scores all arms at all seeds; prints the figures."""
    started = time.process_time()
    scores: dict[str, list[Scores]] = {"base": [], **{_name(*flip): [] for flip in FLIPS}}
    greedy: list[Scores] = []
    for seed in SEEDS:
        base = train(fresh(seed), chains(rows=4000, seed=seed, noise=0.4), steps=500, lr=3e-3, seed=seed)
        scores["base"].append(score(base, {}, samples=4))
        greedy.append(score(base, {}))
        prompts = chains(rows=4000, seed=100 + seed)
        for level, p in FLIPS:
            reward = {"name": "noisy", "inner": "exact-answer", "p": p, "level": level, "seed": seed}
            tuned = reinforce(base, prompts, 60, seed, objective={"name": "grpo", "kl": 0.0}, reward=reward)
            scores[_name(level, p)].append(score(tuned, {}, samples=4))
    result = [figure("greedy accuracy, base", greedy)]
    result += [figure(f"sampled accuracy, {name}", values) for name, values in scores.items()]
    for level, p in FLIPS:
        name = _name(level, p)
        result.append(difference(f"sampled accuracy, {name} minus base", scores[name], scores["base"]))
    for p in (0.2, 0.4):
        group, sample = _name("group", p), _name("sample", p)
        result.append(difference(f"sampled accuracy, {group} minus {sample}", scores[group], scores[sample]))
    show(result, started)


def _name(level: str, p: float) -> str:
    return f"flips {p:g} by {level}"


if __name__ == "__main__":
    main()
