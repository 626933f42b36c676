"""Calls of the HTTP port that are nearly right: JSON in which some value is another, and what they are on the wire."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.http.calling import features, tensor
from tests.rpc.messages import ITEM, USER

# Path and body of calls that are served.
RIGHT: tuple[tuple[str, Any], ...] = (
    ("/v2/models/user_tower/infer", {"inputs": [features(USER, USER)], "id": "1"}),
    ("/v2/models/item_tower/infer", {"inputs": [features(ITEM)]}),
    ("/v2/models/score/infer", {"inputs": [features({**USER, **ITEM}, {**USER, "item_id": "i7"})]}),
    ("/v2/models/user_tower/infer", {"inputs": [tensor("input0", "FP64", [2, 3], 31, 0.07, 21, 55, 0, 3)]}),
    ("/v2/models/user_tower/versions/dot/infer", {"inputs": [tensor("user_age", "FP64", [1], 31)]}),
    ("/v1/models/user_tower:predict", {"instances": [USER]}),
    ("/v1/models/item_tower:predict", {"inputs": [ITEM, {"item_id": "i7"}]}),
    ("/v1/models/score:predict", {"instances": [{**USER, "item_id": "i1"}, {**USER, **ITEM}]}),
    ("/v1/models/score/versions/dot:predict", {"instances": [[31, 0.07, 21, 12.5, 0.034, 100.0]]}),
    ("/predictions/user_tower", {"data": [USER]}),
    ("/predictions/score?version=dot", {"data": [{**USER, "item_id": "i2"}]}),
)
_PLACES = (
    "models",
    "v1",
    "v2",
    "user_tower",
    "score",
    ":predict",
    "infer",
    "dot",
    "/",
    "%00",
    "%ff",
    "..",
    "?version=",
)
_TEXTS = ("FP32", "FP64", "INT64", "BYTES", "BOOL", "1e999", "{}", '{"user_age": NaN}', "i7", "\ud800", "x" * 5_000)

_tenth = st.integers(1, 10)
_value: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ("FP32", "FP64", "INT64", "BYTES", "BOOL", "1e999", "{}", '{"user_age": NaN}', "i7", "\ud800", "x" * 5_000)
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def nearly_right_call(draw: st.DrawFn) -> tuple[str, bytes]:
    """Path and body of a POST."""
    path, right = draw(st.sampled_from(RIGHT))
    body = copy.deepcopy(right)
    for _ in range(draw(st.integers(0, 3))):
        body = _changed(draw, body)
    if draw(_tenth) == 1:
        piece = draw(st.sampled_from(_PLACES))
        path = path.replace(piece, draw(st.sampled_from(_PLACES)), 1)
    return path, json.dumps(body, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """The same with one value somewhere in it changed; a text that holds JSON is changed inside, too."""
    if isinstance(value, dict) and value and draw(_tenth) > 1:
        key = draw(st.sampled_from(sorted(value)))
        if draw(_tenth) == 1:
            return {name: kept for name, kept in value.items() if name != key}
        return {**value, key: _changed(draw, value[key])}
    if isinstance(value, list) and value and draw(_tenth) > 1:
        at = draw(st.integers(0, len(value) - 1))
        if draw(_tenth) == 1:
            return value * draw(st.sampled_from((0, 2, 300, 3_000)))
        return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and value.startswith("{") and draw(_tenth) > 2:
        return json.dumps(_changed(draw, json.loads(value)))
    return draw(_value)


def whole_call(path: str, body: object) -> bytes:
    """A POST as it stands on the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: twotower\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + content


def chunked_call(path: str, body: object) -> bytes:
    """The same in chunks of a few bytes."""
    content = json.dumps(body).encode()
    pieces = [content[at : at + 40] for at in range(0, len(content), 40)]
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    head = f"POST {path} HTTP/1.1\r\nHost: twotower\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + chunks + b"0\r\n\r\n"
