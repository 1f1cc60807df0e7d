"""HPT against group RL alone and against SFT, from a base that knows additions only and prompts with both operations.

HPT imitates the demonstration of a prompt of whose 8 completions at most ``gate`` are right, and learns from the completions
otherwise; gate -1 is group RL (Dr. GRPO) with everything else alike. SFT takes as many steps of as many prompts.
"""

from __future__ import annotations

import time

from chain_world import Scores, chains, difference, figure, fresh, receipt, reinforce, score, show, train

SEEDS = (0, 1, 2)
STEPS = 100
GATES = {"group RL alone": -1, "hpt gate 0": 0, "hpt gate 2": 2}


def main() -> None:
    """Trains and scores all arms at all seeds; prints the figures."""
    started = time.process_time()
    arms = ("base", "sft on all demonstrations", *GATES)
    greedy: dict[str, list[Scores]] = {name: [] for name in arms}
    sampled: dict[str, list[Scores]] = {name: [] for name in arms}
    signal: dict[str, list[Scores]] = {name: [] for name in GATES}
    for seed in SEEDS:
        base = train(fresh(seed), chains(rows=5000, seed=seed, ops=["+"]), steps=800, lr=3e-3, seed=seed)
        pool = chains(rows=1000, seed=seed)
        models = {"base": base}
        models["sft on all demonstrations"] = train(base, pool, STEPS, 1e-3, seed, batch_size=16, lr_schedule="constant")
        for name, gate in GATES.items():
            models[name] = reinforce(base, pool, STEPS, seed, objective={"name": "hpt", "gate": gate})
            signal[name].append([float(receipt(models[name])["provider"]["signal_share"])])
        for name, model in models.items():
            greedy[name].append(score(model, {}))
            sampled[name].append(score(model, {}, samples=4))
    result = [figure(f"greedy accuracy, {name}", greedy[name]) for name in arms]
    result += [figure(f"sampled accuracy, {name}", sampled[name]) for name in arms]
    result += [figure(f"share of prompts with a signal, {name}", signal[name]) for name in GATES]
    for other in ("group RL alone", "sft on all demonstrations"):
        for what, scores in (("greedy", greedy), ("sampled", sampled)):
            result.append(difference(f"{what} accuracy, hpt gate 2 minus {other}", scores["hpt gate 2"], scores[other]))
    show(result, started)


if __name__ == "__main__":
    main()
