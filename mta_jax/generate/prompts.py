"""Prompts from a file."""

import json
from pathlib import Path

from mta_jax.errors import ConfigError, UserError


def read_prompts(location: str) -> list[str]:
    """The prompts of a file, in its order.

    Args:
      location: *.jsonl, with a field "prompt" in each line; any other file has a prompt a line.

    Raises:
      ConfigError: where it has none, or a line holds none.
      UserError: where it cannot be read.
    """
    path = Path(location).expanduser()
    try:
        # Other line ends of Unicode are part of a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"prompt_file {location}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"prompt_file {location}: is no UTF-8 text") from None
    if path.suffix == ".jsonl":
        prompts = [
            _field(line, f"prompt_file {location}, line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    else:
        prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"prompt_file {location}: holds no prompt")
    return prompts


def _field(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: is no JSON ({error.msg})") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise ConfigError(
            f'{where}: must be an object with a text "prompt", such as {{"prompt": "Once"}}'
        )
    return prompt
