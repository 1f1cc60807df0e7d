"""One function per command: from its words to a call, and from what comes back to an :class:`Answer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a command prints: ``data`` as JSON if that is asked for, else ``text``. Not ``passed``: the asked-for check failed."""

    data: Any
    text: str
    passed: bool = True


def _given(options: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _say(options: Any) -> Callable[[str], None]:
    return (lambda _: None) if options.json else print


def run(options: Any) -> Answer | None:
    from whet.run.runner import run_recipe
    from whet.train.distributed import rank

    result = run_recipe(options.recipe, options.overrides, out=options.out, quiet=options.json, on=options.on)
    # Of several processes that torchrun started the first one speaks.
    return Answer(result.summary(), result.closing()) if rank() == 0 else None


def compare(options: Any) -> Answer:
    from whet.run.compare.command import compare_command

    names = ("seeds", "budget", "budget_step", "target", "trials", "studies", "stage")
    more = ("tasks", "alpha", "margin", "stop_lost", "on", "out")
    # 0 is an answer, and often a wrong one; only what was not given is left out.
    given = {name: value for name, value in _given(options, *names, *more).items() if value is not None and value is not False}
    compared = compare_command(options.recipe, options.overrides, options.vary, options.tune, say=_say(options), **given)
    return Answer(compared.data(), "\n" + compared.text())


def race(options: Any) -> Answer:
    from whet.run.race.carry import race as carry_out

    raced = carry_out(options.recipe, options.overrides, on=options.on, out=options.out, say=_say(options))
    return Answer(raced.data(), "\n" + raced.text())


def recover(options: Any) -> Answer:
    from whet.run.recover.command import recover_command

    recovered = recover_command(options)
    return Answer(recovered.data(), recovered.text(), passed=recovered.proof.met)


def forecast(options: Any) -> Answer:
    from whet.recipe_text import parse
    from whet.run.forecast_command import forecast as forecast_law

    names = ("observations", "at", "comparison", "run", "x", "group", "metric", "task", "model")
    law, data = (parse(value, name) if value else None for name, value in (("law", options.law), ("--data", options.data)))
    found = forecast_law(law, **_given(options, *names), data=data)
    return Answer(found.data(), found.text(), passed=found.met)


def claims(options: Any) -> Answer:
    from whet.run.claims_command import claims_command

    settings = _given(options, "folder", "table", "again", "on")
    return Answer(*claims_command(options.words, **settings, quiet=options.json))


def check(options: Any) -> Answer:
    from whet.run.check import check_recipe

    result = check_recipe(options.recipe, options.overrides)
    return Answer(result.data(), result.text(), passed=result.passed)


def board(options: Any) -> None:
    from whet.board.command import serve

    serve(options.host, options.port, options.claims, as_json=options.json)


def show(options: Any) -> Answer:
    from whet.run import show as shown

    return Answer(*(shown.show(options.run) if options.run else shown.show_all()))


def diff(options: Any) -> Answer:
    from whet.run.diff import diff_runs

    return Answer(*diff_runs(*options.run))


def export(options: Any) -> Answer:
    from whet.run.show import find_model_folder
    from whet.run.steps import export_folder

    receipt = export_folder(find_model_folder(options.model), options.to, options.out)
    return Answer(receipt, f"wrote {options.out}\n" + "\n".join(f"  {k}: {v}" for k, v in receipt.items()))


def parts(options: Any) -> Answer:
    from whet.catalog import describe_part, list_parts

    return Answer(*(describe_part(options.kind, options.name) if options.name else list_parts(options.kind)))


def papers(options: Any) -> Answer:
    from whet.catalog import search_papers

    return Answer(*search_papers(" ".join(options.query)))


def store_verify(options: Any) -> Answer:
    from whet.run.store_tools import verify_store

    found, text = verify_store(remote=options.remote)
    return Answer(found, text, passed=not found)


def store_du(options: Any) -> Answer:
    from whet.run.store_tools import store_sizes

    return Answer(*store_sizes())


def store_gc(options: Any) -> Answer:
    from whet.run.store_gc import Rules, collect

    names = ("keep_runs", "older_than", "forget", "grace", "only_ledger", "delete")
    return Answer(*collect(rules=Rules(**_given(options, *names))))


def doctor(options: Any) -> Answer:
    from whet.run.doctor import examine

    return Answer(*examine())
