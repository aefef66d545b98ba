"""A training run from start, or from where it was interrupted, to its end."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from mta_jax.command_line.live_line import LiveLine
from mta_jax.command_line.plain import plain
from mta_jax.data import Batch, Data, Position, joined, load_data
from mta_jax.errors import ConfigError, PreemptedError, UserError
from mta_jax.files import write_atomically
from mta_jax.inference import Decoder, Sampling
from mta_jax.parallel.feed import on_mesh, rows_of_process, whole
from mta_jax.parallel.mesh import on
from mta_jax.parallel.preemption import Preemption
from mta_jax.parallel.processes import gathered, is_first, on_first
from mta_jax.parallel.rules import state_shardings, with_shardings
from mta_jax.provenance import made_with
from mta_jax.training import bad_step, run_folder
from mta_jax.training.beginning import Beginning, begin, check_beginning
from mta_jax.training.changed_data import change_of_data
from mta_jax.training.checkpoint import Checkpoints
from mta_jax.training.config import TrainConfig
from mta_jax.training.diagnostics import make_gate_openness, make_kernel_distances
from mta_jax.training.evaluate import figures_of, total
from mta_jax.training.mesh import described, mesh_of
from mta_jax.training.records import METRICS_FILE, TIMING_FILE, Records, Row, read_rows
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
from mta_jax.training.together import check_shared_folder
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
    mesh = mesh_of(program.config)
    rows = rows_of_process(mesh, config.data.rows, config.data.row_length)
    data = load_data(config.data, seed=config.seed, held_out_rows=config.held_out_rows, rows=rows)
    check_vocabulary(program, data.tokenizer)
    _check_held_out(data)
    check_trackers(config.track)
    beginning = check_beginning(program, data.tokenizer)
    with contextlib.ExitStack() as stack:
        on_first(lambda: run_folder.open_run_folder(folder, config))
        if jax.process_count() > 1:
            check_shared_folder(folder)
        on_first(lambda: stack.enter_context(run_folder.locked(folder)))
        stack.enter_context(on(mesh))
        return _train(program, beginning, mesh, data, rows, folder, name)


def _train(
    program: Program,
    beginning: Beginning,
    mesh: Mesh,
    data: Data,
    rows: tuple[int, int],
    folder: Path,
    name: str,
) -> Result:
    config = program.config
    if mesh.size > 1:
        print(f"{name}: {described(mesh)}")
    position = iter(data.train)
    with Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        config=plain(config),
    ) as checkpoints:
        abstract = program.abstract_state
        restored = checkpoints.restore(
            with_shardings(abstract, state_shardings(abstract, mesh)),
            lambda line: print(f"{name}: {line}"),
        )
        if restored:
            step, state, notes = restored.step, restored.state, restored.notes
            if change := change_of_data(notes["data"], data.summary):
                raise ConfigError(f"data: not what the run in {folder} began with: {change}")
            position.set_state(restored.position)
            interval = Interval.from_notes(notes["interval"])
            record_sizes = notes["record_sizes"]
            print(f"{name}: continuing from step {step} in {folder}")
        else:
            step, state, record_sizes = 0, begin(program, mesh, beginning.new, name), None
            interval = Interval(step=0, position=joined(gathered(position.get_state())))
        try:
            with (
                Records(folder, after=step, sizes=record_sizes, writes=is_first()) as records,
                LiveLine(name, config.num_steps, done=step) as progress,
                Preemption() as preemption,
            ):
                if is_first():
                    records.follow(open_trackers(config.track, folder, plain(config)))
                run = _Run(
                    program,
                    beginning.origin,
                    mesh,
                    data,
                    rows,
                    folder,
                    checkpoints,
                    records,
                    progress,
                    preemption,
                )
                state = run.steps(step, state, position, interval)
        finally:
            position.close()

    for domain, skips in data.skips.items():
        if skips.num_skipped:
            seen = skips.num_skipped + skips.num_read
            print(f"{name}: {skips.num_skipped:,} of {seen:,} documents of {domain} were skipped")
    written = on_first(lambda: [read_rows(folder / METRICS_FILE), read_rows(folder / TIMING_FILE)])
    metrics, timing = written
    result = Result(
        folder=folder,
        program=program,
        params=evaluated(state),
        data=data,
        num_params=sum(leaf.size for leaf in jax.tree.leaves(evaluated(state))),
        seconds=sum(row["seconds"] for row in timing),
        held_out=_last_held_out(metrics, data),
        rows=metrics,
    )
    figures = {
        "step": config.num_steps,
        "num_params": result.num_params,
        "seconds": result.seconds,
        "held_out": result.held_out,
        "made_with": made_with(),
    }
    if is_first():
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


@dataclasses.dataclass
class Interval:
    """The steps since the last line of metrics.

    Attributes:
      step: steps before them.
      position: where the data of all processes stood then.
      metrics: what each step computed.
      seconds: what they took in a process before this one.
      data_seconds: of them, those of waiting for data.
    """

    step: int
    position: Position
    metrics: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    data_seconds: float = 0.0

    def notes(self, *, seconds: float, data_seconds: float) -> dict[str, Any]:
        """As plain values; floats are exact.

        Args:
          seconds: what the steps took so far, in all.
          data_seconds: of them, those of waiting for data.
        """
        fetched = jax.device_get(self.metrics)
        return {
            "step": self.step,
            "position": self.position,
            "metrics": [{name: x.item() for name, x in row.items()} for row in fetched],
            "seconds": seconds,
            "data_seconds": data_seconds,
        }

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Interval":
        """What `notes` gave."""
        metrics: list[Mapping[str, Any]] = [
            {name: np.asarray(x) for name, x in row.items()} for row in notes["metrics"]
        ]
        return cls(**{**notes, "metrics": metrics})


class _Run:
    """The loop itself, with everything that it writes to."""

    def __init__(
        self,
        program: Program,
        origin: dict[str, Any] | None,
        mesh: Mesh,
        data: Data,
        rows: tuple[int, int],
        folder: Path,
        checkpoints: Checkpoints,
        records: Records,
        progress: LiveLine,
        preemption: Preemption,
    ):
        self._program = program
        self._config = program.config
        self._origin = origin
        self._mesh = mesh
        self._data = data
        self._rows = rows
        self._folder = folder
        self._checkpoints = checkpoints
        self._records = records
        self._progress = progress
        self._preemption = preemption
        self._train_step = make_train_step(program)
        self._eval_step = make_eval_step(program)
        self._kernel_distances = make_kernel_distances(program)
        self._gate_openness = make_gate_openness(program)
        self._speed = Speed(program.config, mesh)
        self._shown: dict[str, float] = {}

    def steps(
        self, step: int, state: State, position: grain.DatasetIterator, interval: Interval
    ) -> State:
        """Trains from `step` to the end.

        Raises:
          PreemptedError: where this machine is taken away; everything is saved.
        """
        config = self._config
        self._speed.start(seconds=interval.seconds, data_seconds=interval.data_seconds)
        while step < config.num_steps:
            with self._speed.waiting_for_data():
                batch = self._placed(next(position))
            state, metrics = self._train_step(state, batch)
            interval.metrics.append(metrics)
            step += 1
            last = step == config.num_steps
            loss = None
            if step % config.log_every == 0 or last:
                self._log(step, self._fetched(state, position, interval))
                interval = Interval(step, self._position(position))
            if step % config.evaluate_every == 0 or last:
                loss = self._evaluate(step, state)
            if config.sample.every and (step % config.sample.every == 0 or last):
                self._sample(step, state)
            if step % config.log_every == 0 or last:
                values = (f"{name} {value:.4g}" for name, value in self._shown.items())
                self._progress.update(step, "  ".join(values))
            is_leaving = not last and self._preemption.stops_after(step)
            if is_leaving and interval.metrics:
                # Behind a bad step nothing is saved, so that its state can still be.
                self._fetched(state, position, interval)
            if step % config.checkpoint.every == 0 or last or is_leaving:
                self._save(step, state, self._position(position), interval, loss)
                if is_leaving or not config.checkpoint.asynchronous:
                    self._checkpoints.wait()
            if is_leaving:
                raise PreemptedError(
                    f"asked to end: step {step} of {config.num_steps} is saved; the same command "
                    "continues the run"
                )
            # What follows the steps is not training time.
            if not interval.metrics:
                self._speed.start()
        self._checkpoints.wait()
        return state

    def _placed(self, batch: Batch) -> Batch:
        """The whole batch on the mesh, from this process's rows of it."""
        return on_mesh(batch, self._mesh, first_row=self._rows[0], num_rows=self._config.data.rows)

    def _position(self, position: grain.DatasetIterator) -> Position:
        """Where the data of all processes stand."""
        return joined(gathered(position.get_state()))

    def _save(
        self,
        step: int,
        state: State,
        position: Position,
        interval: Interval,
        loss: float | None = None,
    ) -> None:
        seconds, data_seconds = self._speed.so_far() if interval.metrics else (0.0, 0.0)
        notes = {
            "record_sizes": self._records.sync(),
            "interval": interval.notes(seconds=seconds, data_seconds=data_seconds),
            "data": dict(self._data.summary),
            "tokenizer": self._data.tokenizer.fingerprint,
            "origin": self._origin,
        }
        self._checkpoints.save(step, state, position, notes, loss=loss)

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

    def _fetched(
        self, state: State, position: grain.DatasetIterator, interval: Interval
    ) -> list[Mapping[str, np.ndarray]]:
        """What the steps since the last line computed; where one was bad, the run ends."""
        fetched = jax.device_get(interval.metrics)
        if int(fetched[-1]["stopped_at"]):
            self._stop(fetched, state, position, interval)
        return fetched

    def _stop(
        self,
        fetched: list[Mapping[str, np.ndarray]],
        state: State,
        position: grain.DatasetIterator,
        interval: Interval,
    ) -> None:
        """Ends the run at a bad step.

        Args:
          fetched: metrics of the steps since the last line.
          state: the state at the end of the interval.
          position: the data iterator, to be moved to the bad step's batch.
          interval: what these steps were.
        """
        config = self._config
        stopped_at = int(fetched[-1]["stopped_at"])
        *good, metrics = fetched[: stopped_at - interval.step]
        position.set_state(interval.position)
        for _ in good:
            next(position)
        before_batch = self._position(position)
        if good:
            self._log(stopped_at - 1, good)
        if stopped_at - 1 not in self._checkpoints.steps():
            before = bad_step.state_before(state, stopped_at)
            fresh = Interval(stopped_at - 1, before_batch)
            self._save(stopped_at - 1, before, before_batch, fresh)
            self._checkpoints.wait()
        figures = {name: float(metrics[name]) for name in ("loss", "grad_norm", "update_norm")}
        batch = whole(self._placed(next(position)))
        on_first(
            lambda: bad_step.save_batch(self._folder, stopped_at, batch, figures, before_batch)
        )
        safety = jax.device_get(state["safety"])
        recent = float(safety["loss_sum"]) / max(float(safety["loss_weight"]), 1e-9)
        limit = config.safety.max_skips if config.safety.on_bad_step == "skip" else 1
        raise bad_step.stopped(self._folder, stopped_at, figures, recent, limit)

    def _evaluate(self, step: int, state: State) -> float | None:
        """Writes the held-out figures; returns the mean loss of the sets, if there are any."""
        whole_answers = self._config.data.source == "block_search"
        params = evaluated(state)
        losses = []

        def eval_step(params: Any, batch: Batch) -> Mapping[str, Array]:
            return self._eval_step(params, on_mesh(batch, self._mesh))

        for name, held_out in self._data.held_out.items():
            totals = total(eval_step, params, held_out.batches, self._data.tokenizer, name=name)
            figures = figures_of(totals, whole_answers=whole_answers)
            if not math.isfinite(figures["loss"]):
                raise UserError(
                    f"{name} loss is {figures['loss']} at step {step}: the run stops, with its "
                    "last checkpoint from before; a lower optimizer.learning_rate may help"
                )
            self._records.metrics(
                step, {f"{name}/{figure}": value for figure, value in figures.items()}
            )
            losses.append(figures["loss"])
            shown = "error" if whole_answers else "loss"
            self._shown[f"{name} {shown}"] = figures[shown]
        learned = self._kernel_distances(params)
        for held_out in self._data.held_out.values():
            learned |= self._gate_openness(
                params, on_mesh(next(iter(held_out.batches)), self._mesh)
            )
            break
        if learned:
            self._records.metrics(step, learned)
        return float(np.mean(losses)) if losses else None

    def _sample(self, step: int, state: State) -> None:
        sample, tokenizer = self._config.sample, self._data.tokenizer
        prompt = np.concatenate([[tokenizer.bos_id], tokenizer.encode(sample.prompt)])
        key = jax.random.fold_in(jax.random.key(self._config.seed), SAMPLE_STREAM)
        decoder = Decoder(
            graphdef=self._program.graphdef,
            params=evaluated(state),
            eos_id=tokenizer.eos_id,
            num_tokens=tokenizer.vocab_size,
        )
        (written,) = decoder.generate(
            [prompt],
            max_new_tokens=sample.num_tokens,
            sampling=Sampling(temperature=sample.temperature),
            keys=jax.random.fold_in(key, step)[None],
        )
        text = sample.prompt + tokenizer.decode(written.tokens)
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
