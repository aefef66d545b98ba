"""Trains a model: settings in, run folder out.

python train.py                                      the block-search demonstration
python train.py --config configs/lm_tiny_mta.yaml    a small language model
python train.py --config FILE --section.field VALUE  anything else
python train.py --help                               every setting
"""

import signal

# While the imports below take their seconds, Ctrl-C ends the process at once: raised in
# the middle of an import, KeyboardInterrupt gets lost or ends in a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

from mta_jax.training.command import run_program

if __name__ == "__main__":
    demo = Path(__file__).parent / "configs" / "demo.yaml"
    run_program(sys.argv[1:], prog="train.py", config=demo)
