"""Envoy's external processing: one request as any proxy might tell it. (P)

Property: a session that is sent messages of any content in any order raises nothing but Disorder and what the request
is refused with. Replies of each direction keep the order headers, body, trailers; out of full duplex each message gets
one reply of its kind; every reply can be sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.types import ANONYMOUS
from protocols.extproc.messages import Mode, ProcessingRequest, ProcessingResponse
from protocols.extproc.request import Wanted, inference
from protocols.extproc.session import Disorder, Session, Settings, Watch

_MAX = 2000
_PARTS = ("headers", "body", "trailers")


def messages(data: bytes) -> Iterator[Any]:
    """Each with its length before it, in two bytes."""
    at = 0
    while at + 2 <= len(data):
        (size,) = struct.unpack_from(">H", data, at)
        try:
            yield ProcessingRequest.FromString(data[at + 2 : at + 2 + size])
        except DecodeError:
            return
        at += 2 + size


def target(data: bytes) -> None:
    """First byte: the settings; the rest are messages."""
    if not data:
        return
    choice = data[0]
    settings = Settings(
        response=list(Watch)[choice % 3],
        max_body=_MAX,
        steering=bool(choice & 16),
        scores=bool(choice & 32),
        request_mode=Mode(choice // 4 % 5),
        response_mode=Mode(choice // 8 % 5),
    )
    session, replies = Session(settings), []
    try:
        for message in messages(data[1:]):
            step = session.receive(message)
            told = list(step.replies)
            if step.wanted is not None:
                told += _routed(session, step.wanted)
            _check(session, message, told)
            replies += told
    except (Disorder, BodyTooLarge, InvalidRequest):
        pass
    _check_order(replies)


def _routed(session: Session, wanted: Wanted) -> list[Any]:
    request = inference(wanted, ANONYMOUS, "rid")
    assert len(request.body) <= _MAX
    return session.routed(["10.0.0.1:8000"], "rid", asked=request.named, model="theirs", scores={"10.0.0.1:8000": 0.5})


def _check(session: Session, message: Any, replies: list[Any]) -> None:
    for reply in replies:
        assert ProcessingResponse.FromString(reply.SerializeToString()) == reply
    kind = message.WhichOneof("request")
    mode = session._mode_in if kind.startswith("request") else session._mode_out
    if mode is not Mode.DUPLEX:
        assert [reply.WhichOneof("response") for reply in replies] == [kind], (kind, replies)


def _check_order(replies: list[Any]) -> None:
    for direction in ("request", "response"):
        kinds = [reply.WhichOneof("response") for reply in replies]
        places = [_PARTS.index(kind.partition("_")[2]) for kind in kinds if kind.startswith(direction)]
        assert places == sorted(places), kinds
        assert places.count(0) <= 1, kinds
        assert places.count(2) <= 1, kinds
