"""Least squares through the simulator."""
