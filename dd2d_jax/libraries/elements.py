"""Which crystals of a library are made of given elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers

from dd2d_jax.libraries.library import Library


def allowed_rows(library: Library, elements: Sequence[str] | None) -> np.ndarray:
    """(n,) True for crystals made only of `elements`.

    Raises:
        ValueError: an unknown element, or no such crystal.
    """
    if elements is None:
        return np.ones(len(library), bool)
    symbols = element_symbols(elements)
    allowed = library.only([atomic_numbers[e] for e in symbols])
    if not allowed.any():
        raise ValueError(f"the library has no crystal made only of {', '.join(symbols)}")
    return allowed


def element_symbols(elements: Sequence[str]) -> list[str]:
    """Symbols of elements, also of a text such as "Mo,S".

    Raises:
        ValueError: an unknown element.
    """
    if isinstance(elements, str):
        elements = [e.strip() for e in elements.split(",")]
    unknown = [e for e in elements if e not in atomic_numbers or e == "X"]
    if unknown:
        raise ValueError(f"unknown element {unknown[0]!r}; give symbols such as Mo,S")
    return list(elements)
