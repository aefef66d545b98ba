"""Whether processes that train together agree on what and where."""

import secrets
import time
from pathlib import Path

from mta_jax.command_line.plain import plain
from mta_jax.errors import ConfigError
from mta_jax.parallel.processes import gathered, on_first
from mta_jax.training.config import TrainConfig
from mta_jax.training.run_folder import first_difference

# A network file system may show a new file late.
_PATIENCE = 30.0


def check_same_settings(config: TrainConfig) -> None:
    """Makes sure that all processes were given the same run.

    Raises:
      ConfigError: in all of them, where two were not.
    """
    settings = gathered(plain(config))
    for number, other in enumerate(settings[1:], 1):
        difference = first_difference(settings[0], other, {"processes"})
        if difference:
            difference = difference.replace(" there and ", " in process 0 and ")
            raise ConfigError(
                f"{difference.removesuffix(' here')} in process {number}: all processes of a run "
                "need the same settings"
            )


def check_shared_folder(folder: Path) -> None:
    """Makes sure that all processes see the folder that the first one writes to.

    Raises:
      ConfigError: in all of them, where one does not.
    """

    def write() -> str:
        name = f"{secrets.token_hex(8)}.shared"
        (folder / name).touch()
        return name

    path = folder / on_first(write)
    deadline = time.monotonic() + _PATIENCE
    while not (is_seen := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    seen = gathered(is_seen)
    on_first(path.unlink)
    if not all(seen):
        raise ConfigError(
            f"run_dir {folder}: process {seen.index(False)} does not see what process 0 writes "
            "there; it must be a folder that all machines share"
        )
