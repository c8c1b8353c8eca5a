"""A language model small enough to serve anywhere, as vLLM and SGLang take it: random weights, always the same. (IO)

Qwen2's architecture with a byte-level tokenizer that spells any text, a chat template that knows tools, and a LoRA that
changes what is said. Answers are noise over printable ASCII and a few characters of more bytes; the end of turn never
comes by itself. Needs numpy; the files are written without any library of theirs, in the form that releases of
transformers from 4 on read.

    python -m tests.engines.make_tiny_hf DIRECTORY        makes DIRECTORY/model and DIRECTORY/lora
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.engines.make_tiny_model import (
    CONSTANT,
    END_OF_TURN,
    MERGES,
    NEVER,
    SPECIAL,
    TEMPLATE,
    deaf,
    mute,
    seldom,
)

SEED = 20261128
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, CONTEXT, RANK = 2, 128, 256, 4, 2, 32768, 8
TOOL_CALL = ["<tool_call>", "</tool_call>"]
WIDE = "éöß€你好😀"
"""Characters of several bytes, each a token of its own."""
_KV_WIDTH = WIDTH // HEADS * KV_HEADS


def alphabet() -> dict[int, str]:
    """GPT-2's byte → printable character: itself where it is one, else from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + at) for at, byte in enumerate(rest)}


def merges() -> list[str]:
    """The pairs of `make_tiny_model`, then those that make the wide characters, byte after byte."""
    letters, found = alphabet(), list(MERGES)
    for character in WIDE:
        spelt = [letters[byte] for byte in character.encode()]
        pairs = [f"{''.join(spelt[:at])} {spelt[at]}" for at in range(1, len(spelt))]
        found += [pair for pair in pairs if pair not in found]
    return found


def vocabulary() -> list[str]:
    """Special tokens, all bytes, what the merges make, and the marks of tool calls."""
    return [*SPECIAL, *alphabet().values(), *(merge.replace(" ", "") for merge in merges()), *TOOL_CALL]


def spoken() -> list[bool]:
    """Which tokens are ever said: those that are text by themselves."""
    back = {letter: byte for byte, letter in alphabet().items()}

    def said(token: str) -> bool:
        if token in SPECIAL or token in TOOL_CALL:
            return False
        spelt = bytes(back[letter] for letter in token)
        return spelt.decode(errors="replace").isprintable() and "\ufffd" not in spelt.decode(errors="replace")

    return [said(token) for token in vocabulary()]


def tokenizer() -> dict[str, object]:
    """tokenizer.json of the tokenizers library."""
    tokens = vocabulary()
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": tokens.index(t), "content": t, **plain, "special": t in SPECIAL} for t in [*SPECIAL, *TOOL_CALL]]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
        "type": "BPE",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {token: at for at, token in enumerate(tokens) if token not in TOOL_CALL},
        "merges": merges(),
    }
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {
        **nothing,
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": model,
    }


def config() -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": END_OF_TURN,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": len(vocabulary()),
    }


def tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def tensors() -> Iterator[tuple[str, np.ndarray]]:
    """(name, weights). What is hardly ever said is held back as in `make_tiny_model`."""
    random = np.random.Generator(np.random.PCG64(SEED))

    def weights(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    ones, vocab = np.ones(WIDTH, dtype=np.float32), len(vocabulary())
    embedded, output = weights(vocab, WIDTH, scale=10.0), weights(vocab, WIDTH, scale=3.0)
    held = zip(vocabulary(), spoken(), seldom(vocabulary()), strict=True)
    embedded[:, 0] = CONSTANT
    output[:, 0] = [back if said or token == SPECIAL[END_OF_TURN] else NEVER for token, said, back in held]
    yield "model.embed_tokens.weight", embedded
    yield "model.norm.weight", ones
    yield "lm_head.weight", output
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", ones
        yield f"{name}.post_attention_layernorm.weight", ones
        for part, rows in (("q", WIDTH), ("k", _KV_WIDTH), ("v", _KV_WIDTH)):
            yield f"{name}.self_attn.{part}_proj.weight", deaf(weights(rows, WIDTH))
            yield f"{name}.self_attn.{part}_proj.bias", np.zeros(rows, dtype=np.float32)
        yield f"{name}.self_attn.o_proj.weight", mute(weights(WIDTH, WIDTH))
        yield f"{name}.mlp.gate_proj.weight", deaf(weights(HIDDEN, WIDTH))
        yield f"{name}.mlp.up_proj.weight", deaf(weights(HIDDEN, WIDTH))
        yield f"{name}.mlp.down_proj.weight", mute(weights(WIDTH, HIDDEN))


def lora() -> Iterator[tuple[str, np.ndarray]]:
    """(name, weights) of a LoRA on the query and value projections, strong enough to change greedy answers."""
    random = np.random.Generator(np.random.PCG64(SEED + 1))
    for layer in range(LAYERS):
        for part, rows in (("q", WIDTH), ("v", _KV_WIDTH)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            yield f"{name}.lora_A.weight", random.standard_normal((RANK, WIDTH)).astype(np.float32) * 0.3
            yield f"{name}.lora_B.weight", random.standard_normal((rows, RANK)).astype(np.float32) * 0.3


LORA_CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny",
    "r": RANK,
    "lora_alpha": 2 * RANK,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": ["q_proj", "v_proj"],
    "inference_mode": True,
}


def safetensors(named: Iterator[tuple[str, np.ndarray]]) -> bytes:
    """Weights as bfloat16 in the safetensors form: the header's length, the header, the data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, array in named:
        rounded = ((array.view(np.uint32) + 0x8000) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(rounded)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        data += rounded
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def make(folder: Path) -> Path:
    """Write ``folder``/model and ``folder``/lora."""
    model, adapter = folder / "model", folder / "lora"
    for path in (model, adapter):
        path.mkdir(parents=True, exist_ok=True)
    documents = {
        model / "config.json": config(),
        model / "generation_config.json": {"eos_token_id": END_OF_TURN, "pad_token_id": 0},
        model / "tokenizer.json": tokenizer(),
        model / "tokenizer_config.json": tokenizer_config(),
        adapter / "adapter_config.json": LORA_CONFIG,
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1))
    (model / "model.safetensors").write_bytes(safetensors(tensors()))
    (adapter / "adapter_model.safetensors").write_bytes(safetensors(lora()))
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
