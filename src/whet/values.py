"""Checks a value against a type annotation; what is wrong is said in one line that names the field and the value."""

from __future__ import annotations

import math
from typing import Any

from whet.errors import RecipeError

_BRANCHES = frozenset({"int", "float", "str", "bool", "none", "list", "tuple", "dict", "constrained-int", "constrained-float"})
"""Names that pydantic gives the alternatives of a union in an error's place."""


def checked(annotation: Any, value: Any, where: str) -> Any:
    """The value in the annotation's type; pydantic is imported when the first one is checked.

    Raises:
        RecipeError: it does not fit, is a truth value in place of a number, or is not finite; names ``where``.
    """
    from pydantic import ValidationError

    try:
        found = _adapter(annotation).validate_python(value)
    except ValidationError as error:
        errors = error.errors()
        first = errors[0]
        inner = "".join(f".{part}" for part in first["loc"] if isinstance(part, int) or str(part) not in _BRANCHES)
        messages = dict.fromkeys(
            e["msg"].replace("a valid tuple", "a list") for e in errors if e["loc"][:-1] == first["loc"][:-1]
        )
        expected = ", or ".join([m if i == 0 else m[0].lower() + m[1:] for i, m in enumerate(messages)])
        raise RecipeError(f"{where}{inner}: {expected}; got {first['input']!r}") from None
    if isinstance(value, bool) and isinstance(found, (int, float)) and not isinstance(found, bool):
        raise RecipeError(f"{where}: expected a number; got {value!r}")
    if isinstance(found, float) and not math.isfinite(found):
        raise RecipeError(f"{where}: expected a finite number; got {value!r}")
    return found


def _adapter(annotation: Any) -> Any:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(annotation)
    except PydanticUserError:
        return TypeAdapter(annotation, config={"arbitrary_types_allowed": True})
