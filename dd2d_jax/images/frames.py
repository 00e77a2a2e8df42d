"""Frames as cameras store them: wrapped counts undone, stacks averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

# Values that are held at once.
_BLOCK = 2**25
# A frame differs where its correlation with the mean is so far below the others'.
_AWAY, _SPREADS = 0.1, 6.0
_NAMED = 5


def unwrapped(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Pixels (H, W), and of how many the count above 32767 had become negative and was restored.

    16-bit counts that a program took for signed ones lose 65536 where they exceed 32767. Such
    pixels are far below the noise and lie amid bright ones; what is negative after a dark image
    was subtracted is neither. Other types of numbers are returned as they are.
    """
    if pixels.dtype.kind != "i" or pixels.dtype.itemsize != 2 or pixels.min() > -256:
        return pixels, 0
    low, middle = np.quantile(pixels, [0.16, 0.5])
    deep = min(middle - 10 * (middle - low + 1), 0)
    from scipy import ndimage  # a third of a second at every start

    labels, count = ndimage.label(pixels < deep, np.ones((3, 3)))
    if not count:
        return pixels, 0
    every = np.arange(1, count + 1)
    # The brightest value beside each patch: next to a count above 32767 there is no background.
    around = ndimage.maximum_filter(pixels, 3)
    beside = ndimage.maximum(around, labels, every)
    # What they enclose has gone round a second time.
    wrapped = ndimage.binary_fill_holes(np.isin(labels, every[beside >= 2**13]))
    return np.where(wrapped, pixels + 65536.0, pixels), int(wrapped.sum())


def average(data: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mean of frames (..., H, W), held in memory or read block by block, and what to tell.

    Frames that differ from the others, by their correlation with the mean, are counted and named;
    they are not left out.
    """
    size = " x ".join(map(str, data.shape[:-2]))
    total, restored, every = np.zeros(data.shape[-2:]), 0, 0
    for block in _blocks(data):
        frames, wrapped = _restored(block)
        total += frames.sum(0, dtype=float)
        restored += wrapped
        every += len(frames)
    mean = total / every
    notes = [f"the mean of {size} frames is taken"]
    if restored:
        notes.append(_wrapped_note(restored))
    like = np.concatenate([_correlation(_restored(block)[0], mean) for block in _blocks(data)])
    usual = np.median(like)
    spread = 1.4826 * np.median(np.abs(like - usual))
    different = np.flatnonzero(~(like >= usual - max(_AWAY, _SPREADS * spread)))
    if len(different) and every > 2:
        names = ", ".join(str(i + 1) for i in different[:_NAMED])
        more = ", ..." if len(different) > _NAMED else ""
        notes.append(
            f"{len(different)} of the {every} frames differ from the others ({names}{more}); save "
            "those that belong together"
        )
    return mean, tuple(notes)


def single(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """One frame (H, W), and what to tell."""
    restored, count = unwrapped(pixels)
    return restored, (_wrapped_note(count),) if count else ()


def _wrapped_note(count: int) -> str:
    return (
        f"{count} pixels with counts above 32767 were stored as negative numbers; 65536 is added "
        "to them"
    )


def _restored(block: np.ndarray) -> tuple[np.ndarray, int]:
    """Frames (n, H, W) without wrapped counts, and how many pixels had them."""
    if block.dtype.kind != "i" or block.dtype.itemsize != 2 or block.min() > -256:
        return block, 0
    pairs = [unwrapped(frame) for frame in block]
    return np.stack([frame for frame, _ in pairs]), sum(count for _, count in pairs)


def _blocks(data: Any) -> Iterator[np.ndarray]:
    """Frames (n, H, W) of an array (..., H, W), of dask's chunk by chunk."""
    height, width = data.shape[-2:]
    if hasattr(data, "rechunk"):
        data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
        for place in np.ndindex(*data.numblocks):
            yield np.asarray(data.blocks[place]).reshape(-1, height, width)
        return
    step = max(1, _BLOCK // (height * width))
    for place in np.ndindex(data.shape[:-3]):
        for first in range(0, data.shape[-3], step):
            yield np.asarray(data[place][first : first + step])


def _correlation(frames: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Pearson's r (n,) of frames with the mean; 0 for a flat frame."""
    flat = np.nan_to_num(frames.reshape(len(frames), -1).astype(np.float32))
    flat = flat - flat.mean(1, keepdims=True)
    model = np.nan_to_num(mean).ravel().astype(np.float32)
    model = model - model.mean()
    norm = np.linalg.norm(flat, axis=1) * np.linalg.norm(model)
    return flat @ model / np.where(norm > 0, norm, math.inf)
