"""Files that lie beside that of a tokenizer."""

from pathlib import Path

TOKENIZER_JSON = "tokenizer.json"

TOKENIZER_FILES = (TOKENIZER_JSON, "tokenizer.model")
"""Names of a tokenizer's own file."""

_OTHERS = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def companions(folder: Path, file: Path) -> tuple[Path, ...]:
    """Files that `transformers` needs beside that of a tokenizer."""
    paths = [folder / name for name in _OTHERS]
    return tuple(path for path in paths if path.is_file() and path != file)
