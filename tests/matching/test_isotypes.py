"""Isotypes that a library lacks: which are tried, and that the true one explains its pattern."""

import numpy as np
import tiny

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet, reduced_formula
from dd2d_jax.evaluation.evaluate import make_patterns
from dd2d_jax.lattices import lattice
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.isotypes import exchanged, log_isotypes
from dd2d_jax.matching.rerank import Query, compare, weigh
from dd2d_jax.matching.score import simulate_table
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.spots import Conditions

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)
MOS2 = np.array([42, 16, 16, 0])


def formulas(made: np.ndarray) -> set[str]:
    return {reduced_formula(one[one > 0]) for one in made}


def test_one_element_is_exchanged_at_a_time_and_padding_stays():
    made = exchanged(MOS2, ())
    assert {"TcS2", "NbS2", "MoP2", "MoCl2"} <= formulas(made)
    assert not {"MoS2", "MoAr2", "Mo3"} & formulas(made)
    assert (made[:, 3] == 0).all() and (made[:, 1] == made[:, 2]).all()


def test_known_formulas_are_not_tried():
    assert "NbS2" not in formulas(exchanged(MOS2, {"NbS2"}))


def test_an_isotype_of_the_true_crystal_explains_less_and_that_of_a_wrong_one_more():
    library = tiny.crystals()
    row = next(i for i in range(len(library)) if len(set(library.numbers[i]) - {0}) == 2)
    crystal = library.take([row])
    pattern = next(iter(make_patterns(crystal, CONDITIONS, LEVELS["measured"], 1)))
    query = Query.indexed(lattice.find(pattern), CONDITIONS.q_max)
    heavy = int(crystal.numbers[0].max())
    other = np.where(crystal.numbers == heavy, heavy + 10, crystal.numbers)

    def apart(numbers: np.ndarray, isotype: np.ndarray) -> float:
        one = CrystalSet(**{**vars(crystal), "numbers": numbers})
        scores = compare(simulate_table(one.crystal, CONDITIONS), query.settings)
        found = weigh(one, scores, query, CONDITIONS, measured())
        known = formulas(exchanged(numbers[0], ())) - formulas(isotype)
        setting = int(found.setting[0])
        return log_isotypes(one, setting, query, CONDITIONS, measured(), known) - found.value[0]

    assert apart(other, crystal.numbers) > apart(crystal.numbers, other) + 0.5
