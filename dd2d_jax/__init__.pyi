from .images.patterns import read_pattern as read_pattern
from .libraries.library import Library as Library
from .matching.found import Candidate as Candidate
from .matching.found import Found as Found
from .matching.retrieval import retrieve as retrieve
from .networks.trained import Model as Model
from .networks.trained import load as load
from .util.errors import CheckpointError as CheckpointError
from .util.errors import LibraryError as LibraryError
from .util.errors import PatternError as PatternError
from .util.errors import StructureError as StructureError

__version__: str
