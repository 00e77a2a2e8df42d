"""Numbers and names as text: names come from the files of strangers and are never markup."""

from __future__ import annotations

import math
import re


def printable(text: str) -> str:
    """Without control characters: names from files must not move the cursor or add lines."""
    return "".join(c for c in text if c.isprintable())


def number(value: float, digits: int) -> str:
    """With so many decimals; "-" for what is not known."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def percent(probability: float) -> str:
    """In percent; what is nearly certain or nearly excluded is never said to be so."""
    if 0 < probability < 5e-4:
        return "<0.1"
    if 0.9995 <= probability < 1:
        return ">99.9"
    return number(100 * probability, 1)


def change(before: float, after: float) -> str:
    """An R-factor, before and after where it was refined."""
    if before == after or not math.isfinite(before):
        return number(after, 3)
    return f"{number(before, 3)} -> {number(after, 3)}"


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def safe_name(text: str) -> str:
    """Letters, digits, `_` and `-` of a text, at most 40: never a path, never hidden, never ""."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:40] or "crystal"


def inert(text: str) -> str:
    """Text for a cell of a CSV file: spreadsheets run what begins like a formula."""
    # Some take the wide forms of these signs for the same.
    return "'" + text if text[:1] in tuple("=+-@\t\r\n＝＋－＠") else text
