from __future__ import annotations

import json

import pytest

from gateway.errors import InvalidRequest
from gateway.types import ANONYMOUS, Identity, Operation
from protocols.extproc.fields import Head
from protocols.extproc.request import Wanted, identified, inference, operation, renamed

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
COMPLETION = b'{"max_tokens":100,"model":"m","prompt":"hi","temperature":0}'


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/v1/chat/completions", b"", Operation.CHAT),
        ("/v1/completions?x=1", b"", Operation.COMPLETIONS),
        ("/llama/v1/embeddings/", b"", Operation.EMBEDDINGS),
        ("/tokenize", b"", Operation.TOKENIZE),
        ("/v1/models", b"", None),
        ("/v1/messages/count_tokens", b"", Operation.COUNT_TOKENS),
        ("/v1/messages/batches", b"", None),
        ("", CHAT, Operation.CHAT),
        ("", COMPLETION, Operation.COMPLETIONS),
        ("", b"{}", Operation.CHAT),
    ],
)
def test_operation_by_the_end_of_the_path_or_by_the_body(path: str, body: bytes, found: Operation | None) -> None:
    assert operation(path, body) is found


def test_a_body_becomes_what_it_is_over_http() -> None:
    wanted = Wanted(Head(((b"a", b"b"),)), "/v1/chat/completions?x", CHAT, ("1.2.3.4:80",))
    request = inference(wanted, Identity("u"), "r")
    assert (request.operation, request.model, request.body) == (Operation.CHAT, "m", CHAT)
    assert (request.protocol, request.only, request.identity.user) == ("ext_proc", ("1.2.3.4:80",), "u")
    assert request.named == "m"


def test_a_header_asks_for_another_model_than_the_body() -> None:
    head = Head((), {"x-gateway-model-name-rewrite": b"other"})
    request = inference(Wanted(head, "/v1/chat/completions", CHAT), ANONYMOUS, "r")
    assert (request.model, request.named) == ("other", "m")


@pytest.mark.parametrize("body", [b"raw", b"", None])
def test_what_is_not_understood_goes_anywhere(body: bytes | None) -> None:
    request = inference(Wanted(Head(), "/other", body), ANONYMOUS, "r")
    assert (request.model, request.body, request.path, request.named) == ("", body or b"", "/other", "")
    routed = Head((), {"x-gateway-model-name": b"m"})
    assert inference(Wanted(routed, "/v1/chat/completions", None), ANONYMOUS, "r").model == "m"


@pytest.mark.parametrize("body", [b"no healthy upstream", b'{"prompt":"hi"}', b"[]", b'{"model":3,"prompt":"hi"}'])
def test_bad_bodies_of_known_paths_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        inference(Wanted(Head(), "/v1/completions", body), ANONYMOUS, "r")


def test_fairness_id_tells_strangers_apart_but_nobody_else() -> None:
    head = Head((), {"x-gateway-inference-fairness-id": b"flow"})
    stranger = Identity(address="10.0.0.1")
    assert identified(stranger, head).user == "flow"
    assert identified(stranger, Head()) is stranger
    assert identified(Identity("known"), head).user == "known"


def test_only_the_name_changes() -> None:
    assert renamed(COMPLETION, "a/b") == COMPLETION.replace(b'"m"', b'"a/b"')
    assert json.loads(renamed(CHAT, 'q"'))["model"] == 'q"'
