"""Data: tokenizers, the toy task, text, and the pipeline that makes batches."""

from mta_jax.data.block_search import BlockSearchConfig
from mta_jax.data.config import DataConfig
from mta_jax.data.pipeline import (
    Data,
    HeldOut,
    check_data,
    load_data,
    load_held_out,
    tokenizer_for,
)
from mta_jax.data.streams import Batch, Position, joined
from mta_jax.data.text_config import DomainConfig, TextConfig
from mta_jax.data.tokenizers import ByteTokenizer, LetterTokenizer, Tokenizer, split_tokens

__all__ = [
    "Batch",
    "BlockSearchConfig",
    "ByteTokenizer",
    "Data",
    "DataConfig",
    "DomainConfig",
    "HeldOut",
    "LetterTokenizer",
    "Position",
    "TextConfig",
    "Tokenizer",
    "check_data",
    "joined",
    "load_data",
    "load_held_out",
    "split_tokens",
    "tokenizer_for",
]
