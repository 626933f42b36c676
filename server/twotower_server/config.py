"""The server's configuration: one frozen, validated dataclass, read from flags, environment and a file.

An option has one name everywhere: `grace_s` is `--grace-s` on the command line, `TWOTOWER_GRACE_S` in the
environment and `grace_s` in the file. Flags win over the environment, the environment over the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twotower_server.errors import TwoTowerError

ENVIRONMENT_PREFIX = "TWOTOWER_"

_MAX_PORT = 65_535
_MAX_MESSAGE_BYTES = 2**31 - 1  # protobuf's own limit
# What gRPC takes for "every interface"; it then listens on IPv6 and IPv4, whichever of them is named.
_EVERY_INTERFACE = {"", "*", "0.0.0.0", "::"}


class ConfigError(TwoTowerError):
    """An option that is wrong; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    host: a name or an IP address without brackets; "" = every interface. port: 0 = any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `host:port`, `[::1]:port` or `:port`. Raises ValueError, saying what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdecimal()):
            raise ValueError(f"{text!r} has no port: write HOST:PORT, [::1]:PORT or :PORT")
        if int(port) > _MAX_PORT:
            raise ValueError(f"port {port} is too large: the last one is {_MAX_PORT}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"an IPv6 address needs brackets: [{host}]:{port}")
        if any(character.isspace() or character in "[]/" for character in host):
            raise ValueError(f"{host!r} is no host: write HOST:PORT, [::1]:PORT or :PORT")
        return cls("" if host in _EVERY_INTERFACE else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """What a client on this machine dials."""
        return str(self if self.host else Address("localhost", self.port))


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{value!r} is no path")
    return Path(value).expanduser()


def parse_location(value: object) -> Path | str:
    """A folder, or what has a scheme: a URL for fsspec. Raises ValueError."""
    return value if isinstance(value, str) and "://" in value else _path(value)


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no address: write HOST:PORT, [::1]:PORT or :PORT")
    return Address.parse(value)


def _count(low: int, high: int = 2**31 - 1) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    return parse


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"must be seconds, 0 or more, not {value!r}")
    return seconds


def _redis_url(value: object) -> str:
    # Not shown when it is wrong: it may hold a password.
    text = value.strip() if isinstance(value, str) else "-"
    address = urlsplit(text)
    if address.scheme not in ("redis", "rediss") or not address.hostname:
        raise ValueError("must be redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS")
    try:
        _ = address.port
    except ValueError:
        raise ValueError(
            "the port must be a whole number up to 65535; write % in a password as %25, / as %2F"
        ) from None
    if not re.fullmatch("/?[0-9]*", address.path):
        raise ValueError("what follows the port must be the number of a database; a / in a password is written %2F")
    return text


def _redis_prefix(value: object) -> str:
    # Some others mean something in patterns, and braces would put all keys on one node of a Cluster.
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z0-9_.:-]{1,64}", value):
        raise ValueError(f"must be 1 to 64 of A-Z, a-z, 0-9 and _ . : - , not {value!r}")
    return value


def _names(value: object) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"must be names with commas between them, not {value!r}")
    return tuple(name.strip() for name in given if name.strip())


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"must be true or false, not {value!r}")


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = value.strip().lower() if isinstance(value, str) else ""
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return text

    return parse


def _meta(help: str, parse: Callable[[object], Any], metavar: str = "") -> dict[str, Any]:
    return {"help": help, "parse": parse, "metavar": metavar}


