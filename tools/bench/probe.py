"""Does a base work, and how? And what the probe takes of the time to load it: processor time of all threads.

    python -m tools.bench.probe nano
    python -m tools.bench.probe FOLDER_OR_HUB_ID

The last line is JSON.
"""

import json
import time

import torch

from expctr.errors import UserError, exit_with_error
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import probe
from tools.runs import script


def main() -> None:
    """Load, probe, and print."""
    parser = script(__doc__)
    parser.add_argument("path", help="as llm.path")
    parser.add_argument("--gguf_file", help="as llm.gguf_file")
    own = parser.parse_args()
    try:
        print(json.dumps(measure(LLMOptions(path=own.path, gguf_file=own.gguf_file))))
    except UserError as error:
        exit_with_error(error)


def measure(options: LLMOptions) -> dict[str, object]:
    """Load and probe a base: seconds, and the way that was chosen."""
    start = time.process_time()
    model = LanguageModel.load(options)
    loaded = time.process_time()
    probe(model)
    load, probed = loaded - start, time.process_time() - loaded
    seconds = {"load": round(load, 3), "probe": round(probed, 3), "share": round(probed / (load + probed), 4)}
    way = {"attention": model.attention, "caching": model.caching}
    return {"works": True, **way, **seconds, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
