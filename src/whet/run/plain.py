"""Plain data for readers: what JSON can hold, and the text of a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """The data with ``None`` for the numbers that JSON does not have: NaN and the infinities.

    >>> finite({"ratio": float("inf"), "costs": [1.0, float("nan")]})
    {'ratio': None, 'costs': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def as_yaml(document: Any, **options: Any) -> str:
    """A document as a recipe's file holds it; ``options`` go to ``yaml.safe_dump``."""
    import yaml

    plain = json.loads(json.dumps(document, default=str))
    return yaml.safe_dump(plain, **{"sort_keys": False, "width": 110, "allow_unicode": True, **options})
