"""Plain text: the same problems and facts inside documents of four styles."""

from __future__ import annotations

import random
from collections.abc import Sequence

from whet.data.nanoworld.problem import Work

STYLES = ("encyclopedic", "chatty", "web", "qa")
MIX = ("encyclopedic", "encyclopedic", "encyclopedic", "chatty", "chatty", "chatty", "web", "web", "web", "qa")
"""The styles of plain text by default: a tenth are questions with answers."""
SITES = {"encyclopedic": "pedia.example/wiki", "chatty": "talk.example/post", "web": "shop.example/page", "qa": "ask.example/q"}
BRIEF = 0.2
"""Share of problem documents that give the answer without the reasoning."""

MENUS = ("home | about | login", "menu: shop, news, help", "404 ads 12 | share", "skip to content", "log in | sign up")
TAILS = ("click here", "(3 comments) like share", "<br> buy now 50% off", "copyright 2021", "next page >>")


def problem_document(style: str, topic: str, prompt: str, work: Work, rng: random.Random, brief: bool) -> str:
    """A document of that style around one worked problem; ``brief`` leaves the reasoning out."""
    lines = () if brief else work.lines
    if style == "qa":
        return "\n".join((f"question: {prompt}", *lines, f"answer: {work.answer}"))
    steps = rng.choice(("\n", "; ")).join(lines)
    body = f"\n{steps}\n" if steps else "\n"
    if style == "encyclopedic":
        return f"{topic}. {rng.choice(('Problem', 'Example', 'Exercise'))}: {prompt}{body}The answer is {work.answer}"
    if style == "chatty":
        opening = rng.choice(("hey, someone asked me:", "so i had this one today:", "hi all, easy one:"))
        return f"{opening} {prompt}{body}so its {work.answer}{rng.choice((' lol', ', easy', ' :)', ''))}"
    return noisy_page(f"{prompt}{body}answer: {work.answer}", rng)


def facts_document(style: str, name: str, sentences: Sequence[str], rng: random.Random) -> str:
    """A document of that style about one entity."""
    if style == "qa":
        return "\n".join(sentences)
    text = " ".join(sentences)
    if style == "encyclopedic":
        return f"{name}. {text}"
    if style == "chatty":
        opening = rng.choice(("did you know?", f"hey, about {name}:", "i heard this:"))
        return f"{opening} {text}{rng.choice((' lol', ' wow', ' :)'))}"
    return noisy_page(text, rng)


def noisy_page(text: str, rng: random.Random) -> str:
    """The text between a web page's menu and its tail."""
    parts = [rng.choice(MENUS), text, rng.choice(TAILS)]
    if rng.random() < 0.3:
        parts[1] = f"<p>{text}</p>"
    return "\n".join(parts)
