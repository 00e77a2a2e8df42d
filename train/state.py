"""Parameters, optimiser state and the step count."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dd2d_jax.networks.trained import initial_params


@flax.struct.dataclass
class State:
    """What a training step changes."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState


def optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay, clipped gradients and weight decay on matrices only."""
    train = config.train
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, train.learning_rate, train.warmup, max(train.steps, train.warmup + 1), 0.0
    )
    return optax.chain(
        optax.clip_by_global_norm(train.clip),
        optax.adamw(
            schedule,
            b2=train.b2,
            weight_decay=train.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def create(config: ConfigDict) -> State:
    """The state before the first step."""
    params = initial_params(config)
    return State(jnp.zeros((), jnp.int32), params, optimiser(config).init(params))
