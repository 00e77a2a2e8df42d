"""Pieces that know nothing of crystals: files, limits, cache, text and progress."""
