"""RecBole's recorded outputs (tools/parity), and loading its weights into our models."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from expctr.ctr.embedding import FieldEmbeddings
from expctr.data.features import Vocabulary

FOLDER = Path(__file__).parents[1] / "parity"


class Recorded:
    """A file of tools/parity.

    Attributes:
        tensors: all of it, by name.
        features: the inputs, as our models take them.
        logit: the output, `[batch]`.
    """

    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
            self.order = file.metadata()["fields"].split()
        self.features = self.part("input.")
        self.logit = self.tensors["logit"]
        self.weights = self.part("model.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of the name."""
        found = {key: value for key, value in self.tensors.items() if key.startswith(prefix)}
        return {key.removeprefix(prefix): value for key, value in found.items()}

    @property
    def vocabulary(self) -> Vocabulary:
        """Tables as large as the peer's, whose row 0 is padding in both."""
        sizes = {name: len(self.tensors[f"fields.{name}"]) for name in self.order}
        history = self.features["history"].shape[1] if "history" in self.features else 0
        return Vocabulary(sizes, history=history)

    def fill(self, table: FieldEmbeddings, *parts: str) -> None:
        """The peer's tables as ours: one for all fields, each without its row of padding, `parts` side by side."""
        rows = [
            torch.cat([self.tensors[f"{part}.{name}"][1:] for part in parts], dim=1)
            for name in table.names
            if f"{parts[0]}.{name}" in self.tensors
        ]
        weight = torch.cat([torch.zeros(1, table.weight.shape[1]), *rows])
        assert weight.shape == table.weight.shape
        with torch.no_grad():
            table.weight.copy_(weight)

    def carry_over(self, model: nn.Module, names: Mapping[str, str], idle: Collection[str] = ()) -> None:
        """Put the peer's weights in place; every weight of either side is used.

        Args:
            model: ours, its tables filled already.
            names: the peer's name by ours; of several, those parted by `|` are stacked, those by `+` added.
            idle: what the peer has and does not use.
        """
        ours = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
        tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, FieldEmbeddings)}
        assert set(names) == set(ours) - tables
        parts = {name: [stacked.split("+") for stacked in peers.split("|")] for name, peers in names.items()}
        used = [part for stacked in parts.values() for added in stacked for part in added]
        assert sorted([*used, *idle]) == sorted(self.weights)
        for name, stacked in parts.items():
            summed = [torch.stack([self.weights[part] for part in added]).sum(0) for added in stacked]
            ours[name].copy_(torch.cat([part.flatten() for part in summed]).view_as(ours[name]))
