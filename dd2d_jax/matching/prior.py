"""How likely each crystal of a library is before a pattern is seen.

The rule, of which `retrieve(prior=False)` makes all crystals alike:

1. Where a library holds known and hypothetical crystals, the known ones have 99.9 % together.
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
            for group, total in ((made, _KNOWN), (hypothetical, 1 - _KNOWN)):
                share[group] *= total / share[group].sum()
    if weight is not None:
        share = share * weight
    with np.errstate(divide="ignore"):
        return np.log(share / share[allowed].sum())


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
