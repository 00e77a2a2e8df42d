"""Accuracy of the methods side by side: levels, ranks, thermal snapshots."""
