"""Dans_Diffraction: |F|^2 at (h, k, 0), no Ewald sphere, form factors of Peng.

One crystal object takes all structures in turn: making a new one for each takes longer.
"""

import numpy as np
from common import Job
from Dans_Diffraction import Crystal

job = Job.read()
crystal = Crystal()
crystal.Scatter.setup_scatter("electron", energy_kev=job.energy, output=False)
# Magnetic form factors would be computed and not used.
crystal.Scatter._use_magnetic_form_factor = False


def intensity(layer):
    crystal.new_cell(layer.parameters)
    crystal.new_atoms(*layer.fractions.T, type=layer.symbols, uiso=np.zeros(len(layer.symbols)))
    hkl = layer.rods(job.q_max)
    return hkl, crystal.Scatter.intensity(hkl)


def intensities(layers):
    return job.each(intensity, layers)


_, found = job.clock("Scatter.intensity", list, intensities, lambda _, found: len(found[0]))
for index, spots in enumerate(found):
    if spots is not None:
        for kind in ("zone", "pattern"):
            job.add(kind, index, *spots)
job.write("Dans_Diffraction")
