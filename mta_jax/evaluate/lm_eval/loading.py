"""Tasks of lm-evaluation-harness by name, with their data."""

import difflib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.lm_eval.config import LmEvalConfig
from mta_jax.evaluate.texts import read_texts

Loaded = dict[str, Any]
"""What `TaskManager.load` returns: tasks and groups by name, and children of groups."""

LOCAL_TASKS = ("lambada_local", "ppl_local")
"""Ours, which read files."""

_TEXT = "text"


def load_tasks(config: LmEvalConfig) -> Loaded:
    """Reads tasks and their data.

    Raises:
      ConfigError: where there is no such task, folder or file.
      UserError: where data cannot be had.
    """
    for folder in config.folders:
        if not Path(folder).expanduser().is_dir():
            raise ConfigError(f"include_path {folder}: no such folder")
    local = {name: _local_task(name, config) for name in config.wanted if name in LOCAL_TASKS}
    # The index of all tasks takes a while to read.
    needs_index = any(name not in local for name in config.wanted)
    manager = TaskManager(
        include_path=[str(Path(folder).expanduser()) for folder in config.folders],
        include_defaults=needs_index,
    )
    for name in config.wanted:
        if name not in local:
            check_name(name, manager)
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in config.wanted:
        found = _load(manager, name, local.get(name, name))
        for task in found["tasks"].values():
            _prepare(task, config.shots_of(name))
        for part in loaded:
            loaded[part] |= found.get(part, {})
    return loaded


def _load(manager: TaskManager, name: str, spec: str | Mapping[str, Any]) -> Loaded:
    try:
        return dict(manager.load([spec]))
    # The hub, the network, a library that a task needs: whatever it is, it is this line.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"task {name}: its data cannot be loaded ({type(error).__name__}: {reason})"
        ) from None


def _prepare(task: Any, shots: int | None) -> None:
    """Sets the solved examples of a task, by the harness's rules.

    Raises:
      UserError: where it runs what a model writes.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"task {task.task_name}: runs code that the model writes; not done here")
    own = task.get_config("num_fewshot")
    # A task that says zero has no examples.
    if shots is not None and own != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def check_name(name: str, manager: TaskManager) -> None:
    """Makes sure that the harness has a task, group or tag of this name, or that it is a file.

    Raises:
      ConfigError: where it has not; names the nearest one.
    """
    if name in manager.task_index or (name.endswith(".yaml") and Path(name).is_file()):
        return
    close = difflib.get_close_matches(name, [*LOCAL_TASKS, *manager.all_tasks], n=1)
    hint = f"did you mean {close[0]}?" if close else "`lm-eval ls tasks` lists them"
    raise ConfigError(f"tasks {name}: lm-evaluation-harness has no such task; {hint}")


def _local_task(name: str, config: LmEvalConfig) -> Mapping[str, Any]:
    """Settings of a task of ours, with its files."""
    if not config.data_files:
        raise ConfigError(f"data null: {name} reads files of JSON lines with a field {_TEXT!r}")
    files = [Path(file).expanduser() for file in config.data_files]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"data {file}: no such file")
    # The harness would not say which line it cannot read.
    read_texts([str(file) for file in files], field=_TEXT, setting="data")
    folder = importlib.resources.files("mta_jax.evaluate.lm_eval") / "tasks"
    with importlib.resources.as_file(folder / f"{name}.yaml") as path:
        settings = load_yaml(path)
    data_files = {settings["test_split"]: [str(file.absolute()) for file in files]}
    return settings | {"dataset_kwargs": {"data_files": data_files}}
