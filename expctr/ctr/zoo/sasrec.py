"""SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

From the paper: causal self-attention over the history. From RecBole: BERT's encoder, with LayerNorm after each residual
sum and gelu. Trained on labelled targets (`expctr.ctr.zoo.sequential`).
"""

from collections.abc import Mapping

from torch import Tensor

from expctr.ctr.zoo.sequential import TransformerBackbone, at_last


class SASRec(TransformerBackbone):
    """Causal self-attention over the history; the state is that of its last item.

    An empty history is read as one position without an item, so that the logit depends on the target alone.
    """

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        return at_last(self.encode(vectors), lengths)
