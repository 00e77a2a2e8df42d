"""Units: one meaning under the many names that programs give them, and none for other words."""

import math

import pytest

from dd2d_jax.images.units import axis_scale, parse_unit

NM = ["1/nm", "nm^-1", "nm⁻¹", "1 / nm", "$nm^{-1}$", "k_nm^-1", "nm-1", "1/nanometer"]
ANGSTROM = ["1/Å", "Å^-1", "1/\u212b", r"$\AA^{-1}$", r"1/\u00c5", "k_A^-1", "A-1", "1/angstrom"]


@pytest.mark.parametrize(
    ("names", "factor"),
    [
        (NM, 0.1),
        (ANGSTROM, 1.0),
        (["1/m", "m^-1", "1/meters"], 1e-10),
        (["1/um", "1/µm", "1/micron", "μm⁻¹"], 1e-4),
        (["rad/Å", "2 pi/A", "2π/Å", "q_A^-1", "1/A (2 pi)"], 1 / (2 * math.pi)),
        (["rad/nm", "q_nm^-1"], 0.1 / (2 * math.pi)),
    ],
)
def test_one_unit_has_many_names(names, factor):
    for name in names:
        assert axis_scale(-2.0, name) == pytest.approx(2 * factor), name


def test_angles_are_no_lengths_and_lengths_no_scattering_vectors():
    assert axis_scale(0.2, "mrad", "angle") == pytest.approx(2e-4)
    assert axis_scale(0.2, "rad", "angle") == pytest.approx(0.2)
    for step, unit in ((0.2, "mrad"), (0.2, "nm"), (0.2, None), (math.nan, "1/nm"), (0, "1/nm")):
        assert axis_scale(step, unit) is None
    for word in ("", "s-1", "counts", "a.u.", "<undefined>", "1/", "-1", "1/" * 1000):
        assert parse_unit(word) is None
