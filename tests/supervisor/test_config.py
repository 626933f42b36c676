"""Configuration: sources, their order, and errors that name the option."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from twotower_server.config import OPTIONS, Address, Config, ConfigError, default_of, load
from twotower_server.engine.limits import Limits


def test_flags_win_over_the_environment_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "twotower.toml"
    file.write_text('releases = "/file"\nworkers = 2\ngrace_s = 2\nlimit_k = 2\n')
    environ = {"TWOTOWER_WORKERS": "3", "TWOTOWER_GRACE_S": "3"}
    config = load({"grace_s": "4", "workers": None}, environ, file)
    assert (config.releases, config.limit_k) == (Path("/file"), 2)
    assert config.workers == 3
    assert config.grace_s == 4.0
    assert config.limit_users == 10_000


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "twotower.toml"
    file.write_text('releases = "here"\nreflection = false\n')
    config = load({}, {"TWOTOWER_CONFIG": str(file)})
    assert config.releases == tmp_path / "here"  # relative to the file
    assert config.reflection is False


def test_releases_can_be_at_a_url(tmp_path: Path) -> None:
    file = tmp_path / "twotower.toml"
    file.write_text('releases = "s3://bucket/releases"\n')
    for config in (
        load({}, {}, file),
        load({"releases": "s3://bucket/releases"}, {}),
        load({}, {"TWOTOWER_RELEASES": "s3://bucket/releases"}),
    ):
        assert config.releases == "s3://bucket/releases"
        assert Config(**json.loads(json.dumps(config.to_json()))) == config
        with pytest.raises(ConfigError, match="--releases: this needs a folder of this machine, not a URL"):
            _ = config.releases_folder
    assert load({"releases": "./releases"}, {}).releases_folder == Path("releases")


def test_an_empty_variable_and_those_of_kubernetes_do_not_count() -> None:
    environ = {
        "TWOTOWER_GRACE_S": "",
        "TWOTOWER_PORT": "tcp://10.0.0.1:50051",
        "TWOTOWER_SERVICE_HOST": "10.0.0.1",
    }
    assert load({"releases": "r"}, environ) == Config(Path("r"))


@pytest.mark.parametrize("taken", ["port", "service_host", "service_port"])
def test_no_option_has_a_name_that_kubernetes_sets(taken: str) -> None:
    assert not any(option.name.startswith((taken, "port_", "service_")) for option in OPTIONS)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("workers", "0", "must be a whole number from 1 to 256, not 0"),
        ("workers", "two", "must be a whole number"),
        ("workers", "-1", "must be a whole number"),
        ("workers", "٣", "must be a whole number"),
        ("limit_request_bytes", "1", "from 1024"),
        ("grace_s", "-1", "must be seconds, 0 or more"),
        ("grace_s", "nan", "must be seconds"),
        ("grace_s", "inf", "must be seconds"),
        ("grace_s", "soon", "must be seconds"),
        ("reflection", "maybe", "must be true or false, not 'maybe'"),
        ("log_level", "loud", "must be one of debug, info, warning, error, not 'loud'"),
        ("listen", "localhost", "'localhost' has no port: write HOST:PORT"),
        ("listen", "localhost:", "has no port"),
        ("listen", "localhost:grpc", "has no port"),
        ("listen", "localhost:65536", "port 65536 is too large"),
        ("listen", "::1:50051", r"an IPv6 address needs brackets: \[::1\]:50051"),
        ("listen", "http://localhost:50051", "is no host|needs brackets"),
        ("redis", "localhost:6379", "must be redis://"),
        ("redis", "http://localhost:6379", "must be redis://"),
        ("redis", "redis://:secret@", "must be redis://"),
        ("redis", "redis://localhost:redis", "the port must be a whole number up to 65535"),
        ("redis", "redis://localhost:6379/main", "must be the number of a database"),
        ("redis_prefix", "two tower:", "must be 1 to 64 of"),
        ("redis_prefix", "{tower}:", "must be 1 to 64 of"),
        ("redis_prefix", "t*:", "must be 1 to 64 of"),
    ],
)
def test_a_wrong_value_is_named_as_it_was_given(name: str, value: str, reason: str) -> None:
    option = "--" + name.replace("_", "-")
    with pytest.raises(ConfigError, match=f"^{option}: .*({reason})"):
        load({"releases": "r", name: value}, {})
    with pytest.raises(ConfigError, match=f"^TWOTOWER_{name.upper()}: .*({reason})"):
        load({"releases": "r"}, {f"TWOTOWER_{name.upper()}": value})


@pytest.mark.parametrize("url", ["redis://app:top/9z@host", "http://app:top9z@host", "redis://app:top#9z@host:1"])
def test_a_wrong_redis_url_keeps_its_password_to_itself(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        load({"releases": "r", "redis": url}, {})
    assert "9z" not in str(error.value)


@pytest.mark.parametrize("url", ["redis://h", "rediss://app:s%2F@[::1]:1/15", "redis://:s@h?ssl_ca_certs=ca.pem"])
def test_redis_urls_are_taken_as_they_are(url: str) -> None:
    assert load({"releases": "r", "redis": url}, {}).redis == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("workers = true", "twotower.toml: workers: must be a whole number"),
        ("workers = 1.5", "twotower.toml: workers: must be a whole number"),
        ("grace_s = false", "twotower.toml: grace_s: must be seconds"),
        ("listen = 50051", "twotower.toml: listen: 50051 is no address"),
        ("data = 1", "twotower.toml: data: 1 is no path"),
        ("log_level = 1", "twotower.toml: log_level: must be one of"),
        ("limit_user = 1", "limit_user is no option; did you mean limit_users?"),
        ("zzz = 1", "zzz is no option; there are releases, listen"),
        ("workers = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_option(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "twotower.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load({"releases": "r"}, {}, file)
    assert reason in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load({"releases": "r"}, {}, tmp_path / "nowhere.toml")


def test_the_folder_of_releases_is_required() -> None:
    with pytest.raises(ConfigError, match="--releases DIR, or set TWOTOWER_RELEASES"):
        load({}, {})


@pytest.mark.parametrize("half", ["tls_certificate", "tls_key"])
def test_half_of_a_certificate_is_refused(half: str) -> None:
    with pytest.raises(ConfigError, match=f"^{half} is set without tls_"):
        load({"releases": "r", half: "x.pem"}, {})


@pytest.mark.parametrize(
    ("text", "address", "target"),
    [
        (":50051", Address("", 50051), "localhost:50051"),
        ("0.0.0.0:0", Address("", 0), "localhost:0"),
        ("[::]:1", Address("", 1), "localhost:1"),
        ("[::1]:50051", Address("::1", 50051), "[::1]:50051"),
        ("127.0.0.1:50051", Address("127.0.0.1", 50051), "127.0.0.1:50051"),
        ("two.example:65535", Address("two.example", 65535), "two.example:65535"),
    ],
)
def test_addresses(text: str, address: Address, target: str) -> None:
    parsed = Address.parse(text)
    assert parsed == address
    assert parsed.target == target
    assert Address.parse(str(parsed)) == parsed


def test_a_configuration_survives_the_way_to_another_process() -> None:
    changed: dict[str, Any] = {
        "releases": Path("/r"),
        "listen": Address("::1", 1),
        "grace_s": 0.5,
        "tls_certificate": Path("c"),
        "tls_key": Path("k"),
        "reflection": False,
    }
    config = Config(**changed)
    assert Config(**json.loads(json.dumps(config.to_json()))) == config


def test_the_stamps_go_to_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert Config(Path("r")).data == Path("/cache/twotower")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert Config(Path("r")).data == Path("/home/me/.cache/twotower")


def test_the_defaults_of_limits_are_those_of_the_engine() -> None:
    defaults = {option.name: default_of(option) for option in OPTIONS}
    for limit in dataclasses.fields(Limits):
        assert defaults[f"limit_{limit.name}"] == limit.default
