"""How likely each crystal of a library is before a pattern is seen.

The rule, of which `retrieve(prior=False)` makes all crystals alike:

1. Where a library holds known and hypothetical crystals, the known ones have 99.9 % together, half
   of it the dozen that most papers are about (`_STUDIED`): a judgement, not fitted to anything.
2. Of crystals whose energy above the convex hull is known, half of the probability goes as
   exp(-ehull / E0), E0 = 0.017 eV/atom, the other half is even. E0 was fitted to the 124 crystals
   of C2DB's training part that are known to have been made (`benchmarks/stability_prior.py`); the
   same fit gives 75 % instead of half, for crystals that everyone knows; half leaves room for those
   that are looked for because nobody does.
3. Weights of elements, where they are given, multiply.
"""

from __future__ import annotations

import numpy as np

from dd2d_jax.libraries.library import Library

# That a pattern is of a crystal that was made, where the library also holds hypothetical ones.
_KNOWN = 0.999
# Formula and atoms of the cell of the layers that are studied most: graphene, h-BN, phosphorene
# and dichalcogenides of Mo, W, Nb and Ta; and their share of the known crystals' probability.
_STUDIED = {
    ("C", 2), ("BN", 2), ("P", 4), ("MoS2", 3), ("MoSe2", 3), ("MoTe2", 3), ("MoTe2", 6),
    ("WS2", 3), ("WSe2", 3), ("WTe2", 6), ("NbSe2", 3), ("TaS2", 3),
}  # fmt: skip
_OFTEN = 0.5
# eV/atom, and the share of the probability that goes by stability.
E0, STABLE = 0.017, 0.5


def log_prior(
    library: Library, allowed: np.ndarray, weight: np.ndarray | None = None, use: bool = True
) -> np.ndarray:
    """Log-probability (n,) of each crystal; of those `allowed` (n,) the probabilities add up to 1.

    Args:
        library: n crystals.
        allowed: (n,) bool.
        weight: (n,) further factors, see `elements.weights_of`; None for none.
        use: False: all that are allowed are alike, but for `weight`.
    """
    share = np.ones(len(library))
    if use:
        ehull = np.asarray(library.crystals.ehull, float)
        share *= _stability(ehull, allowed)
        known = np.asarray(library.crystals.known, bool)
        made, hypothetical = known & allowed, ~known & allowed
        if made.any() and hypothetical.any():
            often = _studied(library, made)
            _divide(share, often, made & ~often, _OFTEN)
            _divide(share, made, hypothetical, _KNOWN)
    if weight is not None:
        share = share * weight
    with np.errstate(divide="ignore"):
        return np.log(share / share[allowed].sum())


def _divide(share: np.ndarray, first: np.ndarray, second: np.ndarray, part: float) -> None:
    """Give a group its part of what two have together, in place, where there are both."""
    if first.any() and second.any():
        total = share[first | second].sum()
        share[first] *= part * total / share[first].sum()
        share[second] *= (1 - part) * total / share[second].sum()


def _studied(library: Library, made: np.ndarray) -> np.ndarray:
    """(n,) which of the crystals `made` (n,) are among those that are studied most."""
    out = np.zeros(len(made), bool)
    formulas = [formula for formula, _ in _STUDIED]
    rows = np.flatnonzero(made)
    rows = rows[np.isin(library.crystals.formula[rows], formulas)]
    some = library.crystals.take(rows)
    atoms = (np.asarray(some.numbers) > 0).sum(1)
    pairs = zip(map(str, some.formula), atoms.tolist(), strict=True)
    out[rows] = [pair in _STUDIED for pair in pairs]
    return out


def _stability(ehull: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Factors (n,) whose mean over the crystals that are allowed and have an ehull is 1."""
    told = np.isfinite(ehull)
    some = told & allowed
    out = np.ones(len(ehull))
    if some.any():
        stable = np.exp(-np.maximum(ehull[told], 0) / E0)
        mean = np.exp(-np.maximum(ehull[some], 0) / E0).mean()
        out[told] = STABLE * stable / max(mean, 1e-12) + 1 - STABLE
    return out
