"""`python -m mta_jax.training --config FILE`: trains a model, as `train.py` does."""

import signal

if __name__ == "__main__":
    # As in train.py: see there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from mta_jax.training.command import run_program

if __name__ == "__main__":
    run_program(sys.argv[1:], prog="mta_jax.training")
