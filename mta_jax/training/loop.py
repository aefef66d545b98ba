"""A training run from start, or from where it was interrupted, to its end."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from mta_jax.data import Data, load_data
from mta_jax.errors import ConfigError, UserError
from mta_jax.inference.generate import generate
from mta_jax.training import run_folder
from mta_jax.training.checkpoint import Checkpoints
from mta_jax.training.config import TrainConfig
from mta_jax.training.evaluate import evaluate
from mta_jax.training.progress import ProgressLine
from mta_jax.training.records import METRICS_FILE, TIMING_FILE, Records, Row, read_rows
from mta_jax.training.state import SAMPLE_STREAM, Program, State, make_program
from mta_jax.training.step import make_eval_step, make_train_step
from mta_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run came to.

    Attributes:
      folder: the run folder.
      program: structure of the run.
      params: final parameters.
      data: what it was trained on.
      num_params: number of parameters.
      seconds: training time, compilation included, evaluations not, summed over
        restarts.
      held_out: final figures by held-out set.
      rows: everything in metrics.jsonl.
    """

    folder: Path
    program: Program
    params: Any
    data: Data
    num_params: int
    seconds: float
    held_out: Mapping[str, Mapping[str, float]]
    rows: list[Row]


def train(config: TrainConfig, folder: Path, *, name: str) -> Result:
    """Trains, or continues, or just reads the run in a folder.

    Args:
      config: the run.
      folder: the run folder.
      name: what the progress line calls it.

    Raises:
      ConfigError: where the folder holds another run, or the data has changed.
      UserError: where the loss is no longer finite, or the folder is damaged.
    """
    program = make_program(config)
    try:
        data = load_data(config.data, seed=config.seed)
    except FileNotFoundError as error:
        raise ConfigError(f"data.source {config.data.source}: {error}") from None
    run_folder.open_run_folder(folder, config)
    with run_folder.locked(folder):
        return _train(config, program, data, folder, name)


def _train(config: TrainConfig, program: Program, data: Data, folder: Path, name: str) -> Result:
    abstract_state = jax.eval_shape(program.initial_state)

    with Checkpoints(
        folder / "checkpoints", keep=config.checkpoint.keep, config=run_folder.plain(config)
    ) as checkpoints:
        restored = checkpoints.restore(
            abstract_state, lambda: iter(data.train), lambda line: print(f"{name}: {line}")
        )
        if restored:
            step, state, position = restored.step, restored.state, restored.position
            if restored.notes["data"] != data.fingerprint:
                raise ConfigError(
                    f"data: not the {config.data.source} data that the run in {folder} began "
                    "with, as happens with another version of Python or NumPy; continue with the "
                    "version that it began with, or choose another run_dir"
                )
            record_sizes = restored.notes["record_sizes"]
            print(f"{name}: continuing from step {step} in {folder}")
        else:
            step, state = 0, jax.jit(program.initial_state)()
            position, record_sizes = iter(data.train), None
        try:
            with (
                Records(folder, after=step, sizes=record_sizes) as records,
                ProgressLine(name, config.num_steps, start=step) as progress,
            ):
                run = _Run(program, data, checkpoints, records, progress)
                state = run.steps(step, state, position)
        finally:
            position.close()

    rows = read_rows(folder / METRICS_FILE)
    result = Result(
        folder=folder,
        program=program,
        params=state["params"],
        data=data,
        num_params=sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        seconds=sum(row["seconds"] for row in read_rows(folder / TIMING_FILE)),
        held_out=_last_held_out(rows, data),
        rows=rows,
    )
    figures = {
        "step": config.num_steps,
        "num_params": result.num_params,
        "seconds": result.seconds,
        "held_out": result.held_out,
    }
    run_folder.write_atomically(folder / "results.json", json.dumps(figures, indent=2) + "\n")
    return result


