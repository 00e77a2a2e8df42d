"""Several processes that train as one: who writes, what all agree on, and when to stop.

Process 0 alone reads and writes the run's folder, so that no other host needs to see it. Everything
here also holds for a single process, where nothing is exchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Bytes of an error's text that the other processes are told.
_TEXT = 1000


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes, before anything else is done with JAX.

    Args:
        coordinator: HOST:PORT of process 0. With all three None, the TPU pod, Slurm, Open MPI or
            Kubernetes that started this process is asked.
        processes: how many there are.
        process: which this is, from 0.

    Raises:
        ValueError: some are missing, or nothing is there to ask.
        OSError: the others were not found within five minutes.
    """
    given = (coordinator, processes, process)
    if None in given and given != (None, None, None):
        raise ValueError("--coordinator, --processes and --process must be given together")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except ValueError as error:
        raise ValueError(
            f"the processes cannot be detected automatically ({error}); give --coordinator, "
            "--processes and --process"
            if given == (None, None, None)
            else str(error)
        ) from error
    except RuntimeError as error:  # what the client raises
        raise OSError(f"no connection to the other processes: {error}") from error


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def together(action: Callable[[], Any]) -> Any:
    """Do `action` on every process; an error of one is raised by all, so that none waits for it.

    Raises:
        OSError: as `action`, on whichever process.
        ValueError: as `action`, on whichever process.
    """
    result, failed = None, None
    try:
        result = action()
    except (OSError, ValueError) as error:
        failed = error
    if jax.process_count() > 1:
        kind = {True: b"O", False: b"V"}[isinstance(failed, OSError)]
        told = b"" if failed is None else kind + str(failed).encode()
        for number, text in enumerate(_gather(told)):
            if text and failed is None:
                failed = {b"O": OSError, b"V": ValueError}[text[:1]](
                    f"process {number}: {text[1:].decode(errors='replace')}"
                )
    if failed is not None:
        raise failed
    return result


def on_first(action: Callable[[], Any]) -> Any:
    """Do `action` on process 0; all return what it returns there, which goes through JSON.

    Raises:
        OSError: as `action`.
        ValueError: as `action`.
    """
    value = together(action if is_first() else lambda: None)
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = np.resize(text, size)  # on the others a space of that size
    return json.loads(multihost_utils.broadcast_one_to_all(text).tobytes())


def share(tree: Any) -> Any:
    """The arrays of process 0, bit for bit, in place of the same tree of arrays on each process."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(x) for x in leaves]
    # As bytes: a sum of floats, which a broadcast is, would lose the sign of zero.
    flat = np.concatenate([np.frombuffer(x.tobytes(), np.uint8) for x in leaves])
    flat = multihost_utils.broadcast_one_to_all(flat)
    ends = np.cumsum([x.nbytes for x in leaves])
    parts = np.split(flat, ends[:-1])
    return jax.tree.unflatten(
        structure,
        [
            np.frombuffer(part.tobytes(), x.dtype).reshape(x.shape)
            for part, x in zip(parts, leaves, strict=True)
        ],
    )


def check_same(what: str, *values: Any) -> None:
    """Hold that arrays and texts are the same on every process.

    Raises:
        ValueError: they are not; `what` names them.
    """
    digest = hashlib.sha256()
    for value in values:
        digest.update(np.asarray(value).tobytes())
    found = _gather(digest.digest()) if jax.process_count() > 1 else []
    others = [i for i, one in enumerate(found) if one != found[0]]
    if others:
        raise ValueError(f"process {others[0]} has {what} other than those of process 0")


def _gather(text: bytes) -> list[bytes]:
    """Up to `_TEXT` bytes of every process."""
    row = np.frombuffer(text[:_TEXT].ljust(_TEXT, b"\0"), np.uint8)
    return [x.tobytes().rstrip(b"\0") for x in multihost_utils.process_allgather(row)]


class Asked:
    """Whether a signal came; called with the steps done, after every step."""

    def __init__(self) -> None:
        self.signal = signal.SIGTERM
        self.came = False

    def __call__(self, done: int) -> bool:
        if jax.process_count() > 1:  # JAX has its own handler there, and spreads the word
            return multihost_utils.reached_preemption_sync_point(done)
        return self.came

    @property
    def name(self) -> str:
        return self.signal.name

    @property
    def status(self) -> int:
        """The exit status of a program that the signal ended."""
        return 128 + self.signal


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Tells whether to save and leave now: SIGTERM came, or SIGINT (Ctrl-C).

    A second Ctrl-C ends the program at once. Of several processes any may get the signal; all of
    them are then told after the same step.
    """
    asked = Asked()

    def note(number: int, _: Any) -> None:
        asked.signal, asked.came = signal.Signals(number), True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
