"""Places of releases: a folder, and file systems of fsspec, an S3 server among them."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec.config
import pytest

from tests.object_store import object_store
from tests.release.conftest import manifest_of, write_manifest
from tests.supervisor.running import until
from twotower_server.config import ConfigError
from twotower_server.errors import ExtraMissing, ReleaseRefused
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import FILES, MANIFEST
from twotower_server.release.repository import LocalRepository, Repository, open_repository, read_manifest

Open = Callable[..., Repository]


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of an empty folder `remote`."""
    (tmp_path / "remote").mkdir()
    return f"file://{tmp_path / 'remote'}"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """An empty place of each kind."""
    if request.param == "folder":
        (tmp_path / "place").mkdir()
        return tmp_path / "place"
    if request.param == "file":
        return str(request.getfixturevalue("file_url"))
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}"


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Open]:
    """Opens a place, with a cache in `data` of tmp_path."""
    opened: list[Repository] = []

    def run(location: Path | str, keep_fetched: int = 3, data: str = "data") -> Repository:
        opened.append(open_repository(location, tmp_path / data, keep_fetched))
        return opened[-1]

    yield run
    for repository in opened:
        repository.use(())


@pytest.fixture
def repository(place: Path | str, open_place: Open) -> Repository:
    return open_place(place)


def add(repository: Repository, folder: Path) -> None:
    repository.add(folder, lambda: None)


