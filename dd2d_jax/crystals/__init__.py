"""One crystal: reading structures, the canonical setting, symmetry, point groups."""
