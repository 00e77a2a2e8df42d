"""Lattices, their points and patterns made of them, for the tests of lattices."""

import numpy as np

import diffraction as dx

Q_MAX = 1.25


def pattern(q: np.ndarray, intensity: np.ndarray) -> dx.Pattern:
    mask = np.ones(len(q), bool)
    return dx.Pattern(q, np.asarray(intensity), np.zeros(q.shape, np.int32), mask)


def turned(q: np.ndarray, degrees: float, mirrored: bool) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return q @ np.diag([1, -1 if mirrored else 1]) @ np.array([[c, s], [-s, c]])


def cell(a: float, b: float, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]])


RING = np.stack([np.cos(np.arange(8) * 0.7), np.sin(np.arange(8) * 0.7)], 1) * 0.4


def spoiled(q=RING, intensity=None, mask=None) -> dx.Pattern:
    q = np.asarray(q, float).reshape(-1, 2)
    intensity = np.ones(len(q)) if intensity is None else np.asarray(intensity, float)
    mask = np.ones(len(q), bool) if mask is None else mask
    return dx.Pattern(q, intensity, np.zeros(q.shape, int), mask)


def hexagonal(a: float) -> np.ndarray:
    return cell(a, a, 120)


def points(lattice: np.ndarray, q_max: float = Q_MAX) -> np.ndarray:
    hk = np.stack(np.meshgrid(*(np.arange(-20, 21),) * 2), -1).reshape(-1, 2)
    q = hk @ np.linalg.inv(lattice).T
    radius = np.linalg.norm(q, axis=1)
    return q[(radius > 0.02) & (radius < q_max)]
