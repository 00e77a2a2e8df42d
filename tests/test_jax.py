"""The installed JAX computes what it is asked for: some releases do not, without a word."""

import os
import subprocess
import sys

import pytest

# In a process of its own, without the flags of the tests: they turn off what went wrong.
SUM_OF_PRODUCTS = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
x = np.random.default_rng(0).normal(size=({rows}, 3)).astype("{dtype}")
matrix = np.eye(3, dtype="{dtype}")
found = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(x)
wrong = ~np.isclose(found, (x.astype(float) ** 2).sum(1), rtol=1e-3)
print(jax.__version__, int(wrong.sum()))
"""


@pytest.mark.parametrize(("dtype", "rows"), [("float64", 32_768), ("float32", 32_769)])
def test_sums_after_a_batched_product_are_right(dtype, rows):
    # jax-ml/jax#39103: with 0.10.2 half of the rows, or the last one, are wrong on the CPU.
    program = SUM_OF_PRODUCTS.format(dtype=dtype, rows=rows)
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    version, wrong = done.stdout.split()
    assert wrong == "0", f"jax {version} computes {wrong} of {rows} sums wrong; install another"
