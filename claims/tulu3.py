"""SFT, then length-normalized DPO on the model's own right and wrong replies, then RL with verified answers.

SFT is on chains in which 40% of the written steps are random digits, which leaves something to win. DPO: 200 pairs that the
SFT model sampled itself. RL: 80 Dr. GRPO steps whose only reward is the exact answer.
"""

from __future__ import annotations

import time

from chain_world import Scores, chains, difference, figure, fresh, reinforce, score, show, train

from whet import parts
from whet.data.context import Context

SEEDS = (0, 1, 2)
STAGES = ("sft", "dpo", "rlvr")
PAIRS = 200


def main() -> None:
    """Trains and scores the three stages at all seeds; prints the figures."""
    started = time.process_time()
    sampled: dict[str, list[Scores]] = {name: [] for name in STAGES}
    greedy: dict[str, list[Scores]] = {name: [] for name in STAGES}
    for seed in SEEDS:
        models = {"sft": train(fresh(seed), chains(rows=4000, seed=seed, noise=0.4), steps=500, lr=3e-3, seed=seed)}
        sampler = parts.build("synthesize", {"name": "on-policy-pairs", "reward": "exact-answer", "max_new_tokens": 8})
        own = sampler(chains(rows=800, seed=200 + seed), Context(models["sft"], seed, {}))
        pairs = own.select(range(PAIRS))
        models["dpo"] = train(models["sft"], pairs, 25, 3e-4, seed, objective="dpo-norm", batch_size=32)
        models["rlvr"] = reinforce(models["dpo"], chains(rows=4000, seed=100 + seed), 80, seed, objective="dr-grpo")
        for name, model in models.items():
            sampled[name].append(score(model, {}, samples=4))
            greedy[name].append(score(model, {}))
    result = [figure(f"sampled accuracy, {name}", sampled[name]) for name in STAGES]
    result += [figure(f"greedy accuracy, {name}", greedy[name]) for name in STAGES]
    for first, second in (("rlvr", "sft"), ("rlvr", "dpo"), ("dpo", "sft")):
        result.append(difference(f"sampled accuracy, {first} minus {second}", sampled[first], sampled[second]))
    show(result, started)


if __name__ == "__main__":
    main()
