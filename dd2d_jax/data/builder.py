"""The TFDS builder behind `datasets.load`: array_record files, read without TensorFlow."""

import contextlib
import dataclasses
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from dd2d_jax.crystals.structures import Layer
from dd2d_jax.data import crystal_set, sources, usable
from dd2d_jax.util.progress import progress

REPORT = "report.json"
SPLIT = "crystals"
# Seconds in which a server has to answer.
_PATIENCE = 10

C2DB_HELP = """The Computational 2D Materials Database may not be passed on. Ask for c2db.db on
https://c2db.fysik.dtu.dk and put it into the manual folder, or give its place as path."""


@dataclasses.dataclass(eq=False, kw_only=True)
class SourceConfig(tfds.core.BuilderConfig):
    """A source, and the user's file or folder where it has one."""

    source: str = "prototypes"
    path: Path | None = None


class Crystals2D(tfds.core.GeneratorBasedBuilder):
    """2D crystals in canonical form, with a report of what was skipped beside them."""

    name = "crystals2d"
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [SourceConfig(name=source, source=source) for source in sources.READERS]
    DEFAULT_CONFIG_NAME = "prototypes"
    MANUAL_DOWNLOAD_INSTRUCTIONS = C2DB_HELP

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "uid": tfds.features.Text(),
                "formula": tfds.features.Text(),
                "lattice": tfds.features.Tensor(shape=(2, 2), dtype=np.float64),
                "positions": tfds.features.Tensor(shape=(None, 3), dtype=np.float64),
                "numbers": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                # Empty where no site is mixed.
                "occupancy": tfds.features.Tensor(shape=(None,), dtype=np.float64),
                "known": np.bool_,
                "prototype": tfds.features.Text(),
                "ehull": np.float64,
                "layer_group": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self.builder_config
        path = config.path
        if path is None and config.source == "c2db":
            path = dl_manager.manual_dir / "c2db.db"
        if path is None and config.source == "jarvis_2d":
            path = _download(dl_manager, sources.JARVIS_URL)
        return {SPLIT: self._generate_examples(None if path is None else Path(path))}

    def _generate_examples(self, path: Path | None) -> Iterator[tuple[int, dict[str, Any]]]:
        report = crystal_set.new_report()
        entries, total = sources.READERS[self.builder_config.source](path)
        entries = progress(entries, total, "preparing crystals")
        for key, (info, crystal) in enumerate(usable.usable(entries, report)):
            shares = np.zeros(0) if crystal.occupancy is None else crystal.occupancy
            yield key, {**info, **crystal._asdict(), "occupancy": shares}
        # into TFDS's unfinished folder: it comes into being together with the data
        Path(self.data_dir, REPORT).write_text(json.dumps(report, indent=1))


def read(
    source: str, path: Path | None, root: Path
) -> tuple[list[dict[str, Any]], list[Layer], dict[str, Any]]:
    """Infos, layers and the report of a source, prepared below `root` where they are missing."""
    manual = root / "downloads" / "manual"
    if source == "c2db" and path is None:
        path = manual / "c2db.db"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found. {' '.join(C2DB_HELP.split())}")
    name = f"{source}-{sources.fingerprint(source, path)}"
    config = SourceConfig(name=name, source=source, path=path)
    with _quiet():
        builder = Crystals2D(config=config, data_dir=root, file_format="array_record")
    folder = Path(builder.data_dir)
    if not (folder / REPORT).is_file():
        _prepare(builder, manual)
        usable.print_report(json.loads((folder / REPORT).read_text()), f"{source} {path or ''}")
    infos, layers = [], []
    for row in builder.as_data_source(split=SPLIT):
        infos.append(
            {key: row[key].decode() for key in ("uid", "formula", "prototype", "layer_group")}
            | {"known": bool(row["known"]), "ehull": float(row["ehull"])}
        )
        shares = row["occupancy"] if len(row["occupancy"]) else None
        layers.append(Layer(row["lattice"], row["positions"], row["numbers"], shares))
    return infos, layers, json.loads((folder / REPORT).read_text())


def _prepare(builder: Crystals2D, manual: Path) -> None:
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    with _quiet():
        try:
            builder.download_and_prepare(download_dir=manual.parent, download_config=config)
        except OSError:  # another process may have moved the same data into place first
            if not Path(builder.data_dir, REPORT).is_file():
                raise


def _download(dl_manager: tfds.download.DownloadManager, url: str) -> Path:
    try:
        known = Path(dl_manager.download_dir).glob(f"*{url.rpartition('/')[2]}*")
        if not any(known):  # what was downloaded before needs no network
            _check_reachable(url)
        return Path(dl_manager.download(url))
    except (OSError, tfds.download.DownloadError) as error:
        raise ConnectionError(
            f"{url}: cannot be downloaded ({error}); download it by hand and give its "
            "location as path"
        ) from error


def _check_reachable(url: str) -> None:
    """Raise OSError at once where there is no network: downloads try again for minutes."""
    asked = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # somebody has answered


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what TFDS prints and logs; our own progress and report go to stderr."""
    tfds.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
