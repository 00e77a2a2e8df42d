"""Reading patterns: whatever form a user has, the same spots come out; what is wrong is named."""

import json
from types import SimpleNamespace

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.patterns import as_pattern, pattern_dict, read_pattern, write_pattern
from dd2d_jax.lattices import lattice
from dd2d_jax.util.errors import PatternError

ROWS = np.array([[0.3, 0.1, 5.0], [-0.3, -0.1, 4.5], [0.1, 0.4, 2.0], [-0.1, -0.4, 0.0]])


@pytest.fixture(scope="module")
def graphene() -> dx.Pattern:
    return dx.simulate(dx.Crystal.from_ase(ase.build.graphene(vacuum=8)), q_max=1.5, b_iso=0.5)


def spots(pattern: dx.Pattern) -> np.ndarray:
    mask = np.asarray(pattern.mask)
    return np.c_[np.asarray(pattern.q)[mask], np.asarray(pattern.intensity)[mask]]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_written_pattern_reads_back_bit_for_bit(graphene, tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    write_pattern(graphene, path)
    again = read_pattern(path)
    np.testing.assert_array_equal(spots(again), spots(graphene))
    mask = np.asarray(graphene.mask)
    np.testing.assert_array_equal(np.asarray(again.hk), np.asarray(graphene.hk)[mask])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "qx,qy,intensity\n{c}",
        "{c}",
        "{w}",
        "# a comment\n\nqx (1/A)\tqy (1/A)\tintensity\n{w}",
        "Intensity;qy;qx\n{r}",
        "\ufeffqx, qy, I\n{c}\n",
    ],
    ids=["header", "bare", "blanks", "units", "other order", "byte order mark"],
)
def test_spot_lists_in_every_usual_form_give_the_same_spots(tmp_path, text):
    forms = {
        "c": "\n".join(f"{x},{y},{i}" for x, y, i in ROWS),
        "w": "\n".join(f"  {x}  {y}\t{i}" for x, y, i in ROWS),
        "r": "\n".join(f"{i};{y};{x}" for x, y, i in ROWS),
    }
    path = tmp_path / "p.txt"
    path.write_text(text.format(**forms), encoding="utf-8")
    np.testing.assert_allclose(spots(read_pattern(path)), ROWS, rtol=1e-6)


def test_arrays_lists_npy_files_and_patterns_are_patterns(tmp_path, graphene):
    np.save(tmp_path / "p.npy", ROWS)
    for value in (ROWS, ROWS.tolist(), tmp_path / "p.npy", str(tmp_path / "p.npy")):
        np.testing.assert_allclose(spots(as_pattern(value)), ROWS, rtol=1e-6)
    assert as_pattern(graphene) is graphene


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "qx,qy,intensity\n0.1,0.2,nan\n", "p.csv, line 2: intensity"),
        ("p.csv", "0.1,0.2,1\n\n0.1,inf,1\n", "p.csv, line 3: qy"),
        ("p.csv", "0.1,0.2,-3\n", "line 1: intensity -3 is negative"),
        ("p.csv", "0.1,1e99,3\n", "line 1: qy"),
        ("p.csv", "qx,qy,intensity\n", "no spot"),
        ("p.csv", "", "no spot"),
        ("p.csv", "0.1,0.2\n", "line 1: 2 columns"),
        ("p.csv", "0.1,0.2,1\n0.1,0.2\n", "line 2: 2 columns"),
        ("p.csv", "0.1,0.2,1\n0.1,x,1\n", "line 2"),
        ("p.csv", "a,b,c\n1,2,3\n", "no column 'qx'"),
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[1, 2]", '"q" and "intensity"'),
        ("p.json", '{"q": [], "intensity": []}', "q is empty"),
        ("p.json", '{"q": [[1, 2]], "intensity": [1, 2]}', "one length"),
        ("p.json", '{"q": [["a", 2]], "intensity": [1]}', "q must be"),
        ("p.json", '{"q": [[0.1, 0.2]], "intensity": [NaN]}', "row 0: intensity"),
        ("p.json", "[" * 5000, "not valid JSON"),
        ("p.json", '{"X": [[1, 2], [1, 2], [0, 0]]}', "give scale"),
        ("p.npy", "nothing", "not a readable .npy"),
        ("p.png", "nothing", "cannot be read as an image"),
        ("p.tif", "nothing", "cannot be read as an image"),
        ("p.xyz", "nothing", "format is unknown"),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_place(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PatternError) as error:
        read_pattern(path, scale=0.01 if name.endswith(("png", "tif")) else None)
    assert says in str(error.value) and name in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(PatternError, match="npy"):
        read_pattern(tmp_path / "p.npy")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(tmp_path, scale):
    (tmp_path / "p.tif").write_bytes(b"")
    with pytest.raises(PatternError, match="scale"):
        read_pattern(tmp_path / "p.tif", scale=scale)


def test_a_scale_for_spots_in_inverse_angstrom_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text("0.1,0.2,1\n")
    with pytest.raises(PatternError, match="takes no scale"):
        read_pattern(tmp_path / "p.csv", scale=0.01)


def test_too_long_a_list_is_refused(tmp_path):
    with pytest.raises(PatternError, match="100000"):
        as_pattern(np.ones((100_001, 3)))
    (tmp_path / "p.txt").write_text("1 1 1\n" * 100_001)
    with pytest.raises(PatternError, match="100000"):
        read_pattern(tmp_path / "p.txt")


@pytest.mark.parametrize("value", [np.ones(3), np.ones((4, 2)), "nowhere", object(), [[1, 2, "x"]]])
def test_what_is_no_pattern_is_refused(value):
    with pytest.raises((PatternError, FileNotFoundError)):
        as_pattern(value)