class _Run:
    """The loop itself, with everything that it writes to."""

    def __init__(
        self,
        program: Program,
        data: Data,
        checkpoints: Checkpoints,
        records: Records,
        progress: ProgressLine,
    ):
        self._program = program
        self._config = program.config
        self._data = data
        self._checkpoints = checkpoints
        self._records = records
        self._progress = progress
        self._train_step = make_train_step(program)
        self._eval_step = make_eval_step(program)
        self._shown: dict[str, float] = {}
        self._interval_began = time.perf_counter()

    def steps(self, step: int, state: State, position: grain.DatasetIterator) -> State:
        """Trains from `step` to the end."""
        config = self._config
        pending: list[Mapping[str, Array]] = []
        while step < config.num_steps:
            state, metrics = self._train_step(state, next(position))
            pending.append(metrics)
            step += 1
            last = step == config.num_steps
            if step % config.log_every == 0 or last:
                self._log(step, pending)
                pending = []
            if step % config.evaluate_every == 0 or last:
                self._evaluate(step, state)
            if config.sample.every and (step % config.sample.every == 0 or last):
                self._sample(step, state)
            if step % config.log_every == 0 or last:
                self._progress.update(step, self._shown)
            if step % config.checkpoint.every == 0 or last:
                notes = {"record_sizes": self._records.sync(), "data": self._data.fingerprint}
                self._checkpoints.save(step, state, position, notes)
            # What follows the steps is not training time.
            if not pending:
                self._interval_began = time.perf_counter()
        self._checkpoints.wait()
        return state

    def _log(self, step: int, pending: list[Mapping[str, Array]]) -> None:
        """Writes the means of the last steps, once they are known to be finite."""
        fetched = jax.device_get(pending)
        for offset, metrics in enumerate(fetched):
            for name in ("loss", "grad_norm"):
                if not math.isfinite(metrics[name]):
                    raise _diverged(name, float(metrics[name]), step - len(fetched) + offset + 1)
        means = {
            name: float(np.mean([metrics[name] for metrics in fetched], dtype=np.float64))
            for name in ("loss", "grad_norm")
        }
        means["learning_rate"] = float(fetched[-1]["learning_rate"])
        self._records.metrics(step, means)
        seconds = time.perf_counter() - self._interval_began
        tokens = len(fetched) * self._config.data.batch_size * self._config.data.row_length
        self._records.timing(step, {"seconds": seconds, "tokens_per_second": tokens / seconds})
        self._shown |= {"loss": means["loss"], "steps/s": len(fetched) / seconds}

    def _evaluate(self, step: int, state: State) -> None:
        whole_answers = self._config.data.source == "block_search"
        for name, held_out in self._data.held_out.items():
            figures = evaluate(
                self._eval_step, state["params"], held_out, whole_answers=whole_answers
            )
            if not math.isfinite(figures["loss"]):
                raise _diverged(f"{name} loss", figures["loss"], step)
            self._records.metrics(
                step, {f"{name}/{figure}": value for figure, value in figures.items()}
            )
            shown = "error" if whole_answers else "loss"
            self._shown[f"{name} {shown}"] = figures[shown]

    def _sample(self, step: int, state: State) -> None:
        sample, tokenizer = self._config.sample, self._data.tokenizer
        prompt = np.concatenate([[tokenizer.bos_id], tokenizer.encode(sample.prompt)])
        key = jax.random.fold_in(jax.random.key(self._config.seed), SAMPLE_STREAM)
        written = generate(
            self._program.graphdef,
            state["params"],
            prompt,
            num_tokens=sample.num_tokens,
            temperature=sample.temperature,
            eos_id=tokenizer.eos_id,
            key=jax.random.fold_in(key, step),
        )
        text = sample.prompt + tokenizer.decode(written)
        self._records.metrics(step, {"sample": text})
        self._progress.message(f"sample at step {step}: {text!r}")


def _diverged(name: str, value: float, step: int) -> UserError:
    return UserError(
        f"{name} is {value} at step {step}: the run stops here, with its last checkpoint from "
        "before; a lower optimizer.learning_rate or a longer optimizer.warmup_steps may help"
    )


def _last_held_out(rows: list[Row], data: Data) -> dict[str, dict[str, float]]:
    """The newest figures of each held-out set."""
    figures: dict[str, dict[str, float]] = {}
    for name in data.held_out:
        prefix = f"{name}/"
        for row in rows:
            found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
            if found:
                figures[name] = found
    return figures
