"""`<releases>/active`: the file that names the active release."""

from __future__ import annotations

from pathlib import Path

from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release import durable
from twotower_server.release.format import MANIFEST, check_name

ACTIVE = "active"


def active_release(releases: Path) -> str:
    """The name of the active release. Raises ReleaseRefused, saying what to do, when there is none."""
    try:
        name = (releases / ACTIVE).read_text("utf-8").strip()
    except FileNotFoundError:
        found = release_names(releases)
        hint = (
            f"activate one of {', '.join(found)}: twotower release activate {found[-1]} --releases {releases}"
            if found
            else f"build one: twotower release build --activate --releases {releases}"
        )
        raise ReleaseRefused(f"{releases} has no active release; {hint}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ReleaseRefused(f"{releases / ACTIVE} cannot be read: {error}") from None
    return check_name(name)


def set_active_release(releases: Path, name: str) -> None:
    """Points `active` at a release, in one step. Raises ReleaseRefused, or TwoTowerError when it cannot be written."""
    check_name(name)
    if not (releases / name / MANIFEST).is_file():
        raise ReleaseRefused(f"{releases} has no release {name}; it has {', '.join(release_names(releases)) or 'none'}")
    try:
        durable.write_text(releases / ACTIVE, name + "\n")
    except OSError as error:
        raise TwoTowerError(f"{releases / ACTIVE} cannot be written: {error.strerror}") from error


def release_names(releases: Path) -> list[str]:
    """Names of the releases in a folder, sorted."""
    return sorted(path.parent.name for path in releases.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("~"))
