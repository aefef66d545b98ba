"""The end of a run at a bad step: everything that is needed to look at it and to go on."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mta_jax.data import Batch
from mta_jax.errors import UserError
from mta_jax.files import write_atomically
from mta_jax.training.state import State

FOLDER = "bad_step"


def state_before(state: State, step: int) -> State:
    """The state from which a run can try a step again.

    Args:
      state: any state after the step that ended the run: no update followed.
      step: that step, from 1.
    """
    safety = state["safety"]
    return state | {
        "step": jnp.asarray(step - 1, jnp.int32),
        "safety": safety
        | {
            "stopped_at": jnp.zeros((), jnp.int32),
            "num_in_a_row": jnp.zeros((), jnp.int32),
            "num_skipped": safety["num_skipped"] - 1,
        },
    }


def save_batch(
    run_folder: Path,
    step: int,
    batch: Batch,
    figures: Mapping[str, float],
    position: Any,
) -> None:
    """Writes the batch of a bad step, and what it came to.

    Args:
      run_folder: the folder of the run.
      step: the step, from 1.
      batch: its batch.
      figures: loss and gradient norm.
      position: state of the data iterator before the batch.
    """
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    arrays = io.BytesIO()
    named: dict[str, Any] = dict(batch)
    np.savez(arrays, **named)
    (folder / "batch.npz").write_bytes(arrays.getvalue())
    report: dict[str, Any] = {
        "step": step,
        # Infinity and NaN are no JSON.
        **{name: value if np.isfinite(value) else str(value) for name, value in figures.items()},
        "sha256_of_inputs": hashlib.sha256(batch["inputs"].tobytes()).hexdigest(),
        "data_position": position,
    }
    write_atomically(folder / "report.json", json.dumps(report, indent=2, default=str) + "\n")


def stopped(
    run_folder: Path, step: int, figures: Mapping[str, float], recent_loss: float, max_skips: int
) -> UserError:
    """What to raise when a run stops at a bad step.

    Args:
      run_folder: the folder of the run.
      step: the step, from 1.
      figures: loss and gradient norm.
      recent_loss: mean of the loss before.
      max_skips: bad steps in a row that ended the run; 1 where none may be skipped.
    """
    bad = [name for name, value in figures.items() if not np.isfinite(value)]
    if bad:
        what = f"{bad[0]} is {figures[bad[0]]} at step {step}"
    else:
        what = (
            f"loss is {figures['loss']:.4g} at step {step}, a spike over its recent mean "
            f"{recent_loss:.4g}"
        )
    if max_skips > 1:
        what += f", the last of {max_skips} bad steps in a row"
    return UserError(
        f"{what}: the run stops, with the state before it as checkpoint {step - 1} and its batch "
        f"in {run_folder / FOLDER}; the same command with --safety.on_bad_step skip goes on "
        "without the batch, and a lower optimizer.learning_rate or a longer "
        "optimizer.warmup_steps may help in a new run"
    )
