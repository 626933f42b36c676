"""Damaged bytes: of messages, of the frames of HTTP/2, and of whole connections."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hpack import Decoder
from hyperframe.frame import FRAMES, Frame, HeadersFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES = 9
_BYTES = (0x00, 0x01, 0x0A, 0x0B, 0x20, 0x7F, 0x80, 0xFF)
# Groups that nobody knows, inside each other; lengths that never come; texts that are no UTF-8; infinity and NaN.
_PIECES = (
    b"\x0b" * 200,
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x0a\xff\xff\xff\xff\x07",
    b"\x0a\x03\xed\xa0\x80",
    b"\xc0\x80",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x00\x00\x00\x00\xf0\x7f",
)


def damaged(data: bytes, order: random.Random, others: Sequence[bytes]) -> bytes:
    """`data` with one to four damages, some of them pieces of `others`."""
    found = bytearray(data)
    for _ in range(order.randint(1, 4)):
        at = order.randint(0, len(found))
        match order.randrange(9):
            case 0 if found:
                found[at % len(found)] ^= 1 << order.randrange(8)
            case 1 if found:
                found[at % len(found)] = order.choice(_BYTES)
            case 2:
                del found[at : at + order.randint(1, 16)]
            case 3:
                found[at:at] = order.randbytes(order.randint(1, 16))
            case 4:
                found[at:at] = found[at : at + order.randint(1, 64)] * order.choice((1, 2, 50))
            case 5:
                del found[at:]
            case 6:
                other = order.choice(others)
                start = order.randint(0, len(other))
                found[at:] = other[start:]
            case 7:
                found[at:at] = order.choice(_PIECES)
            case _ if found:
                piece = order.choice(_PIECES)[:8]
                found[at : at + len(piece)] = piece
    return bytes(found)


def damaged_connection(data: bytes, order: random.Random, others: Sequence[bytes]) -> bytes:
    """What a client of HTTP/2 has sent, with damage in whole frames or in single bytes. Half of them begin well."""
    if order.random() < 0.3:
        return damaged(data, order, others)
    frames = split(data)
    for _ in range(order.randint(1, 4)):
        at = order.randrange(len(frames) + 1)
        match order.randrange(7):
            case 0:
                frames[at:at] = [_any_frame(order)]
            case 1:
                frames[at:at] = frames[at : at + 1] * order.choice((1, 3, 100))
            case 2:
                del frames[at : at + 1]
            case 3 if frames:
                order.shuffle(frames)
            case 4 if at < len(frames):
                frames[at] = _other_head(frames[at], order)
            case 5 if at < len(frames):
                frames[at] = frames[at][:_HEAD_BYTES] + damaged(frames[at][_HEAD_BYTES:], order, others)
            case _ if at < len(frames):
                body = damaged(frames[at][_HEAD_BYTES:], order, others)
                frames[at] = len(body).to_bytes(3, "big") + frames[at][3:_HEAD_BYTES] + body
    return PREFACE + b"".join(frames)


def split(data: bytes) -> list[bytes]:
    """The frames that follow the preface of a client."""
    found, at = [], len(PREFACE)
    while at + _HEAD_BYTES <= len(data):
        end = at + _HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
        found.append(data[at:end])
        at = end
    return found


def _any_frame(order: random.Random) -> bytes:
    """A frame of any kind with a body of random bytes."""
    body = order.randbytes(order.choice((0, 1, 4, 5, 6, 8, 64, 1_000)))
    kind = order.choice((*FRAMES, 0x0A, 0xFF))
    return _head(len(body), kind, order.getrandbits(8), order.choice((0, 1, 2, 3, 2**31 - 1))) + body


def _other_head(frame: bytes, order: random.Random) -> bytes:
    length, kind, flags = int.from_bytes(frame[:3], "big"), frame[3], frame[4]
    stream = int.from_bytes(frame[5:_HEAD_BYTES], "big")
    match order.randrange(4):
        case 0:
            length = order.choice((0, 1, length + 1, 16_385, 2**24 - 1))
        case 1:
            kind = order.choice((*FRAMES, 0x0A))
        case 2:
            flags ^= 1 << order.randrange(8)
        case _:
            stream = order.choice((0, 1, 2, 3, 5, 2**31 - 1))
    return _head(length, kind, flags, stream) + frame[_HEAD_BYTES:]


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def grpc_statuses(data: bytes) -> list[str]:
    """The numbers of the statuses by which a server has ended calls, in what it has sent on one connection."""
    decoder, found, at = Decoder(), [], 0
    while at + _HEAD_BYTES <= len(data):
        frame, length = Frame.parse_frame_header(memoryview(data[at : at + _HEAD_BYTES]))
        body = data[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
        at += _HEAD_BYTES + length
        if isinstance(frame, HeadersFrame) and len(body) == length:
            frame.parse_body(memoryview(body))
            found += [str(value) for name, value in decoder.decode(frame.data) if name == "grpc-status"]
    return found
