"""The base classes of the zoo's ID models."""

from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.fusion import Fuse, FusedLinear, TextLogit
from expctr.ctr.zoo.layers import DeepTower
from expctr.data.features import Vocabulary
from expctr.errors import UserError, check_range


class CTRBackbone(nn.Module):
    """Base class of the zoo: from features, and an explanation's vector if there is one, to a click's logit.

    A subclass implements `logits`. It applies `text_logit` to its logit if it has no deep tower; with one, it derives
    from `DeepBackbone`. It takes the vocabulary and the text's length as positional arguments and its options by name:
    a config gives the options, and the data give the rest (`expctr.modules.ctr.MakeBackbone`). The options below are
    options of every model.

    Args:
        vocabulary: sizes of the data's fields.
        text_dim: length of the explanation's vector z; 0 makes a model without text.
        oov_rate: share of ids replaced by "unknown" while training, so that new users and items have a trained vector.
        max_rows: limit of the vectors per field. A field of more values shares its vectors between them by a hash.
            null keeps one vector per value.
    """

    def __init__(
        self, vocabulary: Vocabulary, text_dim: int = 0, oov_rate: float = 0.02, max_rows: int | None = None
    ) -> None:
        super().__init__()
        self.vocabulary, self.text_dim, self.oov_rate, self.max_rows = vocabulary, text_dim, oov_rate, max_rows
        self.check(oov_rate=(0, 1), max_rows=(3, inf))

    @classmethod
    def title(cls) -> str:
        """What tables call it."""
        return cls.__name__

    def check(self, **bounds: tuple[float, float]) -> None:
        """Refuse options out of range, which are read from attributes of the same names; see `check_range`."""
        check_range(type(self).__name__, self, **bounds)

    def embeddings(
        self, dim: int, fields: Collection[str] | None = None, *, first_order: bool = False
    ) -> FieldEmbeddings:
        """Embeddings of length `dim` for the named fields, or for all.

        `first_order` adds a last column, the field's first-order weight, so that one lookup reads both.
        """
        if dim < 1:
            raise UserError(f"{type(self).__name__}.embedding_dim must be at least 1")
        kept = [*self.vocabulary.sizes, *self.vocabulary.shares] if fields is None else fields
        sizes = {name: size for name, size in self.vocabulary.sizes.items() if name in kept}
        shares = {name: owner for name, owner in self.vocabulary.shares.items() if name in kept}
        return FieldEmbeddings(sizes, shares, dim + first_order, self.oov_rate, self.max_rows)

    def need_history(self) -> int:
        """The length of the longest history in order; a `UserError` if the data have none."""
        if not self.vocabulary.history or "target" not in self.vocabulary.sizes:
            raise UserError(
                f"{type(self).__name__} reads histories in their order, and the data have none: data.fields must hold "
                "target and history (null keeps all), and samples.max_history and the ratings must leave some"
            )
        return self.vocabulary.history

    def text_logit(self) -> TextLogit:
        """The last step of a model without a deep tower: it adds the bias and z's term to the logit."""
        return TextLogit(self.text_dim)

    def forward(self, features: Mapping[str, Tensor], text: Tensor | None = None) -> Tensor:
        """The click's logit, `[batch]`.

        Args:
            features: int64 `[batch]` or `[batch, values]`, or numbers `[batch]`, by field.
            text: float `[batch, text_dim]`; `None` means z = 0.

        Raises:
            ValueError: the length of `text` is not the one that the model was built for.
        """
        if text is not None and text.shape[-1] != self.text_dim:
            raise ValueError(f"text vectors of length {text.shape[-1]} for a model built for {self.text_dim}")
        return self.logits(features, text).clone()  # FSDP2 does not allow a view of an inner tensor

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        """What a subclass implements; see `forward`, which has checked the arguments."""
        raise NotImplementedError

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """What training adds to each row's loss, for instance a regularisation: `[batch]`, or `[]` for all rows."""
        return None


class DeepBackbone(CTRBackbone):
    """A model with a deep tower, which z joins (Eq. 12).

    A subclass builds its embeddings with `embeddings()`, its deep part with `tower()` and its last layer with `head()`,
    and passes `text` to the latter two. The explanation then joins where `fuse` says.

    Args:
        embedding_dim: length of each field's embedding.
        mlp: widths of the deep tower's hidden layers.
        dropout: dropout before each layer of the deep tower.
        fuse: where the explanation joins: at the deep tower's input, or at its last hidden layer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        embedding_dim: int = 10,
        mlp: tuple[int, ...] = (128, 128, 128),
        dropout: float = 0.2,
        fuse: Fuse = "input",
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.embedding_dim, self.mlp, self.dropout, self.fuse = embedding_dim, mlp, dropout, fuse
        self.check(dropout=(0, 1))

    def tower(
        self, width: int, *, activation: Callable[[Tensor], Tensor] = F.relu, batch_norm: bool = False
    ) -> DeepTower:
        """The deep tower over an input of length `width`; z joins it under `fuse: input`. See `DeepTower`."""
        text_dim = self.text_dim if self.fuse == "input" else 0
        return DeepTower(width, self.mlp, self.dropout, text_dim, activation=activation, batch_norm=batch_norm)

    def head(self, width: int) -> FusedLinear:
        """The last layer, from `[batch, width]` to `[batch, 1]`; z joins it under `fuse: last`."""
        return FusedLinear(width, 1, self.text_dim if self.fuse == "last" else 0)
