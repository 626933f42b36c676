"""A release that disagrees with itself is refused, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from numpy.typing import NDArray

from tests.release import graphs
from tests.release.conftest import manifest_of, seal, write_manifest
from tests.supervisor.running import Server
from twotower_server.errors import ReleaseRefused
from twotower_server.items.ids import item_keys
from twotower_server.release.format import FILES, MANIFEST, Manifest
from twotower_server.release.verify import Check, verify_release

ALL_FILES = (MANIFEST, *FILES)
Change = Callable[[Path], object]


def refusal(release: Path) -> str:
    with pytest.raises(ReleaseRefused) as refused:
        verify_release(release)
    assert "Traceback" not in str(refused.value)
    assert str(release.parent) not in str(refused.value), "a reason goes into logs of others: no paths"
    return str(refused.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_is_refused(dot: Path, name: str, place: str) -> None:
    content = bytearray((dot / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    (dot / name).write_bytes(content)
    assert refusal(dot) == f"{name} has changed: its SHA-256 is not the one in release.json"


def test_a_changed_byte_of_the_manifest_is_refused(dot: Path) -> None:
    whole = (dot / MANIFEST).read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1
        (dot / MANIFEST).write_bytes(content)
        if content.isspace() or json_of(bytes(content)) == json_of(whole):
            continue
        assert refusal(dot).startswith(MANIFEST), content[place - 20 : place + 20]
    (dot / MANIFEST).write_bytes(whole)
    verify_release(dot)


def json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(dot: Path, name: str) -> None:
    (dot / name).unlink()
    assert refusal(dot) == f"{name} is missing"


def test_a_folder_without_a_manifest_is_no_release(dot: Path) -> None:
    (dot / MANIFEST).unlink()
    assert refusal(dot) == "dot is not a release: it has no release.json"
    (dot / MANIFEST).mkdir()
    assert refusal(dot) == "dot is not a release: it has no release.json"


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(dot: Path, name: str) -> None:
    content = (dot / name).read_bytes()
    (dot / name).write_bytes(content[:-1])
    assert refusal(dot) == f"{name} has {len(content) - 1} bytes, release.json says {len(content)}"


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_symbolic_link_is_refused(dot: Path, name: str, tmp_path: Path) -> None:
    (dot / name).rename(tmp_path / name)
    (dot / name).symlink_to(tmp_path / name)
    assert refusal(dot) == f"{name} is a symbolic link; a release holds its files itself"


def test_a_release_under_another_name_is_refused(dot: Path) -> None:
    assert refusal(dot.rename(dot.with_name("other"))) == "release.json is of release dot, the folder is named other"


def test_what_passed_is_told_until_the_refusal(dot: Path) -> None:
    (dot / "schema.json").write_text("{}")
    checks: list[Check] = []
    with pytest.raises(ReleaseRefused):
        verify_release(dot, checks.append)
    assert [check.name for check in checks] == ["manifest"]
    assert checks[0].seconds >= 0


# ---- the manifest


def test_a_path_in_the_manifest_is_refused(dot: Path) -> None:
    for name in ("../outside.npy", "/etc/passwd", "sub/vectors.npy", "vectors.npy/../vectors.npy"):
        manifest = manifest_of(dot)
        manifest["files"][name] = manifest["files"].pop("vectors.npy")
        write_manifest(dot, manifest)
        assert f"release.json.files must name {', '.join(FILES)}, not " in refusal(dot)
        manifest["files"]["vectors.npy"] = manifest["files"].pop(name)
        write_manifest(dot, manifest)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", 2, "release.json has format 2, this server reads 1"),
        ("format", None, "release.json has format None, this server reads 1"),
        ("release", "../dot", "'../dot' cannot name a release"),
        ("release", 7, "release is missing or not of type str"),
        ("dimension", 0, "dimension must be a whole number from 1 to 16384, not 0"),
        ("dimension", 16_385, "dimension must be a whole number from 1 to 16384, not 16385"),
        ("dimension", 8.0, "dimension must be a whole number from 1 to 16384, not 8.0"),
        ("dimension", True, "dimension must be a whole number from 1 to 16384, not True"),
        ("dimension", 9, "user_tower.onnx gives 8 dimensions, release.json says 9"),
        ("similarity", "euclid", "release.json.similarity must be dot or cosine, not 'euclid'"),
        ("similarity", ["dot"], "release.json.similarity must be dot or cosine, not ['dot']"),
        ("calibration", {"scale": -1, "bias": 0}, "scale must be greater than 0, not -1"),
        ("calibration", {"scale": float("nan"), "bias": 0}, "needs two finite numbers, scale and bias"),
        ("calibration", {"scale": 1, "bias": 10**400}, "needs two finite numbers, scale and bias"),
        ("calibration", None, "needs two finite numbers, scale and bias"),
        ("items", 0, "items must be a whole number from 1 to 2147483647, not 0"),
        ("items", 299, "vectors.npy is float32 (300, 8), not float32 (299, 8) in C order"),
        ("items", 301, "vectors.npy is float32 (300, 8), not float32 (301, 8) in C order"),
        ("log_position", -1, "log_position must be a whole number from 0 to 9223372036854775807, not -1"),
        ("created", None, "created is missing or not of type str"),
        ("training", "none", "training is missing or not of type dict"),
        ("index", [], "index is missing or not of type dict"),
        ("index.kind", 3, "kind is missing or not of type str"),
        ("index.kind", "hnsw", "index.faiss is no index of kind 'hnsw'"),
        ("index.kind", "ivf_sq8", "index.faiss is no index of kind 'ivf_sq8'"),
        ("index.recall", None, "index.recall must be a number from 0 to 1, not None"),
        ("index.recall", 1.5, "index.recall must be a number from 0 to 1, not 1.5"),
        ("index.recall", float("nan"), "index.recall must be a number from 0 to 1, not nan"),
        ("index.recall", True, "index.recall must be a number from 0 to 1, not True"),
        ("index.parameters", None, "parameters is missing or not of type dict"),
        ("files", {}, "release.json.files must name schema.json"),
        ("files.vectors.npy", "x", "release.json.files.vectors.npy must be an object"),
        ("files.vectors.npy", {"size_bytes": 1}, "sha256 is missing or not of type str"),
        ("files.vectors.npy", {"sha256": "", "size_bytes": -1}, "size_bytes must be a whole number from 0"),
    ],
)
def test_a_manifest_out_of_range_is_refused(dot: Path, place: str, value: Any, message: str) -> None:
    manifest = manifest_of(dot)
    outer, _, inner = place.partition(".")
    if inner:
        manifest[outer][inner] = value
    else:
        manifest[outer] = value
    write_manifest(dot, manifest)
    assert message in refusal(dot)


def test_a_manifest_that_is_no_object_is_refused(dot: Path) -> None:
    for text, message in (
        ("", "release.json is not JSON"),
        ("{", "release.json is not JSON"),
        ("[" * 100_000, "release.json is not JSON"),
        ("1" * 10_000, "release.json is not JSON"),
        ("[]", "release.json must be an object"),
        (" " * (17 << 20), "release.json is larger than 16777216 bytes"),
    ):
        (dot / MANIFEST).write_text(text)
        assert message in refusal(dot)
    (dot / MANIFEST).write_bytes(b"\xff\xfe")
    assert "release.json is not JSON" in refusal(dot)


def test_a_manifest_goes_through_json(dot: Path) -> None:
    manifest = Manifest.load(dot)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


# ---- schema and towers


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize(("change", "message"), graphs.BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_graph_that_does_not_fit_its_schema_is_refused(
    dot: Path, side: str, change: graphs.Change, message: str
) -> None:
    change(dot / f"{side}_tower.onnx")
    seal(dot)
    with pytest.raises(ReleaseRefused, match=message) as refused:
        verify_release(dot)
    assert f"{side}_tower.onnx" in str(refused.value)


def edit_schema(change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(release: Path) -> None:
        schema = json.loads((release / "schema.json").read_text())
        for side in ("user", "item"):
            del schema[side]["fingerprint"]
        change(schema)
        (release / "schema.json").write_text(json.dumps(schema))

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda schema: schema.update(format=9), "schema.json has format 9, this server reads 1"),
        (
            lambda schema: schema["item"]["features"].pop(0),
            "item_tower.onnx: input numeric has 4 columns, the item schema gives 3",
        ),
        (
            lambda schema: schema["item"].update(transforms="graph"),
            "item_tower.onnx: input numeric has 4 columns, the item schema gives 3",
        ),
        (lambda schema: schema["user"].update(fingerprint="0" * 16), "user.fingerprint is 0000000000000000, its"),
        # As many columns as before, but read in another way: only the golden samples know.
        (
            lambda schema: schema["item"]["features"][2].update(transform={"type": "none"}),
            "item_tower.onnx gives other vectors for the golden items",
        ),
        (
            lambda schema: schema["user"]["features"][4].update(vocabulary=["m", "f", "1"]),
            "user_tower.onnx gives other vectors for the golden users",
        ),
    ],
)
def test_a_schema_of_another_training_is_refused(
    dot: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_schema(change)(dot)
    seal(dot)
    assert message in refusal(dot)


def test_a_tower_of_another_training_is_refused(dot: Path, releases: Path) -> None:
    for side in ("user", "item"):
        own = (dot / f"{side}_tower.onnx").read_bytes()
        shutil.copyfile(releases / "cosine" / f"{side}_tower.onnx", dot / f"{side}_tower.onnx")
        seal(dot)
        assert f"{side}_tower.onnx gives other vectors for the golden {side}s: they differ by up to" in refusal(dot)
        (dot / f"{side}_tower.onnx").write_bytes(own)


# ---- vectors


def edit_vectors(release: Path, change: Callable[[NDArray[np.float32]], Any]) -> None:
    """change: makes other vectors, or changes those it gets and returns None."""
    vectors = np.load(release / "vectors.npy")
    changed = change(vectors)
    np.save(release / "vectors.npy", vectors if changed is None else changed)
    seal(release)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused(dot: Path, value: float) -> None:
    edit_vectors(dot, lambda vectors: vectors.__setitem__((217, 3), value))
    assert refusal(dot) == "vectors.npy: row 217 is not finite, or too long to be compared"


def test_a_vector_that_is_not_of_unit_length_is_refused_where_similarity_is_cosine(cosine: Path, dot: Path) -> None:
    edit_vectors(cosine, lambda vectors: vectors.__setitem__(211, vectors[211] * 1.01))
    assert refusal(cosine) == "vectors.npy: row 211 is not of unit length"


def test_a_zero_vector_has_no_length_and_is_sound(cosine: Path) -> None:
    golden = json.loads((cosine / "golden.json").read_text())
    sampled = {item["item_id"] for item in golden["items"]}
    with pa.ipc.open_file(pa.memory_map(str(cosine / "items.arrow"))) as file:
        ids = file.read_all()["item_id"].to_pylist()
    row = next(row for row, id in enumerate(ids) if id not in sampled)
    edit_vectors(cosine, lambda vectors: vectors.__setitem__(row, 0.0))
    verify_release(cosine)


def test_rows_of_other_items_are_refused(dot: Path) -> None:
    edit_vectors(dot, lambda vectors: np.roll(vectors, 1, axis=0))
    assert "vectors.npy holds other vectors than the item tower gives: they differ by up to" in refusal(dot)


def test_a_run_of_rows_anywhere_in_the_catalog_that_is_mixed_up_is_found(dot: Path) -> None:
    whole = np.load(dot / "vectors.npy")
    for start in range(0, 300, 60):
        mixed = whole.copy()
        mixed[start : start + 60] = np.roll(whole[start : start + 60], 1, axis=0)
        np.save(dot / "vectors.npy", mixed)
        seal(dot)
        assert "vectors.npy holds other vectors" in refusal(dot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors: vectors[:-1], "is float32 (299, 8), not float32 (300, 8) in C order"),
        (lambda vectors: vectors[:, :-1], "is float32 (300, 7), not float32 (300, 8) in C order"),
        (np.asfortranarray, "not float32 (300, 8) in C order"),
        (lambda vectors: vectors.astype(np.float64), "is float64 (300, 8), not float32 (300, 8) in C order"),
        (lambda vectors: vectors.astype(">f4"), "is >f4 (300, 8), not float32 (300, 8) in C order"),
        (lambda vectors: vectors.ravel(), "is float32 (2400,), not float32 (300, 8) in C order"),
    ],
)
def test_vectors_of_another_form_are_refused(
    dot: Path, change: Callable[[NDArray[np.float32]], object], message: str
) -> None:
    edit_vectors(dot, change)
    assert message in refusal(dot)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: b"",
        lambda content: b"PK\x03\x04" + content,
        lambda content: b"no numpy file at all" * 100,
        lambda content: content.replace(b"'<f4'", b"'|O' "),
    ],
)
def test_a_file_of_vectors_that_cannot_be_mapped_is_refused(dot: Path, damage: Callable[[bytes], bytes]) -> None:
    (dot / "vectors.npy").write_bytes(damage((dot / "vectors.npy").read_bytes()))
    seal(dot)
    assert refusal(dot).startswith("vectors.npy cannot be mapped: ")


# ---- the catalog


def edit_catalog(release: Path, change: Callable[[dict[str, pa.Array]], dict[str, pa.Array]]) -> None:
    with pa.ipc.open_file(pa.BufferReader((release / "items.arrow").read_bytes())) as file:
        batch = file.get_batch(0)
    columns = change(dict(zip(batch.schema.names, batch.columns, strict=True)))
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.ipc.new_file(str(release / "items.arrow"), batch.schema) as file:
        file.write_batch(batch)
    seal(release)


def with_ids(columns: dict[str, pa.Array], ids: list[str], keys: NDArray[np.uint64]) -> dict[str, pa.Array]:
    return {**columns, "item_id": pa.array(ids, pa.large_string()), "item_key": pa.array(keys)}


def test_ids_of_other_items_are_refused(dot: Path) -> None:
    ids = sorted((f"other{i}" for i in range(300)), key=lambda id: int(item_keys([id])[0]))
    edit_catalog(dot, lambda columns: with_ids(columns, ids, item_keys(ids)))
    assert "items.arrow lacks the golden item 'i" in refusal(dot)


def test_keys_that_are_not_of_their_ids_are_refused(dot: Path) -> None:
    def swap(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        ids = columns["item_id"].to_pylist()
        ids[200], ids[201] = ids[201], ids[200]
        return with_ids(columns, ids, columns["item_key"].to_numpy())

    edit_catalog(dot, swap)
    assert refusal(dot) == "row 200 of the catalog has an item_key that is not of its id"


def test_rows_out_of_order_are_refused(dot: Path) -> None:
    edit_catalog(dot, lambda columns: {name: values[::-1] for name, values in columns.items()})
    assert refusal(dot) == "the catalog's item_key is not strictly ascending"


def test_an_item_twice_is_refused(dot: Path) -> None:
    rows = pa.array([0, *range(299)])
    edit_catalog(dot, lambda columns: {name: values.take(rows) for name, values in columns.items()})
    assert refusal(dot) == "the catalog's item_key is not strictly ascending"


def test_another_number_of_rows_is_refused(dot: Path) -> None:
    edit_catalog(dot, lambda columns: {name: values[:-1] for name, values in columns.items()})
    assert refusal(dot) == "items.arrow has 299 rows, release.json says 300"


@pytest.mark.parametrize("column", ["item_id", "title"])
def test_text_that_is_not_utf8_is_refused(dot: Path, column: str) -> None:
    buffers = pa.array([b"\xff"] * 300, pa.large_binary()).buffers()
    texts = pa.Array.from_buffers(pa.large_string(), 300, buffers)
    edit_catalog(dot, lambda columns: {**columns, column: texts})
    assert refusal(dot).startswith("the catalog is broken: ")


@pytest.mark.parametrize("column", ["item_id", "title"])
def test_offsets_that_lead_nowhere_are_refused(dot: Path, column: str) -> None:
    offsets = np.zeros(301, np.int64)
    offsets[150] = 2**40
    texts = pa.Array.from_buffers(pa.large_string(), 300, [None, pa.py_buffer(offsets), pa.py_buffer(b"x")])
    edit_catalog(dot, lambda columns: {**columns, column: texts})
    assert refusal(dot).startswith("the catalog is broken: ")


def test_a_catalog_that_is_no_arrow_file_is_refused(dot: Path) -> None:
    for content in (b"", b"ARROW1\0\0", b"no arrow at all" * 100, (dot / "items.arrow").read_bytes()[:-20]):
        (dot / "items.arrow").write_bytes(content)
        seal(dot)
        assert refusal(dot).startswith("items.arrow cannot be mapped: ")


# ---- golden samples


def edit_golden(release: Path, change: Callable[[dict[str, Any]], object]) -> None:
    golden = json.loads((release / "golden.json").read_text())
    change(golden)
    (release / "golden.json").write_text(json.dumps(golden))
    seal(release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda golden: golden.update(format=2), "golden.json has format 2, this server reads 1"),
        (
            lambda golden: golden["users"][3]["embedding"].__setitem__(0, 9.0),
            "user_tower.onnx gives other vectors for the golden users: they differ by up to",
        ),
        (
            lambda golden: golden["users"][3]["features"].update(user_age=-900.0),
            "user_tower.onnx gives other vectors for the golden users: they differ by up to",
        ),
        (
            lambda golden: golden["items"][3]["embedding"].__setitem__(0, float("nan")),
            "item_tower.onnx gives other vectors for the golden items: they differ by up to nan",
        ),
        (
            lambda golden: golden["scores"][5].__setitem__(7, 0.123),
            "the calibration gives other scores for the golden samples: they differ by up to",
        ),
        (lambda golden: golden["scores"].pop(), "golden.json needs users, items, and a score for each pair"),
        (lambda golden: golden.update(users=[], scores=[]), "golden.json needs users, items, and a score"),
        (lambda golden: golden.update(items=[]), "golden.json needs users, items, and a score for each pair"),
        (lambda golden: golden["users"][0].pop("features"), "golden.json cannot be read: KeyError"),
        (lambda golden: golden["users"][0].update(embedding=[1.0]), "golden.json cannot be read: ValueError"),
        (lambda golden: golden.pop("scores"), "golden.json cannot be read: KeyError"),
        (
            lambda golden: [user["embedding"].append(0.0) for user in golden["users"]],
            "user_tower.onnx gives other vectors for the golden users: shape (60, 8), recorded (60, 9)",
        ),
    ],
)
def test_golden_samples_that_disagree_are_refused(
    dot: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_golden(dot, change)
    assert message in refusal(dot)


def test_golden_samples_that_are_no_json_are_refused(dot: Path) -> None:
    for text in ("", "{", "[" * 100_000):
        (dot / "golden.json").write_text(text)
        seal(dot)
        assert refusal(dot).startswith("golden.json is not JSON: ")
    (dot / "golden.json").write_text("[]")
    seal(dot)
    assert refusal(dot).startswith("golden.json cannot be read: TypeError")


def test_another_calibration_is_refused(dot: Path) -> None:
    write_manifest(dot, {**manifest_of(dot), "calibration": {"scale": 2.5, "bias": -0.5}})
    assert "the calibration gives other scores for the golden samples" in refusal(dot)


# ---- the index


def test_an_index_of_other_vectors_is_refused(ivf_releases: Path, tmp_path: Path) -> None:
    one = Path(shutil.copytree(ivf_releases / "one", tmp_path / "one"))
    verify_release(one)
    shutil.copyfile(ivf_releases / "two" / "index.faiss", one / "index.faiss")
    seal(one)
    assert "index.faiss has recall 0." in refusal(one)


def test_an_index_that_finds_less_than_it_should_is_refused(ivf_releases: Path, tmp_path: Path) -> None:
    one = Path(shutil.copytree(ivf_releases / "one", tmp_path / "one"))
    manifest = manifest_of(one)
    manifest["index"]["parameters"]["probes"] = 1
    write_manifest(one, manifest)
    assert refusal(one).startswith("index.faiss has recall 0.")
    assert refusal(one).endswith(f"recorded is {manifest['index']['recall']:.3f}")


def write_index(release: Path, index: Any) -> None:
    faiss.write_index(index, str(release / "index.faiss"))
    seal(release)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (faiss.IndexFlatIP(9), "index.faiss is of other vectors than the release: 9 dimensions"),
        (faiss.IndexFlatL2(8), "index.faiss is of other vectors than the release: 8 dimensions"),
        (faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT), "index.faiss is no index of kind 'exact'"),
    ],
)
def test_an_index_of_another_kind_is_refused(dot: Path, index: Any, message: str) -> None:
    write_index(dot, index)
    assert refusal(dot) == message


@pytest.mark.parametrize("probes", [0, -1, 10**6, 1.5, "8", None, True])
def test_probes_out_of_range_are_refused(ivf_releases: Path, tmp_path: Path, probes: Any) -> None:
    one = Path(shutil.copytree(ivf_releases / "one", tmp_path / "one"))
    manifest = manifest_of(one)
    manifest["index"]["parameters"]["probes"] = probes
    write_manifest(one, manifest)
    assert "the index's probes must be a whole number from 1 to" in refusal(one)


def test_an_index_with_too_few_vectors_is_refused(ivf_releases: Path, tmp_path: Path) -> None:
    one = Path(shutil.copytree(ivf_releases / "one", tmp_path / "one"))
    index: Any = faiss.read_index(str(one / "index.faiss"))
    index.remove_ids(np.arange(10))
    write_index(one, index)
    assert refusal(one) == "index.faiss holds 3990 vectors, the release 4000"


def test_a_file_that_is_no_index_is_refused(dot: Path) -> None:
    for content in (b"", b"no index", (dot / "index.faiss").read_bytes()[:-5]):
        (dot / "index.faiss").write_bytes(content)
        seal(dot)
        assert refusal(dot).startswith("index.faiss is missing or is not a Faiss index; build the release again")


# ---- as the server says it


def test_a_server_refuses_with_the_reason_and_without_a_traceback(dot: Path, tmp_path: Path) -> None:
    edit_vectors(dot, lambda vectors: vectors.__setitem__((217, 3), np.nan))
    (dot.parent / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(dot.parent), "--listen", "localhost:0"]
    server = Server([*command, "--data", str(tmp_path / "data")], tmp_path / "log", {})
    try:
        assert server.ended() == 3
        assert "twotower serve: release dot: vectors.npy: row 217 is not finite" in server.log()
        assert "Traceback" not in server.log()
    finally:
        server.close()
