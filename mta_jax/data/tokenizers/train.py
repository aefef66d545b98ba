"""A tokenizer from one's own text."""

from collections.abc import Iterable
from pathlib import Path

from mta_jax.data.optional import optional_library
from mta_jax.data.tokenizers.checks import well_formed
from mta_jax.files import write_atomically

_ENDS = ["<|bos|>", "<|eos|>"]
_SMALLEST = 256 + len(_ENDS)


def train_bpe(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Learns a byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909).

    Text is split as GPT-2 does it, and every byte is a token, so that any text comes
    back as it was. The same texts in the same order give the same file, under one
    version of the `tokenizers` library.

    Args:
      texts: to learn from; read once.
      vocab_size: tokens, `<|bos|>`, `<|eos|>` and the 256 bytes included. Fewer where
        the texts have too few different pairs.
      path: the JSON file, for `load_tokenizer`; it appears when it is complete.

    Raises:
      ValueError: for a vocabulary too small for the bytes, or without the library.
    """
    if vocab_size < _SMALLEST:
        raise ValueError(
            f"vocab_size {vocab_size}: must be at least {_SMALLEST}, the bytes, begin and end"
        )
    tokenizers = optional_library("tokenizers", needed_by="train_bpe")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = byte_level(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_ENDS,
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(map(well_formed, texts), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model.to_str(pretty=True))
