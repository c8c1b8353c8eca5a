"""What gRPC and the endpoint picker do on one core, beside the HTTP path of the same process. (IO)

Invariant: every message is sent as a client would send it; the load is `grpc_load.py`, pinned away from the gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from clients import Load
from processes import HERE, LOAD_CORE, ROOT, Failed, pin

_PROMPT = "Hello there, tell me a story."
_INFERENCE = "/inference.v1.InferenceService/"
_PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class Calls:
    """Writes the messages of each kind of call once, and makes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def unary(self, port: int, seconds: float) -> Load:
        """Small chat completions, 32 at a time on four connections."""
        return self._made(port, _INFERENCE + "CreateChatCompletion", [(self._chat(stream=False), 1)], seconds)

    def stream(self, port: int, seconds: float) -> Load:
        """Streamed chat completions; ``events_per_s`` counts messages."""
        never = 1 << 30  # the answer's end ends the call
        return self._made(port, _INFERENCE + "StreamChatCompletion", [(self._chat(stream=True), never)], seconds)

    def exchange(self, port: int, seconds: float, prompt: int = 0, *, calls: int = 8) -> Load:
        """Whole exchanges of an endpoint picker: head and body, then the response's head and body."""
        text = _PROMPT if not prompt else ("lorem ipsum " * (prompt // 12 + 1))[:prompt]
        head, body, answered, answer = _exchange(text)
        chunks = -(-len(body[1]) // 62_000)
        steps = [(head, 0), (body[0], 1 + chunks), (answered, 1), (answer, 1)]
        return self._made(port, _PROCESS, steps, seconds, streams=calls)

    def _chat(self, *, stream: bool) -> bytes:
        from protocols.grpc.generated.upb import inference as proto

        message = proto.CreateChatCompletionRequest(model="m", max_tokens=16)
        message.messages.add(role="user", text=_PROMPT)
        wanted = proto.StreamChatCompletionRequest(request=message) if stream else message
        return bytes(wanted.SerializeToString())

    def _made(self, port: int, path: str, steps: list[tuple[bytes, int]], seconds: float, *, streams: int = 8) -> Load:
        files = []
        for number, (message, _) in enumerate(steps):
            files.append(self._folder / f"message-{number}")
            files[-1].write_bytes(message)
        argv = [sys.executable, str(HERE / "grpc_load.py"), str(port), path, *map(str, files)]
        argv += ["--replies", *(str(replies) for _, replies in steps)]
        argv += ["--connections", "4", "--streams", str(streams), "--seconds", str(seconds)]
        return _load(argv)


def _load(argv: list[str]) -> Load:
    done = subprocess.run(pin(LOAD_CORE, argv), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{argv[1]} ended with {done.returncode}: {done.stderr[-2000:]}")
    got = json.loads(done.stdout)
    return Load("grpc_load", got["calls_per_s"], got["messages_per_s"], sum(got["failures"].values()))


def _exchange(text: str) -> tuple[bytes, tuple[bytes, bytes], bytes, bytes]:
    """The four messages Envoy sends in full duplex, and the body in the second."""
    from protocols.extproc.messages import Mode, ProcessingRequest

    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 16}).encode()
    fields = (
        (":method", "POST"), (":path", "/v1/chat/completions"), (":authority", "gateway"), (":scheme", "http"),
        ("content-type", "application/json"), ("content-length", str(len(body))), ("user-agent", "bench"),
        ("accept", "*/*"), ("x-request-id", "8d3f5a2e-0000-4000-8000-000000000000"), ("x-forwarded-proto", "http"),
    )  # fmt: skip
    head = ProcessingRequest()
    for name, value in fields:
        head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    head.protocol_config.request_body_mode = head.protocol_config.response_body_mode = Mode.DUPLEX
    asked, answered, answer = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
    asked.request_body.body, asked.request_body.end_of_stream = body, True
    for name, value in ((":status", "200"), ("content-type", "application/json"), ("content-length", "250")):
        answered.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    message = {"role": "assistant", "content": "hi"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    answer.response_body.body, answer.response_body.end_of_stream = json.dumps(whole).encode(), True
    first, *rest = (each.SerializeToString() for each in (head, asked, answered, answer))
    return first, (rest[0], body), rest[1], rest[2]
