"""What the probe of a base takes of the time to load it: processor time, with the threads of this process.

    python -m tools.bench.probe nano
    python -m tools.bench.probe FOLDER_OR_HUB_ID

The last line is JSON.
"""

import argparse
import json
import time

import torch

from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import probe


def main() -> None:
    """Load, probe, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="as llm.path")
    parser.add_argument("--gguf_file", help="as llm.gguf_file")
    own = parser.parse_args()
    start = time.process_time()
    model = LanguageModel.load(LLMOptions(path=own.path, gguf_file=own.gguf_file))
    loaded = time.process_time()
    probe(model)
    seconds = {"load": loaded - start, "probe": time.process_time() - loaded}
    found = {name: round(value, 3) for name, value in seconds.items()}
    print(
        json.dumps(
            {**found, "share": round(seconds["probe"] / sum(seconds.values()), 4), "threads": torch.get_num_threads()}
        )
    )


if __name__ == "__main__":
    main()
