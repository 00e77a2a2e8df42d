"""Errors that a user can put right: one line, what was wrong and what would be right."""

from __future__ import annotations


class PatternError(ValueError):
    """A pattern that cannot be used; the message is one line and says why.

    Of an image, `step` is where it was refused ("scale", "spots", "symmetry", "distortion",
    "lattice") and `seen` what had been found by then: an `Image` or a `Measured`.
    """

    step: str = ""
    seen: object = None


class StructureError(ValueError):
    """A structure that is no usable 2D crystal: what was wrong, where, and what would be right.

    `reason` is a short category ("bulk", "chain", ...), by which skipped structures are counted.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(" ".join(message.split()))
        self.reason = reason

    def at(self, where: str) -> StructureError:
        """The same error with the file or row that it happened in."""
        return StructureError(self.reason, f"{where}: {self}")


class Notice(UserWarning):
    """What a user should know of a file that is used all the same; `dd2d` prints it."""


class LibraryError(ValueError):
    """A library that is missing, damaged or of another model; the message is one line."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model; the message is one line."""


class UserError(Exception):
    """Something that the user can put right; the message is one line."""
