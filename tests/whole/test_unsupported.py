"""`unsupported: drop` through the program: over HTTP and gRPC, whole and streamed, to an engine and to a provider that
wants its key from the environment, and after a failover.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from protocols.grpc.generated.upb import inference as pb
from tests.process import InferGateway, serve, simulate, together

DROPPED = "x-infer-gateway-dropped"
KEY = "sk-in-the-environment"
API = "apiVersion: networking.serving.volcano.sh/v1alpha1"
SERVER = (
    API + "\nkind: ModelServer\nmetadata: {{name: {0}}}\n"
    "spec: {{inferenceEngine: {0}, model: m, endpoints: ['{1}']}}\n---\n"
)
ROUTE = (
    API + "\nkind: ModelRoute\nmetadata: {{name: {0}}}\n"
    "spec: {{modelName: {0}, rules: [{{targetModels: [{1}]}}]{2}}}\n---\n"
)
PROVIDER = (
    API + "\nkind: ExternalModelProvider\nmetadata: {{name: deepseek}}\n"
    "spec: {{providerType: deepseek, model: m, baseURL: '{0}', auth: {{keyEnv: INFER_GATEWAY_TEST_KEY}}}}\n---\n"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    tgi, vllm = simulate("tgi", "m", "--itl", "0.001"), simulate("vllm", "m", "--itl", "0.001")
    deepseek = simulate("deepseek", "m", "--itl", "0.001", "--api-key", KEY)
    with together(tgi, vllm, deepseek), socket.create_server(("127.0.0.1", 0)) as nobody:
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        nobody.close()
        file = tmp_path_factory.mktemp("unsupported") / "gateway.yaml"
        file.write_text(
            SERVER.format("TGI", tgi.url)
            + SERVER.format("vLLM", vllm.url)
            + SERVER.format("ollama", dead)
            + PROVIDER.format(deepseek.url)
            + ROUTE.format("strict", "{modelServerName: TGI}", "")
            + ROUTE.format("lenient", "{modelServerName: TGI}", ", unsupported: drop")
            + ROUTE.format("provider", "{externalModelProviderName: deepseek}", ", unsupported: drop")
            + ROUTE.format(
                "failover",
                "{modelServerName: ollama, weight: 1}, {modelServerName: vLLM, weight: 0}",
                ", unsupported: drop",
            )
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INFER_GATEWAY_TEST_KEY", KEY)
            assert os.environ["INFER_GATEWAY_TEST_KEY"] == KEY
            with serve("-c", str(file)) as running:
                yield running
                assert KEY not in running.stderr


def ask(gateway: InferGateway, model: str, **members: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **members}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "members", "dropped"),
    [
        ("lenient", {"n": 2, "logit_bias": {"7": 1}, "seed": 7}, {"n", "logit_bias"}),
        ("lenient", {"seed": 7}, set()),
        ("lenient", {"top_k": 5, "min_p": 0.1}, {"top_k", "min_p"}),
        ("provider", {"seed": 7, "n": 2}, {"seed", "n"}),
        ("failover", {"n": 1, "top_k": 5, "web_search_options": {"a": 1}}, {"web_search_options"}),
    ],
)
def test_what_is_left_out_is_named(
    gateway: InferGateway, model: str, members: dict[str, Any], dropped: set[str], stream: bool
) -> None:
    answer = ask(gateway, model, stream=stream, **members)
    assert answer.status_code == 200, answer.text
    assert set(filter(None, answer.headers.get(DROPPED, "").split(", "))) == dropped
    assert ("data: [DONE]" in answer.text) == stream


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        ("strict", {"n": 2}, "n"),
        ("lenient", {"n": 2, "functions": [{"name": "f"}]}, "functions"),
        ("lenient", {"ebnf": "root ::= [a-z]"}, "ebnf"),
    ],
)
def test_what_is_refused_is_named(gateway: InferGateway, model: str, members: dict[str, Any], param: str) -> None:
    answer = ask(gateway, model, **members)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert DROPPED not in answer.headers


@pytest.mark.parametrize(("method", "whole"), [("CreateChatCompletion", True), ("StreamChatCompletion", False)])
def test_over_grpc_it_is_named_in_initial_metadata(gateway: InferGateway, method: str, whole: bool) -> None:
    turns = [pb.ChatMessage(role="user", text="hi")]
    asked: Any = pb.CreateChatCompletionRequest(model="lenient", messages=turns, n=2, max_tokens=4)
    asked = asked if whole else pb.StreamChatCompletionRequest(request=asked)
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        opened = (channel.unary_unary if whole else channel.unary_stream)(
            f"/inference.v1.InferenceService/{method}",
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        if whole:
            _, call = opened.with_call(asked, timeout=30)
        else:
            call = opened(asked, timeout=30)
            assert list(call)
        assert dict(call.initial_metadata())[DROPPED] == "n"


def test_the_key_is_shown_nowhere(gateway: InferGateway) -> None:
    shown = httpx.get(f"http://{gateway.ready['admin']}/api/config", timeout=30)
    assert shown.status_code == 200
    assert KEY not in shown.text