def same_files(one: Path, other: Path) -> bool:
    names = sorted([MANIFEST, *FILES])
    assert sorted(os.listdir(one)) == sorted(os.listdir(other)) == names
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def damage(release: Path, name: str = "golden.json") -> None:
    content = bytearray((release / name).read_bytes())
    content[len(content) // 2] ^= 1
    (release / name).write_bytes(content)


def renamed(release: Path, name: str) -> Path:
    """The same release under another name."""
    copy = Path(shutil.copytree(release, release.with_name(name)))
    write_manifest(copy, {**manifest_of(copy), "release": name})
    return copy


# ---- what every place can


def test_texts(repository: Repository) -> None:
    assert repository.read("active") is None
    assert repository.listed("~servers") == []
    repository.remove("active")
    for text in ("r1\n", "r2\n", "ü\n"):
        repository.write("active", text)
        assert repository.read("active") == text
    for name in ("b", "a"):
        repository.write(f"~servers/{name}", "{}")
    assert repository.listed("~servers") == ["a", "b"]
    repository.remove("~servers/a")
    repository.remove("active")
    assert repository.listed("~servers") == ["b"]
    assert repository.read("active") is None


def test_a_release_is_added_found_and_used(repository: Repository, dot: Path, releases: Path) -> None:
    copied: list[None] = []
    repository.add(dot, lambda: copied.append(None))
    assert len(copied) == len(FILES)
    assert repository.names() == ["dot"]
    assert read_manifest(repository, "dot").release == "dot"
    folder = repository.local("dot")
    assert folder.name == "dot"
    assert same_files(folder, releases / "dot")
    assert repository.present("dot") == folder
    repository.delete("dot")
    assert repository.names() == []
    with pytest.raises(ReleaseRefused, match="there is no release dot; there are none"):
        repository.local("dot")


def test_a_release_that_is_there_already(repository: Repository, dot: Path, releases: Path) -> None:
    add(repository, dot)
    damage(dot)
    add(repository, dot)  # not copied again
    assert same_files(repository.local("dot"), releases / "dot")
    write_manifest(dot, {**manifest_of(dot), "log_position": 7})
    with pytest.raises(ReleaseRefused, match="has another release dot; releases never change, build it under another"):
        add(repository, dot)


@pytest.mark.parametrize("name", [FILES[0], FILES[-1]])
def test_what_is_damaged_is_not_added(repository: Repository, dot: Path, releases: Path, name: str) -> None:
    damage(dot, name)
    with pytest.raises(ReleaseRefused, match=f"^{name} has changed: its SHA-256 is not the one in release.json$"):
        add(repository, dot)
    assert repository.names() == []
    # What was copied by then is no obstacle.
    add(repository, releases / "dot")
    assert same_files(repository.local("dot"), releases / "dot")


def test_other_names_are_no_releases(repository: Repository, dot: Path) -> None:
    add(repository, dot)
    repository.write("~half/release.json", "{}")
    repository.write("notes/readme.json", "{}")
    repository.write("active", "dot\n")
    assert repository.names() == ["dot"]
    with pytest.raises(ReleaseRefused, match="there is no release notes; there are dot"):
        read_manifest(repository, "notes")
    for name in ("../dot", "~half", "active"):
        with pytest.raises(ReleaseRefused, match="cannot name a release"):
            repository.local(name)


def test_a_manifest_that_is_broken(repository: Repository) -> None:
    repository.write("r1/release.json", "{")
    assert repository.names() == ["r1"]
    with pytest.raises(ReleaseRefused, match=r"release\.json is not JSON"):
        read_manifest(repository, "r1")


def test_the_fleet_needs_no_more(repository: Repository, place: Path | str, open_place: Open, dot: Path) -> None:
    add(repository, dot)
    add(repository, renamed(dot, "r2"))
    command, server = Fleet(repository), Fleet(open_place(place), "one", 60.0)
    assert command.activate("dot") == ""
    assert command.activate("r2", expected="dot") == "dot"
    assert (server.active(), server.previous("r2")) == ("r2", "dot")
    command.set_shares("r2", {"dot": 0.5, "r2": 0.5})
    assert server.shares("r2") == {"dot": 0.5, "r2": 0.5}
    server.report("dot", {}, ["dot"], {"r2": "broken"})
    (seen,) = command.servers()
    assert (seen.name, seen.active, seen.loaded, seen.refused) == ("one", "dot", ["dot"], {"r2": "broken"})
    assert command.wait_serving("r2", {}, 0.0) == ["one"]
    server.leave()
    assert command.servers() == []


def test_a_text_is_never_read_half(repository: Repository, place: Path | str, open_place: Open) -> None:
    texts = {letter * 20_000 for letter in "ab"}
    repository.write("~split", min(texts))
    stop = threading.Event()

    def write(repository: Repository) -> None:
        while not stop.is_set():
            for text in texts:
                repository.write("~split", text)

    writer = threading.Thread(target=write, args=[open_place(place)])
    writer.start()
    try:
        assert {repository.read("~split") for _ in range(100)} <= texts
    finally:
        stop.set()
        writer.join()


# ---- folders


def test_a_link_to_a_release_is_removed_alone(tmp_path: Path, dot: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "dot").symlink_to(dot)
    LocalRepository(tmp_path / "place").delete("dot")
    assert os.listdir(tmp_path / "place") == []
    assert (dot / MANIFEST).exists()


def test_remains_of_a_killed_removal_go_with_the_next(dot: Path) -> None:
    remains = dot.with_name("~removed-r0-1234")
    remains.mkdir()
    (remains / "vectors.npy").touch()
    LocalRepository(dot.parent).delete("dot")
    assert os.listdir(dot.parent) == []


def test_a_folder_that_is_not_there(tmp_path: Path, open_place: Open) -> None:
    with pytest.raises(ReleaseRefused, match="nowhere is no folder; name the folder of releases by --releases"):
        open_place(tmp_path / "nowhere")


# ---- what is fetched


@pytest.fixture
def remote(file_url: str, open_place: Open, dot: Path) -> Path:
    """The folder behind `file_url`, with the release `dot`, which a test may damage."""
    add(open_place(file_url), dot)
    return Path(file_url.removeprefix("file://"))


def copies(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data" / "fetched").glob("*/*") if path.is_dir())


def test_a_release_is_fetched_once(file_url: str, remote: Path, open_place: Open) -> None:
    folder = open_place(file_url).local("dot")
    shutil.move(remote / "dot" / "vectors.npy", remote / "dot" / "gone")
    assert open_place(file_url).local("dot") == folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vectors.npy", b"", r"^vectors\.npy has 0 bytes, release\.json says [0-9]+$"),
        ("schema.json", b"x" * 10_000_000, r"^schema\.json has more than [0-9]+ bytes, release\.json says [0-9]+$"),
        ("golden.json", None, r"^golden\.json is missing$"),
    ],
)
def test_what_is_not_what_its_manifest_says_is_not_fetched(
    file_url: str, remote: Path, open_place: Open, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    right = (remote / "dot" / name).read_bytes()
    (remote / "dot" / name).unlink()
    if content is not None:
        (remote / "dot" / name).write_bytes(content)
    repository = open_place(file_url)
    with pytest.raises(ReleaseRefused, match=message):
        repository.local("dot")
    assert repository.present("dot") is None
    assert copies(tmp_path) == []
    (remote / "dot" / name).write_bytes(right)
    assert same_files(repository.local("dot"), remote / "dot")


def test_a_changed_file_is_not_fetched(file_url: str, remote: Path, open_place: Open, tmp_path: Path) -> None:
    damage(remote / "dot", "vectors.npy")
    with pytest.raises(ReleaseRefused, match=r"^vectors\.npy has changed: its SHA-256"):
        open_place(file_url).local("dot")
    assert copies(tmp_path) == []


def test_a_folder_of_another_release_is_not_fetched(file_url: str, remote: Path, open_place: Open) -> None:
    (remote / "dot").rename(remote / "r1")
    with pytest.raises(ReleaseRefused, match=r"release\.json is of release dot, the folder is named r1"):
        open_place(file_url).local("r1")


def test_a_release_that_took_the_name_of_another_is_another(
    file_url: str, remote: Path, open_place: Open, releases: Path
) -> None:
    repository = open_place(file_url)
    before = repository.local("dot")
    repository.delete("dot")
    other = renamed(remote.parent / "releases" / "dot", "other")
    shutil.rmtree(remote.parent / "releases" / "dot")
    other = other.rename(other.with_name("dot"))
    write_manifest(other, {**manifest_of(other), "release": "dot", "log_position": 7})
    add(repository, other)
    after = repository.local("dot")
    assert after != before
    assert same_files(before, releases / "dot")
    assert read_manifest(repository, "dot").log_position == 7
    assert same_files(after, other)


@contextmanager
def fetching(url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that fetches `dot`; it ends with the block."""
    command = [sys.executable, str(Path(__file__).with_name("fetch.py")), url, str(tmp_path / "data"), "dot"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def fetched(process: subprocess.Popen[str]) -> Path:
    """Where the process has put it, once it has."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended"
    return Path(line.strip())


def has_begun(tmp_path: Path) -> bool:
    return any((tmp_path / "data").glob(f"fetched/*/~*/{FILES[-2]}"))


def test_a_killed_fetch_leaves_nothing_under_the_name(
    file_url: str, remote: Path, open_place: Open, tmp_path: Path
) -> None:
    with fetching(f"slow://{remote}", tmp_path) as process:
        until(lambda: has_begun(tmp_path))
        process.kill()
    assert has_begun(tmp_path)
    repository = open_place(file_url)
    assert repository.present("dot") is None
    folder = repository.local("dot")
    assert same_files(folder, remote / "dot")
    assert sorted(os.listdir(folder.parent)) == ["dot", "lock"]


def test_two_processes_fetch_a_release_once(remote: Path, tmp_path: Path) -> None:
    url = f"slow://{remote}"
    with fetching(url, tmp_path) as one:
        until(lambda: has_begun(tmp_path))
        (unfinished,) = (tmp_path / "data").glob("fetched/*/~*/")
        inode = unfinished.stat().st_ino
        with fetching(url, tmp_path) as other:
            until(lambda: has_open(other.pid, unfinished.with_name("lock")))
            (remote / "go").touch()
            folder = fetched(one)
            assert fetched(other) == folder
    assert folder.stat().st_ino == inode, "the second has waited for the first"
    assert same_files(folder, remote / "dot")


def has_open(pid: int, path: Path) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(descriptor) == str(path):
                return True
    return False


def test_copies_that_nobody_uses_are_pruned(file_url: str, remote: Path, open_place: Open, tmp_path: Path) -> None:
    repository = open_place(file_url, keep_fetched=1)
    dot = tmp_path / "releases" / "dot"
    for name in ("r1", "r2", "r3", "r4", "r5"):
        add(repository, renamed(dot, name))
    for name in ("r1", "r2", "r3"):
        repository.local(name)
    assert copies(tmp_path) == ["r1", "r2", "r3"], "all are in use"
    repository.use(["r2"])
    repository.local("r4")
    assert copies(tmp_path) == ["r2", "r3", "r4"], "r3 was used later than r1"
    other = open_place(file_url, keep_fetched=0)
    other.local("r1")
    assert copies(tmp_path) == ["r1", "r2", "r4"]
    repository.use([])
    other.local("r5")
    assert copies(tmp_path) == ["r1", "r5"]


def test_what_another_process_uses_stays(file_url: str, remote: Path, open_place: Open, tmp_path: Path) -> None:
    repository = open_place(file_url, keep_fetched=0)
    add(repository, renamed(tmp_path / "releases" / "dot", "r1"))
    with fetching(file_url, tmp_path) as process:
        fetched(process)
        repository.local("r1")
        repository.use(())
        assert copies(tmp_path) == ["dot", "r1"]
    repository.local("r1")
    assert copies(tmp_path) == ["r1"]


# ---- places that cannot be used


def test_a_store_that_cannot_be_reached(open_place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    repository = open_place("s3://bucket/releases")
    with pytest.raises(OSError, match=r"^s3://bucket/releases cannot be reached: .*Could not connect"):
        repository.names()


def test_a_bucket_that_is_not_there(open_place: Open, bucket: str) -> None:
    with pytest.raises(OSError, match="bucket does not exist"):
        open_place("s3://elsewhere/releases").names()


def test_a_kind_of_store_that_there_is_not(open_place: Open) -> None:
    with pytest.raises(ConfigError, match="--releases: Protocol not known: nfs; name a folder, or a URL such as s3:"):
        open_place("nfs://host/releases")


def test_a_package_that_is_missing(open_place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "twotower_server.release.repository_fsspec", raising=False)
    with pytest.raises(ExtraMissing, match=r'pip install "twotower\[remote\]", and the package of their kind of store'):
        open_place("memory://releases")


def test_a_password_is_not_shown(open_place: Open) -> None:
    assert str(open_place("memory://me:secret@host/releases")) == "memory://me:***@host/releases"
