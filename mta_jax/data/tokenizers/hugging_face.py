"""Files of Hugging Face's `tokenizers` library, usually called tokenizer.json."""

import json
import re
from collections.abc import Iterator
from typing import Any

from mta_jax.data.tokenizers.files import FileTokenizer, first_line

# Begin and end of a document by their usual names; of several pairs the first counts.
_ENDS = (
    ("<s>", "</s>"),
    ("<bos>", "<eos>"),
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<|bos|>", "<|eos|>"),
    ("<|startoftext|>", "<|endoftext|>"),
    ("[BOS]", "[EOS]"),
    ("<BOS>", "<EOS>"),
    # DeepSeek's, whose bars and spaces are not ASCII.
    ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    ("<|endoftext|>", "<|endoftext|>"),
    ("<|end_of_text|>", "<|end_of_text|>"),
)
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class HuggingFaceTokenizer(FileTokenizer):
    """A tokenizer in the JSON format of the `tokenizers` library.

    Truncation, padding and the special tokens that a post-processor adds are left out.
    Special tokens are the added ones that the file marks as such; other added tokens
    are found in a text. Text is what the file's normalizer leaves of it: one that
    lowers capitals cannot be undone.
    """

    def _open(self, content: bytes) -> None:
        tokenizers = self._library("tokenizers")
        try:
            model = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # it raises nothing more specific
            raise self._error(
                f"no file of the tokenizers library, as tokenizer.json is ({first_line(error)})"
            ) from None
        model.no_truncation()
        model.no_padding()
        model.encode_special_tokens = True
        self._model = model
        self._added = model.get_added_tokens_decoder()
        self._special = {
            token.content: index for index, token in sorted(self._added.items()) if token.special
        }
        self._vocabulary = model.get_vocab(with_added_tokens=True)
        if not self._vocabulary:
            raise self._error("its vocabulary is empty")
        self.vocab_size = 1 + max(self._vocabulary.values())
        self._byte_alphabet = frozenset(tokenizers.pre_tokenizers.ByteLevel.alphabet())

    def _usual_ends(self) -> tuple[int | None, int | None]:
        for begin, end in _ENDS:
            if (self._bos_token is not None or begin in self._special) and (
                self._eos_token is not None or end in self._special
            ):
                return self._special.get(begin), self._special.get(end)
        return None, None

    def _to_ids(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids

    def _to_text(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=False)

    def _lengths(self) -> list[int]:
        kinds = set(_kinds(json.loads(self._model.to_str())["decoder"]))
        if "ByteLevel" in kinds:
            length = self._byte_level_length
        else:
            length = _LengthBetween(self, byte_fallback="ByteFallback" in kinds)
        lengths = [0] * self.vocab_size
        for token, index in self._vocabulary.items():
            lengths[index] = length(token, index)
        return lengths

    def _byte_level_length(self, token: str, index: int) -> int:
        """Each character is one byte, unless the token was added as it is."""
        if index not in self._added and self._byte_alphabet.issuperset(token):
            return len(token)
        return len(token.encode())


class _LengthBetween:
    """Byte length of a token by what it adds to a decoded text.

    Alone, a token may lose the space that it stands for, at either end of the text.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, *, byte_fallback: bool):
        self._tokenizer = tokenizer
        self._byte_fallback = byte_fallback
        self._around = tokenizer._to_ids("a")
        self._without = self._decoded_length([])

    def __call__(self, token: str, index: int) -> int:
        if self._byte_fallback and _BYTE.fullmatch(token):
            return 1
        return max(0, self._decoded_length([index]) - self._without)

    def _decoded_length(self, between: list[int]) -> int:
        return len(self._tokenizer._to_text([*self._around, *between, *self._around]).encode())


def _kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    """Types of a decoder and of those it is made of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", []):
            yield from _kinds(part)
