"""From a diffraction pattern to the 2D crystal that made it."""

import lazy_loader

__version__ = "0.2.0.dev0"

# Imported when first used: `dd2d --help` must not wait for JAX. The names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
