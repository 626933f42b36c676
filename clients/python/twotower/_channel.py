"""How channels are opened: limits, keepalive, TLS, tokens, several connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from twotower._version import __version__

MESSAGE_BYTES = 4 * 1024 * 1024  # gRPC's default, kept on both sides by the contract

ChannelArguments = list[tuple[str, int | str]]
Token = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server; `Tls()` trusts the root certificates that gRPC ships.

    root_certificates: PEM of the authorities to trust; None = gRPC's own.
    certificate_chain: PEM of the client's certificate, for servers that ask for one; with private_key.
    private_key:       PEM of the client's key.
    server_name:       the name expected in the server's certificate where it differs from the target.
    """

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate needs both certificate_chain and private_key")

    @classmethod
    def from_files(
        cls,
        *,
        root_certificates: str | Path | None = None,
        certificate_chain: str | Path | None = None,
        private_key: str | Path | None = None,
        server_name: str | None = None,
    ) -> Tls:
        """The same from PEM files, read once."""

        def read(path: str | Path | None) -> bytes | None:
            return None if path is None else Path(path).read_bytes()

        return cls(read(root_certificates), read(certificate_chain), read(private_key), server_name)


class _TokenPlugin(grpc.AuthMetadataPlugin):
    """Asks for the token before every call, so one that is renewed is picked up."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            token = self._token()
        except Exception as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)


def credentials_of(tls: Tls | None, token: Token | None) -> grpc.ChannelCredentials | None:
    """None: without TLS. A token needs TLS, because it would travel in clear text."""
    if tls is None:
        if token is not None:
            raise ValueError(
                "a token without TLS travels in clear text: pass tls=Tls(), or, where a proxy on this machine"
                " encrypts, send it by metadata=[('authorization', 'Bearer …')]"
            )
        return None
    channel = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
    if token is None:
        return channel
    if isinstance(token, str):
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(token))
    call = grpc.metadata_call_credentials(_TokenPlugin(token), "twotower-token")
    return grpc.composite_channel_credentials(channel, call)


def channel_arguments(
    tls: Tls | None, keepalive_s: float | None, extra: Sequence[tuple[str, int | str]]
) -> ChannelArguments:
    """The arguments of every channel; `extra` comes last and wins."""
    arguments: ChannelArguments = [
        ("grpc.primary_user_agent", f"twotower-python/{__version__}"),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        # Channels with equal arguments share one connection unless each has its own pool of subchannels.
        ("grpc.use_local_subchannel_pool", 1),
        # _retry.py is the only layer that retries; a service config from DNS must not add another.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # gRPC's 1 s between connection attempts outlasts a whole call; a restarted server should be found
        # sooner.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if keepalive_s is not None:
        # Pings go out only while calls wait, which servers allow; it also bounds how long TCP keeps a dead
        # peer.
        arguments += [
            ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 0),
        ]
    if tls is not None and tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return [*arguments, *extra]
