"""diffsims: phases in a batch, spots near the Ewald sphere times a shape factor, Lobato factors.

The largest excitation error, 0.04 1/angstrom, is just more than the sphere's height at
q = 1.25 1/angstrom and 80 kV (0.033): with the default, 0.01, the spots (h, k, 0) beyond
0.7 1/angstrom would be missing. Two ways: `SimulationGenerator` is given all phases at once, as its
documentation shows; `DiffractionGenerator`, older, takes one structure a call.
"""

import numpy as np
from common import Job
from diffpy.structure import Atom, Lattice, Structure
from diffsims.generators.diffraction_generator import DiffractionGenerator
from diffsims.generators.simulation_generator import SimulationGenerator
from diffsims.utils.shape_factor_models import binary
from orix.crystal_map import Phase
from orix.quaternion import Rotation

LIMIT = 0.04

job = Job.read()
generator = SimulationGenerator(job.energy)
older = DiffractionGenerator(job.energy)


def structures(layers):
    # Lattices by their parameters: of one given by its vectors diffsims turns the atoms.
    return [
        Structure(
            [Atom(s, x) for s, x in zip(layer.symbols, layer.fractions, strict=True)],
            Lattice(*layer.parameters),
        )
        for layer in layers
    ]


def phases(layers):
    return [Phase(space_group=1, structure=structure) for structure in structures(layers)]


def batch(made, generator=generator):
    return generator.calculate_diffraction2d(
        made,
        [Rotation.identity()] * len(made),
        reciprocal_radius=job.q_max,
        with_direct_beam=False,
        max_excitation_error=LIMIT,
    ).coordinates


def one_by_one(made):
    return [
        older.calculate_ed_data(x, job.q_max, with_direct_beam=False, max_excitation_error=LIMIT)
        for x in made
    ]


made, found = job.clock("SimulationGenerator", phases, batch, lambda _, found: found[0].size)
job.clock("DiffractionGenerator", structures, one_by_one, lambda _, found: len(found.indices))
flat = SimulationGenerator(job.energy, shape_factor_model=binary)
for kind, layers in (("zone", batch(made, flat)), ("pattern", found)):
    for index, (vectors,) in enumerate(layers):
        hkl = np.rint(vectors.hkl)
        # Without a shape factor a spot's intensity is |F|^2.
        keep = hkl[:, 2] == 0 if kind == "zone" else slice(None)
        job.add(kind, index, hkl[keep], vectors.intensity[keep])
job.write("diffsims")
