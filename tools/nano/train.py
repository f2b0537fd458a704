"""Train the model: the pretraining loop."""

import math
import time

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM

from tools.nano.rows import Steps


class Optimizer:
    """Muon for the layers' matrices and AdamW for the rest, with warm-up over some steps and cosine decay."""

    def __init__(self, model: LlamaForCausalLM, lr: float, warmup: int) -> None:
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in model.parameters() if not any(p is m for m in matrices)]
        self.model, self.lr, self.warmup = model, lr, warmup
        self.parts = (
            torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
        )

    def step(self, loss: Tensor, step: int, done: float) -> None:
        """Update the weights; `done` is the share of the training that is over."""
        for group in (g for part in self.parts for g in part.param_groups):
            group["lr"] = (
                self.lr * min(1, (step + 1) / self.warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
            )
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for part in self.parts:
            part.step()


def train(model: LlamaForCausalLM, steps: Steps, minutes: float, lr: float) -> None:
    """Train over the steps, or over the minutes if these end first."""
    optimizer = Optimizer(model, lr, warmup=100)
    batches = DataLoader(steps, batch_size=None, num_workers=1, prefetch_factor=8)
    fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    began, mean = time.monotonic(), 0.0
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("pretraining nano", total=1000)
        for step, batch in enumerate(batches):
            done = max(step / len(steps), (time.monotonic() - began) / 60 / minutes)
            if done >= 1:
                break
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                hidden = model.model(batch.ids, batch.mask(), batch.position, use_cache=False)[0]
                logits = model.lm_head(hidden.flatten(0, 1)[batch.at])
            losses = F.cross_entropy(logits.float(), batch.token, reduction="none")
            loss = (losses * batch.weight).sum() / batch.weight.sum()
            optimizer.step(loss, step, done)
            mean += (float(loss.detach()) - mean) * max(0.05, 1 / (step + 1))
            progress.update(task, completed=1000 * done, description=f"step {step} loss {mean:.3f}")
            if step % 100 == 0:
                print(f"step {step} loss {mean:.3f} {time.monotonic() - began:.0f}s", flush=True)
