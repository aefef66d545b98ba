"""Whether the data is still what a run began with."""

from collections.abc import Mapping
from typing import Any

_REMEDY = (
    "restore what it began with, or choose another run_dir (another version of Python or NumPy "
    "may bring other data too)"
)


def change_of_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Says how data differs from what it was, or None.

    Args:
      then: `Data.summary` when the run began.
      now: the same now.
    """
    for name in {**then, **now}:
        if name not in now or name not in then:
            return f"{name} was {'there' if name in then else 'not there'} then; {_REMEDY}"
        if then[name]["digest"] == now[name]["digest"]:
            continue
        if name == "tokenizer":
            return f"the tokenizer is another one; {_REMEDY}"
        if "files" not in then[name]:
            return f"{name} are not the same; {_REMEDY}"
        return f"{name} was {_spell(then[name])} then and is {_spell(now[name])} now; {_REMEDY}"
    return None


def _spell(summary: Mapping[str, Any]) -> str:
    documents = summary["documents"]
    counted = "" if documents is None else f"{documents:,} documents, "
    return (
        f"{counted}{summary['files']:,} files of {summary['bytes']:,} bytes "
        f"(digest {summary['digest'][:8]})"
    )
