"""The authors' weights: read, put in their places, used; or refused in one line."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import tiny

import diffraction as dx
from configs import paper
from dd2d_jax import Library, retrieve
from dd2d_jax.commands import main as cli
from dd2d_jax.evaluation.evaluate import evaluate
from dd2d_jax.networks import checkpoint, paper_inputs, paper_weights, trained
from dd2d_jax.networks.paper_weights import import_weights


def their_state(width: int = 12, layers: int = 2) -> dict[str, np.ndarray]:
    """A state dict as the authors' module has it, made-up values."""
    linear = {"tok_emb.fc1": (width, 1)}
    part = width // 3
    linear |= {f"pattern_emb.fc{i}": (part, 1) for i in (1, 2)}
    linear["pattern_emb.fc3"] = (width - 2 * part, 1)
    norms = ["ln_f", "ln_p"]
    for kind in ("crystal", "pattern"):
        linear[f"fc_project_{kind}.fc1"] = (2 * width, width)
        linear[f"fc_project_{kind}.fc2"] = (width, 2 * width)
        for i in range(layers):
            block = f"Trans_{kind}_encoder.blocks.{i}"
            norms += [f"{block}.ln1", f"{block}.ln2"]
            for name in ("key", "query", "value", "proj"):
                linear[f"{block}.attn1.{name}"] = (width, width)
            linear[f"{block}.mlp.0"] = (4 * width, width)
            linear[f"{block}.mlp.2"] = (width, 4 * width)
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}
    rng = np.random.default_rng(0)
    out = {name: rng.normal(0, 0.3, s).astype(np.float32) for name, s in sorted(shapes.items())}
    out["logit_scale"] = np.float32(2.7)
    out["pos_emb.pe"] = paper_inputs.position_code(180, width)[None]
    out["total_labels"] = np.arange(10)
    return out


@pytest.fixture
def imported(tmp_path):
    np.savez(tmp_path / "their.npz", **their_state())
    made = import_weights(tmp_path / "their.npz", tmp_path / "run", heads=2)
    assert made == {
        "checkpoint": str(tmp_path / "run"), "parameters": 8857,
        "width": 12, "layers": 2, "heads": 2,
    }  # fmt: skip
    return tmp_path


def test_imported_weights_are_theirs_turned_for_flax(imported):
    theirs, ours = their_state(), trained.load(imported / "run").params
    assert ours["log_scale"] == theirs["logit_scale"]
    cge, ste = "Trans_crystal_encoder.blocks.", "Trans_pattern_encoder.blocks."
    for found, name in (
        (ours["cge"]["block_1"]["query"]["kernel"].T, f"{cge}1.attn1.query.weight"),
        (ours["ste"]["block_0"]["up"]["kernel"].T, f"{ste}0.mlp.0.weight"),
        (ours["ste"]["block_0"]["norm_mlp"]["scale"], f"{ste}0.ln2.weight"),
        (ours["ste"]["norm"]["bias"], "ln_p.bias"),
        (ours["cge"]["project_down"]["bias"], "fc_project_crystal.fc2.bias"),
    ):
        np.testing.assert_array_equal(found, theirs[name])


def test_every_imported_weight_has_its_own_place(imported):
    theirs, ours = their_state(), trained.load(imported / "run").params
    learned = set(theirs) - {"pos_emb.pe", "total_labels"}
    sums = sorted(float(np.abs(theirs[name]).sum()) for name in learned)
    assert sorted(float(np.abs(x).sum()) for x in jax.tree.leaves(ours)) == pytest.approx(sums)


def test_evaluate_and_retrieve_use_imported_weights(imported):
    model, crystals = trained.load(imported / "run"), tiny.crystals().take(range(4))
    result = evaluate(model, crystals, crystals, "clean")
    assert result["methods"]["physics"]["top1"] == 100
    assert result["methods"]["neural"]["top5"] == 100
    library = Library.build(crystals, model)
    assert library.embeddings.shape == (4, 12)
    pattern = dx.simulate(crystals.crystal[1], dx.Electrons(80.0), 1.25, 0.5)
    found = retrieve(pattern, library, model, k=4, rerank=0)
    similar = [one.similarity for one in found]
    assert len(found) == 4 and similar == sorted(similar, reverse=True)
    assert {one.uid for one in found} == set(crystals.uid)


