"""The words of the command line; what they call is in :mod:`whet.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from whet import __version__
from whet import commands as call
from whet.commands import Answer
from whet.errors import OtherRank, WhetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 the asked-for check failed, 2 an error, 130 or 143 stopped by a signal)."""
    options = parser().parse_args(arguments)
    try:
        answer = options.call(options)
        if answer is not None:
            print(_as_json(answer.data) if options.json else answer.text)
        return 0 if answer is None or answer.passed else 1
    except OtherRank:
        return 2
    except WhetError as error:
        print(f"whet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print("whet: stopped; the same command goes on where this one was", file=sys.stderr)
        return 128 + getattr(stop, "signal", 2)
    except BrokenPipeError:
        return 0


def _as_json(data: Any) -> str:
    import json

    from whet.run.plain import finite

    return json.dumps(finite(data), indent=1, default=str)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="whet", description="Everything that happens to a model after its first pre-training.")
    top.add_argument("--version", action="version", version=f"whet {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    _add_work(commands)
    _add_looks(commands)
    _add_store(commands)
    _command(commands, "doctor", call.doctor, "what this machine has, and which extras are usable")
    return top


def _add_work(commands: Any) -> None:
    """What computes."""
    run = _command(commands, "run", call.run, "carry a recipe out; finished steps are reused, a stopped run goes on")
    _recipe_arguments(run)
    run.add_argument("--out", metavar="FOLDER", help="also write the report and the exports here")
    run.add_argument("--on", metavar="PLACE", help="where: processes:N, ray (a local one), ray://HOST:PORT (default: here)")

    check = _command(commands, "check", call.check, "the invariants on your model and data, and a forecast, before anything runs")
    _recipe_arguments(check)

    _compare_arguments(
        _command(commands, "compare", call.compare, "variants of a recipe under one budget, judged with statistics")
    )

    race = _command(commands, "race", call.race, "training algorithms against the clock: time to a target over several workloads")
    _recipe_arguments(race)
    race.add_argument("--on", metavar="PLACE", help="where: processes:N, ray (a local one), ray://HOST:PORT (default: here)")
    race.add_argument("--out", metavar="FOLDER", help="also write the page here")

    _forecast_arguments(
        _command(
            commands, "forecast", call.forecast, "what more data would give: a law fitted to a comparison, a run or a CSV file"
        )
    )

    _recover_arguments(_command(commands, "recover", call.recover, "find what a change of a model broke, and repair it"))

    _claims_arguments(_command(commands, "claims", call.claims, "what papers claim, and what small comparisons say of it"))

    _board_arguments(
        _command(commands, "board", call.board, "the ledger in a browser: runs as they train, comparisons, claims, lineage")
    )


def _add_looks(commands: Any) -> None:
    """What shows, and what writes elsewhere."""
    show = _command(commands, "show", call.show, "what a run did, step by step, and why; or what a comparison or race found")
    show.add_argument(
        "run", nargs="?", help="a run's or comparison's id, its beginning, its recipe's name, or 'last'; without it, all of them"
    )

    diff = _command(commands, "diff", call.diff, "every setting, receipt figure and version in which two runs differ")
    diff.add_argument("run", nargs=2, help="two runs")

    export = _command(commands, "export", call.export, "write a run's model in a form that other software loads")
    export.add_argument("model", help="a model folder, or a run (its last model; RUN:STAGE for another)")
    export.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="an export part, such as compressed-tensors, or one with settings: '{name: packed, ...}'",
    )
    export.add_argument("--out", required=True, metavar="FOLDER", help="where to write")

    listing = _command(commands, "parts", call.parts, "the parts there are, of one kind or of all")
    listing.add_argument("kind", nargs="?", help="such as objective, reward, task")
    listing.add_argument("name", nargs="?", help="one part: its card and settings")

    papers = _command(commands, "papers", call.papers, "search the papers whose methods are here")
    papers.add_argument("query", nargs="*", help="words; without any, all papers")


def _add_store(commands: Any) -> None:
    """The tools of the store."""
    store = commands.add_parser("store", help="whether every artifact is as it was written, and how much there is")
    tools = store.add_subparsers(metavar="TOOL", required=True)
    verify = _command(
        tools, "verify", call.store_verify, "read every artifact again; exits with 1 if one is damaged or something is left over"
    )
    verify.add_argument("--remote", action="store_true", help="of a store behind a URL, read the artifacts there too")
    _command(tools, "du", call.store_du, "how much lies in the store, by kind of step and by run")
    _collect_arguments(_command(tools, "gc", call.store_gc, "what no run needs, and with --delete its removal"))


def _command(commands: Any, name: str, function: Callable[[Any], Answer | None], text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(call=function)
    return command


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="a recipe file, or the name of a bundled recipe")
    command.add_argument("overrides", nargs="*", metavar="PATH=VALUE", help="such as train.0.objective=dpo")


