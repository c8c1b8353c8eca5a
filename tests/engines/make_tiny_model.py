"""A language model small enough for every test run: random weights in GGUF, the same bytes every time. (IO)

Its answers are noise over printable ASCII, its tokenizer and its chat template are real, and llama.cpp cannot tell it
from any other model of the Llama architecture. Needs the packages gguf and numpy.

    python -m tests.engines.make_tiny_model tiny.gguf
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

SEED = 20261128
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, CONTEXT = 2, 96, 192, 4, 2, 8192
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TURN = 2
CONSTANT, NEVER, LAST = 1.0, -60.0, -20.0
MERGES = ["t h", "th e", "Ġ the", "i n", "a n", "an d", "Ġ and", "o n", "e r", "r e", "Ġ a", "Ġ o", "Ġo f", "l l"]
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{ message.content }}
{%- elif message.content %}{% for part in message.content %}{{ part.text if part.text }}{% endfor %}{% endif %}
{%- if message.tool_calls %}{% for call in message.tool_calls %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}{% endif %}
{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""  # noqa: E501


def vocabulary() -> list[str]:
    """Special tokens, printable ASCII in GPT-2's alphabet (Ġ is space, Ċ newline), and the merges' results."""
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    return SPECIAL + letters + [merge.replace(" ", "") for merge in MERGES]


def tensors(vocab: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 weights) of the whole model. Channel 0 of every token is the same, and no layer reads or changes
    it: by it some tokens are hardly ever said.
    """
    random = np.random.Generator(np.random.PCG64(SEED))

    def weights(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    kv_width = WIDTH // HEADS * KV_HEADS
    embedded, output = weights(vocab, WIDTH, scale=10.0), weights(vocab, WIDTH, scale=3.0)
    embedded[:, 0], output[:, 0] = CONSTANT, seldom(vocabulary())
    yield "token_embd.weight", embedded
    yield "output_norm.weight", ones
    yield "output.weight", output
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight", ones
        yield f"blk.{layer}.attn_q.weight", deaf(weights(WIDTH, WIDTH))
        yield f"blk.{layer}.attn_k.weight", deaf(weights(kv_width, WIDTH))
        yield f"blk.{layer}.attn_v.weight", deaf(weights(kv_width, WIDTH))
        yield f"blk.{layer}.attn_output.weight", mute(weights(WIDTH, WIDTH))
        yield f"blk.{layer}.ffn_norm.weight", ones
        yield f"blk.{layer}.ffn_gate.weight", deaf(weights(HIDDEN, WIDTH))
        yield f"blk.{layer}.ffn_up.weight", deaf(weights(HIDDEN, WIDTH))
        yield f"blk.{layer}.ffn_down.weight", mute(weights(WIDTH, HIDDEN))


def seldom(tokens: list[str]) -> list[float]:
    """By how much each token is held back. A grammar that allows any number of blanks or calls gets few, and ends where
    it can; free text hardly ever does.
    """
    held = {**dict.fromkeys(SPECIAL, NEVER), SPECIAL[END_OF_TURN]: LAST, "Ġ": NEVER, "<": NEVER, "Ċ": NEVER}
    return [held.get(token, 0.0) for token in tokens]


def mute(weights: np.ndarray) -> np.ndarray:
    """Writes nothing into channel 0."""
    weights[0] = 0
    return weights


def deaf(weights: np.ndarray) -> np.ndarray:
    """Reads nothing from channel 0."""
    weights[:, 0] = 0
    return weights


def describe(writer: gguf.GGUFWriter) -> None:
    """The hyperparameters and the tokenizer."""
    tokens = vocabulary()
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    special, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([special if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def make(path: Path) -> Path:
    """Write the model to ``path``, which appears only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(unfinished, "llama")
    describe(writer)
    for name, array in tensors(len(vocabulary())):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.replace(path)


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
