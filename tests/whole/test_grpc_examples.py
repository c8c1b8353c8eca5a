"""The gRPC examples, run as their readers would against the program, and what tools ask of it: reflection, health."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

from tests.process import ROOT, serve, simulate

EXAMPLES = ROOT / "examples" / "grpc"
SERVICE = "inference.v1.InferenceService"


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with (
        simulate("vllm", "llama", "--ttft", "0.001", "--itl", "0.0001") as engine,
        serve("--backend", f"vllm={engine.url}", "--grpc", "127.0.0.1:0") as gateway,
    ):
        yield gateway.ready["grpc"]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command in the example's docstring makes."""
    out = tmp_path_factory.mktemp("stubs")
    source = ROOT / "protocols" / "grpc" / "proto"
    options = [f"-I{source}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(["protoc", *options, "inference/v1/inference.proto"]) == 0
    return out


def run(example: str, *arguments: str, stubs: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = [str(ROOT), *([str(stubs)] if stubs else ())]
    return subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


@pytest.mark.parametrize("example", ["trio_client.py", "grpcio_client.py"])
def test_an_example_gets_a_whole_answer_and_a_stream(example: str, target: str, stubs: Path) -> None:
    done = run(example, target, "llama", "Why is the sky blue?", stubs=stubs)
    assert (done.returncode, done.stderr) == (0, "")
    whole, pieces, tokens = done.stdout.splitlines()
    assert whole.startswith("whole: ")
    assert len(whole.split()) > 5
    assert len(pieces.split()) > 8
    assert tokens.endswith("+ 16")


@pytest.mark.parametrize("example", ["trio_client.py", "grpcio_client.py"])
def test_an_example_says_why_it_fails(example: str, target: str, stubs: Path) -> None:
    done = run(example, target, "nobody", "Why?", stubs=stubs)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT_FOUND: ")
    assert "MODEL_NOT_FOUND" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tool_that_knows_nothing_finds_out_and_calls(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName(SERVICE).methods_by_name["ListModels"]
        request, reply = (message_factory.GetMessageClass(it) for it in (method.input_type, method.output_type))
        call = channel.unary_unary(f"/{SERVICE}/ListModels", request.SerializeToString, reply.FromString)
        assert [model.id for model in call(request(), timeout=30).models] == ["llama"]


@pytest.mark.parametrize("service", ["", SERVICE])
def test_a_probe_is_told_that_calls_are_served(target: str, service: str) -> None:
    with grpc.insecure_channel(target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
