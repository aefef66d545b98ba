"""A training run from start, or from where it was interrupted, to its end."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from mta_jax.command_line.live_line import LiveLine
from mta_jax.command_line.plain import plain
from mta_jax.data import Data, load_data
from mta_jax.errors import ConfigError, UserError
from mta_jax.files import write_atomically
from mta_jax.inference.generate import generate
from mta_jax.training import bad_step, run_folder
from mta_jax.training.changed_data import change_of_data
from mta_jax.training.checkpoint import Checkpoints
from mta_jax.training.config import TrainConfig
from mta_jax.training.diagnostics import make_gate_openness, make_kernel_distances
from mta_jax.training.evaluate import figures_of, total
from mta_jax.training.records import METRICS_FILE, TIMING_FILE, Records, Row, read_rows
from mta_jax.training.saved_weights import check_weights, read_weights
from mta_jax.training.speed import Speed
from mta_jax.training.state import (
    SAMPLE_STREAM,
    Program,
    State,
    check_vocabulary,
    evaluated,
    make_program,
)
from mta_jax.training.step import make_eval_step, make_train_step
from mta_jax.training.trackers import check_trackers, open_trackers
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
    data = load_data(config.data, seed=config.seed, held_out_rows=config.held_out_rows)
    check_vocabulary(program, data.tokenizer)
    _check_held_out(data)
    check_trackers(config.track)
    if config.init_from is not None:
        check_weights(config.init_from, program, data.tokenizer, "init_from")
    run_folder.open_run_folder(folder, config)
    with run_folder.locked(folder):
        return _train(config, program, data, folder, name)


def _train(config: TrainConfig, program: Program, data: Data, folder: Path, name: str) -> Result:
    with Checkpoints(
        folder / "checkpoints", keep=config.checkpoint.keep, config=plain(program.config)
    ) as checkpoints:
        restored = checkpoints.restore(
            program.abstract_state,
            lambda: iter(data.train),
            lambda line: print(f"{name}: {line}"),
        )
        if restored:
            step, state, position = restored.step, restored.state, restored.position
            if change := change_of_data(restored.notes["data"], data.summary):
                position.close()
                raise ConfigError(f"data: not what the run in {folder} began with: {change}")
            record_sizes = restored.notes["record_sizes"]
            print(f"{name}: continuing from step {step} in {folder}")
        else:
            step, state = 0, _initial_state(program, name)
            position, record_sizes = iter(data.train), None
        try:
            with (
                Records(folder, after=step, sizes=record_sizes) as records,
                LiveLine(name, config.num_steps, done=step) as progress,
            ):
                records.follow(open_trackers(config.track, folder, plain(config)))
                run = _Run(program, data, folder, checkpoints, records, progress)
                state = run.steps(step, state, position)
        finally:
            position.close()

    for domain, skips in data.skips.items():
        if skips.num_skipped:
            seen = skips.num_skipped + skips.num_read
            print(f"{name}: {skips.num_skipped:,} of {seen:,} documents of {domain} were skipped")
    rows = read_rows(folder / METRICS_FILE)
    result = Result(
        folder=folder,
        program=program,
        params=evaluated(state),
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
    write_atomically(folder / "results.json", json.dumps(figures, indent=2) + "\n")
    return result


def _check_held_out(data: Data) -> None:
    """What an evaluation would fail on is known before the first step.

    Raises:
      ConfigError: where a held-out set is empty.
    """
    for name, held_out in data.held_out.items():
        first = next(iter(held_out.batches), None)
        if first is None or not first["targets_weights"].any():
            raise ConfigError(
                f"data.text.domains.{name}: its held-out text has no token; name a heldout, or "
                "raise data.text.heldout_fraction"
            )


def _initial_state(program: Program, name: str) -> State:
    """Random weights, or those of another run."""
    location = program.config.init_from
    if location is None:
        return jax.jit(program.initial_state)()
    saved = read_weights(location, "init_from")
    print(f"{name}: beginning with the weights of {saved.folder}")
    return jax.jit(program.state_of)(saved.params)


class _Run:
    """The loop itself, with everything that it writes to."""

    def __init__(
        self,
        program: Program,
        data: Data,
        folder: Path,
        checkpoints: Checkpoints,
        records: Records,
        progress: LiveLine,
    ):
        self._program = program
        self._config = program.config
        self._data = data
        self._folder = folder
        self._checkpoints = checkpoints
        self._records = records
        self._progress = progress
        self._train_step = make_train_step(program)
        self._eval_step = make_eval_step(program)
        self._kernel_distances = make_kernel_distances(program)
        self._gate_openness = make_gate_openness(program)
        self._speed = Speed(program.config)
        self._shown: dict[str, float] = {}

    def steps(self, step: int, state: State, position: grain.DatasetIterator) -> State:
        """Trains from `step` to the end."""
        config = self._config
        pending: list[Mapping[str, Array]] = []
        logged_step, logged_position = step, position.get_state()
        self._speed.start()
        while step < config.num_steps:
            with self._speed.waiting_for_data():
                batch = next(position)
            state, metrics = self._train_step(state, batch)
            pending.append(metrics)
            step += 1
            last = step == config.num_steps
            if step % config.log_every == 0 or last:
                fetched = jax.device_get(pending)
                if stopped_at := int(fetched[-1]["stopped_at"]):
                    position.set_state(logged_position)
                    num_good = stopped_at - 1 - logged_step
                    self._stop(stopped_at, fetched[: num_good + 1], state, position)
                self._log(step, fetched)
                pending, logged_step, logged_position = [], step, position.get_state()
            if step % config.evaluate_every == 0 or last:
                self._evaluate(step, state)
            if config.sample.every and (step % config.sample.every == 0 or last):
                self._sample(step, state)
            if step % config.log_every == 0 or last:
                values = (f"{name} {value:.4g}" for name, value in self._shown.items())
                self._progress.update(step, "  ".join(values))
            if step % config.checkpoint.every == 0 or last:
                self._save(step, state, position)
            # What follows the steps is not training time.
            if not pending:
                self._speed.start()
        self._checkpoints.wait()
        return state

    def _save(self, step: int, state: State, position: grain.DatasetIterator) -> None:
        notes = {
            "record_sizes": self._records.sync(),
            "data": dict(self._data.summary),
            "tokenizer": self._data.tokenizer.fingerprint,
        }
        self._checkpoints.save(step, state, position, notes)

    def _log(self, step: int, fetched: list[Mapping[str, np.ndarray]]) -> None:
        """Writes the means of the last steps."""
        taken = [metrics for metrics in fetched if metrics["is_taken"]]
        row: dict[str, float] = {}
        for name in ("loss", "grad_norm", "param_norm", "update_norm"):
            if taken:
                values = [metrics[name] for metrics in taken]
                row[name] = float(np.mean(values, dtype=np.float64))
        if taken and self._config.data.source == "text":
            row["perplexity"] = math.exp(min(row["loss"], 700.0))
        row["learning_rate"] = float(fetched[-1]["learning_rate"])
        row["skipped_steps"] = int(fetched[-1]["num_skipped"])
        self._records.metrics(step, row)
        timing = self._speed.stop(len(fetched))
        self._records.timing(step, timing)
        if taken:
            self._shown["loss"] = row["loss"]
        if row["skipped_steps"]:
            self._shown["skipped"] = row["skipped_steps"]
        self._shown["steps/s"] = len(fetched) / timing["seconds"]

    def _stop(
        self,
        stopped_at: int,
        fetched: list[Mapping[str, np.ndarray]],
        state: State,
        position: grain.DatasetIterator,
    ) -> None:
        """Ends the run at a bad step.

        Args:
          stopped_at: the step, from 1.
          fetched: metrics of the steps since the last line, this one the last.
          state: the state at the end of the interval.
          position: the data iterator, at the start of the interval.
        """
        config = self._config
        *good, metrics = fetched
        for _ in good:
            next(position)
        if good:
            self._log(stopped_at - 1, good)
        if stopped_at - 1 not in self._checkpoints.steps():
            before = bad_step.state_before(state, stopped_at)
            self._save(stopped_at - 1, before, position)
            self._checkpoints.wait()
        before_batch = position.get_state()
        figures = {name: float(metrics[name]) for name in ("loss", "grad_norm", "update_norm")}
        bad_step.save_batch(self._folder, stopped_at, next(position), figures, before_batch)
        safety = jax.device_get(state["safety"])
        recent = float(safety["loss_sum"]) / max(float(safety["loss_weight"]), 1e-9)
        limit = config.safety.max_skips if config.safety.on_bad_step == "skip" else 1
        raise bad_step.stopped(self._folder, stopped_at, figures, recent, limit)

    def _evaluate(self, step: int, state: State) -> None:
        whole_answers = self._config.data.source == "block_search"
        params = evaluated(state)
        for name, held_out in self._data.held_out.items():
            totals = total(
                self._eval_step, params, held_out.batches, self._data.tokenizer, name=name
            )
            figures = figures_of(totals, whole_answers=whole_answers)
            if not math.isfinite(figures["loss"]):
                raise UserError(
                    f"{name} loss is {figures['loss']} at step {step}: the run stops, with its "
                    "last checkpoint from before; a lower optimizer.learning_rate may help"
                )
            self._records.metrics(
                step, {f"{name}/{figure}": value for figure, value in figures.items()}
            )
            shown = "error" if whole_answers else "loss"
            self._shown[f"{name} {shown}"] = figures[shown]
        learned = self._kernel_distances(params)
        for held_out in self._data.held_out.values():
            learned |= self._gate_openness(params, next(iter(held_out.batches)))
            break
        if learned:
            self._records.metrics(step, learned)

    def _sample(self, step: int, state: State) -> None:
        sample, tokenizer = self._config.sample, self._data.tokenizer
        prompt = np.concatenate([[tokenizer.bos_id], tokenizer.encode(sample.prompt)])
        key = jax.random.fold_in(jax.random.key(self._config.seed), SAMPLE_STREAM)
        written = generate(
            self._program.graphdef,
            evaluated(state),
            prompt,
            num_tokens=sample.num_tokens,
            temperature=sample.temperature,
            eos_id=tokenizer.eos_id,
            key=jax.random.fold_in(key, step),
        )
        # A model may have more tokens than its tokenizer.
        text = sample.prompt + tokenizer.decode(written[written < tokenizer.vocab_size])
        self._records.metrics(step, {"sample": text})
        self._progress.message(f"sample at step {step}: {text!r}")


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
