"""Recorded exchanges with real engines, played through their adapters: what a client gets is what was reviewed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.chunk import FINISH_REASONS
from gateway.types import Operation
from tests.recordings import ROOT, folders
from tools import replay_recordings as replay

EXCHANGES = [path for path in replay.exchanges() if replay.read(path).operation is not None]
NAMES = [str(path.relative_to(ROOT).with_suffix("")) for path in EXCHANGES]
STREAMS = [path for path in EXCHANGES if replay.read(path).streamed]
SPOKEN = {Operation.CHAT, Operation.COMPLETIONS}


@pytest.fixture(scope="module")
def goldens() -> dict[Path, bytes]:
    return dict(replay.goldens())


def test_clients_get_what_was_reviewed(goldens: dict[Path, bytes]) -> None:
    differing = [path.name for path, text in goldens.items() if not path.exists() or path.read_bytes() != text]
    assert not differing, "python tools/replay_recordings.py tells them; --write writes them for review"
    kept = {path for pattern in ("*/*.client", "*/*.load") for path in ROOT.glob(pattern)}
    assert kept == set(goldens)


def test_every_engine_and_every_kind_of_answer_is_among_them() -> None:
    assert {name.partition("-")[0] for name in folders()} >= {"vllm", "sglang", "llamacpp"}
    played = [replay.read(path) for path in EXCHANGES]
    assert {recorded.operation for recorded in played} >= set(Operation) - {Operation.RERANK, Operation.COUNT_TOKENS}
    assert {recorded.status for recorded in played} >= {200, 400, 401, 404, 500, 501, 503}
    assert len(STREAMS) > 20


@pytest.mark.parametrize("path", EXCHANGES, ids=NAMES)
def test_it_does_not_matter_how_an_answer_arrives(path: Path) -> None:
    recorded = replay.read(path)
    whole = replay.seen(recorded)
    assert replay.seen(recorded, lambda body: [body[at : at + 1] for at in range(len(body))]) == whole
    assert replay.seen(recorded, lambda body: [body[at : at + 1024] for at in range(0, len(body), 1024)]) == whole


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(EXCHANGES), st.lists(st.floats(0, 1), max_size=12))
def test_nor_where_it_is_cut(path: Path, cuts: list[float]) -> None:
    recorded = replay.read(path)

    def pieces(body: bytes) -> list[bytes]:
        at = sorted({0, *(int(cut * len(body)) for cut in cuts), len(body)})
        return [body[a:b] for a, b in pairwise(at)]

    assert replay.seen(recorded, pieces) == replay.seen(recorded)


@pytest.mark.parametrize("path", EXCHANGES, ids=NAMES)
def test_failures_are_of_the_openai_shape(path: Path) -> None:
    recorded = replay.read(path)
    client = replay.seen(recorded)
    if client.status == 200:
        return
    error = json.loads(client.body)["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["code"], str | None)
    assert isinstance(error["type"], str)
    assert isinstance(error["param"], str | None)
    assert not any(word in client.body.lower() for word in (b"traceback", b"/site-packages/", b"bearer"))
    assert recorded.status < 500 or client.status >= 500  # an engine's failure never becomes the client's


@pytest.mark.parametrize(
    "path", [path for path in STREAMS if replay.read(path).operation in SPOKEN], ids=lambda p: p.stem
)
def test_streams_are_as_sdks_read_them(path: Path) -> None:
    client = replay.seen(replay.read(path))
    if client.status != 200:
        return
    *events, rest = client.body.split(b"\n\n")
    assert rest == b""
    assert events[-1] == b"data: [DONE]"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == (2 if "sglang" in str(path) and "n2" in path.name else 1)
    assert len({chunk["object"] for chunk in chunks}) == 1
    assert all(isinstance(chunk["created"], int) and chunk["model"] for chunk in chunks)
    choices: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], []).append(choice)
    for said in choices.values():
        reasons = [choice["finish_reason"] for choice in said if choice["finish_reason"] is not None]
        assert len(reasons) == 1
        assert reasons[0] in FINISH_REASONS
        if "delta" in said[0]:
            assert said[0]["delta"]["role"] == "assistant"
            assert not any("role" in choice["delta"] for choice in said[1:])
    counts = [chunk for chunk in chunks if not chunk["choices"]]
    assert len(counts) <= (2 if "llamacpp" in str(path) and "n2" in path.name else 1)  # one for each choice
    assert not counts or chunks[-1] is counts[-1]
