"""The image of deploy/Dockerfile, built and run by its own commands, in namespaces: CI has no Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import twotower
from tests.deploy.container import PYTHON, Container
from tests.deploy.dockerfile import read
from tests.supervisor.running import PATIENCE_S, Server, children

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers without Docker need root"),
]

ROOT = Path(__file__).parents[2]
BUILD, RUN = read(ROOT / "deploy/Dockerfile")
USER = int(RUN.one("USER").partition(":")[0])
# Brought by every Debian, however slim. All else must come with the packages.
_OF_THE_BASE = re.compile(r"linux-vdso|ld-linux|lib(c|m|dl|rt|util|pthread|gcc_s|stdc\+\+|z)\.so")
_MAX_MB = 560


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system after the build stage."""
    root = tmp_path_factory.mktemp("build")
    container = Container(root, {})
    environ = {
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")},
        **BUILD.environment(),
        "HOME": "/tmp",
        "PATH": "/opt/base/bin:/usr/bin:/bin",
    }

    def run(command: Sequence[str], folder: str = "/") -> None:
        command = container.command(command, environ, folder)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run([f"{PYTHON}/bin/python3", "-m", "venv", "/opt/base"])  # the base image's Python has pip
    folder = BUILD.one("WORKDIR")
    (root / folder[1:]).mkdir()
    for keyword, text in BUILD.instructions:
        if keyword == "COPY":
            *sources, target = text.split()
            for source in sources:
                to = root / folder[1:] / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, to)
        elif keyword == "RUN":
            run(["/bin/sh", "-c", text], folder)
    return root


@pytest.fixture(scope="module")
def image(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of the image, as its COPY instructions make it."""
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)  # pytest's folders are for their owner alone
    for text in RUN.all("COPY"):
        words = shlex.split(text)
        source, target = words[-2:]
        assert "--from=build" in words
        shutil.copytree(built / source[1:], root / target[1:], symlinks=True, dirs_exist_ok=True, copy_function=os.link)
        if f"--chown={USER}:{USER}" in words:
            for copied in (built / source[1:]).iterdir():
                os.chown(root / target[1:] / copied.name, USER, USER)
    return root


@pytest.fixture(scope="module")
def container(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Its root is read-only, but for the volume of data, that of releases, and /tmp."""
    volumes = {path: tmp_path_factory.mktemp("volume") for path in ("/releases", *json.loads(RUN.one("VOLUME")))}
    for path, volume in volumes.items():  # as Docker makes a volume of its own
        shutil.copystat(image / path[1:], volume)
        os.chown(volume, USER, USER)
    return Container(image, volumes, USER, read_only=True)


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    """Of the image; ports are free ones."""
    found = RUN.environment()
    path = found["PATH"].replace("$PATH", f"{PYTHON}/bin:/usr/bin:/bin")
    return {**found, "PATH": path, "TWOTOWER_METRICS_LISTEN": "localhost:0", "TWOTOWER_LISTEN": "localhost:0"}


@pytest.fixture(scope="module")
def demo(container: Container, environ: dict[str, str]) -> None:
    """The demo release, built into the volume by the image itself."""
    command = [*json.loads(RUN.one("ENTRYPOINT")), "demo", "--build-only", "--releases", environ["TWOTOWER_RELEASES"]]
    done = subprocess.run(container.command(command, environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def server(container: Container, environ: dict[str, str], demo: None, tmp_path: Path) -> Iterator[Server]:
    command = [*json.loads(RUN.one("ENTRYPOINT")), *json.loads(RUN.one("CMD"))]
    become = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    server = Server(["-c", become, *container.command(command, environ)], tmp_path / "log", {})
    yield server
    server.close()


def test_it_serves_from_read_only_files_as_an_unprivileged_user(
    server: Server, container: Container, environ: dict[str, str]
) -> None:
    ready = server.ready()
    with twotower.Client(ready["target"]) as client:
        assert len(client.recommend(twotower.user(age=29, gender="f"), 3).items) == 3
    (first,) = children(server.process.pid)
    status = Path(f"/proc/{first}/status").read_text()
    assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)  # process 1 of its container
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status
    assert [path for path, volume in container.volumes.items() if any(volume.iterdir())] == ["/releases", "/data"]

    check = json.loads(RUN.one("HEALTHCHECK").partition("CMD ")[2])
    asked = {**environ, "TWOTOWER_METRICS_LISTEN": str(ready["metrics_target"])}
    health = subprocess.run(container.command(check, asked), capture_output=True, text=True, check=False)
    assert (health.returncode, health.stdout) == (0, "ready\n"), health.stderr

    os.kill(first, signal.Signals[RUN.one("STOPSIGNAL")])
    assert server.ended() == 0
    assert all("level" in json.loads(line) for line in server.log().splitlines())


def test_it_holds_what_the_server_needs_and_nothing_to_build_with(image: Path) -> None:
    environment = image / "opt/twotower"
    (packages,) = environment.glob("lib/python3*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"twotower", "twotower_server", "faiss", "onnxruntime", "s3fs"} <= names
    assert not names & {"pip", "setuptools", "torch", "onnx", "pytest", "grpc_tools", "mypy"}
    assert not [*image.rglob("*.whl")]
    size = sum(path.lstat().st_size for path in image.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"\nthe image adds {size / 1e6:.0f} MB to its base")
    assert size < _MAX_MB * 1e6


def test_modules_are_compiled(image: Path) -> None:
    sources = [*(image / "opt/twotower").glob("lib/python3*/site-packages/twotower_server/**/*.py")]
    assert sources
    for source in sources:
        assert [*source.parent.glob(f"__pycache__/{source.stem}.*.pyc")], source


def test_its_libraries_need_none_that_a_slim_base_lacks(image: Path) -> None:
    tree = image / "opt/twotower"
    libraries = [str(path) for path in tree.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    found = subprocess.run(["ldd", *libraries], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    needed = {line.strip() for line in found.stdout.splitlines() if line.startswith("\t")}
    others = {line for line in needed if str(tree) not in line and not _OF_THE_BASE.match(line.rpartition("/")[2])}
    carried = {Path(library).name for library in libraries}
    assert not {line for line in others if line.split()[0] not in carried} - {"statically linked"}


def test_what_is_copied_is_all_that_docker_is_sent() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent == {source for text in BUILD.all("COPY") for source in text.split()[:-1]}
    for source in sent:
        assert (ROOT / source).exists()
    assert any(fnmatch.fnmatch("server/twotower_server/__pycache__", line) for line in lines[1:])
