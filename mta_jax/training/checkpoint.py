"""Checkpoints of a run, through Orbax v1.

A checkpoint holds the training state, the data position, the run's config and notes
of the run. Every process writes its part of the state; another number of processes, or
another mesh, reads it. It is written to a temporary folder that is renamed when complete, so a run
that is killed never leaves a half one behind. What a disk does later shows on reading:
a damaged checkpoint is reported and set aside, and the one before it is taken.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from orbax.checkpoint import v1 as ocp

from mta_jax.data import Position
from mta_jax.errors import UserError
from mta_jax.parallel import processes
from mta_jax.training.state import State
from mta_jax.typing import Array


def bits_sum(leaf: Array) -> Array:
    """The sum of the bits of an array, modulo 2**32.

    Orbax notices files that are missing or cut, but not a changed byte inside an
    array. Any single changed bit changes the sum.
    """
    width = jnp.dtype(leaf.dtype).itemsize * 8
    unsigned = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}"))
    return jnp.sum(unsigned.astype(jnp.uint32))


@jax.jit
def checksums(tree: Any) -> list[Array]:
    """`bits_sum` of every leaf."""
    return [bits_sum(leaf) for leaf in jax.tree.leaves(tree)]


def _digest(config: Any, notes: Any, position: Position) -> str:
    """A hash of everything in a checkpoint that is no array."""
    text = json.dumps([config, notes, position], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Checkpoints:
    """The checkpoints in one folder. Use as a context manager, so that writes finish.

    Args:
      directory: the folder; created where missing.
      keep: newest checkpoints to keep.
      keep_best: checkpoints to keep besides, those with the lowest held-out loss.
      config: the run's config as plain values, stored in each checkpoint.
    """

    def __init__(self, directory: Path, *, keep: int, keep_best: int = 0, config: dict[str, Any]):
        policies = ocp.training.preservation_policies
        self._directory = directory
        self._config = config
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            # The loop decides when; a policy here could only disagree with it.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics["loss"],
                        # The last in their order are the best.
                        reverse=True,
                        n=keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            self._checkpointer.close()
        # What already went wrong is the error to report, not what follows from it.
        except Exception as error:
            if error_type is None:
                raise self._cannot_write(error) from None

    def save(
        self,
        step: int,
        state: State,
        position: Position,
        notes: Mapping[str, Any],
        *,
        loss: float | None = None,
    ) -> None:
        """Starts writing a checkpoint; training may go on meanwhile.

        Args:
          step: training steps taken.
          state: the training state after them.
          position: where the data of all processes stand.
          notes: what else the run must find again, as plain values.
          loss: held-out loss, by which the best are kept; None: not known.

        Raises:
          UserError: where writing, or the write before it, fails.
        """
        contents = {"state": state | {"checksums": checksums(state)}}
        try:
            self._checkpointer.save_checkpointables_async(
                step,
                contents,
                metrics=None if loss is None else {"loss": loss},
                custom_metadata={
                    "config": self._config,
                    "notes": dict(notes),
                    "position": position,
                    "digest": _digest(self._config, notes, position),
                },
            )
        except Exception as error:
            raise self._cannot_write(error) from None

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          UserError: where writing fails.
        """
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write a checkpoint in {self._directory}: {first_line(error)}; those that are "
            "complete are intact, and the same command continues from the last"
        )

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def restore(
        self,
        wanted: State,
        report: Callable[[str], None],
    ) -> "Restored | None":
        """The newest checkpoint that can be read, or None where there is none.

        Args:
          wanted: shapes and dtypes of the state, each with the sharding to read it into.
          report: gets a line about each damaged checkpoint that is passed over.

        Raises:
          UserError: where checkpoints exist and none of them can be read, or one may
            not be, or is that of another model.
        """
        steps = self.steps()
        damaged: list[int] = []
        for step in reversed(steps):
            restored, problem = self._attempt(step, wanted)
            problems = [found for found in processes.gathered(problem) if found is not None]
            if not problems:
                processes.on_first(lambda: self._set_aside(damaged))
                if damaged:
                    self._checkpointer.reload()
                return restored
            damaged.append(step)
            report(
                f"checkpoint {self._directory / str(step)} is damaged and passed over "
                f"({problems[0]})"
            )
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self._directory} can be read: restore one "
                "from a copy, or choose another run_dir to start afresh"
            )
        return None

    def _attempt(self, step: int, wanted: State) -> "tuple[Restored | None, str | None]":
        """A checkpoint, or what is wrong with it."""
        scalar = jax.tree.leaves(wanted["step"])[0]
        sums = [jax.ShapeDtypeStruct((), jnp.uint32, sharding=scalar.sharding)]
        wanted = wanted | {"checksums": sums * len(jax.tree.leaves(wanted))}
        try:
            contents = self._checkpointer.load_checkpointables(step, {"state": wanted})
            state = contents["state"]
            expected = state.pop("checksums")
            if any(int(a) != int(b) for a, b in zip(expected, checksums(state), strict=True)):
                raise ValueError("its contents do not match their checksums")
            metadata = self._checkpointer.checkpointables_metadata(step).custom_metadata
            notes, position = metadata["notes"], metadata["position"]
            if metadata["digest"] != _digest(metadata["config"], notes, position):
                raise ValueError("its data position or its notes do not match their digest")
        except PermissionError as error:
            raise UserError(f"cannot read checkpoint {step}: {error}") from None
        # Whatever a broken file makes a reader raise, the answer is the same.
        except Exception as error:
            return None, first_line(error)
        return Restored(step, state, position, notes), None

    def _set_aside(self, damaged: list[int]) -> None:
        """Renames damaged checkpoints, so that their steps are free to be saved again."""
        for step in damaged:
            folder = self._directory / str(step)
            aside = folder.with_name(f"{step}.damaged")
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read: what `Checkpoints.save` was given."""

    step: int
    state: State
    position: Position
    notes: Mapping[str, Any]


def first_line(error: BaseException) -> str:
    """The innermost cause of an error, short enough for one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    if len(line) > 200:
        # Long paths stand in the middle, and the reason, such as a full disk, at the end.
        line = f"{line[:80]} ... {line[-115:]}"
    return f"{type(error).__name__}: {line}"
