"""Trains a model: settings in, run folder out.

python train.py                                      the block-search demonstration
python train.py --config configs/lm_tiny_mta.yaml    a small language model
python train.py --config FILE --section.field VALUE  anything else
python train.py --help                               every setting
"""

import logging
import sys
from pathlib import Path

from mta_jax.command_line import parse
from mta_jax.errors import UserError
from mta_jax.training.comparison import run
from mta_jax.training.config import TrainConfig
from mta_jax.training.dry_run import print_dry_run

DEMO = Path(__file__).parent / "configs" / "demo.yaml"


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    # Some libraries install a handler of their own when they are imported.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mta_jax").setLevel(logging.INFO)
    if not any(argument.split("=")[0] == "--config" for argument in arguments):
        arguments = ["--config", str(DEMO), *arguments]
    config, dry_run = parse(
        TrainConfig, arguments, prog="train.py", description="Train a transformer."
    )
    try:
        print_dry_run(config) if dry_run else run(config)
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("train.py: stopped; the same command continues the run", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
