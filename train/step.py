"""One training step on every device of every host: the only module that speaks of pmap.

pmap is jit and shard_map inside since jax 0.8. Should it go, `make_functions` becomes two jitted
functions over a mesh of `jax.devices()` with one axis "batch": what has in_axes None is replicated,
what has 0 is sharded by its first axis, and nothing else changes on one host. On several,
`replicate` and `shard` then have to make global arrays of what a host holds
(`jax.make_array_from_process_local_data`), which pmap does by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import diffraction as dx
from dd2d_jax.networks.disturbances import Disturbance, clean_spots, observe
from dd2d_jax.networks.loss import contrastive_loss
from dd2d_jax.networks.redescription import Redescription, redescribe
from dd2d_jax.networks.trained import tower_of
from dd2d_jax.spots import Conditions, Spots
from train import accumulate
from train.inputs import Room, Source
from train.state import State, optimiser

AXIS = "batch"
Batch = tuple[dx.Crystal, Spots | None, Spots]


def simulate_batch(config: ConfigDict, source: Source, index: jax.Array, key: jax.Array) -> Batch:
    """Crystals `index` (B,), their clean spots, and a disturbed pattern of each.

    For networks that read no spots of crystals there are none; the crystals are described anew.

    Each sample has its own key, folded from its place in the whole batch, so that the draw does
    not depend on the number of devices.
    """
    conditions = Conditions.from_config(config.diffraction)
    chosen = source.take(index)
    place = jnp.arange(index.shape[0]) + index.shape[0] * jax.lax.axis_index(AXIS)

    def disturbed(place: jax.Array, one: Source) -> Spots:
        share_key, kind_key, observe_key = jax.random.split(jax.random.fold_in(key, place), 3)
        # A share of none to all: clean queries and the worst ones are both learned.
        share = jax.random.uniform(share_key)
        kind = jax.random.uniform(kind_key)
        amount = _amount(config, kind, share)
        single = jax.tree.map(lambda x: x[None], one)
        spots = observe(observe_key, single.crystal, single.hk, conditions, amount)
        return jax.tree.map(lambda x: x[0], spots)

    seen = jax.vmap(disturbed)(place, chosen)
    if tower_of(config.model).reads_spots:
        return chosen.crystal, clean_spots(chosen.crystal, chosen.hk, conditions), seen
    keys = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(key, place), 1))(place)
    redescribed = jax.vmap(redescribe, (0, 0, None))(
        keys, chosen.crystal, Redescription(**config.redescription)
    )
    return redescribed, None, seen


def _amount(config: ConfigDict, kind: jax.Array, share: jax.Array) -> Disturbance:
    """`share` of the most that disturbs a sample, whose kind is drawn from 0 to 1."""
    thermal, microscope = config.thermal.share, config.microscope.share
    kinds = [
        kind < thermal,
        kind < thermal + microscope,
        kind >= 1 - config.measured.share,
    ]
    return jax.tree.map(
        lambda *amounts: share * jnp.select(kinds, amounts[1:], amounts[0]),
        Disturbance(**config.disturbance),
        Disturbance(displacement=config.thermal.displacement),
        *(
            Disturbance(**{**config.disturbance, **_without_share(config[name])})
            for name in ("microscope", "measured")
        ),
    )


def _without_share(part: ConfigDict) -> dict:
    return {name: value for name, value in part.items() if name != "share"}


def update(config: ConfigDict, state: State, batch: Batch, room: Room) -> tuple[State, dict]:
    """One optimiser step on a device's share of the batch; negatives come from all devices."""
    model = tower_of(config.model).clone(remat=config.train.get("remat", False))
    crystal, *spots = batch
    sites = crystal.positions, crystal.numbers, crystal.occupancy, crystal.u
    crystal = dx.Crystal(crystal.lattice, *jax.tree.map(lambda x: x[:, : room.atoms], sites))
    # For networks with dropout: another mask at each step and on each device. "rbg" compiles and
    # draws faster than the default.
    key = jax.random.fold_in(jax.random.key(config.seed + 2, impl="rbg"), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
    count = config.train.get("accumulate", 1)
    keys = key[None] if count == 1 else jax.random.split(key, count)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), (crystal, *spots))

    def embed(params: dict, part: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
        *inputs, key = part
        return model.apply({"params": params}, *inputs, room.tokens, rngs={"dropout": key})

    loss, scale, gradients = accumulate.gradients(
        embed, lambda *x: contrastive_loss(*x, AXIS), state.params, (*parts, keys)
    )
    metrics = {"loss": loss, "scale": scale}
    gradients, metrics = jax.lax.pmean((gradients, metrics), AXIS)
    updates, opt_state = optimiser(config).update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["gradient"] = optax.global_norm(gradients)
    return State(state.step + 1, params, opt_state), metrics


def make_functions(config: ConfigDict) -> tuple[Callable, Callable]:
    """`simulate(source, index, key) -> batch` and `train(state, batch, room) -> (state, metrics)`.

    `index` and the batch have a leading device axis. The two are compiled apart: in one function
    XLA fuses the simulator into the network and recomputes it (measured: three times slower).
    """
    simulate = jax.pmap(
        lambda source, index, key: simulate_batch(config, source, index, key),
        axis_name=AXIS,
        in_axes=(None, 0, None),
    )
    train = jax.pmap(
        lambda state, batch, room: update(config, state, batch, room),
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        static_broadcasted_argnums=(2,),
        donate_argnums=(0,),
    )
    return simulate, train


def replicate(tree):
    """A copy of `tree` on every local device, laid out as the steps return it.

    Anything else would be moved, and the step compiled, once more.
    """
    places = np.zeros(jax.local_device_count())
    copy = jax.pmap(lambda tree, _: tree, axis_name=AXIS, in_axes=(None, 0), out_axes=None)
    return copy(tree, places)


def shard(index: np.ndarray) -> np.ndarray:
    """(B,) of the whole batch -> (devices, B / all devices), the rows of this host's devices.

    Raises:
        ValueError: the batch does not divide by the number of devices, or hosts have unequal many.
    """
    devices, local = jax.device_count(), jax.local_device_count()
    if devices != local * jax.process_count():
        raise ValueError(f"{devices} devices in all but {local} on host {jax.process_index()}")
    if len(index) % devices:
        raise ValueError(
            f"config.train.batch = {len(index)} does not divide by the {devices} devices"
        )
    # pmap numbers the devices host by host.
    first = local * jax.process_index()
    return index.reshape(devices, -1)[first : first + local]
