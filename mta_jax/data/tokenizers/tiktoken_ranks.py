"""Files of ranks as tiktoken and Llama 3 have them: a token in base64 and its rank per line.

Such a file says neither how text is split before its bytes are merged nor which special
tokens there are. Both are known for the vocabularies below, told apart by their size.

Sources: https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py for
OpenAI's, https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py for Llama 3.
"""

import base64
import dataclasses
import re
from collections.abc import Iterator, Mapping

from mta_jax.data.tokenizers.files import FileTokenizer, first_line

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]+)\r?")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a file of ranks leaves out.

    Attributes:
      pattern: regular expression of the pieces whose bytes are merged.
      special: special tokens by name.
      begin: token that begins a document.
      end: token that ends a document.
    """

    pattern: str
    special: Mapping[str, int]
    begin: str
    end: str


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _open_ai(pattern: str, end: int, **others: int) -> Vocabulary:
    special = {"<|endoftext|>": end} | {f"<|{name}|>": index for name, index in others.items()}
    return Vocabulary(pattern, special, "<|endoftext|>", "<|endoftext|>")


def _llama3() -> Vocabulary:
    """256 special tokens behind 128,000 ranks; most of them are reserved."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id"}
    named[9] = "eot_id"
    reserved = (f"reserved_special_token_{index}" for index in range(256))
    names = [named[index] if index in named else next(reserved) for index in range(256)]
    special = {f"<|{name}|>": 128_000 + index for index, name in enumerate(names)}
    return Vocabulary(_CL100K, special, "<|begin_of_text|>", "<|end_of_text|>")


# By the number of ranks: GPT-2 and r50k_base, p50k_base, cl100k_base, Llama 3, o200k_base.
VOCABULARIES: dict[int, Vocabulary] = {
    50_256: _open_ai(_GPT2, 50_256),
    50_280: _open_ai(_GPT2, 50_256),
    100_256: _open_ai(
        _CL100K,
        100_257,
        fim_prefix=100_258,
        fim_middle=100_259,
        fim_suffix=100_260,
        endofprompt=100_276,
    ),
    128_000: _llama3(),
    199_998: _open_ai(_O200K, 199_999, endofprompt=200_018),
}

# The regular expressions of tiktoken give up on about a million spaces in a row.
_CUT_SPACE = 100_000


def has_ranks(content: bytes) -> bool:
    """Whether a file begins with a line of base64 and rank."""
    return _LINE.fullmatch(content.split(b"\n", 1)[0]) is not None


class TiktokenTokenizer(FileTokenizer):
    """Byte-pair encoding from a file of ranks, as `tiktoken` computes it.

    White space of more than 100,000 characters in a row is cut into parts, each encoded
    for itself.
    """

    def _open(self, content: bytes) -> None:
        tiktoken = self._library("tiktoken")
        ranks = self._ranks(content)
        vocabulary = VOCABULARIES.get(len(ranks))
        if vocabulary is None:
            known = ", ".join(f"{count:,}" for count in VOCABULARIES)
            raise self._error(
                f"{len(ranks):,} ranks: how such a vocabulary splits text is known for {known}"
            )
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise self._error(f"no rank for the byte {missing[0]}: all 256 must have one")
        pieces = {index: piece for piece, index in ranks.items()}
        taken = sorted(pieces.keys() & set(vocabulary.special.values()))
        if len(pieces) < len(ranks) or taken:
            where = f"; {taken[0]} is a special token's" if taken else ""
            raise self._error(f"two tokens share a rank{where}")
        try:
            self._encoding = tiktoken.Encoding(
                "ranks",
                pat_str=vocabulary.pattern,
                mergeable_ranks=ranks,
                special_tokens=dict(vocabulary.special),
            )
        except Exception as error:  # it raises nothing more specific
            raise self._error(f"tiktoken refuses it ({first_line(error)})") from None
        self._special = vocabulary.special
        self._ends = vocabulary.begin, vocabulary.end
        self.vocab_size = 1 + max([*pieces, *vocabulary.special.values()])
        self._pieces = [pieces.get(index, b"") for index in range(self.vocab_size)]

    def _ranks(self, content: bytes) -> dict[bytes, int]:
        ranks = {}
        for number, line in enumerate(content.split(b"\n"), start=1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line)
            if match is None or len(match[1]) % 4:
                shown = line[:40].decode(errors="replace")
                raise self._error(f"line {number}, {shown!r}, is no 'base64 rank'")
            ranks[base64.b64decode(match[1])] = int(match[2])
        return ranks

    def _usual_ends(self) -> tuple[int, int]:
        begin, end = self._ends
        return self._special[begin], self._special[end]

    def _to_ids(self, text: str) -> list[int]:
        ids = []
        for part in _without_long_space(text):
            ids += self._encoding.encode_ordinary(part)
        return ids

    def _to_text(self, ids: list[int]) -> str:
        return b"".join(self._pieces[index] for index in ids).decode(errors="replace")

    def _lengths(self) -> list[int]:
        return [len(piece) for piece in self._pieces]


def _without_long_space(text: str) -> Iterator[str]:
    """Cuts a text in the midst of very long white space, nowhere else."""
    start = 0
    for cut in range(_CUT_SPACE, len(text), _CUT_SPACE):
        # Whatever is twice as long has such a place, as every place need not be looked at.
        if text[cut - _CUT_SPACE // 2 : cut + _CUT_SPACE // 2].isspace():
            yield text[start:cut]
            start = cut
    yield text[start:]
