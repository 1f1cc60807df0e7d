"""Pools: processes and a real Ray cluster of two nodes give what one process gives, also when workers die."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tiny import llama, text
from whet import parts
from whet.data.context import Context
from whet.errors import DataError, RecipeError, StoreError
from whet.generate.completion import Sampling
from whet.generate.kept import generate_in_blocks, kept_in
from whet.model import Model
from whet.run.cluster import check_reach, open_pool
from whet.run.cluster_ray import RayPool
from whet.run.compare.carry import compare_recipe
from whet.run.compare.jobs import Job
from whet.run.compare.summary import summary
from whet.run.ledger import Ledger
from whet.run.manifest import MANIFEST
from whet.run.processes import Processes
from whet.run.runner import RunResult, run_recipe
from whet.run.show import show_run
from whet.run.store import Store
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.workers import Local, Pool, WorkerError, WorkersLost, using

# Processes import what they carry out from where this one does.
sys.path.insert(0, str(Path(__file__).parent))
import cluster_functions as work

SOURCE = {"name": "nanoworld", "rows": 24, "skills": ["variables"], "difficulty": [1, 1]}
RECIPE: dict[str, Any] = {
    "name": "spread",
    "model": llama(layers=2, intermediate_size=64),
    "tokenizer_data": "text",
    "data": [
        text(rows=40),
        {"name": "chats", "source": SOURCE, "select": [{"name": "ngram-decontaminate", "against": SOURCE, "n": 30}]},
    ],
    "train": [
        {"name": "one", "model": "base", "data": "chats", "steps": 2, "batch_size": 8, "lr": 1e-3},
        {"name": "other", "model": "base", "data": "text", "format": "plain", "steps": 2, "batch_size": 8},
    ],
    "edit": [{"name": "mix", "models": ["one", "other"], "method": "soup"}],
    "measure": [
        {
            "name": "scores",
            "models": ["mix"],
            "tasks": [{"name": "answers", "data": SOURCE, "limit": 6, "max_new_tokens": 8, "batch_tokens": 64}],
        }
    ],
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits on a CPU depend on the number of threads; these tests compare bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="NOT TESTED: a cluster; pip install 'whet[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray import cloudpickle
        from ray.cluster_utils import Cluster

        # The machines of a real cluster do not have this file either.
        cloudpickle.register_pickle_by_value(work)
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            nodes.add_node(**node)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture(scope="module")
def on_cluster(cluster: Any) -> Iterator[RayPool]:
    pool = open_pool(f"ray:{cluster.address}")
    assert isinstance(pool, RayPool) and pool.workers == 2
    with closing(pool):
        yield pool


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Pool]:
    with closing(Processes(2)) as pool:
        yield pool


@pytest.fixture(params=["two_processes", "on_cluster"])
def pool(request: pytest.FixtureRequest) -> Pool:
    found: Pool = request.getfixturevalue(request.param)
    found.tally.lost.clear()
    return found


def _weights(result: RunResult, stage: str) -> str:
    return str(json.loads((result.folders[stage] / MANIFEST).read_text())["model/model.safetensors"]["sha256"])


# ---- what a pool promises


@pytest.mark.parametrize("address", ["local", "processes:1", "processes:3"])
def test_results_stand_in_the_order_of_the_items(address: str) -> None:
    with closing(open_pool(address)) as pool:
        assert pool.map(work.uneven_square, range(12)) == [n * n for n in range(12)]
        assert pool.map(work.plus, range(3), shared=[10]) == [10, 11, 12]
        assert pool.map(work.plus, range(3), shared=[20]) == [20, 21, 22]
        assert pool.map(work.uneven_square, []) == []


def test_so_they_do_on_a_cluster(on_cluster: RayPool) -> None:
    seen: dict[int, int] = {}
    assert on_cluster.map(work.uneven_square, range(12), on_result=seen.__setitem__) == [n * n for n in range(12)]
    assert seen == {n: n * n for n in range(12)}
    assert on_cluster.map(work.plus, range(3), shared=[10]) == [10, 11, 12]
    assert on_cluster.map(work.threads, range(2)) == ["1", "1"]
    assert len(set(on_cluster.on_every_node(work.threads, 0))) == 1


def test_a_killed_worker_costs_its_item_a_second_try(pool: Pool, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    assert pool.map(work.die_once, [(n, mark) for n in range(6)]) == [n * n for n in range(6)]
    assert len(pool.tally.lost) == 1 and pool.tally.lost[0].startswith("item 3: ")


def test_an_item_that_kills_every_worker_is_given_up() -> None:
    with closing(Processes(2)) as pool, pytest.raises(WorkersLost, match=r"item 0: its worker was killed by signal 9; 4 workers"):
        pool.map(work.die, [0])


def test_an_exception_is_reported_with_its_item_and_not_tried_again(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"row 2: ValueError: no twos\n(.|\n)*in refuse_two"):
        pool.map(work.refuse_two, [(n, str(tmp_path)) for n in range(3)], label=lambda item: f"row {item[0]}")
    assert len(list(tmp_path.glob("2-*"))) == 1
    with pytest.raises(DataError, match=r"item 1: the row has no prompt"):
        pool.map(work.bad_row, range(3))
    assert pool.tally.lost == []


def test_items_that_are_ended_take_no_others_with_them(on_cluster: RayPool) -> None:
    on_cluster.tally.lost.clear()
    for _ in range(30):
        with pytest.raises(DataError, match=r"item 1: the row has no prompt"):
            on_cluster.map(work.bad_row, range(3))
        assert on_cluster.map(work.plus, range(3), shared=[1]) == [1, 2, 3]
    assert on_cluster.tally.lost == []


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_item_ends_when_another_has_failed(
    on_cluster: RayPool, stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[RayPool.__module__], "GRACE", 0.5)
    with pytest.raises(DataError, match="the row is empty"):
        on_cluster.map(work.fail_or_stay, [(n, str(tmp_path), stubborn) for n in range(2)])
    process, deadline = int((tmp_path / "begun").read_text()), time.monotonic() + 240
    while stubborn and Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert Path(f"/proc/{process}").exists() is not stubborn
    assert on_cluster.map(work.plus, range(2), shared=[1]) == [1, 2]


def test_the_items_of_a_lost_node_are_done_elsewhere(cluster: Any, on_cluster: RayPool, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    on_cluster.tally.lost.clear()
    results: list[int] = []
    items = [(n, str(tmp_path)) for n in range(6)]
    mapping = threading.Thread(target=lambda: results.extend(on_cluster.map(work.slow_on_node, items)))
    mapping.start()
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(f"*-{extra.node_id}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.remove_node(extra, allow_graceful=False)
    mapping.join(240)
    assert results == [n * n for n in range(6)]
    assert on_cluster.tally.lost


# ---- addresses


def test_wrong_addresses_and_a_missing_ray_are_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"unknown place 'rays'.*did you mean 'ray'.*processes:N"):
        open_pool("rays")
    with pytest.raises(RecipeError, match=r"unknown place 'processes:none'"):
        open_pool("processes:none")
    with pytest.raises(RecipeError, match=r"'cpu=3' is no option; there are cpus=N"):
        open_pool("processes:2?cpu=3")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'whet\[ray\]'"):
        open_pool("ray")


def test_too_much_for_the_cluster_and_a_store_out_of_reach_are_refused(
    cluster: Any, on_cluster: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"cpus=8 is more than any machine of the cluster has \(1\)"):
        open_pool(f"ray:{cluster.address}?cpus=8")
    store = Store.open(str(tmp_path / "store"))
    check_reach(on_cluster, store)
    assert not list((store.scratch / "locks").iterdir())
    # A machine with another folder under the same name finds no mark in it.
    elsewhere = replace(store, address=str(tmp_path / "other"), scratch=tmp_path / "other")
    everywhere = RayPool.on_every_node
    (tmp_path / "other" / "locks").mkdir(parents=True)

    def as_if_far(self: RayPool, function: Any, item: tuple[str, str]) -> Any:
        return everywhere(self, function, (item[0], item[1].replace("other", "not-shared")))

    monkeypatch.setattr(RayPool, "on_every_node", as_if_far)
    with pytest.raises(StoreError, match=r"other cannot be used from .*folder that all of them share, or to object storage"):
        check_reach(on_cluster, elsewhere)


# ---- what is spread


def test_a_recipe_on_a_cluster_ends_with_the_bits_of_one_process(cluster: Any, on_cluster: RayPool, tmp_path: Path) -> None:
    here = run_recipe(RECIPE, store=Store.open(str(tmp_path / "here")), quiet=True)
    there = run_recipe(RECIPE, store=Store.open(str(tmp_path / "there")), quiet=True, on=f"ray:{cluster.address}")
    assert [(s.name, s.status, s.identity) for s in there.run.steps] == [(s.name, s.status, s.identity) for s in here.run.steps]
    for stage in ("one", "other", "mix"):
        assert _weights(there, stage) == _weights(here, stage)
    assert (there.folders["scores"] / "000.jsonl").read_text() == (here.folders["scores"] / "000.jsonl").read_text()
    scores = next(s for s in there.run.steps if s.name == "scores")
    assert scores.cost["workers"]["items"] >= 1 and "workers" not in here.run.steps[-1].cost


def test_a_failing_step_fails_the_run_as_it_does_here(cluster: Any, on_cluster: RayPool, tmp_path: Path) -> None:
    absent = {"name": "file", "path": str(tmp_path / "absent.jsonl")}
    recipe = {"name": "broken", "data": [{"name": "there", "source": SOURCE}, {"name": "absent", "source": absent}]}
    with pytest.raises(DataError, match=r"step absent: .*absent.jsonl: no such file"):
        run_recipe(recipe, quiet=True, on=f"ray:{cluster.address}")
    assert show_run("broken")[0]["steps"][1]["status"] == "failed"
    # The pool of another run is not closed with it.
    assert on_cluster.map(work.plus, [1], shared=[1]) == [2]


def test_a_step_that_is_alone_stays_here_and_its_blocks_are_spread(two_processes: Processes, tmp_path: Path) -> None:
    decontaminate = {"name": "ngram-decontaminate", "against": SOURCE, "n": 30}
    recipe = {"name": "alone", "model": "nano", "data": [{"name": "rows", "source": SOURCE, "select": [decontaminate]}]}
    here = run_recipe(recipe, store=Store.open(str(tmp_path / "here")), quiet=True).run.steps[0]
    spread = run_recipe(recipe, store=Store.open(str(tmp_path / "spread")), quiet=True, on="processes:1").run.steps[0]
    assert spread.identity == here.identity and spread.receipt == here.receipt
    assert spread.cost["workers"] == {"on": "processes:1", "items": 1, "begun_again": 0, "lost": []}


def test_a_variant_whose_worker_is_killed_goes_on_from_its_checkpoint(on_cluster: RayPool, tmp_path: Path) -> None:
    def job(variant: str, lr: float) -> Job:
        train = {"name": "one", "model": "base", "data": "text", "format": "plain", "steps": 6, "batch_size": 8, "lr": lr}
        rest = {k: v for k, v in RECIPE.items() if k not in ("edit", "measure")}
        return Job(variant, 0, {**rest, "data": RECIPE["data"][:1], "train": [{**train, "checkpoint_every": 1}]})

    jobs, store, mark = [job("a", 1e-3), job("b", 2e-3)], tmp_path / "store", tmp_path / "mark"
    on_cluster.tally.lost.clear()
    done = on_cluster.map(work.carry_out_job, jobs, shared=(str(store), str(mark)), label=lambda item: item.variant)
    assert mark.exists() and [why.startswith("b: ") for why in on_cluster.tally.lost] == [True]
    assert [d.error for d in done] == ["", ""]
    alone = run_recipe(jobs[1].document, store=Store.open(str(tmp_path / "alone")), quiet=True)
    folder = Store.open(str(store)).get(next(s for s in done[1].steps if s.name == "one").identity)
    assert json.loads((folder / MANIFEST).read_text())["model/model.safetensors"]["sha256"] == _weights(alone, "one")
    assert json.loads((folder / "receipt.json").read_text())["receipt"]["resumed_at"] == 3


def test_a_comparison_on_a_cluster_gives_the_numbers_of_one_process_also_when_a_worker_is_killed(
    on_cluster: RayPool, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    train = {
        "name": "one",
        "model": "base",
        "data": "text",
        "format": "plain",
        "steps": 4,
        "batch_size": 8,
        "checkpoint_every": 1,
    }
    scores = {**RECIPE["measure"][0], "models": ["one"]}
    recipe = {**RECIPE, "data": RECIPE["data"][:1], "train": [train], "edit": [], "measure": [scores]}
    asked: dict[str, Any] = {
        "variants": {"a": {"train.0.lr": 1e-2}, "b": {"train.0.lr": 2e-2}},
        "seeds": 2,
        "say": lambda _: None,
    }
    mark, there = tmp_path / "mark", Store.open(str(tmp_path / "there"))
    on_cluster.tally.lost.clear()

    def pool(_: Any, items: Any, **rest: Any) -> list[Any]:
        return on_cluster.map(work.carry_out_job, items, shared=(str(there.scratch), str(mark)), **rest)

    far = summary(compare_recipe(recipe, store=there, pool=pool, **asked))
    near = summary(compare_recipe(recipe, store=Store.open(str(tmp_path / "here")), **asked))
    assert mark.exists() and [why.startswith("b, seed ") for why in on_cluster.tally.lost] == [True]
    for key in ("by_seed", "scores", "verdicts"):
        assert far[key] == near[key]
    begun = Counter((run.recipe, run.seed) for run in Ledger.beside(there.scratch).runs())
    assert sorted(begun.values()) == [1, 1, 1, 2] and begun["spread-a", 0] == begun["spread-a", 1] == 1


def test_a_data_pass_does_not_depend_on_blocks_or_workers(pool: Pool) -> None:
    rows = Dataset.from_list([{"prompt": f"one two three four {n % 7}"} for n in range(30)])
    source = {"name": "nanoworld", "rows": 5}
    part = replace(parts.build("select", {"name": "ngram-decontaminate", "against": source, "n": 2}), against=work.against)
    found = []
    for used in (Local(), pool):
        with using(used):
            context = Context()
            found.append((part(rows, context).to_list(), context.receipt))
    assert found[0] == found[1] and found[0][1]["rows_matched"] == 9


def test_the_finished_blocks_of_a_stopped_pass_are_found_again(pool: Pool, tmp_path: Path) -> None:
    rows, folder = [{"prompt": "x" * n} for n in range(7)], tmp_path / "blocks"
    folder.mkdir()
    wanted = [[n, n] for n in range(7)]
    for block_rows in (1, 3, 100):
        assert Context().map_blocks(work.lengths, rows, block_rows=block_rows, shared=str(folder)) == wanted
    for mark in folder.iterdir():
        mark.unlink()
    (folder / "broken").touch()
    with using(pool), kept_in(tmp_path / "kept"):
        with pytest.raises(DataError, match=r"block of rows that begins with [46]: the disk is full"):
            Context().map_blocks(work.lengths, rows, block_rows=2, shared=str(folder))
        (folder / "broken").unlink()
        kept = [int(file.stem) for file in (tmp_path / "kept").rglob("*.json")]
        assert Context().map_blocks(work.lengths, rows, block_rows=2, shared=str(folder)) == wanted
    assert kept and len(list((tmp_path / "kept").rglob("*.json"))) == 4
    assert [len(list(folder.glob(f"{start}-*"))) for start in kept] == [1] * len(kept)


def test_rollouts_by_blocks_are_those_of_one_process(pool: Pool, tiny_model: Model) -> None:
    rows = [{"prompt": f"What is {i} plus 4?", "answer": str(i + 4)} for i in range(6)]
    settings = RolloutSettings(prompts=5, group_size=3, max_new_tokens=6, block=2)
    found = []
    for used in (Local(), pool):
        objective = parts.build("objective", {"name": "grpo", "kl": 0.0})
        reward = parts.build("reward", {"name": "pattern", "pattern": "[0-9]"})
        provider = RolloutProvider(rows, reward, objective, settings, schedule=parts.build("schedule", "shuffle"), seed=1)
        with using(used):
            found.append((provider.examples(0, tiny_model), provider.counts.completion_tokens))
    assert found[0] == found[1] and len(found[0][0]) == 15


def test_models_with_adapters_reach_the_workers(two_processes: Pool, tiny_model: Model) -> None:
    network = parts.build("adapter", "lora").attach(tiny_model.copy().network)
    adapted = replace(tiny_model, network=network.eval())
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    found = []
    for used in (Local(), two_processes):
        receipt: dict[str, Any] = {}
        with using(used):
            written = generate_in_blocks(
                adapted, prompts, Sampling(max_new_tokens=5), group_size=2, seed=3, block=1, receipt=receipt
            )
        found.append((written, receipt))
    assert found[0] == found[1]
    assert [c.prompt for c in found[0][0]] == [0, 0, 1, 1, 2, 2]
