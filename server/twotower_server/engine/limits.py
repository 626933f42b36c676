"""What one call may ask for. GetServingInfo tells them to clients."""

from __future__ import annotations

from dataclasses import dataclass

from twotower_server.errors import Reason, Refused

DEFAULT_K = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one call.

    users:      users of a batch, and requests of a BatchScore.
    items:      candidates of a Score, items of a batch.
    features:   names in the maps of one user or item.
    id_bytes:   UTF-8 bytes of a user_id, item_id, feature_version or routing_key.
    request_bytes, response_bytes: of one message; gRPC clients refuse more than 4 MiB by default.
    """

    users: int = 10_000
    items: int = 10_000
    k: int = 10_000
    exclusions: int = 10_000
    features: int = 2_000
    id_bytes: int = 512
    request_bytes: int = 4 << 20
    response_bytes: int = 7 << 19

    def check(self, name: str, count: int, field: str) -> None:
        """Raises LIMIT_EXCEEDED when `count` is over the limit `name`."""
        limit: int = getattr(self, name)
        if count > limit:
            raise Refused(
                Reason.LIMIT_EXCEEDED, f"{count} {name.replace('_', ' ')}, at most {limit} in one call", field
            )

    def check_response(self, size_bytes: int) -> None:
        """Raises LIMIT_EXCEEDED when the answer does not fit a message."""
        if size_bytes > self.response_bytes:
            raise Refused(
                Reason.LIMIT_EXCEEDED,
                f"the answer would take about {size_bytes} bytes, at most {self.response_bytes} fit; ask for less",
            )

    def check_id(self, value: str, field: str) -> None:
        if len(value) > self.id_bytes or (not value.isascii() and len(value.encode()) > self.id_bytes):
            raise Refused(Reason.LIMIT_EXCEEDED, f"{field} is longer than {self.id_bytes} bytes", field)
