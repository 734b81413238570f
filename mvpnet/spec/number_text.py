"""Tell what is read as a number by YAML, OmegaConf and Hydra, and whether it would be written so again."""

from __future__ import annotations

import math
import re

#: what Hydra and OmegaConf read as a number
NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9](?:_?\d)*)(?:\.(?:\d(?:_?\d)*)?)?|\.\d(?:_?\d)*)(?:e[+-]?\d(?:_?\d)*)?|[+-]?(?:inf|nan)",
    re.IGNORECASE | re.ASCII,
)
#: what they read as something else than text
IS_TYPED = re.compile(rf"{NUMBER.pattern}|true|false", NUMBER.flags)


def reads_back(text: str) -> bool:
    """Tell whether a text is a number in the form that a program writes it in."""
    try:
        number = float(text)
    except ValueError:
        return False
    if not math.isfinite(number):
        return False
    return text in (repr(number), str(int(number)))