def test_a_batch_cannot_be_written(graphene, tmp_path):
    batch = dx.Pattern(*(x[None] for x in (graphene.q, graphene.intensity, graphene.hk,
                                           graphene.mask)))  # fmt: skip
    with pytest.raises(PatternError, match="batch"):
        write_pattern(batch, tmp_path / "p.csv")
    with pytest.raises(PatternError, match="batch"):
        pattern_dict(batch)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "cell"), [("fig4_pattern", (4.031, 4.033)), ("example_dataset", (2.306, 4.669))]
)
def test_the_authors_patterns_have_the_cells_that_their_records_state(shared_data, name, cell):
    pattern = read_pattern(shared_data / "paper" / f"{name}.json", scale=0.025)
    found = lattice.find(pattern)
    # Whole pixels of 0.025 1/angstrom are all that the record holds.
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), cell, rtol=0.01)


def test_the_authors_format_keeps_relative_intensities(tmp_path):
    logs = [0.0, 0.0, np.log(0.5), np.log(0.5), 3.0]
    record = {"X": [[120, 80, 100, 100, 100], [100, 100, 130, 70, 100], logs], "seq": []}
    (tmp_path / "p.json").write_text(json.dumps(record))
    pattern = read_pattern(tmp_path / "p.json", scale=0.01)
    np.testing.assert_allclose(
        spots(pattern), [[0.2, 0, 1], [-0.2, 0, 1], [0, 0.3, 0.5], [0, -0.3, 0.5]], atol=1e-6
    )


def signal(data: np.ndarray, scale: float, units: str, offset: float = 0.0) -> SimpleNamespace:
    """As hyperspy's Signal2D looks from outside."""
    axes = tuple(
        SimpleNamespace(scale=scale, offset=offset, units=units, size=n, name=name)
        for n, name in zip(data.shape[::-1], ("kx", "ky"), strict=True)
    )
    return SimpleNamespace(axes_manager=SimpleNamespace(signal_axes=axes), data=data)


@pytest.fixture(scope="module")
def picture(graphene) -> np.ndarray:
    """An image of graphene, 0.01 1/angstrom per pixel, the beam at (160, 160)."""
    rows, columns = np.indices((321, 321))
    image = np.full((321, 321), 2.0)
    for x, y, i in spots(graphene):
        away = (columns - 160 - x / 0.01) ** 2 + (rows - 160 + y / 0.01) ** 2
        image += 500 * i / float(graphene.intensity.max()) * np.exp(-away / 8)
    return np.random.default_rng(0).poisson(image).astype(float)


@pytest.mark.parametrize(
    ("scale", "units", "offset"),
    [
        (0.01, "1/A", 0.0),
        (0.01, "1/Å", -1.6),
        (0.01, "$\\AA^{-1}$".replace("\\AA", "Å"), 0.0),
        (0.1, "1/nm", -16.0),
        (0.1, "nm^-1", 0.0),
        (0.1, "nm⁻¹", 0.0),
    ],
)
def test_a_calibrated_signal_gives_the_lattice(picture, scale, units, offset):
    found = lattice.find(as_pattern(signal(picture, scale, units, offset)))
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), 2.46, rtol=2e-3)


@pytest.mark.parametrize("units", ["", "px", "<undefined>", None, "nm", "mrad"])
def test_an_uncalibrated_signal_is_refused(picture, units):
    with pytest.raises(PatternError, match="not calibrated"):
        as_pattern(signal(picture, 1.0, units))


def test_a_stack_of_patterns_is_refused(picture):
    stack = signal(picture, 0.01, "1/A")
    stack.data = np.stack([picture, picture])
    with pytest.raises(PatternError, match="one 2D pattern"):
        as_pattern(stack)


def test_masked_spots_are_not_written(graphene, tmp_path):
    keep = jnp.asarray(np.asarray(graphene.mask) & (np.arange(len(graphene.mask)) % 2 == 0))
    half = dx.Pattern(graphene.q, graphene.intensity, graphene.hk, keep)
    write_pattern(half, tmp_path / "p.csv")
    assert len(spots(read_pattern(tmp_path / "p.csv"))) == int(keep.sum())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "qx,qy,intensity,sigma\n0.1,0.2,3,-1\n", "line 2: sigma"),
        ("p.csv", "qx,qy,intensity,sigma\n0.1,0.2,3,x\n", "line 2"),
        ("p.csv", "0.1,0.2,3,1\n", "line 1: 4 columns"),
        ("p.json", '{"q": [[0.1, 0.2]], "intensity": [1], "sigma": [1, 2]}', "one length"),
    ],
)
def test_bad_uncertainties_are_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(PatternError, match=says):
        read_pattern(tmp_path / name)


def test_uncertainties_may_stand_in_any_column(tmp_path):
    (tmp_path / "p.csv").write_text("sigma,qx,qy,intensity\n0.5,0.1,0.2,3\n")
    pattern = read_pattern(tmp_path / "p.csv")
    assert spots(pattern).tolist() == [pytest.approx([0.1, 0.2, 3.0])]
    assert pattern.sigma.tolist() == [0.5]


def test_how_spots_are_found_is_asked_of_images_alone(tmp_path):
    (tmp_path / "p.csv").write_text("0.1,0.2,1\n")
    with pytest.raises(PatternError, match="for images"):
        read_pattern(tmp_path / "p.csv", width=2.0)


def test_the_energy_of_the_beam_stays_with_the_pattern(tmp_path, graphene):
    write_pattern(graphene, tmp_path / "spots.csv")
    assert read_pattern(tmp_path / "spots.csv").energy is None
    told = read_pattern(tmp_path / "spots.csv", energy=200.0)
    assert told.energy == 200.0
    assert jax.tree.map(lambda x: x, told).energy == 200.0