def _default_data() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "twotower"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the server can be told. Raises ConfigError for a value that is out of range."""

    releases: Path | str = field(
        metadata=_meta(
            "folder of releases, or its URL, as s3://bucket/releases; `active` in it names the one to serve",
            parse_location,
            "DIR",
        )
    )
    listen: Address = field(
        default=Address("", 50051),
        metadata=_meta(
            "where to serve: HOST:PORT, [::1]:PORT, or :PORT for every interface; port 0 takes a free one",
            _address,
            "HOST:PORT",
        ),
    )
    http_listen: Address | None = field(
        default=None,
        metadata=_meta(
            "serve KServe, TensorFlow Serving and TorchServe clients by HTTP, too: HOST:PORT as above, usually :8080",
            _address,
            "HOST:PORT",
        ),
    )
    workers: int = field(default=1, metadata=_meta("worker processes; all share the port", _count(1, 256), "N"))
    data: Path = field(
        default_factory=_default_data,
        metadata=_meta(
            "this machine's own folder: which releases it has verified, copies of those it has fetched or completed",
            _path,
            "DIR",
        ),
    )
    follow_s: float = field(
        default=1.0,
        metadata=_meta("look this often at what the releases folder says is active", _seconds, "SECONDS"),
    )
    switch_timeout_s: float = field(
        default=30.0,
        metadata=_meta("give up a switch that a worker has not prepared in this time", _seconds, "SECONDS"),
    )
    fleet_timeout_s: float = field(
        default=60.0,
        metadata=_meta("give up a switch for which another server has not loaded the release", _seconds, "SECONDS"),
    )
    keep_releases: int = field(
        default=2,
        metadata=_meta("releases to keep loaded beside those that serve, for callers that pin them", _count(0), "N"),
    )
    keep_s: float = field(
        default=3600.0,
        metadata=_meta("close a release that has not been active for so long", _seconds, "SECONDS"),
    )
    keep_fetched: int = field(
        default=3,
        metadata=_meta("copies of releases to keep in the data folder beside those in use", _count(0), "N"),
    )
    change_log: str = field(
        default="embedded",
        metadata=_meta(
            "log of item changes: embedded, of this server alone; redis, of all servers with one --redis-prefix",
            _choice("embedded", "redis"),
            "KIND",
        ),
    )
    change_log_replicas: int = field(
        default=0,
        metadata=_meta("replicas of Redis that must have a change before it is acknowledged", _count(0, 16), "N"),
    )
    compact_changes: int = field(
        default=10_000,
        metadata=_meta(
            "compact item changes when so many wait, or a twentieth of the items where that is more; 0 = never",
            _count(0),
            "N",
        ),
    )
    grace_s: float = field(
        default=20.0,
        metadata=_meta("when stopped, let calls in flight finish for this long", _seconds, "SECONDS"),
    )
    strict_features: bool = field(default=False, metadata=_meta("refuse feature names that the schema lacks", _switch))
    reflection: bool = field(default=True, metadata=_meta("gRPC server reflection, for grpcurl and the like", _switch))
    tls_certificate: Path | None = field(
        default=None,
        metadata=_meta("PEM of the server's certificate chain; with --tls-key, serve TLS only", _path, "FILE"),
    )
    tls_key: Path | None = field(default=None, metadata=_meta("PEM of the certificate's private key", _path, "FILE"))
    verifier_memory_mib: int = field(
        default=0,
        metadata=_meta("memory that verifying a release may take; 0 = half of the machine's", _count(0, 2**24), "MIB"),
    )
    limit_users: int = field(default=10_000, metadata=_meta("users of one batch", _count(1), "N"))
    limit_items: int = field(default=10_000, metadata=_meta("candidates of a Score, items of a batch", _count(1), "N"))
    limit_k: int = field(default=10_000, metadata=_meta("results of a search", _count(1), "N"))
    limit_exclusions: int = field(default=10_000, metadata=_meta("items that a search leaves out", _count(1), "N"))
    limit_features: int = field(default=2_000, metadata=_meta("features of one user or item", _count(1), "N"))
    limit_id_bytes: int = field(default=512, metadata=_meta("UTF-8 bytes of an id", _count(1, 65_536), "N"))
    limit_request_bytes: int = field(
        default=4 << 20, metadata=_meta("bytes of one request", _count(1_024, _MAX_MESSAGE_BYTES), "N")
    )
    limit_response_bytes: int = field(
        default=7 << 19,
        metadata=_meta(
            "bytes of one answer; gRPC clients refuse more than 4 MiB unless told otherwise",
            _count(1_024, _MAX_MESSAGE_BYTES),
            "N",
        ),
    )
    item_store: str = field(
        default="files",
        metadata=_meta(
            "vectors of releases copied without them: files, loaded from Redis once; redis, read there by each call",
            _choice("files", "redis"),
            "KIND",
        ),
    )
    item_store_budget_ms: int = field(
        default=10,
        metadata=_meta("with --item-store redis: how long a call waits for vectors of items", _count(1, 10_000), "MS"),
    )
    user_cache: str = field(
        default="off",
        metadata=_meta("off: compute every user's vector; ttl: keep it for a while", _choice("off", "ttl"), "POLICY"),
    )
    user_cache_ttl_s: int = field(
        default=600,
        metadata=_meta("how old a cached vector of a user may become, at most a day", _count(1, 86_400), "SECONDS"),
    )
    user_cache_by_version: bool = field(
        default=False, metadata=_meta("cache only users who send a feature_version", _switch)
    )
    user_cache_real_time: tuple[str, ...] = field(
        default=(),
        metadata=_meta("features such as user_hour; a user who sends one of them is not cached", _names, "NAME,..."),
    )
    user_cache_mib: int = field(
        default=64, metadata=_meta("memory of each worker for cached vectors of users", _count(1, 2**20), "MIB")
    )
    user_cache_redis: bool = field(
        default=False, metadata=_meta("share cached vectors of users through the Redis of --redis", _switch)
    )
    user_cache_budget_ms: int = field(
        default=10, metadata=_meta("how long a call waits for Redis before it computes", _count(1, 1_000), "MS")
    )
    redis: str | None = field(
        default=None,
        metadata=_meta(
            "Redis server, or any node of a Cluster: redis://user:password@host:6379/0, or rediss:// for TLS",
            _redis_url,
            "URL",
        ),
    )
    redis_ca: Path | None = field(
        default=None,
        metadata=_meta(
            "PEM of the authority that has signed Redis's certificate, where the system does not trust it",
            _path,
            "FILE",
        ),
    )
    redis_prefix: str = field(
        default="twotower:", metadata=_meta("what the keys in Redis begin with", _redis_prefix, "TEXT")
    )
    log_level: str = field(
        default="info",
        metadata=_meta("debug, info, warning or error", _choice("debug", "info", "warning", "error"), "LEVEL"),
    )
    log_format: str = field(default="text", metadata=_meta("text or json", _choice("text", "json"), "FORMAT"))

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value is not None:
                object.__setattr__(self, option.name, _parse(option, value, option.name))
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, lacking = ("tls_certificate", "tls_key") if self.tls_key is None else ("tls_key", "tls_certificate")
            raise ConfigError(f"{given} is set without {lacking}: {flag(lacking)} names the other half")
        if self.http_listen is not None and self.http_listen.port == self.listen.port != 0:
            raise ConfigError(f"http_listen and listen have the port {self.listen.port}; each needs one of its own")
        if self.user_cache_redis and (self.redis is None or self.user_cache == "off"):
            lacking = "redis: --redis URL names it" if self.redis is None else "a cache: --user-cache ttl makes it"
            raise ConfigError(f"user_cache_redis is set without {lacking}")
        if self.change_log == "redis" and self.redis is None:
            raise ConfigError("change_log is redis without redis: --redis URL names it")
        if self.item_store == "redis" and self.redis is None:
            raise ConfigError("item_store is redis without redis: --redis URL names it")
        asks_redis = self.user_cache_redis or "redis" in (self.item_store, self.change_log)
        if asks_redis and self.redis_ca is not None and not str(self.redis).startswith("rediss://"):
            raise ConfigError("redis_ca needs a redis that begins with rediss://")

    @property
    def releases_folder(self) -> Path:
        """`releases`, for what needs a folder of this machine. Raises ConfigError when it is a URL."""
        if isinstance(self.releases, str):
            raise ConfigError(
                "--releases: this needs a folder of this machine, not a URL; `twotower release copy` copies a release "
                "from a folder to a URL"
            )
        return self.releases

    def to_json(self) -> dict[str, Any]:
        """Plain values that `Config(**values)` reads back, for another process."""
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        return {name: str(value) if isinstance(value, Path | Address) else value for name, value in values.items()}


OPTIONS = dataclasses.fields(Config)


def flag(name: str) -> str:
    """The command line's name of an option."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment's name of an option."""
    return ENVIRONMENT_PREFIX + name.upper()


def default_of(option: dataclasses.Field[Any]) -> Any:
    """The value of an option that nobody sets; None when there is none."""
    if option.default is not dataclasses.MISSING:
        return option.default
    return None if option.default_factory is dataclasses.MISSING else option.default_factory()


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Config:
    """Merges the sources. Raises ConfigError.

    flags: what the command line gives, by option name; None counts as not given.
    file:  the configuration file; None = the one that TWOTOWER_CONFIG names, if any.
    """
    if file is None and environ.get(variable("config")):
        file = Path(environ[variable("config")]).expanduser()
    found: dict[str, tuple[object, str]] = {}
    if file is not None:
        found |= {name: (value, f"{file}: {name}") for name, value in _read(file).items()}
    for option in OPTIONS:
        # Variables that are no option are left alone: Kubernetes sets TWOTOWER_PORT and the like for a
        # Service named twotower. For that reason an option must never be called `port` or `service_…`.
        if text := environ.get(variable(option.name)):
            found[option.name] = text, variable(option.name)
        if flags.get(option.name) is not None:
            found[option.name] = flags[option.name], flag(option.name)
    if "releases" not in found:
        raise ConfigError("no folder of releases is named: add --releases DIR, or set TWOTOWER_RELEASES")
    return Config(**{option.name: _parse(option, *found[option.name]) for option in OPTIONS if option.name in found})


def _parse(option: dataclasses.Field[Any], value: object, source: str) -> Any:
    try:
        return option.metadata["parse"](value)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the configuration file {file} is not TOML: {error}") from None
    names = [option.name for option in OPTIONS]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"{file}: {name} is no option; {hint}")
    # Paths in a file are relative to the file, so that it means the same wherever the server is started.
    for option in OPTIONS:
        value = values.get(option.name)
        parse = option.metadata["parse"]
        if parse in (_path, parse_location) and isinstance(value, str) and value and isinstance(parse(value), Path):
            values[option.name] = str(file.parent / Path(value).expanduser())
    return values
