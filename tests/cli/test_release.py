"""`twotower release` with real model folders, tables and releases."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ITEMS, Command
from tests.supervisor.running import Server
from twotower_server.cli.exit_code import ExitCode
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import FILES, MANIFEST
from twotower_server.release.repository import LocalRepository

Release = Callable[..., tuple[int, str, str]]
StartServer = Callable[..., Server]


@pytest.fixture
def own(releases: Path, tmp_path: Path) -> Path:
    """A folder with the releases `cosine` and `dot` (active), which a test may change."""
    return Path(shutil.copytree(releases, tmp_path / "releases"))


@pytest.fixture
def release(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_twotower: Command) -> Release:
    """Runs `twotower release` on `own`, unless told otherwise: exit code, standard output, standard error."""
    monkeypatch.setenv("TWOTOWER_RELEASES", str(own))
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path / "data"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return run_twotower("release", *arguments)

    return run


@pytest.fixture
def build(release: Release, releases: Path) -> Release:
    """Runs `twotower release build` with the model and the items that `dot` was built from."""

    def run(*options: str | Path) -> tuple[int, str, str]:
        parts = ("--model", releases.parent / "model-dot", "--items", releases.parent / "items.parquet")
        return release("build", *parts, *options)

    return run


def answered(result: tuple[int, str, str]) -> Any:
    """The JSON document of a command that ended well."""
    code, out, err = result
    assert (code, err) == (ExitCode.OK, "")
    return json.loads(out)


def words(text: str) -> str:
    return " ".join(text.split())


# ---- build


def test_build_says_what_it_built_and_what_to_do_next(build: Release, own: Path) -> None:
    code, out, err = build("--name", "books-1", "--attribute", "title", "--attribute", "price=item_price:number")
    assert code == ExitCode.OK
    assert out == (
        f"Built books-1: {ITEMS} items, index exact, recall@100 1.000\n"
        f"Activate it: twotower release activate books-1 --releases {own}\n"
    )
    assert "embedding items" in err, "progress"
    assert Fleet(LocalRepository(own)).active() == "dot"
    assert sorted(os.listdir(own / "books-1")) == sorted([MANIFEST, *FILES])


def test_build_activates_and_names_by_the_time(build: Release, own: Path) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    code, out, _ = build("--activate")
    assert code == ExitCode.OK
    name = Fleet(LocalRepository(own)).active()
    built = datetime.datetime.strptime(name, "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    assert before <= built <= datetime.datetime.now(datetime.UTC)
    assert f"Built {name}: " in out
    assert f"Serve it: twotower serve --releases {own}\n" in out


def test_build_tells_programs_its_manifest(build: Release, own: Path) -> None:
    code, out, _ = build("--name", "r1", "--json", "--index", "ivf_sq8", "--recall", "0.9")
    assert code == ExitCode.OK
    manifest = json.loads(out)
    assert manifest == json.loads((own / "r1" / MANIFEST).read_text())
    assert manifest["index"]["kind"] == "ivf_sq8"


def test_build_names_the_row_of_a_broken_table(build: Release, own: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,item_price\na,1\nb,dear\n")
    code, out, err = build("--name", "r1", "--items", tmp_path / "items.csv")
    assert (code, out) == (ExitCode.RELEASE_REFUSED, "")
    last = err.splitlines()[-1]
    assert last == "twotower release: items.csv: row 2, column item_price: 'dear' is not a number"
    assert "Traceback" not in err
    assert LocalRepository(own).names() == ["cosine", "dot"]
    assert not (own / "r1").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attribute", "=x"), "'=x' is not NAME[=COLUMN][:KIND]"),
        (("--attribute", "year:word"), "with a KIND of text, number, flag, texts"),
        (("--index", "hnsw"), "invalid choice: 'hnsw'"),
        (("--recall", "0"), "must be more than 0 and at most 1, not '0'"),
        (("--recall", "95%"), "must be more than 0 and at most 1, not '95%'"),
        (("--recall", "nan"), "must be more than 0 and at most 1, not 'nan'"),
    ],
)
def test_wrong_options_are_said(build: Release, options: tuple[str, ...], message: str) -> None:
    code, _, err = build(*options)
    assert code == ExitCode.USAGE
    assert message in err


def test_build_needs_a_model_and_items(release: Release) -> None:
    code, _, err = release("build")
    assert code == ExitCode.USAGE
    assert "the following arguments are required: --model, --items" in err


def test_a_name_that_is_taken(build: Release) -> None:
    code, _, err = build("--name", "dot")
    assert code == ExitCode.RELEASE_REFUSED
    assert "has a release dot already; releases never change, choose another name" in err


# ---- list


def test_list_marks_the_active_and_the_verified(release: Release) -> None:
    release("verify", "cosine")
    code, out, _ = release("list")
    assert code == ExitCode.OK
    lines = [words(line) for line in out.splitlines() if line.strip()]
    assert lines[0] == "release state created items index recall"
    assert re.fullmatch(r"cosine verified \d{4}-\d\d-\d\d 300 exact 1.000", lines[2])
    assert re.fullmatch(r"dot active \d{4}-\d\d-\d\d 300 exact 1.000", lines[3])
    first, second = answered(release("list", "--json"))["releases"]
    assert (first["release"], first["active"], first["verified"]) == ("cosine", False, True)
    assert (second["release"], second["active"], second["verified"]) == ("dot", True, False)
    assert second["manifest"]["items"] == ITEMS


def test_list_shows_a_broken_release_among_the_others(release: Release, own: Path) -> None:
    (own / "cosine" / MANIFEST).write_text("{")
    code, out, _ = release("list")
    assert code == ExitCode.OK
    assert re.search(r"cosine +refused", out)
    assert re.search(r"dot +active", out)
    assert "release.json is not JSON" in answered(release("list", "--json"))["releases"][0]["refusal"]


def test_list_of_nothing(release: Release, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    code, out, _ = release("list", "--releases", tmp_path / "none")
    assert code == ExitCode.OK
    assert "has no releases; build one: twotower release build" in out
    assert answered(release("list", "--releases", tmp_path / "none", "--json")) == {"releases": [], "servers": []}
    code, _, err = release("list", "--releases", tmp_path / "nowhere")
    assert code == ExitCode.NO_RELEASE
    assert "nowhere is no folder; name the folder of releases by --releases" in err


def test_without_a_folder_of_releases(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOTOWER_RELEASES")
    code, _, err = release("list")
    assert code == ExitCode.USAGE
    assert "add --releases DIR, or set TWOTOWER_RELEASES" in err


# ---- inspect


def test_inspect_shows_what_a_release_is_made_of(release: Release, own: Path) -> None:
    code, out, _ = release("inspect", "cosine")
    assert code == ExitCode.OK
    shown = words(out)
    for part in (
        "release cosine",
        "active no",
        "verified not yet on this machine",
        "items 300",
        "dimension 8",
        "similarity cosine",
        "score sigmoid(2 · similarity -0.5)",
        "index exact, recall@100 1.000",
        "user tower: 9 features, transforms in its graph, schema ",
        "item tower: 5 features, transforms by the server, schema ",
        "user_age numeric mean 38.0",
        "user_gender categorical marker 3 values: f, m, 1",
        "user_interest_* weighted_bag marker 64 buckets; at most 6",
        "scene_page categorical constant home 2 values: home, cart",
        "item_price numeric marker log1p; clip 0..10000",
        "item_ctr numeric mean 0.05 standardize, mean 0.05, std 0.02",
        "title text 100.0%",
        "tags texts 100.0%",
        "seed 2",
        f"vectors.npy {(own / 'cosine' / 'vectors.npy').stat().st_size:,} ",
    ):
        assert part in shown
    price = re.search(r"price number ([0-9.]+)%", shown)
    assert price is not None
    assert 80 < float(price[1]) < 100


def test_inspect_shows_the_active_release_unless_one_is_named(release: Release) -> None:
    release("verify")
    shown = words(release("inspect")[1])
    assert "release dot active yes verified yes, on this machine" in shown


def test_inspect_tells_programs_everything(release: Release, own: Path) -> None:
    shown = answered(release("inspect", "dot", "--json"))
    assert (shown["release"], shown["active"], shown["verified"]) == ("dot", True, False)
    assert shown["manifest"] == json.loads((own / "dot" / MANIFEST).read_text())
    assert shown["schema"] == json.loads((own / "dot" / "schema.json").read_text())
    assert shown["attributes"] == {
        "title": "text",
        "in_stock": "flag",
        "category": "text",
        "price": "number",
        "tags": "texts",
    }


def test_inspect_of_training_in_depth(build: Release, release: Release, releases: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(releases.parent / "model-dot", tmp_path / "model"))
    about = json.loads((model / "model.json").read_text())
    about["training"] = {"epochs": 3, "metrics": {"recall": {"100": 0.5}}, "layers": [128, 64]}
    (model / "model.json").write_text(json.dumps(about))
    build("--name", "deep", "--model", model)
    shown = words(release("inspect", "deep")[1])
    assert "training epochs 3 metrics.recall.100 0.5 layers [128, 64] files" in shown
    assert "attributes none training" in shown


def test_inspect_refuses_a_broken_release(release: Release, own: Path) -> None:
    (own / "dot" / "schema.json").write_text("{")
    assert release("inspect", "dot")[0] == ExitCode.RELEASE_REFUSED
    (own / "cosine" / MANIFEST).write_text("{}")
    code, _, err = release("inspect", "cosine")
    assert code == ExitCode.RELEASE_REFUSED
    assert "twotower release: release cosine: release.json has format None, this server reads 1" in err


# ---- verify


def test_verify_ticks_every_check(release: Release) -> None:
    code, out, err = release("verify", "dot")
    assert (code, err) == (ExitCode.OK, "")
    lines = out.splitlines()
    assert len(lines) == 9
    for line in lines[:-1]:
        assert re.fullmatch(r"✓ .+ +[0-9]+\.[0-9]{2} s", line)
    assert [words(line).split(" ", 1)[1].rsplit(" ", 2)[0] for line in lines[:2]] == ["manifest", "checksums"]
    assert re.fullmatch(r"release dot is sound \([0-9.]+ s\)", lines[-1])


def test_verify_crosses_the_reason(release: Release, own: Path) -> None:
    content = bytearray((own / "dot" / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (own / "dot" / "vectors.npy").write_bytes(content)
    code, out, _ = release("verify", "dot")
    assert code == ExitCode.RELEASE_REFUSED
    assert [line[:10] for line in out.splitlines()] == ["✓ manifest", "✗ vectors.", "release do"]
    assert "✗ vectors.npy has changed: its SHA-256 is not the one in release.json\nrelease dot is refused\n" in out
    code, out, _ = release("verify", "dot", "--json")
    assert code == ExitCode.RELEASE_REFUSED
    verdict = json.loads(out)
    assert (verdict["release"], verdict["verified"]) == ("dot", False)
    assert verdict["refusal"] == "vectors.npy has changed: its SHA-256 is not the one in release.json"
    assert [check["name"] for check in verdict["checks"]] == ["manifest"]
    assert not answered(release("list", "--json"))["releases"][1]["verified"]


def test_verify_tells_programs_how_long_each_check_took(release: Release) -> None:
    verdict = answered(release("verify", "--json"))
    assert (verdict["release"], verdict["verified"]) == ("dot", True)
    assert "refusal" not in verdict
    assert {check["name"] for check in verdict["checks"]} >= {"checksums", "vectors", "index recall"}
    assert all(check["seconds"] >= 0 for check in verdict["checks"])


def test_what_was_verified_is_not_verified_again_by_the_server(
    release: Release, own: Path, start_server: StartServer, tmp_path: Path
) -> None:
    release("verify", "dot")
    server = start_server("--releases", str(own), "--data", str(tmp_path / "data"))
    assert server.ready()["release"] == "dot"
    assert "verif" not in server.log()


def test_a_data_folder_that_cannot_be_written(release: Release, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out, err = release("verify", "dot", "--data", tmp_path / "file")
    assert code == ExitCode.FAILED
    assert "release dot is sound" in out
    assert "name another folder by --data" in err


# ---- activate


def test_activate_without_servers(release: Release, own: Path) -> None:
    code, out, err = release("activate", "cosine")
    assert (code, err) == (ExitCode.OK, "")
    assert out == (
        "cosine is the active release now; before it was dot\n"
        "No server follows this place; those that start will serve it\n"
    )
    assert Fleet(LocalRepository(own)).active() == "cosine"


@pytest.mark.parametrize("command", ["activate", "inspect", "verify"])
def test_a_release_that_is_not_there(release: Release, own: Path, command: str) -> None:
    code, _, err = release(command, "books-2")
    assert code == ExitCode.NO_RELEASE
    assert err == f"twotower release: {own} has no release books-2; it has cosine, dot\n"
    code, _, err = release(command, "../dot")
    assert code == ExitCode.NO_RELEASE
    assert "'../dot' cannot name a release" in err
    assert Fleet(LocalRepository(own)).active() == "dot"


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_release_is_active(release: Release, own: Path, command: str) -> None:
    (own / "active").unlink()
    code, _, err = release(command)
    assert code == ExitCode.NO_RELEASE
    assert f"activate one of cosine, dot: twotower release activate dot --releases {own}" in err


def test_a_broken_release_does_not_become_active(release: Release, own: Path) -> None:
    (own / "cosine" / MANIFEST).write_text("{}")
    code, _, err = release("activate", "cosine")
    assert code == ExitCode.RELEASE_REFUSED
    assert "release.json has format None" in err
    assert Fleet(LocalRepository(own)).active() == "dot"


# ---- help


@pytest.mark.parametrize("command", ["build", "list", "inspect", "verify", "activate"])
def test_help_of_every_command_names_its_exit_codes(release: Release, command: str) -> None:
    code, out, _ = release(command, "--help")
    assert code == ExitCode.OK
    assert "--releases DIR" in out
    assert "exit codes: 0 done, 1 failed, 2 wrong usage, 3 release" in out


def test_help_has_an_example_that_can_be_parsed(release: Release) -> None:
    code, out, _ = release("build", "--help")
    assert code == ExitCode.OK
    example = re.search(r"example:\n  twotower release (build .*?--activate)", out, re.DOTALL)
    assert example is not None
    arguments = example[1].replace("\\\n", " ").split()
    # It gets as far as the model folder, which is not there.
    code, _, err = release(*arguments)
    assert code == ExitCode.RELEASE_REFUSED
    assert err == "twotower release: books-model is not a folder; `twotower train --out` writes one\n"
