"""What the wheel and the sdist hold: the two packages whole, and nothing else."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling import build

import twotower

ROOT = Path(__file__).parents[1]
PACKAGES = {"twotower": ROOT / "clients/python/twotower", "twotower_server": ROOT / "server/twotower_server"}


@pytest.fixture
def sources() -> set[str]:
    """The files of both packages, as their paths in a wheel."""
    return {
        str(Path(name) / path.relative_to(folder))
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_two_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: set[str]) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    about = f"twotower-{twotower.__version__}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert b"twotower = twotower_server.cli.main:main" in archive.read(f"{about}entry_points.txt")
    assert {name for name in names if not name.startswith(about)} == sources
    for needed in (
        "twotower/py.typed",
        "twotower/v1/twotower_service_pb2.pyi",
        "twotower_server/py.typed",
        "twotower_server/demo/model/user_tower.onnx",
        "twotower_server/demo/model/item_tower.onnx",
        "twotower_server/demo/model/schema.json",
    ):
        assert needed in names
    assert wheel.stat().st_size < 4_000_000


def test_the_sdist_holds_what_the_wheel_is_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: set[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = {name: str(folder.relative_to(ROOT).parent) for name, folder in PACKAGES.items()}
    expected = {f"{folders[Path(path).parts[0]]}/{path}" for path in sources}
    packages = {name for name in names if name.startswith(tuple(folders.values()))}
    assert packages == expected
    others = {Path(name).parts[0] for name in names - packages}
    assert others <= {"proto", "pyproject.toml", "PKG-INFO", "README.md", "LICENSE", ".gitignore"}
