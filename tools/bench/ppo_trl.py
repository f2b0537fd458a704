"""TRL's side of ppo.py: its RLOOTrainer on the same prompts, with the LC reward by the same frozen model.

The prompts are those of `expctr fit` in TRL's own order, so its batches are not half liked, half disliked. It has two
generations per prompt, two passes over each batch, and no gradient checkpointing (TRL's default, which would slow down
a model of this size that does not need it). The adapter acts on all tokens, also those of the prompt.

    python -m tools.bench.ppo_trl MODEL ROWS.json BATCH TOKENS DTYPE    # started by ppo.py, which writes to its input
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from expctr.data.batches import Nouns, SampleText
from expctr.llm.prefill import pad_left
from expctr.llm.prompts import PromptOptions, Prompts
from tools.bench.turns import MINIBATCH, PASSES, RANK, ROOT, Turn, channel, memory_gb


class Turns(Turn, TrainerCallback):
    """Takes turns by rollout batch with all its steps."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every == 0 and not self.wait(lambda command: memory_gb()):
            raise SystemExit


def main() -> None:
    channel()
    folder, batch, tokens, dtype = sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    rows = json.loads(Path(sys.argv[2]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    options = yaml.safe_load((ROOT / "configs/smollm2.yaml").read_text())["model"]["init_args"]["explainer"]["prompts"]
    written = Prompts(tokenizer, PromptOptions(**options), Nouns("movie", "movies", "viewer", "viewing"))
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))

    def reward(completions: list[str], target: list[str], label: list[float], **_: Any) -> list[float]:
        texts = [SampleText(title) for title in target]
        prompts = written.lc(texts, completions, include_title=True)
        ids, mask = pad_left(prompts, tokenizer.pad_token_id, model.device)
        with torch.no_grad(), trainer.model.disable_adapter():
            logits = trainer.model(input_ids=ids, attention_mask=mask.long(), logits_to_keep=1).logits[:, -1]
        score = logits[:, [yes, no]].float().softmax(-1)[:, 0]
        return (1 - (torch.tensor(label) - score).abs()).tolist()

    steps = batch // MINIBATCH
    trainer = RLOOTrainer(
        model,
        reward,
        args=RLOOConfig(
            output_dir="trl",
            per_device_train_batch_size=MINIBATCH,
            steps_per_generation=steps,
            num_generations=2,
            num_iterations=PASSES,
            max_completion_length=tokens,
            beta=0.05,
            learning_rate=1e-4,
            gradient_checkpointing=False,
            bf16=False,  # the model is in bfloat16 already, and autocast would only add casts
            use_cpu=True,
            max_steps=1_000_000,  # it ends when the benchmark does
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset(InMemoryTable.from_pylist(rows), fingerprint="rows"),  # it cannot compute one
        processing_class=tokenizer,
        peft_config=LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Turns(steps * PASSES)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
