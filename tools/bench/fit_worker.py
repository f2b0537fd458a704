"""`expctr fit` as a worker of `turns.Worker`: it does one unit of work each time that standard input says `go`.

python -m tools.bench.fit_worker CALLBACK ARGUMENTS-OF-FIT...    # CALLBACK: a class in callbacks.py
"""

import sys

from expctr.cli.app import run
from tools.bench import callbacks
from tools.bench.turns import channel

if __name__ == "__main__":
    callbacks.say = channel()
    run(["fit", *sys.argv[2:], f"--trainer.callbacks+=tools.bench.callbacks.{sys.argv[1]}"])
