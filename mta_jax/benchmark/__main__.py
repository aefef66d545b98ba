"""`python -m mta_jax.benchmark NAME`: runs one benchmark."""

import sys

from mta_jax.benchmark import attention, data_pipeline, tpu, train_step
from mta_jax.errors import UserError

BENCHMARKS = {
    "attention": attention.main,
    "data": data_pipeline.main,
    "step": train_step.main,
    "tpu": tpu.main,
}

USAGE = f"""usage: python -m mta_jax.benchmark NAME [--setting value]

attention  time and memory of the attention op on the device at hand
data       tokens per second of the data pipeline alone
step       time of a whole training step on the device at hand
tpu        what the TPU compiler says about kernels; no TPU needed (extra `tpu`)

python -m mta_jax.benchmark NAME --help lists the settings. Names: {", ".join(BENCHMARKS)}."""


def main(arguments: list[str]) -> int:
    """Runs the benchmark that the first argument names; returns the exit code."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in BENCHMARKS:
        given = f"{arguments[0]!r}: no such benchmark" if arguments else "which benchmark?"
        print(
            f"mta_jax.benchmark: error: {given}; there are {', '.join(BENCHMARKS)}", file=sys.stderr
        )
        return 2
    try:
        return BENCHMARKS[arguments[0]](arguments[1:])
    except UserError as error:
        print(f"mta_jax.benchmark: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mta_jax.benchmark: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
