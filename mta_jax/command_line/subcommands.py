"""Programs that are several commands: `python -m PROGRAM COMMAND --setting value`."""

import difflib
import logging
import sys
from collections.abc import Callable, Mapping

from mta_jax.errors import UserError


def quiet_logs(*libraries: str) -> None:
    """Shows warnings as bare lines, and nothing of libraries whose failures we tell ourselves.

    Args:
      libraries: names of their loggers, such as "absl", through which Orbax reports each
        attempt to read.
    """
    # Some libraries install a handler of their own when they are imported.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    for name in libraries:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_subcommand(
    arguments: list[str],
    commands: Mapping[str, Callable[[list[str]], int]],
    *,
    prog: str,
    word: str,
    usage: str,
) -> int:
    """Runs the command that the first argument names; returns the exit code.

    Args:
      arguments: the command line.
      commands: by name; each takes the rest of the command line.
      prog: the program's name, for messages.
      word: what a command is called there.
      usage: text of `--help`.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        print(usage)
        return 0
    if not arguments or arguments[0] not in commands:
        complaint = f"which {word}?" if not arguments else f"{arguments[0]!r}: no such {word}"
        meant = difflib.get_close_matches(arguments[0], commands, n=1) if arguments else []
        hint = f"; did you mean {meant[0]}?" if meant else ""
        known = ", ".join(commands)
        print(f"{prog}: error: {complaint}{hint}; there are {known}", file=sys.stderr)
        return 2
    return exit_code_of(lambda: commands[arguments[0]](arguments[1:]), prog=prog)


def exit_code_of(command: Callable[[], int], *, prog: str, hint: str = "") -> int:
    """Runs a command; what a user can act on becomes a line on stderr and an exit code.

    Args:
      command: returns its exit code.
      prog: the program's name, for messages.
      hint: what else to say where it was interrupted, or a file failed it.
    """
    try:
        return command()
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{prog}: error: {error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: stopped{hint}", file=sys.stderr)
        return 130
