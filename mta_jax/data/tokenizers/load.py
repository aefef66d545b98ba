"""A tokenizer by its name or file."""

from pathlib import Path

from mta_jax.data.tokenizers.byte import ByteTokenizer
from mta_jax.data.tokenizers.files import FileTokenizer
from mta_jax.data.tokenizers.hugging_face import HuggingFaceTokenizer
from mta_jax.data.tokenizers.protocol import Tokenizer
from mta_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from mta_jax.data.tokenizers.tiktoken_ranks import TiktokenTokenizer, has_ranks

# Longer than any line of ranks.
_HEAD = 4096


def load_tokenizer(
    spec: str, *, bos_token: str | None = None, eos_token: str | None = None
) -> Tokenizer:
    """Opens a tokenizer.

    Args:
      spec: "byte", or the path of a file: ``*.json`` of the `tokenizers` library; any other
        name, a file of ranks as tiktoken and Llama 3 have them or a SentencePiece model,
        told apart by what is in it.
      bos_token: token of a file that begins a document; None takes the usual one.
      eos_token: token of a file that ends a document; None takes the usual one.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: where the file cannot be used; the message begins with the spec.
    """
    if spec == "byte":
        if bos_token is not None or eos_token is not None:
            raise ValueError(
                "data.text.tokenizer byte: bos_token and eos_token are for tokenizers from "
                "files; it has its own begin and end"
            )
        return ByteTokenizer()
    path = Path(spec)
    if path.is_dir():
        raise ValueError(f"data.text.tokenizer {spec}: a folder; name the file in it")
    if not path.is_file():
        raise FileNotFoundError(
            f"data.text.tokenizer {spec}: no such file; must be 'byte' or the path of a "
            "tokenizer.json, a SentencePiece model or a tiktoken file"
        )
    try:
        return _kind(path)(spec, bos_token, eos_token)
    except OSError as error:
        raise ValueError(f"data.text.tokenizer {spec}: cannot be read ({error.strerror})") from None


def _kind(path: Path) -> type[FileTokenizer]:
    if path.suffix == ".json":
        return HuggingFaceTokenizer
    with path.open("rb") as file:
        return TiktokenTokenizer if has_ranks(file.read(_HEAD)) else SentencePieceTokenizer
