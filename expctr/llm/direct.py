"""Asking directly whether the user will like the target: the rows ICL and TALLRec of the paper's Table 1."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from expctr.data.batches import SampleText
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import Prompts
from expctr.llm.scoring import LCOptions, answer_tokens, next_token_logits, yes_no_scores


class DirectQuestion:
    """Asks by the template `prompts.icl`, for one of two answers.

    Args:
        model: who is asked.
        prompts: writes the question.
        options: the answers, and how a score is made of them.
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, options: LCOptions) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        self.answers = answer_tokens(model, prompts.ending(prompts.options.icl), options)

    def scores(self, samples: Sequence[SampleText], adapter: bool = False) -> Tensor:
        """How likely a liking is, by Eq. 8, `[rows]`; without gradient.

        Args:
            samples: titles of each row.
            adapter: ask the tuned model, not the base.
        """
        return yes_no_scores(self.model, self.prompts.icl(samples), self.answers, self.options, adapter)

    def losses(self, samples: Sequence[SampleText], labels: Tensor) -> Tensor:
        """Cross-entropy of the right answer's token among the whole vocabulary, the adapter on, `[rows]`.

        Where `lc` names several words for an answer, the first is the one taught.

        Args:
            samples: titles of each row.
            labels: `[rows]`.
        """
        logits = next_token_logits(self.model, self.prompts.icl(samples))
        right = torch.where(labels > 0.5, self.answers.positive[0], self.answers.negative[0])
        return F.cross_entropy(logits, right, reduction="none")
