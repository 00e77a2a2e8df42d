"""Units of axes and columns, by the many names that programs give them."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

# 1/angstrom in one 1/unit.
_LENGTHS = {"å": 1.0, "nm": 0.1, "pm": 100.0, "um": 1e-4, "mm": 1e-7, "m": 1e-10}
# Radians in one unit.
_ANGLES = {"rad": 1.0, "mrad": 1e-3, "urad": 1e-6, "deg": math.pi / 180, "°": math.pi / 180}
_PIXELS = ("px", "pixel", "pixels", "pix")
# One length has many names; they are looked for in this order.
_NAMES = (
    ("\u212b", "å"), ("aa", "å"), ("ångström", "å"), ("angstroms", "å"), ("angstroem", "å"),
    ("angstrom", "å"), ("ang", "å"), ("micrometers", "um"), ("microns", "um"), ("micron", "um"),
    ("µ", "u"), ("μ", "u"), ("nanometers", "nm"), ("nanometer", "nm"), ("meters", "m"),
    ("meter", "m"), ("radians", "rad"), ("radian", "rad"), ("degrees", "deg"), ("degree", "deg"),
    ("reciprocal", "1/"), ("inverse", "1/"), ("per", "1/"), ("⁻¹", "-1"), ("−", "-"), ("π", "pi"),
)  # fmt: skip
_MOST = 60


class Unit(NamedTuple):
    """What a unit measures: "q" (factor in 1/angstrom), "angle" (radians) or "pixel"."""

    kind: str
    factor: float
    # Whether q is 2 pi / d by this unit; the factor has it taken out.
    two_pi: bool = False


def parse_unit(text: Any) -> Unit | None:
    """A unit by its name, None where it is none of a diffraction pattern's.

    "rad/nm", "2 pi/A" and pyFAI's "q_nm^-1" (with "k_nm^-1" beside it) are q with 2 pi.
    """
    unit = str(text)[:_MOST]
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit)
    unit = re.sub(r"[\s${}()\[\]\\^*·]", "", unit).lower()
    for name, plain in _NAMES:
        unit = unit.replace(name, plain)
    two_pi = unit.startswith("q_")
    unit = re.sub("^[kq]_", "", unit).replace("_", "")
    if unit in _ANGLES:
        return Unit("angle", _ANGLES[unit])
    if unit in _PIXELS:
        return Unit("pixel", 1.0)
    found = re.fullmatch(r"(1|rad|2pi)/([a-zå]+)(2pi)?|(rad|2pi)?([a-zå]+?)-1(2pi)?", unit)
    if not found:
        return None
    length = found[2] or found[5]
    length = {"a": "å"}.get(length, length)
    if length not in _LENGTHS:
        return None
    two_pi |= found[1] in ("rad", "2pi") or bool(found[3] or found[4] or found[6])
    return Unit("q", _LENGTHS[length] / (2 * math.pi if two_pi else 1), two_pi)


def axis_scale(step: Any, units: Any, kind: str = "q") -> float | None:
    """1/angstrom per pixel of an axis, or radians for the kind "angle"; None for other units."""
    unit = parse_unit(units)
    if unit is None or unit.kind != kind or not (math.isfinite(step) and step != 0):
        return None
    return abs(float(step)) * unit.factor
