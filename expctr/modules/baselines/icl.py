"""ICL: the language model asked directly, untrained (a row of the paper's Table 1, its reference [3]).

Sunhao Dai et al., "Uncovering ChatGPT's Capabilities in Recommender Systems", RecSys 2023. They read what a chat
service writes; here the answer's probability is read (Eq. 8), of the base that ExpCTR starts from.
"""

from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from expctr.ctr.early_stopping import BestWeights, Monitor
from expctr.data.batches import Batch, BatchSpec, Nouns
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import check_prompts, load_model
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.yes_no import DirectQuestion, LCOptions
from expctr.modules.checks import check_precision
from expctr.modules.frozen_models import check_traits, traits
from expctr.modules.scoring import ScoringModule


class DirectModule(ScoringModule):
    """A language model that is asked whether the user will like the target; `tuned`: with the adapter on."""

    model: LanguageModel
    question: DirectQuestion

    def __init__(
        self, llm: LLMOptions, prompts: PromptOptions, lc: LCOptions, monitor: Monitor = "logloss", tuned: bool = False
    ) -> None:
        super().__init__(monitor)
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no base weights
        self.llm, self.prompt_options, self.lc, self.tuned = llm, prompts, lc, tuned
        self.best = BestWeights(nn.ModuleList(), monitor, patience=1)  # of nothing, unless trained
        self.built = False

    def configure_model(self) -> None:
        """Load the base; once."""
        check_precision(self.trainer)
        if not self.built:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.build(data.nouns, data.seed, self.trainer.strategy.root_device)

    def build(self, nouns: Nouns, seed: int = 0, device: torch.device | None = None) -> None:
        """Load the base, and draw the adapter's initial weights by the seed; `device` is as for `load_base`."""
        self.model = load_model(self.llm, seed, device=device)
        if not self.tuned:
            self.model.requires_grad_(False)
        prompts = Prompts(self.model.tokenizer, self.prompt_options, nouns)
        check_prompts(self.model, prompts, self.prompt_options.prompt_tokens, "prompts.prompt_tokens")
        self.question = DirectQuestion(self.model, prompts, self.lc)
        self.built = True

    def val_batches(self) -> BatchSpec:
        """The validation split, with titles."""
        return BatchSpec(self.trainer.datamodule.eval_batch_size, titles=True)  # type: ignore[attr-defined]

    def row_scores(self, batch: Batch) -> Tensor:
        """The answer's probability (Eq. 8), `[batch]`."""
        return self.question.scores(batch.texts, adapter=self.tuned)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Trained weights only, and what the chat template writes."""
        super().on_save_checkpoint(checkpoint)
        if self.built:
            checkpoint["chat"] = self.question.prompts.chat_sample()
            checkpoint["frozen"] = self._frozen()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: state[k] for k, p in self.named_parameters() if p.requires_grad and k in state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another chat template than the run's."""
        super().on_load_checkpoint(checkpoint)
        if "frozen" in checkpoint:
            check_traits(self._frozen(), checkpoint["frozen"], f"llm.path: {self.llm.path}")
        if "chat" in checkpoint:
            self.question.prompts.check_same_chat(checkpoint["chat"])

    def _frozen(self) -> dict[str, Any]:
        base = ((name, p) for name, p in self.model.named_parameters() if not p.requires_grad)
        return traits(base, self.model.causal.config, self.model.tokenizer, self.model.eos_ids)


class ICLModule(DirectModule):
    """The untrained base model asked directly. `fit` trains nothing, and leaves what `test` asks for.

    Args:
        llm: the base; its adapter stays off.
        prompts: the template `icl` and the caps.
        lc: the answers, and how a score is made of their probabilities (Eq. 8).
    """

    name = "ICL"

    def __init__(
        self, llm: LLMOptions = LLMOptions(), prompts: PromptOptions = PromptOptions(), lc: LCOptions = LCOptions()
    ) -> None:
        super().__init__(llm, prompts, lc)

    def setup(self, stage: str) -> None:
        """No epochs."""
        super().setup(stage)
        if stage == "fit":
            self.trainer.fit_loop.max_epochs = 0
            self.print("ICL is the untrained base asked directly: there is nothing to train; expctr test scores it")

    def configure_model(self) -> None:
        """Load the base where there are rows to score."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            super().configure_model()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Lightning asks for one, and does not call it."""
