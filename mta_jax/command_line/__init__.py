"""One way to read settings, shared by every command.

Settings are dataclasses. They come from YAML files (`--config`, several are
layered), from `--section.field value`, and from defaults, in that order of
precedence from last to first.
"""

from mta_jax.command_line.parser import parse

__all__ = ["parse"]
