"""Where the project and its data are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
