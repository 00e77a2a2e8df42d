"""From spots to lattices: search, sets, settings, tilts."""
