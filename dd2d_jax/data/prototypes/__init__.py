"""2D crystals made in the project: known monolayers and decorated structure prototypes."""

from dd2d_jax.data.prototypes.source import generate, generate_bulk

__all__ = ["generate", "generate_bulk"]
