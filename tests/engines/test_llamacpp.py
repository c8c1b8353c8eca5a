"""The real engine serves the real SDK by itself, so that a failure behind the gateway is the gateway's."""

from __future__ import annotations

from pathlib import Path

from openai import OpenAI

from tests.engines import make_tiny_model
from tests.engines.llamacpp import LlamaCpp


def test_the_model_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (make_tiny_model.make(tmp_path / name) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 4 << 20


def test_llamacpp_streams_to_the_sdk() -> None:
    with LlamaCpp() as engine, OpenAI(base_url=f"{engine.url}/v1", api_key="-", max_retries=0) as client:
        with client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Say anything."}],
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ) as stream:
            chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 16
        assert engine.busy_slots() == 0
