"""Many crystals: sources, databases, data sets, duplicates, enumeration, prototypes."""
