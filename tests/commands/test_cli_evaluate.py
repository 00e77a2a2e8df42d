"""`dd2d evaluate` and `dd2d snapshots` as users type them."""

import json
import sys
from pathlib import Path

METHODS = ["neural", "physics", "neural+rerank"]


NUMBERS = {"top1", "top3", "top5", "top10", "top50", "top100", "ms_per_query"}


AGREED = {
    "level", "library", "queries", "methods", "cell_alone", "setup_s", "no_lattice", "elements",
    "reliability",
}  # fmt: skip


def test_evaluate_gives_the_agreed_json(dd2d):
    line = "evaluate --checkpoint run --queries all.db --library all.db"
    status, out, _ = dd2d(f"{line} --json")
    result = json.loads(out)
    assert status == 0
    assert set(result) == AGREED
    assert (result["level"], result["library"], result["queries"]) == ("clean", 7, 7)
    assert list(result["methods"]) == METHODS
    assert all(set(m) == NUMBERS for m in result["methods"].values())
    assert result["methods"]["physics"]["top1"] == 100
    status, out, _ = dd2d(f"{line} --level perturbed --json o.json")
    assert status == 0 and "perturbed" in out
    assert json.loads(Path("o.json").read_text())["level"] == "perturbed"
    assert dd2d("index all.db stored --checkpoint run")[0] == 0
    status, out, _ = dd2d("evaluate --checkpoint run --queries all.db --library stored --json")
    assert status == 0 and json.loads(out)["library"] == 7


FREE = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Free(Calculator):
    implemented_properties = ["forces"]

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if "B" in atoms.symbols:
            raise NotImplementedError("no boron")
        self.results = {"forces": np.zeros((len(atoms), 3))}
        print("greetings")
"""


def test_snapshots_are_made_once_and_evaluated(dd2d, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("free_atoms.py").write_text(FREE)
    line = "snapshots all.db s.db --calculator free_atoms:Free --time 0.005 --snapshots 2 --seed 1"
    status, out, err = dd2d(line)
    assert status == 0 and "greetings" in err and "greetings" not in out
    assert "s.db: 12 snapshots of 6 out of 7 crystals (0 were there already)" in out
    assert "skipped 1: calculator failed, for example BN: NotImplementedError: no boron" in out
    status, out, _ = dd2d(f"{line} --json")
    made = json.loads(out)
    assert status == 0 and (made["before"], made["snapshots"], made["seed"]) == (6, 12, 1)
    assert list(made["skipped"]["calculator failed"]) == ["BN"]
    status, out, err = dd2d(f"{line} --temperature 400")
    assert (status, out) == (1, "") and "made with temperature 300.0, not 400.0" in err
    status, out, err = dd2d(f"{EVALUATE} --level thermal --snapshots s.db --json")
    result = json.loads(out)
    assert status == 0 and (result["level"], result["queries"]) == ("thermal", 12)
    assert set(result) == AGREED | {"snapshots"}
    assert result["snapshots"]["without"] == ["BN"]
    assert result["methods"]["physics"]["top1"] == 100
    assert "s.db: crystals with snapshots: 6, without: 1, the first is 'BN'" in err


EVALUATE = "evaluate --checkpoint run --queries all.db --library all.db"
