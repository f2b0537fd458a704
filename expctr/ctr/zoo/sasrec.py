"""SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

With BERT's encoder, as RecBole has it: LayerNorm after each residual sum, gelu. Trained on labelled targets
(`expctr.ctr.zoo.sequential`).
"""

from collections.abc import Mapping

from torch import Tensor

from expctr.ctr.zoo.sequential import TransformerBackbone, at_last


class SASRec(TransformerBackbone):
    """Causal self-attention over the history; the state is that of its last item.

    An empty history is read as one position without an item, so its logit is a function of the target alone.
    """

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """As `SequentialBackbone.state`."""
        return at_last(self.encode(vectors), lengths)
