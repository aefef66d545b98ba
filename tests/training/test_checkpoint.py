from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.errors import UserError
from mta_jax.training.checkpoint import Checkpoints, first_line

STATE = {
    "params": {"layers": {0: {"kernel": jnp.arange(5000.0)}}},
    "opt_state": (jnp.zeros((), jnp.int32), {"mu": jnp.ones(7, jnp.bfloat16)}),
    "step": jnp.zeros((), jnp.int32),
}
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=DEVICE), jax.eval_shape(lambda: STATE)
)


def save(folder, steps, losses=(), **options):
    """Saves at each step."""
    with Checkpoints(folder, **{"keep": 3, "config": {"seed": 3}} | options) as checkpoints:
        for index, step in enumerate(steps):
            state = STATE | {"step": jnp.asarray(step, jnp.int32)}
            position = {"streams": {"0": {"next_index": 11 * step}}}
            loss = losses[index] if losses else None
            checkpoints.save(step, state, position, {"tokens": 7 * step}, loss=loss)
        checkpoints.wait()


def restore(folder):
    reports = []
    with Checkpoints(folder, keep=3, config={"seed": 3}) as checkpoints:
        return checkpoints.restore(ABSTRACT, reports.append), reports


def biggest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_state_and_data_position_come_back_as_they_were(tmp_path):
    save(tmp_path, [10, 20])
    restored, reports = restore(tmp_path)
    assert restored.step == 20
    assert jax.tree.structure(restored.state) == jax.tree.structure(STATE)
    for got, want in zip(
        jax.tree.leaves(restored.state["params"]), jax.tree.leaves(STATE["params"]), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert int(restored.state["step"]) == 20
    assert restored.position == {"streams": {"0": {"next_index": 220}}}
    assert restored.notes == {"tokens": 140}
    assert reports == []


def test_the_newest_are_kept(tmp_path):
    save(tmp_path, [1, 2, 3, 4], keep=2)
    with Checkpoints(tmp_path, keep=2, config={}) as checkpoints:
        assert checkpoints.steps() == [3, 4]


def test_the_best_are_kept_besides(tmp_path):
    losses = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]
    save(tmp_path, [1, 2, 3, 4, 5, 6], losses, keep=1, keep_best=2)
    with Checkpoints(tmp_path, keep=1, keep_best=2, config={}) as checkpoints:
        assert checkpoints.steps() == [2, 3, 6]


def test_a_checkpoint_without_a_loss_is_none_of_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_best=1, config={}) as checkpoints:
        for step, loss in ((1, 2.0), (2, None), (3, None)):
            position = {"streams": {}}
            checkpoints.save(step, STATE, position, {}, loss=loss)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]


def test_an_empty_folder_restores_nothing(tmp_path):
    assert restore(tmp_path) == (None, [])


@pytest.mark.parametrize("field", [b'"tokens": 14', b'"next_index": 22'])
def test_a_changed_note_or_position_is_damage(tmp_path, field):
    save(tmp_path, [10, 20])
    victim = tmp_path / "20" / "_CHECKPOINT_METADATA"
    content = victim.read_bytes()
    assert content.count(field + b"0") == 1
    victim.write_bytes(content.replace(field + b"0", field + b"1"))
    restored, reports = restore(tmp_path)
    assert restored.step == 10
    assert "checkpoint" in reports[0]


def test_steps_of_damaged_checkpoints_are_saved_again_and_their_files_kept(tmp_path):
    save(tmp_path, [10, 20, 30])
    for step in (20, 30):
        biggest_file(tmp_path / str(step)).unlink()
    assert restore(tmp_path)[0].step == 10
    assert (tmp_path / "30.damaged").is_dir()
    save(tmp_path, [20])
    restored, reports = restore(tmp_path)
    assert (restored.step, reports) == (20, [])


@pytest.mark.parametrize("damage", ["cut", "changed byte", "missing"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_taken(tmp_path, damage):
    save(tmp_path, [10, 20])
    victim = biggest_file(tmp_path / "20")
    content = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 0x10
        victim.write_bytes(content)
    restored, reports = restore(tmp_path)
    assert restored.step == 10
    assert int(restored.state["step"]) == 10
    assert len(reports) == 1
    assert str(tmp_path / "20") in reports[0]
    assert "\n" not in reports[0]


def test_an_unfinished_write_is_no_checkpoint(tmp_path):
    save(tmp_path, [10])
    (tmp_path / "20.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    restored, reports = restore(tmp_path)
    assert (restored.step, reports) == (10, [])


def test_when_no_checkpoint_can_be_read_the_run_does_not_start_over(tmp_path):
    save(tmp_path, [10, 20])
    for step in (10, 20):
        biggest_file(tmp_path / str(step)).unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints \[10, 20\]"):
        restore(tmp_path)


def test_a_long_error_keeps_its_reason():
    path = "/folder" * 60
    try:
        try:
            raise OSError(f"Failed writing: {path}: No space left on device\nand more")
        except OSError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        line = first_line(error)
    assert line.startswith("OSError: Failed writing: /folder")
    assert line.endswith("No space left on device")
    assert len(line) < 220
    assert first_line(ValueError("")) == "ValueError: "
