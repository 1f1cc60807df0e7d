"""Words on the command line to one function call each; nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from whet import __version__
from whet.errors import WhetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 the asked-for check failed, 2 an error, 130 interrupted)."""
    options = parser().parse_args(arguments)
    try:
        return int(options.call(options) or 0)
    except WhetError as error:
        print(f"whet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("whet: stopped; the same command goes on where this one was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="whet", description="Everything that happens to a model after its first pre-training.")
    top.add_argument("--version", action="version", version=f"whet {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "carry a recipe out; finished steps are reused, a stopped run goes on")
    _recipe_arguments(run)
    run.add_argument("--out", metavar="FOLDER", help="also write the report and the exports here")

    check = _command(commands, "check", _check, "the invariants on your model and data, and a forecast, before anything runs")
    _recipe_arguments(check)

    show = _command(commands, "show", _show, "what a run did, step by step, and why each step ran or was reused")
    show.add_argument("run", nargs="?", help="a run's id, its beginning, its recipe's name, or 'last'; without it, all runs")

    diff = _command(commands, "diff", _diff, "every setting, receipt figure and version in which two runs differ")
    diff.add_argument("run", nargs=2, help="two runs")

    export = _command(commands, "export", _export, "write a run's model in a form that other software loads")
    export.add_argument("model", help="a model folder, or a run (its last model; RUN:STAGE for another)")
    export.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="an export part, such as compressed-tensors, or one with settings: '{name: packed, ...}'",
    )
    export.add_argument("--out", required=True, metavar="FOLDER", help="where to write")

    listing = _command(commands, "parts", _parts, "the parts there are, of one kind or of all")
    listing.add_argument("kind", nargs="?", help="such as objective, reward, task")
    listing.add_argument("name", nargs="?", help="one part: its card and settings")

    papers = _command(commands, "papers", _papers, "search the papers whose methods are here")
    papers.add_argument("query", nargs="*", help="words; without any, all papers")

    store = commands.add_parser("store", help="whether every artifact is as it was written, and how much there is")
    tools = store.add_subparsers(metavar="TOOL", required=True)
    _command(
        tools, "verify", _store_verify, "read every artifact again; exits with 1 if one is damaged or something is left over"
    )
    _command(tools, "du", _store_du, "how much lies in the store, by kind of step and by run")

    _command(commands, "doctor", _doctor, "what this machine has, and which extras are usable")
    return top


def _command(commands: Any, name: str, call: Callable[[Any], Any], text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(call=call)
    return command


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="a recipe file, or the name of a bundled recipe")
    command.add_argument("overrides", nargs="*", metavar="PATH=VALUE", help="such as train.0.objective=dpo")


def _print(options: Any, data: Any, text: str) -> None:
    if options.json:
        import json

        print(json.dumps(data, indent=1, default=str))
    else:
        print(text)


def _run(options: Any) -> int:
    from whet.run.runner import run_recipe

    result = run_recipe(options.recipe, options.overrides, out=options.out, quiet=options.json)
    _print(options, result.summary(), result.closing())
    return 0


def _check(options: Any) -> int:
    from whet.run.check import check_recipe

    result = check_recipe(options.recipe, options.overrides)
    _print(options, result.data(), result.text())
    return 0 if result.passed else 1


def _show(options: Any) -> int:
    from whet.run.show import show_all, show_run

    data, text = show_run(options.run) if options.run else show_all()
    _print(options, data, text)
    return 0


def _diff(options: Any) -> int:
    from whet.run.diff import diff_runs

    data, text = diff_runs(*options.run)
    _print(options, data, text)
    return 0


def _export(options: Any) -> int:
    from whet.run.show import find_model_folder
    from whet.run.steps import export_folder

    receipt = export_folder(find_model_folder(options.model), options.to, options.out)
    _print(options, receipt, f"wrote {options.out}\n" + "\n".join(f"  {k}: {v}" for k, v in receipt.items()))
    return 0


def _parts(options: Any) -> int:
    from whet.catalog import describe_part, list_parts

    data, text = describe_part(options.kind, options.name) if options.name else list_parts(options.kind)
    _print(options, data, text)
    return 0


def _papers(options: Any) -> int:
    from whet.catalog import search_papers

    data, text = search_papers(" ".join(options.query))
    _print(options, data, text)
    return 0


def _store_verify(options: Any) -> int:
    from whet.run.store_tools import verify_store

    found, text = verify_store()
    _print(options, found, text)
    return 1 if found else 0


def _store_du(options: Any) -> int:
    from whet.run.store_tools import store_sizes

    data, text = store_sizes()
    _print(options, data, text)
    return 0


def _doctor(options: Any) -> int:
    from whet.run.doctor import examine

    data, text = examine()
    _print(options, data, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
