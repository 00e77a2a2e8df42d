"""What a refinement says of itself, in words: undetermined, traded off, in doubt."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from diffraction.multislice import KINEMATIC_LIMIT

# A parameter that keeps more than this share of its prior's standard deviation is undetermined.
_UNDETERMINED = 0.5
# Correlations over this are named.
_STRONG = 0.7
# chi^2 for each degree of freedom beyond which errors are not as they were stated or assumed.
_FAR = 4.0
# R factor of multiple scattering beyond which it is named, as `dx.warn_kinematic` does.
_DYNAMICAL = KINEMATIC_LIMIT
# The same, beyond which it says more of a projection along the normal than heights do: of 100
# layers of C2DB seen by multislice 11 had heights more than three standard errors off above it,
# one below it.
HEIGHTS_LIMIT = 0.02
# Degrees; beams further from the normal see heights well.
ALONG_NORMAL = 3.0


def undetermined(
    numbers: np.ndarray, found: dict[str, np.ndarray], b_by_element: bool
) -> tuple[str, ...]:
    """Names of what the data do not determine, of one candidate."""
    names = []
    seen: dict[int, int] = {}
    for i, number in enumerate(numbers.tolist()):
        if not number:
            continue
        seen[number] = seen.get(number, 0) + 1
        for d in range(3):
            prior = found["position_prior"][i, d]
            if prior > 1e-4 and found["position_sigma"][i, d] > _UNDETERMINED * prior:
                names.append(f"{'xyz'[d]} of {chemical_symbols[number]}{seen[number]}")
    for number in seen if b_by_element else list(seen)[:1]:
        if found["b_left"][numbers == number][0] > _UNDETERMINED:
            names.append(f"B of {chemical_symbols[number]}" if b_by_element else "B")
    if (found["strain_left"] > _UNDETERMINED).any():
        names.append("cell")
    for i, angles in enumerate(found["tilt_left"]):
        of = f" of pattern {i}" if len(found["tilt_left"]) > 1 else ""
        names += [f"tilt about {'xy'[d]}{of}" for d in range(2) if angles[d] > _UNDETERMINED]
    return tuple(names)


def correlations(
    numbers: np.ndarray, found: dict[str, np.ndarray], b_by_element: bool
) -> tuple[tuple[str, str, float], ...]:
    """What trades off: pairs of parameters of different kinds and their correlation.

    Of each two kinds (places in the plane, heights, B, cell, tilt, background) the strongest.
    """
    names, kinds, rows = _parameters(numbers, found, b_by_element)
    if not rows:
        return ()
    rows = np.stack(rows)
    covariance = rows @ np.asarray(found["covariance"], float) @ rows.T
    size = np.sqrt(np.diagonal(covariance))
    matrix = covariance / np.outer(size, size)
    best: dict[tuple[str, str], tuple[str, str, float]] = {}
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        pair = (kinds[i], kinds[j])
        value = float(np.clip(matrix[i, j], -1, 1))
        if kinds[i] != kinds[j] and abs(value) > abs(best.get(pair, ("", "", _STRONG))[2]):
            best[pair] = (names[i], names[j], value)
    return tuple(sorted(best.values(), key=lambda x: -abs(x[2])))


def _parameters(
    numbers: np.ndarray, found: dict[str, np.ndarray], b_by_element: bool
) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Names, kinds and gradients (p,) by the fitted parameters, of what a person calls one."""
    names, kinds, rows = [], [], []
    size = found["covariance"].shape[-1]
    seen: dict[int, int] = {}
    for i, number in enumerate(numbers.tolist()):
        if not number:
            continue
        seen[number] = seen.get(number, 0) + 1
        for d in range(3):
            if found["position_prior"][i, d] > 1e-4:
                names.append(f"{'xyz'[d]} of {chemical_symbols[number]}{seen[number]}")
                kinds.append("height" if d == 2 else "place")
                rows.append(np.asarray(found["turn"][i, d], float))

    def add(name: str, kind: str, index: int) -> None:
        if found["covariance"][index, index] < 1:  # held parameters keep their priors' 1
            names.append(name)
            kinds.append(kind)
            rows.append(np.eye(size)[index])

    layout = {k[6:]: v.astype(int) for k, v in found.items() if k.startswith("index_")}
    for number in seen if b_by_element else list(seen)[:1]:
        kind = layout["log_b"][_kind(numbers, found, number)]
        add(f"B of {chemical_symbols[number]}" if b_by_element else "B", "B", kind)
    for k, index in enumerate(layout["strain"]):
        add(("a along x", "cell along y", "shear of the cell")[k], "cell", index)
    many = len(layout["background"]) > 1
    for i in range(len(layout["background"])):
        of = f" of pattern {i}" if many else ""
        add(f"tilt about x{of}", "tilt", layout["tilt"][i, 0])
        add(f"tilt about y{of}", "tilt", layout["tilt"][i, 1])
        add(f"background{of}", "background", layout["background"][i])
    add("thickness", "height", int(layout["thickness"]))
    return names, kinds, rows


def _kind(numbers: np.ndarray, found: dict[str, np.ndarray], number: int) -> int:
    """Which B an element has."""
    atom = int(np.argmax(numbers == number))
    return int(found["kinds"][:, atom].argmax())


def doubts(found: dict[str, np.ndarray], stated: bool, dynamical: float) -> tuple[str, ...]:
    """Why a candidate's uncertainties may be too small, in words.

    Args:
        found: what `minima.refine` gives, of one candidate.
        stated: errors of intensities were given.
        dynamical: R factor of multiple scattering that was left out.
    """
    out = []
    goodness, errors = float(found["goodness"]), "stated" if stated else "assumed"
    if goodness > _FAR:
        out.append(
            f"the residuals are {goodness**0.5:.1f} times the {errors} errors: a wrong crystal, a "
            "false minimum, or wrong errors"
        )
    if dynamical > _DYNAMICAL:
        out.append(
            f"multiple scattering changes the intensities by {dynamical:.0%} (R factor): refine "
            "with method='multislice'"
        )
    if int(found["minima"]) > 1:
        out.append(
            f"{int(found['minima'])} minima fit about as well; the uncertainties cover them"
        )
    return tuple(out)
