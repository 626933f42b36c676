"""Releases made to harm a server: refused with a reason by the verifier, in bounded memory; the running one goes on."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import faiss
import grpc
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import ATTRIBUTES
from tests.http.calling import TIMEOUT_S
from tests.model_folder import item_table
from tests.release.conftest import manifest_of, seal, write_manifest
from tests.rpc.messages import USER, user
from tests.security.conftest import Started, start_in
from tests.supervisor.running import until
from twotower import v1
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import FILES

SOURCES = Path(__file__).parents[2]
_MEMORY_MIB = 1_024


@pytest.fixture(scope="module")
def server(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Serves the release `dot`; its verifier may take 1 GiB."""
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as held:
        yield start_in(held, folder, releases, "--verifier-memory-mib", str(_MEMORY_MIB), "--data", folder / "data")


@pytest.fixture(scope="module")
def ivf(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose index has lists. Do not change it."""
    folder = tmp_path_factory.mktemp("ivf")
    pq.write_table(item_table(4_000, 31), folder / "items.parquet")
    model = releases.parent / "model-dot"
    recipe = Recipe("ivf", model, folder / "items.parquet", attributes=ATTRIBUTES, index="ivf_sq8")
    return build_release(recipe, folder / "releases")


@pytest.fixture
def hostile(server: Started, releases: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the release `dot` under a name of its own. A test damages it, then has it `refused`."""
    yield from _copy(releases / "dot", tmp_path)


@pytest.fixture
def hostile_ivf(server: Started, ivf: Path, tmp_path: Path) -> Iterator[Path]:
    """The same of the release `ivf`."""
    yield from _copy(ivf, tmp_path)


_number = iter(range(1_000))


def _copy(release: Path, folder: Path) -> Iterator[Path]:
    copy = Path(shutil.copytree(release, folder / f"hostile-{next(_number)}"))
    write_manifest(copy, {**manifest_of(copy), "release": copy.name})
    yield copy


def refused(server: Started, release: Path) -> str:
    """Has the server load a release, and waits until it is refused: the reason. What is active serves on."""
    place = server.server._log.parent / "releases" / release.name
    shutil.move(release, place)
    workers = server.server.children()
    try:
        with grpc.insecure_channel(server.target) as channel:
            stub = v1.ReleaseServiceStub(channel)

            def status() -> Any:
                listed = stub.ListReleases(v1.ListReleasesRequest(), timeout=TIMEOUT_S).releases
                return next(one for one in listed if one.info.release == release.name)

            stub.LoadRelease(v1.LoadReleaseRequest(release=release.name), timeout=TIMEOUT_S)
            until(lambda: status().state not in (v1.RELEASE_STATE_VERIFYING, v1.RELEASE_STATE_AVAILABLE))
            found = status()
            request = v1.GetUserEmbeddingRequest(user=user(USER))
            served = v1.TwoTowerServiceStub(channel).GetUserEmbedding(request, timeout=TIMEOUT_S).release
    finally:
        shutil.rmtree(place)
    assert v1.ReleaseState.Name(found.state) == "RELEASE_STATE_REFUSED", found
    assert served == "dot"
    assert set(workers) <= set(server.server.children()), "no worker has opened it"
    assert str(release.parent) not in found.reason
    assert "Traceback" not in server.server.log()
    return str(found.reason)


# ---- code in files


def test_nothing_of_the_project_unpickles() -> None:
    forbidden = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    seen = 0
    for folder in ("server", "clients/python", "bench"):
        for path in (SOURCES / folder).rglob("*.py"):
            seen += 1
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                match node:
                    case ast.Import(names=names):
                        imported = {alias.name.partition(".")[0] for alias in names}
                    case ast.ImportFrom(module=str(module)):
                        imported = {module.partition(".")[0]}
                    case ast.Call(func=func, keywords=keywords):
                        imported = set()
                        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
                        assert name not in ("eval", "exec") or isinstance(func, ast.Attribute), path
                        assert all(keyword.arg != "allow_pickle" for keyword in keywords), path
                        if name == "load" and isinstance(func, ast.Attribute):
                            assert getattr(func.value, "id", "") not in ("torch", "np", "numpy"), path
                    case _:
                        imported = set()
                assert not imported & forbidden, f"{path}: {imported}"
    assert seen > 150


class _Bomb:
    """What would run, would a server unpickle it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


def test_an_array_of_pickled_objects_is_refused_unread(server: Started, hostile: Path, tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    array = np.empty((300, 8), object)
    array[:] = _Bomb(trace)
    np.save(hostile / "vectors.npy", array, allow_pickle=True)
    seal(hostile)
    assert "vectors.npy cannot be mapped: " in refused(server, hostile)
    assert not trace.exists()


# ---- graphs


def edit_graph(release: Path, change: Callable[[Any], object]) -> None:
    path = release / "user_tower.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    seal(release)


def append(model: Any, *nodes: Any) -> None:
    """Puts nodes between `inner`, as the embedding is then called, and the output."""
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "embedding":
                node.output[place] = "inner"
    model.graph.node.extend(nodes)


def constant(model: Any, name: str, array: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def point_outside(model: Any) -> None:
    weights = next(one for one in model.graph.initializer if one.name == "weights_numeric")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")


def use_foreign(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    append(model, helper.make_node("Evil", ["inner"], ["embedding"], domain="com.evil"))


def fill_memory(model: Any) -> None:
    """Makes a petabyte of zeros, and adds one of them."""
    huge = helper.make_node("ConstantOfShape", [constant(model, "huge", [2**25, 2**25])], ["zeros"])
    one = helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0)
    append(model, huge, one, helper.make_node("Add", ["inner", "zero"], ["embedding"]))


def fill_most(model: Any) -> None:
    """Makes 8 GiB, which many a machine has."""
    huge = helper.make_node("ConstantOfShape", [constant(model, "huge", [2**31])], ["zeros"])
    one = helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0)
    append(model, huge, one, helper.make_node("Add", ["inner", "zero"], ["embedding"]))


def declare_huge(model: Any) -> None:
    weights = next(one for one in model.graph.initializer if one.name == "weights_numeric")
    del weights.dims[:]
    weights.dims.extend([2**40, 2**20])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (point_outside, "user_tower.onnx keeps tensors in another file"),
        (use_foreign, "user_tower.onnx uses an operator of the domain 'com.evil'"),
        (fill_memory, ""),
        (fill_most, ""),
        (declare_huge, "user_tower.onnx cannot be opened as an ONNX graph"),
    ],
)
def test_a_hostile_graph(server: Started, hostile: Path, change: Callable[[Any], None], reason: str) -> None:
    edit_graph(hostile, change)
    found = refused(server, hostile)
    assert reason in found
    assert "user_tower.onnx" in found or "memory" in found


# ---- names and kinds of files


@pytest.mark.parametrize("name", ["../dot/vectors.npy", "/etc/passwd", "vectors.npy/../x", "nested/vectors.npy"])
def test_a_manifest_cannot_lead_out_of_its_folder(server: Started, hostile: Path, name: str) -> None:
    manifest = manifest_of(hostile)
    manifest["files"][name] = manifest["files"].pop("vectors.npy")
    write_manifest(hostile, manifest)
    assert "release.json.files must name schema.json" in refused(server, hostile)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_or_a_pipe_is_refused(server: Started, hostile: Path, name: str) -> None:
    (hostile / name).unlink()
    if name.endswith(".json"):
        (hostile / name).symlink_to("/dev/zero")
        assert f"{name} is a symbolic link" in refused(server, hostile)
    else:
        os.mkfifo(hostile / name)
        assert f"{name} is no file" in refused(server, hostile)


# ---- what files declare


def npy(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        npy((300, 8)),  # and no data
        npy((2**40, 2**20)) + bytes(9_600),
        npy((2**62, 8)) + bytes(9_600),
        npy((-1, 8)) + bytes(9_600),
        b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"x" * 100,
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535,
        b"\x93NUMPY\x01\x00\x40\x00" + b"__import__('os').abort()".ljust(64),
    ],
    ids=range(7),
)
def test_vectors_that_are_not_what_their_header_says(server: Started, hostile: Path, content: bytes) -> None:
    (hostile / "vectors.npy").write_bytes(content)
    seal(hostile)
    found = refused(server, hostile)
    assert "vectors.npy" in found or "memory" in found


def compressed(release: Path) -> None:
    """A gibibyte and a half of spaces in a few kilobytes."""
    with pa.ipc.open_file(release / "items.arrow") as file:
        batch = file.get_batch(0)
    text = pa.array(["x" * (5 << 20)] * len(batch), pa.large_string())
    batch = batch.set_column(batch.schema.get_field_index("title"), "title", text)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (release / "items.arrow").open("wb") as sink, pa.ipc.new_file(sink, batch.schema, options=options) as file:
        file.write_batch(batch)


def lying(release: Path) -> None:
    """A footer that is longer than the file."""
    content = (release / "items.arrow").read_bytes()
    (release / "items.arrow").write_bytes(content[:-10] + (2**31 - 1).to_bytes(4, "little") + b"ARROW1")


@pytest.mark.parametrize("damage", [compressed, lying])
def test_a_hostile_table(server: Started, hostile: Path, damage: Callable[[Path], None]) -> None:
    damage(hostile)
    seal(hostile)
    found = refused(server, hostile)
    assert "items.arrow" in found or "memory" in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("schema.json", "[" * 1_000_000),
        ("golden.json", '{"users":' * 500_000),
        ("schema.json", json.dumps({"format": 1, "user": "x" * (600 << 20)})),
        ("golden.json", '{"users": [' + "1," * (40 << 20) + "1]}"),
        ("schema.json", '{"format": 1' + "0" * 5_000 + "}"),
        ("release.json", " " * ((16 << 20) + 1)),
        ("release.json", '{"files":' * 100_000),
    ],
    ids=range(7),
)
def test_hostile_json(server: Started, hostile: Path, name: str, content: str) -> None:
    (hostile / name).write_text(content)
    if name != "release.json":
        seal(hostile)
    found = refused(server, hostile)
    assert name in found or "memory" in found


# ---- an index


def test_an_index_that_is_cut_off_anywhere(server: Started, ivf: Path, tmp_path: Path) -> None:
    content = (ivf / "index.faiss").read_bytes()
    for share in (0.001, 0.3, 0.9):
        copy = next(_copy(ivf, tmp_path))
        (copy / "index.faiss").write_bytes(content[: int(len(content) * share)])
        seal(copy)
        assert "index.faiss" in refused(server, copy)


# Where index.faiss says how much of something there is: from its begin the dimension, the vectors, the lists, the same
# of the centroids, and the bytes of these; from `ilar`, where the lists begin, what codes need, and the lists.
_FROM_BEGIN = (4, 8, 37, 57, 61, 90)
_FROM_LISTS = (-97, -81, -9, 4, 12, 24, 32)


@pytest.mark.parametrize("size", [3, 2**39])
def test_an_index_that_lies_about_its_sizes(server: Started, ivf: Path, tmp_path: Path, size: int) -> None:
    content = (ivf / "index.faiss").read_bytes()
    begin = content.index(b"ilar")
    for place in (*_FROM_BEGIN, *(begin + place for place in _FROM_LISTS)):
        bytes_of = 4 if place in (4, 57) else 8
        changed = content[:place] + (size % 2 ** (8 * bytes_of)).to_bytes(bytes_of, "little")
        copy = next(_copy(ivf, tmp_path))
        (copy / "index.faiss").write_bytes(changed + content[len(changed) :])
        seal(copy)
        found = refused(server, copy)
        assert "index.faiss" in found or "the verifier crashed" in found or "memory" in found, (place, size)


def _index(release: Path) -> Any:
    return faiss.read_index(str(release / "index.faiss"))


def wrong_row(index: Any) -> None:
    rows: Any = faiss.rev_swig_ptr(index.invlists.get_ids(0), index.invlists.list_size(0))
    rows[0] = 4_000


def negative_row(index: Any) -> None:
    rows: Any = faiss.rev_swig_ptr(index.invlists.get_ids(0), index.invlists.list_size(0))
    rows[0] = -(2**40)


def row_twice(index: Any) -> None:
    rows: Any = faiss.rev_swig_ptr(index.invlists.get_ids(0), index.invlists.list_size(0))
    rows[0] = rows[1]


def few_centroids(index: Any) -> None:
    quantizer: Any = faiss.downcast_index(index.quantizer)
    quantizer.reset()
    quantizer.add(np.zeros((3, 8), np.float32))


def few_ranges(index: Any) -> None:
    index.sq.trained.resize(2)


def other_total(index: Any) -> None:
    index.invlists.resize(0, 0)


def wide_codes(index: Any) -> None:
    index.sq.qtype = faiss.ScalarQuantizer.QT_fp16
    index.sq.set_derived_sizes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_row, "index.faiss names rows that the release does not have"),
        (negative_row, "index.faiss names rows that the release does not have"),
        (row_twice, "index.faiss lacks row"),
        (other_total, "index.faiss disagrees with itself: its lists hold"),
        (few_centroids, "index.faiss"),
        (few_ranges, "index.faiss"),
        (wide_codes, "index.faiss"),
    ],
)
def test_an_index_whose_parts_do_not_fit(
    server: Started, hostile_ivf: Path, change: Callable[[Any], None], reason: str
) -> None:
    index = _index(hostile_ivf)
    change(index)
    faiss.write_index(index, str(hostile_ivf / "index.faiss"))
    seal(hostile_ivf)
    assert reason in refused(server, hostile_ivf)
