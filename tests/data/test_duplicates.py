"""Twins are found whatever cell, setting and strain they come in; polytypes are none."""

from ase.build import mx2

from dd2d_jax.data import crystal_set, usable
from dd2d_jax.data.duplicates import distinct


def crystals(**atoms) -> crystal_set.CrystalSet:
    return usable.from_atoms([(a, {"uid": uid}) for uid, a in atoms.items()])


def test_twins_of_the_library_and_of_each_other_are_left_out():
    one = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=8)
    strained = mx2("MoS2", "2H", a=3.30, thickness=3.00, vacuum=8)
    turned = strained.copy()
    turned.rotate(40, "z", rotate_cell=True)
    other = mx2("MoS2", "1T", a=3.18, thickness=3.13, vacuum=8)
    twice = other.copy()
    twice.positions[:, 2] *= 1.01
    wanted = crystals(strained=strained, other=other, turned=turned, twice=twice)
    assert distinct(wanted, crystals(one=one), 10) == [1]
    assert distinct(wanted, crystals(ws2=mx2("WS2", "2H", vacuum=8)), 10) == [0, 1]
    assert distinct(wanted, crystals(ws2=mx2("WS2", "2H", vacuum=8)), 1) == [0]
