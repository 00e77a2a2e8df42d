"""Which crystals of a library are made of given elements, and how elements are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from dd2d_jax.libraries.library import Library
from dd2d_jax.libraries.shards import element_masks

_SYMBOLS = frozenset(chemical_symbols[1:])
_LOWER = {symbol.lower(): symbol for symbol in _SYMBOLS}
# Names for many elements, as in "all that are no metals, and Mo".
GROUPS = {
    "nonmetals": "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Sb Te I Xe At Rn".split(),
    "halogens": "F Cl Br I At".split(),
    "chalcogens": "O S Se Te Po".split(),
}
GROUPS["metals"] = [x for x in chemical_symbols[1:] if x not in GROUPS["nonmetals"]]


def allowed_rows(
    library: Library,
    elements: str | Sequence[str] | None = None,
    contains: str | Sequence[str] | None = None,
    excludes: str | Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    needed: bool = True,
) -> np.ndarray:
    """(n,) True for crystals made only of `elements`, with all of `contains`, none of `excludes`.

    Args:
        library: n crystals.
        elements: see `element_symbols`; those that `weights` names are allowed beside them.
        contains: each of these must be there.
        excludes: none of these may be.
        weights: see `weights_of`.
        needed: that there is none is an error.

    Raises:
        ValueError: an unknown element, or no such crystal where one is needed.
    """
    allowed = np.ones(len(library), bool)
    said = []
    bits = library.element_bits
    if elements is not None:
        symbols = [*element_symbols(elements), *_weights(weights)]
        allowed &= _rows(bits, lambda mask: (mask & ~_mask(symbols)) == 0)
        said.append(f"made only of {_list(symbols)}")
    if contains is not None:
        symbols = element_symbols(contains)
        allowed &= _rows(bits, lambda mask: (mask & _mask(symbols)) == _mask(symbols))
        said.append(f"with {_list(symbols)}")
    if excludes is not None:
        without = element_symbols(excludes)
        allowed &= _rows(bits, lambda mask: (mask & _mask(without)) == 0)
        said.append(f"without {_list(without)}")
    if needed and not allowed.any():
        raise ValueError(f"the library has no crystal {', '.join(said)}")
    return allowed


def weights_of(library: Library, weights: Mapping[str, float] | None) -> np.ndarray | None:
    """Factors (n,) of the crystals' prior probabilities; None where there are no weights.

    A crystal with an element of weight w is w times as likely beforehand as one without; of several
    such elements the weights multiply.

    Raises:
        ValueError: an unknown element, or a weight that is not positive.
    """
    if not weights:
        return None
    out = np.ones(len(library))
    for symbol, weight in _weights(weights).items():
        bit = _mask([symbol])
        out[_rows(library.element_bits, lambda mask, bit=bit: (mask & bit) == bit)] *= weight
    return out


def element_symbols(elements: str | Sequence[str]) -> list[str]:
    """Symbols of elements, each once, of texts such as "Mo,S", "MoS2", "mo s" or "nonmetals,Mo".

    In lower case the longest symbols are taken that leave no letter: "nbse2" is Nb and Se.

    Raises:
        ValueError: an unknown element.
    """
    words = re.split(r"[\s,;]+", elements) if isinstance(elements, str) else elements
    out: list[str] = []
    for word in words:
        if word:
            out += _of_word(str(word))
    if not out:
        raise ValueError("no element was named; give symbols such as Mo,S")
    return list(dict.fromkeys(out))


def _of_word(word: str) -> list[str]:
    if word.lower() in GROUPS:
        return GROUPS[word.lower()]
    letters = re.sub(r"[\d.()\[\]]+", " ", word)
    parts = re.findall(r"[A-Z][a-z]?|\S", letters)
    if parts and all(part in _SYMBOLS for part in parts):
        return parts
    found: list[str] = []
    for piece in letters.lower().split():
        symbols = _spelled(piece)
        if symbols is None:
            raise ValueError(
                f"unknown element {word!r}; give symbols such as Mo,S, a formula such as MoS2, or "
                f"one of {', '.join(GROUPS)}"
            )
        found += symbols
    return found


def _spelled(text: str) -> list[str] | None:
    """The symbols that spell a text in lower case, the longer first; None where none do."""
    if not text:
        return []
    for size in (2, 1):
        symbol = _LOWER.get(text[:size]) if len(text) >= size else None
        rest = _spelled(text[size:]) if symbol else None
        if rest is not None:
            return [symbol, *rest]
    return None


def _weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    out = {}
    for name, weight in (weights or {}).items():
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name} must be a positive number, got {weight}")
        for symbol in element_symbols(name):
            out[symbol] = float(weight)
    return out


def _mask(symbols: Sequence[str]) -> np.ndarray:
    return element_masks(np.array([[atomic_numbers[s] for s in symbols]]))[0]


def _rows(parts: Sequence[np.ndarray], test) -> np.ndarray:
    return np.concatenate([test(np.asarray(part)).all(1) for part in parts])


def _list(symbols: Sequence[str]) -> str:
    return ", ".join(symbols)
