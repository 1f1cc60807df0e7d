"""DPO's relatives: identities, independently written formulas, and agreement with TRL's loss on the same batch."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from whet import parts
from whet.data.example import Example
from whet.errors import DataError, RecipeError
from whet.train.objectives.dpo import DPO, PRESETS
from whet.train.objectives.mpo import MPO
from whet.train.objectives.upge import UPGE
from whet.train.policy import HFPolicy
from whet.train.preference import pair_rows


def pairs(count=4, seed=0, *, prompt=3, longest=7, vocabulary=11, reference=-2.4, equal_lengths=False):
    """Random pairs, the rejected row first in every second one, with reference log-probabilities."""
    rng = np.random.default_rng(seed)
    examples = []
    for unit in range(count):
        shared = rng.integers(5, vocabulary, size=prompt).tolist()
        own = []
        for chosen in (1.0, 0.0):
            length = longest if equal_lengths else int(rng.integers(1, longest + 1))
            ids = shared + rng.integers(5, vocabulary, size=length).tolist()
            reference_logps = [0.0] * prompt + (reference + 0.3 * rng.normal(size=length)).tolist()
            own.append(
                Example(ids, [False] * prompt + [True] * length, unit, {"chosen": chosen}, {"reference_logps": reference_logps})
            )
        examples += own if unit % 2 else own[::-1]
    return examples


def scores(batch, policy):
    """(chosen, rejected) sums of log-ratios, sums of log-probabilities and lengths, by unit, without the code under test."""
    logps = policy.logps(batch)
    ratio = ((logps - batch.token_values["reference_logps"]) * batch.mask).sum(1)
    rows = [
        [next(i for i in range(batch.rows) if batch.unit[i] == u and batch.values["chosen"][i] == c) for u in batch.unit.unique()]
        for c in (1, 0)
    ]
    return [(ratio[r], logps.sum(1)[r], batch.mask.sum(1)[r]) for r in rows]


FORMULAS = {
    "dpo": lambda w, r: -logsigmoid(0.1 * (w[0] - r[0])),
    "dpo-norm": lambda w, r: -logsigmoid(5.0 * (w[0] / w[2] - r[0] / r[2])),
    "simpo": lambda w, r: -logsigmoid(2.0 * (w[1] / w[2] - r[1] / r[2]) - 1.0),
    "ipo": lambda w, r: (w[0] / w[2] - r[0] / r[2] - 5.0) ** 2,
    "hinge-dpo": lambda w, r: torch.relu(1 - 0.1 * (w[0] - r[0])),
    "cdpo": lambda w, r: -0.9 * logsigmoid(0.1 * (w[0] - r[0])) - 0.1 * logsigmoid(-0.1 * (w[0] - r[0])),
    "robust-dpo": lambda w, r: (-0.9 * logsigmoid(0.1 * (w[0] - r[0])) + 0.1 * logsigmoid(-0.1 * (w[0] - r[0]))) / 0.8,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, batch_of, table_policy):
    batch = batch_of(pairs())
    policy = table_policy(batch)
    loss = parts.build("objective", name)(policy, batch)
    expected = FORMULAS[name](*scores(batch, policy)).mean()
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", *PRESETS])
def test_micro_batches_add_up_and_half_pairs_are_refused(name, batch_of, table_policy):
    objective = parts.build("objective", name)
    examples = pairs()
    whole = batch_of(examples)
    policy = table_policy(whole)
    full = objective(policy, whole)
    total, terms = 0.0, dict.fromkeys(full.terms, 0.0)
    for unit in range(4):
        chosen = [i for i, e in enumerate(examples) if e.unit == unit]
        part = batch_of([examples[i] for i in chosen], totals=whole.totals, width=whole.labels.shape[1])
        small = table_policy(part)
        small.logits = policy.logits[chosen]
        loss = objective(small, part)
        total += loss.total.item()
        terms = {k: v + loss.terms[k].item() for k, v in terms.items()}
    assert total == pytest.approx(full.total.item(), rel=1e-9)
    assert terms == pytest.approx({k: v.item() for k, v in full.terms.items()}, rel=1e-9)
    broken = batch_of(examples[1:])
    with pytest.raises(DataError, match="do not pair up"):
        objective(table_policy(broken), broken)


def test_identity_5_dpo_at_the_reference(batch_of, table_policy):
    batch = batch_of(pairs())
    policy = table_policy(batch)
    batch = batch.replace(token_values={"reference_logps": policy.logps(batch).detach()})
    assert DPO()(policy, batch).total.item() == pytest.approx(math.log(2), abs=1e-12)


def test_identity_5_dpo_gradient_is_the_estimators(batch_of, table_policy):
    beta = 0.3
    batch = batch_of(pairs())
    policy = table_policy(batch)
    chosen, rejected = pair_rows(batch)
    (w, _, _), (r, _, _) = scores(batch, policy)
    weight = beta * torch.sigmoid(-beta * (w - r)).detach()
    advantages = torch.zeros(batch.rows, dtype=torch.float64)
    advantages[chosen], advantages[rejected] = weight, -weight
    # The mean over pairs is twice the mean over rows.
    batch = batch.replace(token_values={**batch.token_values, "advantages": batch.of_row(2 * advantages)})
    omega_form = UPGE(stable="none", denominator="policy", advantage="reward", aggregation="sum")(policy, batch)
    torch.testing.assert_close(
        policy.gradient(DPO(beta=beta)(policy, batch).total), policy.gradient(omega_form.total), rtol=1e-8, atol=1e-12
    )


def test_length_normalized_is_dpo_on_divided_log_probabilities(batch_of, table_policy):
    batch = batch_of(pairs(equal_lengths=True))
    policy = table_policy(batch)
    normalized = parts.build("objective", "dpo-norm")(policy, batch)
    torch.testing.assert_close(normalized.total, DPO(beta=5.0 / 7)(policy, batch).total)


def test_swapping_the_labels_mirrors_the_loss(batch_of, table_policy):
    examples = pairs()
    swapped = [dataclasses.replace(e, values={"chosen": 1 - e.values["chosen"]}) for e in examples]
    batch, mirrored = batch_of(examples), batch_of(swapped)
    policy = table_policy(batch)
    e = 0.2
    clean, flipped = DPO()(policy, batch).total, DPO()(policy, mirrored).total
    torch.testing.assert_close(DPO(label_smoothing=e)(policy, batch).total, (1 - e) * clean + e * flipped)
    # Robust DPO is unbiased: its expectation over labels flipped with probability e is the clean loss.
    robust = [DPO(loss="robust", label_smoothing=e)(policy, b).total for b in (batch, mirrored)]
    torch.testing.assert_close((1 - e) * robust[0] + e * robust[1], clean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "does not read it"),
        ({"loss": "exo"}, "needs a positive one"),
        ({"loss": "nca", "gamma": 1.0}, "gamma 1.0: loss 'nca' does not read it"),
    ],
)
def test_unread_settings_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        DPO(**settings)


def test_missing_reference_is_named(batch_of, table_policy):
    batch = batch_of(pairs()).replace(token_values={})
    policy = table_policy(batch)
    with pytest.raises(DataError, match="reference_logps"):
        DPO()(policy, batch)
    assert parts.build("objective", "simpo")(policy, batch).total.isfinite()
    assert parts.build("objective", "simpo").needs == {"pairs"}


def test_mpo_weights(batch_of, table_policy):
    batch = batch_of(pairs())
    policy = table_policy(batch)
    torch.testing.assert_close(MPO(preference=1, quality=0, generation=0)(policy, batch).total, DPO()(policy, batch).total)
    chosen = batch_of([e for e in pairs() if e.values["chosen"]], width=batch.labels.shape[1])
    alone = table_policy(chosen)
    alone.logits = policy.logits[batch.values["chosen"] > 0]
    supervised = UPGE(rows="demonstrations", stable="none", denominator="policy", advantage="one", aggregation="seq")(
        alone, chosen
    )
    torch.testing.assert_close(MPO(preference=0, quality=0, generation=1)(policy, batch).total, supervised.total)
    mixed = MPO()(policy, batch)
    expected = 0.8 * mixed.terms["preference"] + 0.2 * mixed.terms["quality"] + mixed.terms["generation"]
    torch.testing.assert_close(mixed.total.detach(), expected)


def test_mpo_shift_is_the_mean_of_earlier_steps_detached_and_checkpointed(batch_of, table_policy):
    objective = MPO(preference=0, quality=1, generation=0)
    first, second = batch_of(pairs(seed=1), step=0), batch_of(pairs(seed=2), step=1)
    policy = table_policy(first)
    loss = objective(policy, first)
    (w, _, _), (r, _, _) = scores(first, policy)
    torch.testing.assert_close(loss.total, (-logsigmoid(0.1 * w) - logsigmoid(-0.1 * r)).mean())
    state = objective.state_dict()
    shift = 0.1 * torch.cat([w, r]).mean().detach()
    policy = table_policy(second)
    (w, _, _), (r, _, _) = scores(second, policy)
    expected = (-logsigmoid(0.1 * w - shift) - logsigmoid(shift - 0.1 * r)).mean()
    with torch.no_grad():
        objective(policy, second)
    result = objective(policy, second).total
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(policy.gradient(result), policy.gradient(expected))
    torch.testing.assert_close(objective(policy, second).total, result, rtol=0, atol=0)
    resumed = MPO(preference=0, quality=1, generation=0)
    resumed.load_state_dict(state)
    assert resumed(policy, second).total == result


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def reference(tiny_model):
    """A neighbour of the tiny model, so that log-ratios are not 0."""
    network = copy.deepcopy(tiny_model.network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    return network


@pytest.fixture
def dpo_trainer(tiny_model, reference, tmp_path):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def build(**settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = DPOConfig(
                str(tmp_path),
                bf16=False,
                use_cpu=True,
                report_to="none",
                gradient_checkpointing=False,
                max_length=None,
                **settings,
            )
            rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
            network = copy.deepcopy(tiny_model.network)
            return DPOTrainer(network, copy.deepcopy(reference), args, train_dataset=rows, processing_class=tiny_model.tokenizer)

    return build


def trl_pair_inputs(examples):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows = {}
    for e in examples:
        prompt = len(e) - e.trained_tokens
        side = "chosen_ids" if e.values["chosen"] else "rejected_ids"
        rows.setdefault(e.unit, {})["prompt_ids"] = list(e.input_ids[:prompt])
        rows[e.unit][side] = list(e.input_ids[prompt:])
    return DataCollatorForPreference(pad_token_id=0)(list(rows.values()))


PARITY = {
    "sigmoid": ({}, {"loss_type": ["sigmoid"], "beta": 0.1}),
    "ipo": ({"loss": "ipo", "length_normalized": True}, {"loss_type": ["ipo"], "beta": 0.1}),
    "hinge": ({"loss": "hinge"}, {"loss_type": ["hinge"], "beta": 0.1}),
    "robust": ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1, "beta": 0.1}),
    "dpo-norm": ({"length_normalized": True, "beta": 5.0}, {"loss_type": ["sigmoid_norm"], "beta": 5.0}),
    "exo": ({"loss": "exo", "label_smoothing": 0.001}, {"loss_type": ["exo_pair"], "label_smoothing": 0.001, "beta": 0.1}),
    "nca": ({"loss": "nca"}, {"loss_type": ["nca_pair"], "beta": 0.1}),
    "sppo": ({"loss": "sppo"}, {"loss_type": ["sppo_hard"], "beta": 0.1}),
    "apo-zero": ({"loss": "apo-zero"}, {"loss_type": ["apo_zero"], "beta": 0.1}),
    "apo-down": ({"loss": "apo-down"}, {"loss_type": ["apo_down"], "beta": 0.1}),
}


@pytest.mark.peer
def test_agrees_with_trl(tiny_model, reference, dpo_trainer, batch_of):
    examples = pairs(6, prompt=5, longest=12, vocabulary=300)
    policy, frozen = HFPolicy(tiny_model.network), HFPolicy(reference)
    batch = batch_of(examples)
    with torch.no_grad():
        batch = batch.replace(token_values={"reference_logps": frozen.logps(batch)})
    inputs = trl_pair_inputs(examples)
    trainer = dpo_trainer()
    for name, (settings, theirs) in PARITY.items():
        trainer.loss_types, trainer.loss_weights = theirs["loss_type"], [1.0]
        trainer.beta, trainer.label_smoothing = theirs["beta"], theirs.get("label_smoothing", 0.0)
        expected = trainer._compute_loss(trainer.model, dict(inputs), False)
        loss = DPO(**settings)(policy, batch).total
        assert relative(loss.detach(), expected.detach()) < 1e-5, name
        gap = relative(gradients(tiny_model.network, loss), gradients(trainer.model, expected))
        assert gap < 1e-5, f"{name}: {gap}"
        policy.forget()
