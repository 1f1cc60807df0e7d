"""Solves a row again from its prompt alone, by other means than the generator's: what the answers are tested against.

``solve(row)`` reads the prompt with regular expressions and computes the answer directly (Python's integers instead of columns,
sorting instead of chains, a parse of the sentence instead of its construction). Facts need ``known``, what ``read_facts`` finds
in the plain training text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from whet.data.nanoworld.words import ADJECTIVES, NOUNS, TIMES, VERBS

Known = Mapping[tuple[str, str], str]
"""(relation, subject) -> object."""


def solve(row: Mapping[str, Any], known: Known | None = None) -> str:
    """The answer of a row, from its ``skill`` and ``prompt``.

    Raises:
        ValueError: the prompt is not one that the skill asks.
        KeyError: a fact that ``known`` does not hold.
    """
    prompt = row["prompt"]
    if row["skill"] == "facts":
        return (known or {})[_question(prompt)]
    return SOLVERS[row["skill"]](prompt)


def read_facts(texts: Iterable[str]) -> dict[tuple[str, str], str]:
    """Every fact that plain texts state or ask and answer.

    Raises:
        ValueError: two texts disagree.
    """
    known: dict[tuple[str, str], str] = {}
    for text in texts:
        for relation, subject, value in facts_in(text):
            if known.setdefault((relation, subject), value) != value:
                raise ValueError(f"the texts disagree about the {relation} of {subject}: {known[relation, subject]} and {value}")
    return known


_STATEMENTS = {
    "home": r"(\w+) lives in (\w+)\.", "job": r"(\w+) works as a (\w+)\.", "pet": r"(\w+) has a pet (\w+)\.",
    "food": r"(\w+) likes to eat (\w+)\.", "river": r"(\w+) lies on the river (\w+)\.", "region": r"(\w+) is in (\w+ Land)\.",
    "product": r"(\w+) is known for (\w+)\.", "colour": r"The (\w+) is (\w+)\.", "material": r"The (\w+) is made of (\w+)\.",
    "maker": r"The (\w+) was made by (\w+)\.",
}  # fmt: skip
_NAMED = re.compile(r"The (\w+) of (?:the )?(\w+) is (?:a )?(\w+(?: Land)?)\.")
_QUESTIONS = {
    "home": r"(?:Where|In which place) does (\w+) live",
    "job": r"(?:What does|Which job does) (\w+) (?:work as|do)\?",
    "pet": r"(?:What pet|Which animal) does (\w+)",
    "food": r"(?:What|Which food) does (\w+) like",
    "river": r"(?:On which river is|runs through) (\w+)",
    "region": r"(?:In which region is|Which region holds) (\w+)",
    "product": r"(?:What is (\w+) known|comes from (\w+))",
    "colour": r"(?:What colour is the|Which colour does the) (\w+)",
    "material": r"(?:What is the (\w+) made|is in the (\w+))",
    "maker": r"(?:Who|Which person) made the (\w+)",
}


def facts_in(text: str) -> list[tuple[str, str, str]]:
    """The (relation, subject, object) that a text states, in no order, repeats kept."""
    found = [(relation, *match) for relation, pattern in _STATEMENTS.items() for match in re.findall(pattern, text)]
    found += [match for match in _NAMED.findall(text) if match[0] in _STATEMENTS]
    asked = re.findall(r"question: (.+)\nanswer: (.+)", text)
    return found + [(*_question(question), answer) for question, answer in asked]


def _question(prompt: str) -> tuple[str, str]:
    named = re.search(r"the (\w+) of (?:the )?(\w+)\?", prompt)
    if named and named[1] in _QUESTIONS:
        return named[1], named[2]
    for relation, pattern in _QUESTIONS.items():
        match = re.search(pattern, prompt)
        if match:
            return relation, next(group for group in match.groups() if group)
    raise ValueError(f"not a question about a fact: {prompt}")


def _word_problem(prompt: str) -> str:
    person, value = re.match(r"(\w+) has", prompt)[1], 0  # type: ignore[index]
    for sentence in re.findall(r"[^.?]+[.?]", prompt):
        numbers = re.findall(r"\d+", sentence)
        if not numbers:
            continue
        number = int(numbers[0])
        if "times as many" in sentence:
            value *= number
        elif "equal" in sentence:
            value //= number
        elif re.search(rf"{person} (loses|sells|gives)", sentence):
            value -= number
        elif re.search(rf"{person} (buys|finds) |gives {person} |^{person} has", sentence):
            value += number
    return str(value)


def _arithmetic(prompt: str) -> str:
    tokens = re.findall(r"\d+|[-+x]", prompt.replace("Work out", "").replace("Calculate", ""))
    value = int(tokens[0])
    for sign, number in zip(tokens[1::2], tokens[2::2]):
        value = {"+": value.__add__, "-": value.__sub__, "x": value.__mul__}[sign](int(number))
    return str(value)


def _procedure(prompt: str) -> str:
    start = re.search(r"(?:with|is|list) ((?:\d+ ?)+)\.", prompt)
    items = [int(number) for number in start[1].split()]  # type: ignore[index]
    for operation in re.findall(r"\d\. ([a-z][a-z 0-9]+)\.", prompt):
        if operation == "reverse":
            items.reverse()
        elif operation == "sort":
            items.sort()
        elif operation.startswith("append"):
            items.append(int(operation.split()[1]))
        elif operation.startswith("drop"):
            items.pop(0 if operation.endswith("first") else -1)
        elif operation == "first to end":
            items.append(items.pop(0))
        elif operation == "last to front":
            items.insert(0, items.pop())
        elif operation == "swap ends":
            items[0], items[-1] = items[-1], items[0]
        else:
            raise ValueError(f"not an operation: {operation}")
    return " ".join(map(str, items))


def _variables(prompt: str) -> str:
    rules = dict(re.findall(r"(\w) = ([^.]+)\.", prompt))
    asked = re.search(r"(?:is|Find|of) (\w)[.?]$", prompt)[1]  # type: ignore[index]

    def value(letter: str) -> int:
        first, *rest = rules[letter].split()
        start = int(first) if first.isdigit() else value(first)
        return start + (int("".join(rest)) if rest else 0)

    return str(value(asked))


def _ordering(prompt: str) -> str:
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    if numbers:
        return str(max(numbers) if "largest" in prompt else min(numbers))
    pairs = re.findall(r"(\w+) is (\w+) than (\w+)\.", prompt)
    above = {(a, b) if word in ("taller", "older", "faster") else (b, a) for a, word, b in pairs}
    people = {person for pair in above for person in pair}
    for middle in people:
        above |= {(a, c) for a, b in above if b == middle for d, c in above if d == middle}
    ranked = sorted(people, key=lambda person: -sum(a == person for a, _ in above))
    if "second" in prompt:
        return ranked[1]
    return ranked[0] if re.search("tallest|oldest|fastest", prompt) else ranked[-1]


def _multi_hop(prompt: str) -> str:
    owner = dict(re.findall(r"The (\w+) belongs to (\w+)\.", prompt))
    town = dict(re.findall(r"(\w+) lives in (\w+)\.", prompt))
    river = dict(re.findall(r"(\w+) lies on the (\w+)\.", prompt))
    question = prompt.rpartition("] ")[2].partition(". ")[2]
    value = re.search(r"(\w+)(?: live| lie)?\?$", question)[1]  # type: ignore[index]
    value = owner[value] if "own" in re.sub("town", "", question) else value
    value = town[value] if "town" in question or "live" in question else value
    return river[value] if "river" in question else value


def _formats(prompt: str) -> str:
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    if "box" in prompt:
        return f"\\boxed{{{sum(numbers)}}}"
    if "JSON" not in prompt:
        return " ".join(re.search(r"of: ([a-z ]+)", prompt)[1].split()[: numbers[0]])  # type: ignore[index]
    a, b = numbers
    values = {"sum": a + b, "larger": max(a, b), "smaller": min(a, b), "difference": abs(a - b)}
    return json.dumps({key: values[key] for key in re.findall("sum|larger|smaller|difference", prompt)})


_TO_TALU = {**NOUNS, **ADJECTIVES, **VERBS, **TIMES}
_TO_ENGLISH = {talu: english for english, talu in _TO_TALU.items()}


def _translation(prompt: str) -> str:
    sentence = prompt.partition(": ")[2]
    return _to_talu(sentence.split()) if "in Talu" in prompt or "to Talu" in prompt else _to_english(sentence.split())


def _to_talu(words: list[str]) -> str:
    time = [_TO_TALU[words.pop(0)]] if words[0] in TIMES else []
    at = next((i for i, word in enumerate(words) if word in VERBS), len(words))
    verb = [_TO_TALU[word] for word in words[at : at + 1]]
    if "never" in words:
        verb, words = ["ne", *verb], [word for word in words if word != "never"]
        at -= 1
    return " ".join([*_phrase_to_talu(words[:at]), *_phrase_to_talu(words[at + 1 :]), *verb, *time])


def _phrase_to_talu(words: list[str]) -> list[str]:
    if not words:
        return []
    article, *adjectives, noun = words
    plural = noun not in NOUNS
    stem = noun[:-1] if plural else noun
    return ["lo" if article == "the" else "un", NOUNS[stem], *["pa"] * plural, *(ADJECTIVES[word] for word in adjectives)]


def _to_english(words: list[str]) -> str:
    time = [_TO_ENGLISH[words.pop()]] if words[-1] in TIMES.values() else []
    verb = [_TO_ENGLISH[words.pop()]] if words[-1] in VERBS.values() else []
    verb = ["never", *verb] if words[-1] == "ne" else verb
    phrases = re.findall(r"(lo|un) (\w+)( pa)?(?: (?!lo\b|un\b|ne\b)(\w+))?", " ".join(words))
    english = [_phrase_to_english(*phrase) for phrase in phrases]
    return " ".join([*time, english[0], *verb, *english[1:]])


def _phrase_to_english(article: str, noun: str, plural: str, adjective: str) -> str:
    first = "the" if article == "lo" else "some" if plural else "a"
    middle = [_TO_ENGLISH[adjective]] if adjective else []
    return " ".join([first, *middle, _TO_ENGLISH[noun] + "s" * bool(plural)])


def _style(prompt: str) -> str:
    asked, _, text = prompt.partition(": ")
    if "tone is" in asked or "polite, rude or plain" in asked:
        return "polite" if "please" in text else "rude" if "fool" in text else "plain"
    if "style is" in asked or "Is this from" in asked:
        marks = {"lol": "chat", "login": "web page", "question:": "question"}
        return next((style for mark, style in marks.items() if mark in text), "encyclopedia")
    if "web page" in asked:
        return next(part for part in text.split(" | ") if part.endswith("."))
    if "encyclopedia" in asked:
        record = dict(part.split(" ") for part in text.split("; "))
        return f"The {record['thing']} of {record['place']} is {record['colour']} and made of {record['material']}."
    return f"please {text}, thank you" if "polite" in asked else f"{text} now, you fool"


SOLVERS: dict[str, Callable[[str], str]] = {
    "word-problems": _word_problem, "arithmetic": _arithmetic, "procedures": _procedure, "variables": _variables,
    "ordering": _ordering, "multi-hop": _multi_hop, "formats": _formats, "translation": _translation, "styles": _style,
}  # fmt: skip
"""Skill -> prompt to answer; facts are looked up instead."""
