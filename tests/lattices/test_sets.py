"""Several lattices in one pattern: twisted layers, and what chance does not make."""

import numpy as np
import pytest
from lattice_points import hexagonal, pattern, points, spoiled, turned

from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.util.errors import PatternError


def overlapping(q: np.ndarray, width: float) -> np.ndarray:
    """Spots nearer than a spot's width merge to their mean."""
    out, used = [], np.zeros(len(q), bool)
    for i in range(len(q)):
        near = (np.linalg.norm(q - q[i], axis=1) < width) & ~used
        if not used[i]:
            out.append(q[near].mean(0))
            used |= near
    return np.array(out)


@pytest.mark.parametrize("degrees", [2.0, 5.0, 13.17, 27.8, 30.0])
@pytest.mark.parametrize(("first", "second"), [(2.46, 2.46), (3.18, 3.18), (2.46, 3.18)])
def test_two_twisted_lattices_are_found_and_their_angle(first, second, degrees):
    random = np.random.default_rng(int(10 * degrees))
    for noise in (0.001, 0.002):
        one = points(turned(hexagonal(first), 17, False))
        two = points(turned(hexagonal(second), 17 + degrees, False))
        q = overlapping(np.concatenate([one, two]), 0.012)
        q = q[random.random(len(q)) > 0.1]
        q = q + random.normal(0, noise, q.shape)
        found = lattices.find_all(pattern(q, random.uniform(0.1, 1, len(q))))
        lengths = sorted(np.linalg.norm(f.lattice[0]) for f in found)
        np.testing.assert_allclose(lengths, [first, second], rtol=0.01)
        angle, uncertainty = lattices.twist(*found)
        assert abs(angle - degrees) < 0.1
        assert 0.005 < uncertainty < 0.1


def test_coincident_spots_belong_to_both_lattices_and_rows_are_the_patterns():
    one, two = points(hexagonal(2.46)), points(turned(hexagonal(2.46), 21.7868, False))
    alone = np.linalg.norm(two[:, None] - one, axis=-1).min(1) > 0.001
    q = np.concatenate([one, two[alone]])
    shown = np.concatenate([[(0.0, 0.0), (9.0, 9.0)], q])
    mask = np.arange(len(shown)) != 1
    found = lattices.find_all(spoiled(shown, np.ones(len(shown)), mask))
    assert len(found) == 2
    shared = set(found[0].spots) & set(found[1].spots)
    assert len(shared) == (~alone).sum() > 0
    for indexed in found:
        np.testing.assert_allclose(shown[mask][indexed.spots], indexed.q, atol=1e-6)


def test_double_diffraction_makes_no_third_lattice():
    one, two = points(hexagonal(2.46)), points(turned(hexagonal(2.46), 9.0, False))
    sums = (one[np.linalg.norm(one, axis=1) < 0.5][:, None] + two[
        np.linalg.norm(two, axis=1) < 0.5]).reshape(-1, 2)
    sums = sums[np.linalg.norm(sums, axis=1) > 0.03]
    q = np.concatenate([one, two, sums])
    intensity = np.append(np.ones(len(one) + len(two)), np.full(len(sums), 0.02))
    found = lattices.find_all(pattern(q, intensity))
    assert len(found) == 2
    assert lattices.twist(*found)[0] == pytest.approx(9.0, abs=0.01)


@pytest.mark.parametrize("kind", ["three", "strewn", "ring", "powder"])
def test_chance_makes_no_lattice(kind):
    random = np.random.default_rng(5)
    for count in (20, 40, 80):
        angle = random.uniform(0, 2 * np.pi, count)
        radius = {"strewn": 1.25 * np.sqrt(random.random(count)), "ring": 0.47}.get(
            kind, random.choice(0.4694 * np.sqrt([1, 3, 4, 7]), count)
        )
        q = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        q = q[:3] if kind == "three" else q
        with pytest.raises(PatternError, match="too few" if kind == "three" else "no 2D lattice"):
            lattices.find_all(spoiled(q))
