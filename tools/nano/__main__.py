"""Entry point of `python -m tools.nano`: makes the language model that expctr ships, or checks it.

python -m tools.nano                            # train, save, check
python -m tools.nano --check --ratings ML100K   # check only, on real ratings too
"""

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it; on a busy machine spinning threads starve others

import torch

from tools.nano.check import check
from tools.nano.model import make_model, make_tokenizer, save
from tools.nano.rows import Steps
from tools.nano.train import train
from tools.runs import script


def main(args: Sequence[str] | None = None) -> None:
    nano = Path(__file__).parents[2] / "expctr" / "nano"
    parser = script(__doc__)
    parser.prog = "python -m tools.nano"
    parser.add_argument("--out", type=Path, default=nano, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop earlier if these pass before the steps")
    parser.add_argument("--check", type=Path, nargs="?", const=nano, metavar="FOLDER", help="check without training")
    parser.add_argument("--ratings", type=Path, metavar="FOLDER", help="MovieLens-100K: check on real ratings too")
    options = parser.parse_args(args)
    torch.set_num_threads(2)
    if options.check is None:
        torch.manual_seed(0)
        tokenizer = make_tokenizer(random.Random("tokenizer"))
        model = make_model(tokenizer, hidden=128, layers=4)
        train(model, Steps(tokenizer, options.steps), options.minutes, lr=3e-3)
        save(model, tokenizer, options.out)
    check(options.check or options.out, options.ratings)


if __name__ == "__main__":
    main()
