"""What was found, in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dd2d_jax.util.text import percent, printable

if TYPE_CHECKING:
    from dd2d_jax.matching.found import Found

# From here on a candidate is called the answer; between the two, the likeliest of several.
_SURE, _LIKELY = 0.9, 0.5
# In the order in which a summary counts them.
VERDICTS = ("identified", "likely", "open", "not in the library", "not compared")


def verdict(probability: float | None, none: float | None) -> str:
    """One of `VERDICTS`, of the first candidate's probability and that of no crystal at all.

    None or NaN: not known, as without reranking.
    """
    if probability is None or math.isnan(probability):
        return "not compared"
    none = 0.0 if none is None or math.isnan(none) else none
    if none > max(probability, _LIKELY):
        return "not in the library"
    if probability >= _SURE:
        return "identified"
    return "likely" if probability >= _LIKELY else "open"


def conclusion(found: Found) -> str:
    """One sentence for a reader in a hurry: the crystal and its probability, or that it is none.

    Further lattices (`found.others`) have their own.
    """
    if not found.candidates:
        return "No crystal of the library was compared with this pattern."
    first = found.candidates[0]
    name, share = _name(found), f"{percent(first.probability)} %"
    none = f"{percent(found.none)} %"
    match verdict(first.probability, found.none):
        case "not compared":
            return (
                f"{name} is the most similar of the {found.searched:,} crystals searched; no "
                "probabilities were computed."
            )
        case "not in the library":
            return (
                f"This crystal is probably not in the library ({none}); the nearest candidate, "
                f"{name}, has {share}."
            )
        case "identified":
            return f"The crystal is {name}, with a probability of {share}."
        case "likely":
            return f"The crystal is most likely {name}, with a probability of {share}."
    doubt = f", and it may well not be in the library ({none})"
    return (
        f"No candidate stands out: the first is {name} with a probability of {share}"
        f"{doubt if found.none > first.probability else ''}."
    )


def _name(found: Found) -> str:
    """Of the first candidate."""
    candidate = found.candidates[0]
    formula, uid = printable(candidate.formula), printable(candidate.uid)
    name = formula if formula == uid or not uid else f"{formula} ({uid})"
    if candidate.stacked:
        return f"{name}, as a stack of shifted layers"
    if candidate.flake:
        return f"{name}, as a flake of about {candidate.flake.layers} layers"
    if candidate.leans:
        return f"{name} tilted by {candidate.leans:.0f} degrees"
    over = candidate.superlattice
    return f"{name} with a weak {over} superlattice" if over else name
