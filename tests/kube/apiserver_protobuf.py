"""The few objects that kubectl sends in protobuf: `create namespace|configmap|secret`, `auth can-i`, `delete`. (P)"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from tests.kube.apiserver_store import Refusal

Tree = dict[str, Any]
_MAGIC = b"k8s\0"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The strings and messages of a message, with their numbers; numbers among its fields are left out."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        length, at = _varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + length]
            at += length


def _one(data: bytes, number: int) -> bytes:
    return dict(_fields(data)).get(number, b"")


def _text(data: bytes, number: int) -> str:
    return _one(data, number).decode()


def _map(data: bytes, number: int) -> dict[str, bytes]:
    return {_text(pair, 1): _one(pair, 2) for found, pair in _fields(data) if found == number}


def _texts(data: bytes, number: int) -> dict[str, str]:
    return {name: value.decode() for name, value in _map(data, number).items()}


def _metadata(data: bytes) -> Tree:
    tree = {"name": _text(data, 1), "generateName": _text(data, 2), "namespace": _text(data, 3)}
    return {name: value for name, value in tree.items() if value} | {"labels": _texts(data, 11)}


def _review(raw: bytes) -> Tree:
    given = _one(_one(raw, 2), 1)
    names = {1: "namespace", 2: "verb", 3: "group", 5: "resource", 6: "subresource", 7: "name"}
    return {"spec": {"resourceAttributes": {name: _text(given, number) for number, name in names.items()}}}


def _secret(raw: bytes) -> Tree:
    data = {name: base64.b64encode(value).decode() for name, value in _map(raw, 2).items()}
    return {"type": _text(raw, 3) or "Opaque", "data": data}


def _deletion(raw: bytes) -> Tree:
    preconditions = {"uid": _text(_one(raw, 2), 1), "resourceVersion": _text(_one(raw, 2), 2)}
    dry = [value.decode() for number, value in _fields(raw) if number == 5]
    return {
        "preconditions": {name: value for name, value in preconditions.items() if value},
        "propagationPolicy": _text(raw, 4),
        "dryRun": dry,
    }


_KINDS = {
    "DeleteOptions": _deletion,
    "SelfSubjectAccessReview": _review,
    "Namespace": lambda raw: {},
    "ConfigMap": lambda raw: {"data": _texts(raw, 2)},
    "Secret": _secret,
}


def decoded(body: bytes) -> Tree:
    """The tree of a body. Raises Refusal 415 for other kinds."""
    about = body.removeprefix(_MAGIC)
    version, kind = _text(_one(about, 1), 1), _text(_one(about, 1), 2)
    if kind not in _KINDS:
        raise Refusal(415, "UnsupportedMediaType", f"the fake server does not read a {kind} in protobuf")
    raw = _one(about, 2)
    return {"apiVersion": version, "kind": kind, "metadata": _metadata(_one(raw, 1))} | _KINDS[kind](raw)
