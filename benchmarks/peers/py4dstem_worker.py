"""py4DSTEM: structure factors of all (h, k, l), then spots near the Ewald sphere.

Lobato factors. A spot's intensity falls with its excitation error as a Gaussian of width 0.02
1/angstrom, out to three widths: with the default, 0.01, the spots (h, k, 0) beyond 1.2
1/angstrom would be missing. Weak spots are kept.
"""

import numpy as np
from common import Job
from py4DSTEM.process.diffraction import Crystal

WIDTH = 0.02

job = Job.read()


def prepare(layer):
    crystal = Crystal(layer.fractions, layer.numbers, layer.cell)
    crystal.setup_diffraction(job.energy * 1e3)
    crystal.calculate_structure_factors(k_max=job.q_max, tol_structure_factor=0.0)
    return crystal


def pattern(crystal):
    return crystal.generate_diffraction_pattern(
        zone_axis_lattice=[0, 0, 1],
        proj_x_lattice=[1, 0, 0],
        sigma_excitation_error=WIDTH,
        tol_intensity=0.0,
    )


def crystals(layers):
    return job.each(prepare, layers)


def patterns(made):
    return job.each(pattern, made)


made, found = job.clock(
    "generate_diffraction_pattern", crystals, patterns, lambda crystal, _: crystal.hkl.shape[1]
)
for index, (crystal, peaks) in enumerate(zip(made, found, strict=True)):
    if peaks is not None:
        zone = crystal.hkl[2] == 0
        job.add("zone", index, crystal.hkl.T[zone], crystal.struct_factors_int[zone])
        hkl = np.stack([peaks.data[name] for name in "hkl"], -1)
        job.add("pattern", index, hkl, peaks.data["intensity"])
job.write("py4DSTEM")
