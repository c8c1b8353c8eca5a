"""The tiny model for vLLM and SGLang: the same every time, whole, and spelling any text."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.engines import make_tiny_hf, vllm

TOKENIZER = Tokenizer.from_str(json.dumps(make_tiny_hf.tokenizer()))


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (make_tiny_hf.make(tmp_path / name) for name in ("first", "second"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [str(path) for path in files if path.parent.name == "lora"] == [
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
    ]
    assert len(files) == 7
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


def test_its_weights_are_where_the_header_says(tmp_path: Path) -> None:
    data = (make_tiny_hf.make(tmp_path) / "model" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    for name, array in make_tiny_hf.tensors():
        start, end = header[name]["data_offsets"]
        bits = np.frombuffer(data[8 + length + start : 8 + length + end], dtype="<u2").astype(np.uint32) << 16
        stored = bits.view(np.float32).reshape(header[name]["shape"])
        assert np.allclose(stored, array, rtol=2**-7, atol=1e-6)
    assert max(each["data_offsets"][1] for each in header.values()) == len(data) - 8 - length


@given(st.text())
def test_its_tokenizer_spells_any_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_what_it_never_says() -> None:
    said = dict(zip(make_tiny_hf.vocabulary(), make_tiny_hf.spoken(), strict=True))
    assert not any(said[token] for token in make_tiny_hf.SPECIAL + make_tiny_hf.TOOL_CALL)
    assert said["a"]
    assert said["Ġthe"]
    assert sum(said.values()) > 100
    wide = [TOKENIZER.encode(character).ids for character in make_tiny_hf.WIDE]
    assert all(len(ids) == 1 for ids in wide)
    assert all(make_tiny_hf.spoken()[ids[0]] for ids in wide)


def test_releases_are_numbers() -> None:
    assert vllm.release("0.12.0.post2") == (0, 12)
    assert vllm.release("0.8.5") < (0, 12) < vllm.release(vllm.NEWEST)