def _compare_arguments(command: argparse.ArgumentParser) -> None:
    _recipe_arguments(command)
    command.add_argument(
        "--vary", action="append", default=[], metavar="PATH=A,B", help="a field and its values; may be repeated"
    )
    command.add_argument("--seeds", type=_seeds, metavar="N", help="how many, or which ones: 3,5,7 (default: 3)")
    command.add_argument("--budget", help="the same for every variant, such as 2M-tokens, 1e15-flops, 500-examples, 90-seconds")
    command.add_argument("--budget-step", metavar="STEP", help="the train step that gets what the others leave of the budget")
    command.add_argument("--target", metavar="METRIC=VALUE", help="also compare the budget that each needs to reach a quality")
    command.add_argument("--tune", action="append", default=[], metavar="PATH=LOW..HIGH", help="tune a field, the same for all")
    command.add_argument("--trials", type=int, metavar="N", help="points tried for every variant (default: 5)")
    command.add_argument(
        "--studies", action="store_true", help="give every seed trials of its own; of each the first to reach the target counts"
    )
    command.add_argument("--stage", help="the model that is judged (default: the last)")
    command.add_argument("--tasks", type=_names, metavar="A,B", help="the tasks that judge it (default: all that are measured)")
    command.add_argument("--alpha", type=float, metavar="P", help="level of the verdicts (default: 0.05)")
    command.add_argument("--margin", type=float, metavar="D", help="a difference too small to matter (default: 0.01)")
    command.add_argument("--on", metavar="PLACE", help="where: processes:N, ray (a local one), ray://HOST:PORT (default: here)")
    command.add_argument(
        "--stop-lost", action="store_true", help="stop variants that have clearly lost, by a rule that keeps the level"
    )
    command.add_argument("--out", metavar="FOLDER", help="also write the page here")


def _seeds(text: str) -> int | list[int]:
    """``5``, or ``3,5,7``."""
    try:
        seeds = [int(seed) for seed in text.split(",") if seed.strip()]
    except ValueError:
        seeds = []
    if not seeds:
        raise argparse.ArgumentTypeError(f"expected how many, such as 5, or which ones, such as 3,5,7, got {text!r}")
    return seeds if "," in text else seeds[0]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _recover_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", required=True, help="the changed model: a folder, RUN:STAGE, a hub id")
    command.add_argument("--reference", required=True, metavar="MODEL", help="the model before the change")
    command.add_argument("--data", required=True, help="the pool that repairs: a data file, or '{name: SOURCE, ...}'")
    command.add_argument("--budget", default="4%", help="share of the pool to train on (default: 4%%)")
    command.add_argument("--by", metavar="COLUMN", help="the column that names capabilities (default: clusters of the pool)")
    command.add_argument("--select", default="paser", help="paser, random, perplexity, skill-it or rs2 (default: paser)")
    command.add_argument("--objective", default="sft", help="what the repair trains on (default: sft)")
    command.add_argument(
        "--flip-aware", action="store_true", help="also hold it to the reference where it errs (objective compat-distill)"
    )
    command.add_argument("--adapter", help="default: scales of a quantized model, sparse for a pruned one, else full")
    command.add_argument("--task", action="append", default=[], help="what proves it (default: held-out rows of the pool)")
    command.add_argument("--within", metavar="SHARE", help="exit with 1 unless the loss is shown to be within this, such as 1%%")
    command.add_argument("--max-negative-flips", metavar="SHARE", help="exit with 1 unless flips are shown to be rarer than this")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the train step, such as lr=1e-4"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", metavar="FOLDER", help="also write the page and the repaired model here")


def _claims_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "words", nargs="*", metavar="ID", help="one claim in full; 'run ID...' runs their comparisons; without any, the ledger"
    )
    command.add_argument("--folder", default="claims", help="where the claims' files are (default: claims)")
    command.add_argument("--table", action="store_true", help="the ledger as a Markdown table")
    command.add_argument("--again", action="store_true", help="run what was run before with the same settings and version")
    command.add_argument("--on", metavar="PLACE", help="where variants are run, see whet run (default: here)")


def _forecast_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("law", help="posttrain-power-law, learning-curve-trace, curve-stop, budget-split, or '{name: LAW, ...}'")
    command.add_argument("observations", nargs="?", metavar="FILE", help="a CSV file with the columns size, score, seed, group")
    command.add_argument("--at", type=_sizes, default=(), metavar="N,M", help="the sizes (budgets) asked about")
    command.add_argument("--comparison", metavar="ID", help="instead of a file, a comparison whose variants differ in size")
    command.add_argument("--run", metavar="RUN[:STEP]", help="instead of a file, the validation curve of a train step")
    command.add_argument(
        "--x", metavar="WHAT", help="the size: a column, a field of the recipe, rows (default), tokens, examples"
    )
    command.add_argument("--group", metavar="WHAT", help="what tells curves apart: a column, or a field of the recipe")
    command.add_argument("--metric", help="the score: a column, or an estimate such as step_error (default: the main one)")
    command.add_argument("--task", help="the comparison's task (default: the first)")
    command.add_argument("--model", help="budget-split: probe whether this model has the form of the answer")
    command.add_argument("--data", help="rows for the probe: a data file, or '{name: SOURCE, ...}'")


def _sizes(text: str) -> list[float]:
    try:
        return [float(size) for size in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected sizes such as 3200,6400, got {text!r}") from None


def _board_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="where to listen; elsewhere than on loopback it asks for a token")
    command.add_argument("--port", type=int, default=8137, help="0 takes a free one (default: 8137)")
    command.add_argument("--claims", metavar="FOLDER", help="where the claims' files are (default: claims, if there is one)")


def _collect_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--delete", action="store_true", help="remove it; without this, only say what would go")
    command.add_argument("--keep-runs", type=int, metavar="N", help="forget all but the newest N runs; their records stay")
    command.add_argument(
        "--older-than", type=float, metavar="DAYS", help="forget runs that began before; with --keep-runs, both must hold"
    )
    command.add_argument("--forget", action="append", default=[], metavar="RUN", help="forget this run")
    command.add_argument("--grace", type=float, default=24.0, metavar="HOURS", help="touch nothing younger (default: 24)")
    command.add_argument(
        "--only-ledger", action="store_true", help="no other ledger uses the store: what this one does not know may go too"
    )


if __name__ == "__main__":
    sys.exit(main())
