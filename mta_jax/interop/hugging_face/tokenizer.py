"""The tokenizer of a Hugging Face folder, and which tokens begin and end a document."""

from pathlib import Path
from typing import Any

from mta_jax.interop.checkpoint import TokenizerFiles
from mta_jax.interop.companions import TOKENIZER_FILES, TOKENIZER_JSON, companions
from mta_jax.interop.fields import Fields


def tokenizer_files(folder: Path, config: Fields) -> TokenizerFiles | None:
    """The tokenizer of a folder; None where it has no file of one.

    Args:
      folder: the folder.
      config: its config.json.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        return None
    begin, end = _ends(folder, config) if found[0].suffix == ".json" else (None, None)
    return TokenizerFiles(str(found[0]), begin, end, companions(folder, found[0]))


def _ends(folder: Path, config: Fields) -> tuple[str | None, str | None]:
    """Begin and end as the files say, in the order in which the library asks them.

    A model without a begin of its own, as Qwen's, begins with what its config says, or with
    its end.
    """
    sources = [
        Fields.read(folder / name).values
        for name in ("tokenizer_config.json", "special_tokens_map.json")
        if (folder / name).is_file()
    ]
    by_id = _special_tokens(folder)

    def token(name: str) -> str | None:
        named = [_content(source.get(name)) for source in sources]
        named.append(by_id.get(_first(config.values.get(f"{name}_id"))))
        return next(filter(None, named), None)

    begin, end = token("bos_token"), token("eos_token")
    return begin or end, end


def _special_tokens(folder: Path) -> dict[Any, str]:
    """Special tokens of tokenizer.json by their ids."""
    added = Fields.read(folder / TOKENIZER_JSON).get("added_tokens", list, default=[])
    tokens = [token for token in added if isinstance(token, dict) and token.get("special")]
    return {token.get("id"): token.get("content", "") for token in tokens}


def _content(token: Any) -> str | None:
    """The text of a token, which is written as it is or with its properties."""
    return token.get("content") if isinstance(token, dict) else token


def _first(ids: Any) -> Any:
    return (ids or [None])[0] if isinstance(ids, list) else ids
