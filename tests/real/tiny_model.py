"""A language model of half a megabyte, written in a second: random weights, so that it says nothing, at length."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EMBEDDING = 64
BLOCKS = 2
HEADS = 4
FEED_FORWARD = 128
CONTEXT = 32_768
SPACE = "\u2581"  # as the tokenizer writes it
WORDS = (*(SPACE + word for word in ("the", "river", "mill", "wheel", "water", "gate", "stone", "水車", "é")), ".", ",")
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def write(path: Path, seed: int = 7) -> Path:
    """Write the model. Its tokens are words and single bytes; drawn at random, the bytes are seldom valid UTF-8."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = _add_tokenizer(writer)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    _add_weights(writer, tokens, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> int:
    kinds = gguf.TokenType
    special = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    table = [*special, *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)), *((word, kinds.NORMAL) for word in WORDS)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in table])
    writer.add_token_scores([-float(at) for at in range(len(table))])
    writer.add_token_types([kind for _, kind in table])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    return len(table)


def _add_weights(writer: gguf.GGUFWriter, tokens: int, dice: np.random.Generator) -> None:
    def add(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", dice.normal(0.0, 0.2, shape).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING, dtype=np.float32))

    add("token_embd", tokens, EMBEDDING)
    add("output", tokens, EMBEDDING)
    add_norm("output_norm")
    for block in range(BLOCKS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{part}", EMBEDDING, EMBEDDING)
        for part, shape in (("gate", (FEED_FORWARD, EMBEDDING)), ("up", (FEED_FORWARD, EMBEDDING)), ("down", (EMBEDDING, FEED_FORWARD))):
            add(f"blk.{block}.ffn_{part}", *shape)
        add_norm(f"blk.{block}.attn_norm")
        add_norm(f"blk.{block}.ffn_norm")