def test_the_command_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(["import-weights", "--help"])
    text = capsys.readouterr().out
    assert leave.value.code == 0 and "--json" in text
    assert "dd2d import-weights" in text.split("example:")[1]


def test_the_command_makes_a_checkpoint_and_overwrites_nothing(tmp_path, capsys):
    np.savez(tmp_path / "their.npz", **{f"param/{k}": v for k, v in their_state().items()})
    line = ["import-weights", str(tmp_path / "their.npz"), str(tmp_path / "run"), "--heads", "3"]
    assert cli.main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["heads"] == 3
    assert checkpoint.read_config(tmp_path / "run").model.heads == 3
    before = sorted((tmp_path / "run").rglob("*"))
    assert cli.main(line) == 1
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        import_weights(tmp_path / "their.npz", tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert len(list(tmp_path.iterdir())) == 2


LINEAR = "Trans_pattern_encoder.blocks.1.attn1.key.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ln_f.bias": None}, "1 arrays are missing, the first is ln_f.bias"),
        ({"pointNet.fc": np.ones(2)}, "not of this network, the first is pointNet.fc"),
        ({LINEAR: np.ones((12, 6))}, f"{LINEAR} has shape (12, 6) where (12, 12) is needed"),
        ({"ln_p.weight": np.full(12, np.nan)}, "ln_p.weight holds numbers that are not finite"),
        ({"pos_emb.pe": np.zeros((1, 180, 12))}, "pos_emb.pe is not the sinusoidal code"),
        ({"pos_emb.pe": np.zeros((180, 12))}, "pos_emb.pe has shape (180, 12)"),
        ({"tok_emb.fc1.weight": None}, "tok_emb.fc1.weight (width, 1) is missing"),
        ({"Trans_formula_encoder.x": np.ones(2)}, "the authors' earlier network"),
        ({"heads": 5}, "5 heads do not divide its width of 12"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, says):
    given = {**their_state(), **change}
    heads = given.pop("heads", 2)
    file = tmp_path / "their.npz"
    np.savez(file, **{name: x for name, x in given.items() if x is not None})
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        import_weights(file, tmp_path / "run", heads)
    assert str(error.value).startswith(f"{file}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["their.npz"]


def test_files_that_are_no_state_dict_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "junk.npz").write_bytes(b"junk")
    whole = tmp_path / "whole.npz"
    np.savez(whole, **their_state())
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:5000])
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    (tmp_path / "their.txt").write_text("")
    for name in ("junk.npz", "cut.npz", "pickled.npz", "their.txt", "gone.npz"):
        assert cli.main(["import-weights", str(tmp_path / name), str(tmp_path / "run")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and name in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_without_torch_a_pt_file_is_refused_with_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "their.pt").write_bytes(b"")
    assert cli.main(["import-weights", str(tmp_path / "their.pt"), str(tmp_path / "run")]) == 1
    assert "dd2d-jax[torch]" in capsys.readouterr().err


def test_a_pt_file_is_read_as_the_npz_and_code_in_it_is_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    theirs = their_state()
    np.savez(tmp_path / "their.npz", **theirs)
    torch.save({k: torch.tensor(v) for k, v in theirs.items()}, tmp_path / "their.pt")
    for name in ("npz", "pt"):
        import_weights(tmp_path / f"their.{name}", tmp_path / name, heads=2)
    assert trained.load(tmp_path / "pt").fingerprint == trained.load(tmp_path / "npz").fingerprint
    torch.save({"tok_emb.fc1.weight": sys.exit}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt: not a state dict that can be read safely"):
        import_weights(tmp_path / "evil.pt", tmp_path / "run")


def test_imported_weights_are_used_under_the_conditions_of_the_papers_config():
    assert paper.get_config().diffraction.to_dict() == paper_weights.CONDITIONS
