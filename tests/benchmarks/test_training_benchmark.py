"""What the benchmark of training compares: the same network, and the work that it counts."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffraction as dx
from benchmarks import training
from dd2d_jax.networks.paper_network import PaperTower
from dd2d_jax.networks.trained import Model, initial_params
from dd2d_jax.spots import Spots


@pytest.fixture
def batch(layer) -> tuple[dx.Crystal, Spots]:
    """Four crystals of four atoms, four patterns of four pairs of spots."""
    rng = np.random.default_rng(0)
    hk = rng.integers(1, 4, (4, 4, 2))
    spots = Spots(
        rng.uniform(-1, 1, (4, 4, 2)).astype(np.float32),
        hk,
        rng.uniform(0.01, 1, (4, 4, 2)).astype(np.float32),
        np.ones((4, 4, 2), bool),
        np.tile(np.eye(2, dtype=np.float32), (4, 1, 1)),
    )
    return dx.stack([layer(seed, atoms=4) for seed in range(4)]), spots


def products(jaxpr) -> int:
    """FLOPs of all matrix products in a jaxpr with more than one term in a sum."""
    closed = jax.extend.core.ClosedJaxpr
    total = 0
    for one in jaxpr.eqns:
        total += sum(products(x.jaxpr) for x in one.params.values() if isinstance(x, closed))
        if one.primitive.name == "dot_general":
            (contracted, _), _ = one.params["dimension_numbers"]
            terms = int(np.prod([one.invars[0].aval.shape[i] for i in contracted]))
            total += 2 * terms * one.outvars[0].aval.size if terms > 1 else 0
    return total


@pytest.mark.parametrize("layers", [1, 3])
def test_the_flops_are_those_of_the_networks_matrix_products(batch, layers):
    tower = PaperTower.from_config(tiny.paper_config(layers=layers).model)
    crystals, spots = jax.tree.map(jnp.asarray, batch)
    params = jax.eval_shape(tower.init, jax.random.key(0), crystals, spots, spots)
    done = products(jax.make_jaxpr(tower.apply)(params, crystals, spots, spots).jaxpr)
    lengths = PaperTower.tokens(np.full(4, 4), np.full(4, 4))
    assert 4 * training.forward_flops(lengths, 12, layers) == pytest.approx(done)


def test_torchs_network_is_ours(batch):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    from benchmarks.peers.torch_network import make_functions

    config = tiny.paper_config(layers=2)
    shapes = jax.eval_shape(lambda: initial_params(config))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    sizes = {k: config.model[k] for k in ("width", "layers", "heads", "dropout")}
    forward, _ = make_functions(training.theirs(params), sizes, config.train.to_dict(), 1)
    given = training.torch_inputs(*batch)
    assert given[0].shape == (4, 180) and given[1].shape == (4, 172, 3)
    expected = training.embeddings(Model(config, params), *batch)
    for inputs in (given, [training.shortened(x) for x in given]):
        for found, wanted in zip(forward(*map(torch.tensor, inputs)), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=training.SAME, rtol=0)


def test_a_gpus_peak_is_known_by_its_name():
    assert training.known_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert training.known_peak("NVIDIA L4") == 121e12
    assert training.known_peak("NVIDIA L40S") == 362e12
    assert training.known_peak("cpu") == 0
