"""From a pattern to a ranked list of crystals."""
