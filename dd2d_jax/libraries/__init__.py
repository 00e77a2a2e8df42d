"""Crystals to search: shards, search, building."""
