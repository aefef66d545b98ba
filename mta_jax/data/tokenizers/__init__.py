"""Tokenizers: text to token ids and back."""

from mta_jax.data.tokenizers.byte import ByteTokenizer
from mta_jax.data.tokenizers.continuation import split_tokens
from mta_jax.data.tokenizers.hugging_face import HuggingFaceTokenizer
from mta_jax.data.tokenizers.letters import LetterTokenizer
from mta_jax.data.tokenizers.load import load_tokenizer
from mta_jax.data.tokenizers.protocol import Tokenizer
from mta_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from mta_jax.data.tokenizers.tiktoken_ranks import TiktokenTokenizer
from mta_jax.data.tokenizers.train import train_bpe

__all__ = [
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "LetterTokenizer",
    "SentencePieceTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "split_tokens",
    "train_bpe",
]
