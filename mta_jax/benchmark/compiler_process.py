"""A process of its own for each program that is compiled.

libtpu reads its flags once, and nothing else ends a compiler that takes too long. A module that
compiles calls `run_compiler`, which runs that module as a program, whose last line is `answer`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mta_jax.errors import UserError
from mta_jax.hardware.environment import ENVIRONMENT

# VMEM, which a kernel chooses to fill, is none of this.
_OUT_OF_MEMORY = re.compile(r"Ran out of memory (?:in memory space|on) hbm\b.*", re.IGNORECASE)
_LONGEST_MESSAGE = 300
_RESULT = "result.json"


class OutOfMemoryError(UserError):
    """The program needs more memory than the device has: a finding, no mistake."""


def run_compiler(module: str, request: list[Any], *, timeout: float) -> dict[str, Any]:
    """Runs a module as a program in a process of its own.

    The flags in this process's `XLA_FLAGS` and `LIBTPU_INIT_ARGS` are not passed on:
    figures are those of the compiler's defaults. The compiler's dumps lie in a temporary
    folder meanwhile.

    Args:
      module: name of a module that ends with `answer`.
      request: what it is to answer, as JSON has it.
      timeout: seconds after which it is given up.

    Returns:
      The answer.

    Raises:
      OutOfMemoryError: if the program needs more memory than the TPU has.
      UserError: if it does not compile otherwise, or not in time.
    """
    with tempfile.TemporaryDirectory(prefix="mta-jax-compiler-") as folder:
        flags = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
        environment = {name: value for name, value in os.environ.items() if name not in flags}
        environment |= ENVIRONMENT
        # A program from the cache would leave no schedule behind.
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        try:
            process = subprocess.run(
                [sys.executable, "-m", module, json.dumps([request, folder])],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"not compiled within {timeout:g} seconds") from None
        result = Path(folder, _RESULT)
        if not result.exists():
            last_words = process.stderr.strip().splitlines()[-1:] or ["no message"]
            raise UserError(f"the compiler ended with {process.returncode}: {last_words[0]}")
        content = json.loads(result.read_text(encoding="utf-8"))
    if "does_not_fit" in content:
        raise OutOfMemoryError(content["does_not_fit"])
    if "error" in content:
        raise UserError(content["error"])
    return content


def answer(argument: str, function: Callable[[list[Any], Path], dict[str, Any]]) -> None:
    """Writes what became of a request to a file in its folder.

    Args:
      argument: of the process, from `run_compiler`.
      function: takes the request and the folder to the answer.
    """
    request, folder = json.loads(argument)
    try:
        content = function(request, Path(folder))
    except Exception as error:
        # Whatever the compiler dislikes is to be one line in the report of many programs.
        message = str(error).strip() or type(error).__name__
        if out_of_memory := _OUT_OF_MEMORY.search(message):
            content = {"does_not_fit": out_of_memory[0][:_LONGEST_MESSAGE]}
        else:
            content = {"error": " ".join(message.split())[:_LONGEST_MESSAGE]}
    Path(folder, _RESULT).write_text(json.dumps(content), encoding="utf-8")
