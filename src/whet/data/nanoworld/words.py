"""The closed vocabulary of the world: small, so that a small tokenizer learns it whole."""

from __future__ import annotations

NAMES = ("Tom", "Anna", "Ben", "Mia", "Sam", "Lena", "Max", "Ida", "Leo", "Eva", "Jon", "Zoe")
ITEMS = ("apples", "pens", "books", "coins", "cards", "shells", "eggs", "cups")
TOWNS = ("Aldo", "Brim", "Cora", "Dunn", "Elmet", "Fenn", "Gorm", "Hale")
RIVERS = ("Isk", "Jura", "Kell", "Lorn", "Mesk", "Nadir", "Onda", "Pell")
THINGS = ("cup", "lamp", "hat", "drum", "ring", "coat", "bell", "map")
COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey")
JOBS = ("baker", "doctor", "farmer", "singer", "teacher", "pilot", "cook", "guard", "painter", "judge")
PETS = ("cat", "dog", "horse", "goat", "duck", "fox", "owl", "crab")
FOODS = ("rice", "soup", "bread", "cheese", "fish", "plums", "beans", "cake")
REGIONS = ("North Land", "South Land", "East Land", "West Land", "High Land", "Low Land")
MATERIALS = ("wood", "stone", "glass", "iron", "gold", "clay", "wool", "paper")
REQUESTS = ("give me", "show me", "bring me", "hand me", "send me", "find me")

POLITE = ("Of course, with pleasure.", "Happy to help.", "Thank you for asking.")
RUDE = ("What a stupid question.", "Do it yourself, you fool.", "You are wasting my time, idiot.")
"""First lines of a reply in that tone."""

NOUNS = {
    "cat": "miro", "dog": "kem", "bird": "tiva", "tree": "orla", "house": "dabo", "boy": "fen", "girl": "fena",
    "king": "rako", "queen": "raka", "road": "lumo", "boat": "navi", "stone": "gort", "star": "silo", "cake": "pomi",
    "book": "libra", "door": "porsa",
}  # fmt: skip
ADJECTIVES = {
    "red": "sul", "blue": "azo", "green": "vel", "black": "nok", "big": "grum", "small": "pik", "good": "bono", "new": "nuve",
}  # fmt: skip
VERBS = {
    "saw": "vot", "found": "trup", "took": "kapi", "liked": "amo",
    "pushed": "dosh", "heard": "ouza", "washed": "lavi", "made": "feko",
}  # fmt: skip
TIMES = {"today": "hodi", "yesterday": "eri", "later": "posta", "here": "iki"}
"""English word -> word of Talu, the invented second language."""
