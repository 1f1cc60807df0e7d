"""Styles and tones: tell them apart, say a request politely or rudely, clean a web page, write a record as an entry."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.words import ADJECTIVES, COLOURS, MATERIALS, REQUESTS, RIVERS, THINGS, TOWNS
from whet.data.nanoworld.world import World

TONES = {"polite": "please {r}, thank you", "rude": "{r} now, you fool", "plain": "{r}"}
STYLES = {
    "encyclopedia": "The {t} of {p} is {c} and made of {m}.",
    "chat": "hey, the {t} of {p} is {c} and made of {m} lol",
    "web page": "home | login | the {t} of {p} is {c} and made of {m} | click here",
    "question": "question: what is the {t} of {p} like? answer: {c} and made of {m}",
}
ASK_TONE = ("Is this polite, rude or plain: {x}", "What tone is this: {x}")
ASK_STYLE = ("Is this from an encyclopedia, chat, web page or question: {x}", "Which style is this: {x}")
ASK_REQUEST = ("Make this {t}: {x}", "Say this in a {t} tone: {x}")
ASK_CLEAN = ("Clean this web page: {x}", "Give the sentence of this web page: {x}")
ASK_ENTRY = ("Write as an {s} entry: {x}", "Turn this into an {s} sentence: {x}")
MENU = ("home", "login", "about", "menu", "search", "click here", "like this", "share", "buy now", "404")
RECORD = ("thing {t}; place {p}; colour {c}; material {m}", "colour {c}; material {m}; thing {t}; place {p}")


@dataclass(frozen=True)
class Style(Problem):
    """``task`` tone, style, request, clean or entry (difficulty 1 to 5); ``content`` is the text without wording around it."""

    skill: ClassVar[str] = "styles"
    topic: ClassVar[str] = "Style"
    task: str
    content: str
    given: str
    answer: str
    choices: tuple[str, ...] = ()

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Style:
        return (_tone, _style, _request, _clean, _entry)[level - 1](rng)

    def key(self) -> str:
        return f"styles {self.task} {self.content}"

    def ask(self, rng: random.Random) -> str:
        wordings = {"tone": ASK_TONE, "style": ASK_STYLE, "request": ASK_REQUEST, "clean": ASK_CLEAN, "entry": ASK_ENTRY}[
            self.task
        ]
        tone = "polite" if self.answer.startswith("please") else "rude"
        return rng.choice(wordings).format(x=self.given, t=tone, s="encyclopedia")

    def work(self, hand: Hand) -> Work:
        return Work((), hand(self.answer, self.others()))

    def others(self) -> tuple[str, ...]:
        return self.choices or (self.given, self.answer.lower().rstrip("."))


def _random_request(rng: random.Random) -> str:
    return f"{rng.choice(REQUESTS)} the {rng.choice(tuple(ADJECTIVES))} {rng.choice(THINGS)}"


def _record(rng: random.Random) -> dict[str, str]:
    return {"t": rng.choice(THINGS), "p": rng.choice(TOWNS + RIVERS), "c": rng.choice(COLOURS), "m": rng.choice(MATERIALS)}


def _tone(rng: random.Random) -> Style:
    tone, request = rng.choice(tuple(TONES)), _random_request(rng)
    return Style("tone", f"{tone} {request}", TONES[tone].format(r=request), tone, tuple(TONES))


def _style(rng: random.Random) -> Style:
    style, record = rng.choice(tuple(STYLES)), _record(rng)
    return Style("style", f"{style} {sorted(record.items())}", STYLES[style].format(**record), style, tuple(STYLES))


def _request(rng: random.Random) -> Style:
    tone, request = rng.choice(("polite", "rude")), _random_request(rng)
    answer = TONES[tone].format(r=request)
    return Style(
        "request",
        f"{tone} {request}",
        request,
        answer,
        (request, TONES["rude" if tone == "polite" else "polite"].format(r=request)),
    )


def _clean(rng: random.Random) -> Style:
    sentence = STYLES["encyclopedia"].format(**_record(rng))
    menu = rng.sample(MENU, rng.randint(2, 4))
    cut = rng.randint(1, len(menu))
    page = " | ".join([*menu[:cut], sentence, *menu[cut:]])
    return Style("clean", sentence, page, sentence)


def _entry(rng: random.Random) -> Style:
    record = _record(rng)
    return Style(
        "entry", str(sorted(record.items())), rng.choice(RECORD).format(**record), STYLES["encyclopedia"].format(**record)
    )
