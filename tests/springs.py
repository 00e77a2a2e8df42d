"""A calculator whose answers are known, for the tests of snapshots."""

from ase.calculators.calculator import Calculator, all_changes


class Springs(Calculator):
    """Each atom on a spring of its own, eV/angstrom^2."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, constant: float):
        super().__init__()
        self.constant, self.start = constant, None

    def reset(self):
        super().reset()
        self.start = None

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.start is None:
            self.start = atoms.positions.copy()
        self.results = {"energy": 0.0, "forces": -self.constant * (atoms.positions - self.start)}
