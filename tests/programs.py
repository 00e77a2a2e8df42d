"""Programs that tests start compile as cheaply as the tests themselves."""

import os


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """This process's environment, with so many devices on the processor and `more` in it."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={devices}")
    return {**os.environ, "XLA_FLAGS": flags, **more}
