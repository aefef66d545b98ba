"""The train step of a run, compiled for a slice that need not be there."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mta_jax.errors import UserError
from mta_jax.hardware.chips import Chip
from mta_jax.hardware.slices import chip_of, described_devices
from mta_jax.ops.target import targeting
from mta_jax.parallel.feed import batch_sharding
from mta_jax.parallel.mesh import on
from mta_jax.parallel.rules import state_shardings, with_shardings
from mta_jax.plan.program_text import Collective, collectives
from mta_jax.training.config import TrainConfig
from mta_jax.training.memory import bytes_of_device
from mta_jax.training.mesh import mesh_of
from mta_jax.training.partition import training_flops
from mta_jax.training.state import make_program
from mta_jax.training.step import make_train_step

_OUT_OF_MEMORY = re.compile(r"ran out of memory (?:in memory space|on) hbm", re.IGNORECASE)
# The second where a first look at the program is enough.
_USED = (
    re.compile(r"used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", re.IGNORECASE),
    re.compile(r"\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the compiler says of a train step. Bytes are those of one device.

    Attributes:
      config: the run.
      chip: what each device is.
      mesh: devices along each axis.
      params_bytes: parameters, and a moving average of them.
      optimizer_bytes: state of the optimiser.
      temp_bytes: activations and whatever else a step does not keep; None where the
        program does not fit.
      code_bytes: the program itself; None where it does not fit.
      peak_bytes: everything together.
      memory_bytes: what a program may use.
      collectives: what is sent between devices; empty where the program does not fit.
    """

    config: TrainConfig
    chip: Chip
    mesh: Mapping[str, int]
    params_bytes: int
    optimizer_bytes: int
    temp_bytes: int | None
    code_bytes: int | None
    peak_bytes: int
    memory_bytes: int
    collectives: list[Collective]

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory."""
        # What the compiler refuses may need no more than the memory, in the digits it gives.
        return self.temp_bytes is not None and self.peak_bytes <= self.memory_bytes

    @property
    def num_devices(self) -> int:
        """Of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def tokens(self) -> int:
        """Of a step, on all devices."""
        return self.config.data.rows * self.config.data.row_length

    @property
    def flops(self) -> int:
        """Model FLOPs of a step, on all devices."""
        return self.tokens * training_flops(self.config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoweredStep:
    """The train step of a run, ready to be compiled.

    Attributes:
      config: the run, with what only its data decide.
      mesh: the devices.
      state: what a step takes and gives, as shapes.
      lowered: the step.
    """

    config: TrainConfig
    mesh: Mesh
    state: Any
    lowered: jax.stages.Lowered


def lower_step(config: TrainConfig, slice_name: str, num_slices: int = 1) -> LoweredStep:
    """Traces the train step of a run for a slice; the arguments are those of `compile_plan`.

    Raises:
      ConfigError: where the slice does not exist, or the run cannot be split over it.
    """
    devices = described_devices(slice_name, num_slices)
    program = make_program(config)
    config = program.config
    mesh = mesh_of(config, devices)
    state = program.abstract_state
    arguments = with_shardings(state, state_shardings(state, mesh))
    shape = (config.data.rows, config.data.row_length)
    dtypes = {"inputs": jnp.int32, "targets": jnp.int32, "targets_weights": jnp.float32}
    if config.data.source == "text" and config.data.text.separate_documents:
        dtypes |= {"inputs_segment_ids": jnp.int32, "inputs_positions": jnp.int32}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, shape))
        for name, dtype in dtypes.items()
    }
    step: Any = make_train_step(program)
    with on(mesh), targeting(devices[0]):
        lowered = step.lower(arguments, batch)
    return LoweredStep(config=config, mesh=mesh, state=state, lowered=lowered)


def compile_plan(config: TrainConfig, slice_name: str, num_slices: int = 1) -> Plan:
    """Compiles the train step of a run.

    Args:
      config: the run.
      slice_name: "v5p:4x4x4", say.
      num_slices: how many of them.

    Raises:
      ConfigError: where the slice does not exist, or the run cannot be split over it.
      UserError: where the program does not compile, for another reason than memory.
    """
    step = lower_step(config, slice_name, num_slices)
    mesh, state = step.mesh, step.state
    averages = {name: state[name] for name in ("params", "frozen", "ema") if name in state}
    chip = chip_of(slice_name)
    known: dict[str, Any] = {
        "config": step.config,
        "chip": chip,
        "mesh": dict(mesh.shape),
        "params_bytes": bytes_of_device(averages, mesh),
        "optimizer_bytes": bytes_of_device(state["opt_state"], mesh),
    }
    try:
        compiled = step.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = next((match for form in _USED if (match := form.search(str(error)))), None)
        if not _OUT_OF_MEMORY.search(str(error)) or used is None:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"topology {slice_name}: does not compile ({reason})") from None
        return Plan(
            **known,
            temp_bytes=None,
            code_bytes=None,
            peak_bytes=_bytes(used[1], used[2]),
            memory_bytes=_bytes(used[3], used[4]),
            collectives=[],
        )
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise UserError("this libtpu tells nothing about memory")
    # New parameters take the place of the old.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    peak = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes + code
    return Plan(
        **known,
        temp_bytes=memory.temp_size_in_bytes,
        code_bytes=code,
        peak_bytes=peak,
        memory_bytes=chip.memory,
        collectives=collectives(text),
    )


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
