"""What the probe of a base takes of the time to load it: processor time, with the threads of this process.

    python -m tools.bench.probe nano
    python -m tools.bench.probe FOLDER_OR_HUB_ID

The last line is JSON.
"""

import json
import time

import torch

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
    start = time.process_time()
    model = LanguageModel.load(LLMOptions(path=own.path, gguf_file=own.gguf_file))
    loaded = time.process_time()
    probe(model)
    load, probed = loaded - start, time.process_time() - loaded
    found = {"load": load, "probe": probed, "share": probed / (load + probed), "threads": torch.get_num_threads()}
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
