"""How figures came about: what is needed to get them again."""

import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flax
import jax

import mta_jax


def made_with(num_devices: int | None = None) -> dict[str, Any]:
    """Commit, device, versions and date, as plain values.

    Args:
      num_devices: how many were used; None: all.
    """
    devices = jax.devices()
    count = num_devices or len(devices)
    return {
        "mta_jax": mta_jax.__version__,
        "commit": _commit(),
        "device": f"{count} x {devices[0].device_kind} ({platform.machine()})",
        "jax": jax.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def provenance(*, command: str, seconds: float) -> dict[str, Any]:
    """The same of a command on one device, with the command line and the time.

    Args:
      command: the program and its task, as they are typed.
      seconds: that it took.
    """
    line = shlex.join(["python", "-m", *command.split(), *sys.argv[2:]])
    return {"command": line, **made_with(num_devices=1), "seconds": round(seconds, 1)}


def _commit() -> str | None:
    """Of the source tree that the package lies in, marked where it was changed; None of none."""
    root = Path(mta_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
