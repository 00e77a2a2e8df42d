"""pymatgen: TEMCalculator, spots (h, k, 0) of a cell, no Ewald sphere, form factors by Mott-Bethe.

Two ways: `get_pattern`, as documented, makes all h and k from -10 to 10, whatever their length;
`tem_dots` is given those within q_max, which is less work.
"""

from common import Job
from pymatgen.analysis.diffraction.tem import TEMCalculator
from pymatgen.core import Structure

job = Job.read()
calculator = TEMCalculator(voltage=job.energy)


def structures(layers):
    return job.each(lambda x: Structure(x.cell, x.numbers, x.fractions), layers)


def with_rods(layers):
    rods = [[tuple(row) for row in layer.rods(job.q_max).tolist()] for layer in layers]
    return [
        None if made is None else (made, hkl)
        for made, hkl in zip(structures(layers), rods, strict=True)
    ]


def dots(made):
    return job.each(lambda x: calculator.tem_dots(x[0], list(x[1])), made)


def frames(made):
    return job.each(calculator.get_pattern, made)


job.clock("get_pattern", structures, frames, lambda _, frame: len(frame))
_, found = job.clock("tem_dots within q_max", with_rods, dots, lambda _, found: len(found))
for index, spots in enumerate(found):
    if spots is not None:
        for kind in ("zone", "pattern"):
            job.add(kind, index, [dot.hkl for dot in spots], [dot.intensity for dot in spots])
job.write("pymatgen")
