"""`python -m mta_jax.benchmark NAME`: runs one benchmark."""

import sys

from mta_jax.benchmark import attention, data_pipeline, decode, faults, step, tpu, train_step
from mta_jax.command_line.subcommands import run_subcommand

BENCHMARKS = {
    "attention": attention.main,
    "data": data_pipeline.main,
    "decode": decode.main,
    "faults": faults.main,
    "step": step.main,
    "tpu": tpu.main,
    "train_step": train_step.main,
}

USAGE = f"""usage: python -m mta_jax.benchmark NAME [--setting value]

attention  time and memory of the attention op on the device at hand
data       tokens per second of the data pipeline alone
decode     time per generated token against the length of the context
faults     a training run killed again and again, compared with one left alone
step       what a whole train step would take on TPUs; no TPU needed (extra `tpu`)
tpu        what the TPU compiler says about kernels; no TPU needed (extra `tpu`)
train_step time of a whole training step on the device at hand

python -m mta_jax.benchmark NAME --help lists the settings. Names: {", ".join(BENCHMARKS)}."""


def main(arguments: list[str]) -> int:
    """Runs the benchmark that the first argument names; returns the exit code."""
    return run_subcommand(
        arguments, BENCHMARKS, prog="mta_jax.benchmark", word="benchmark", usage=USAGE
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
