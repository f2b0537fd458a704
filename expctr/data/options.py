"""Options of the samples: how they are made of ratings (`data.samples`)."""

from dataclasses import dataclass
from math import inf, isclose
from typing import Literal

from expctr.data.readers.bad_rows import OnBadRow
from expctr.errors import UserError, check_range

SPLITS = ("train", "val", "test")

IGNORED_WITH_SPLITS = ("targets_per_user", "balance", "max_samples", "split", "fractions")
"""Options that have no effect if the user gives the splits (`data.splits`)."""


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn from interactions."""

    threshold: float | None = 4.0
    """A rating of at least this (`threshold_op: ge`), or above it (`gt`), means liked; null for labels of 1 and 0."""
    threshold_op: Literal["ge", "gt"] = "ge"
    """Whether a rating equal to the threshold means liked: `ge` yes, `gt` no."""
    zero_ratings: Literal["keep", "drop"] = "keep"
    """Rows with rating 0, which means "not rated" in BookCrossing: keep them as disliked, or drop them."""
    repeats: Literal["latest", "keep"] = "latest"
    """Several interactions of one user with one item: use the `latest` only, or `keep` all of them as possible targets.
    A history shows each item once, as it was last seen before the target, and never the target itself."""
    negatives: int = 0
    """For data of positives only: items drawn for each target, as disliked ones in its place, that its user never had,
    before or after. Histories hold positives only."""
    negatives_by: Literal["uniform", "popularity"] = "uniform"
    """Draw each item equally often, or as often as it occurs in the interactions."""
    balance: bool = False
    """Keep the same number of liked and disliked targets."""
    order: Literal["time", "shuffle"] = "time"
    """Order of a user's interactions: by timestamp, or a seeded shuffle for data without timestamps."""
    targets_per_user: int = 1
    """Targets drawn per user, without replacement (1 in the paper)."""
    max_history: int = 10
    """Number of items before the target that a history holds at most."""
    same_time: Literal["keep", "drop"] = "keep"
    """Earlier entries with the target's own timestamp: `drop` leaves them out of its history. Amazon, where it is the
    default, lists one review under several variants of a product. Only with `order: time`."""
    min_history: int = 1
    """An interaction can be a target only if its user has at least this many earlier ones."""
    min_ratings: int = 2
    """Users with fewer interactions are dropped."""
    max_samples: int | None = None
    """At most this many samples over all splits: all those of randomly drawn users (with `balance`, random samples of
    all users). null keeps all."""
    split: Literal["random", "user", "time"] | None = "random"
    """Split samples at random (paper), by user (no user in two splits), or by time (the newest targets are test); null
    for by time, or at random where there is no time."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: int = 0
    """Seed of all draws; separate from the seed of training, so that runs are compared on the same samples."""
    on_bad_row: OnBadRow = "error"
    """What to do with a row that cannot be used: `error` stops at the first one, `skip` counts and skips them."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("targets_per_user", "max_history", "max_samples"), (1, inf))
        check_range("data.samples", self, min_history=(0, inf), negatives=(0, inf), **counts)
        if self.min_history > self.max_history:
            raise UserError(
                f"data.samples.min_history {self.min_history} is more than data.samples.max_history {self.max_history}"
            )
        if min(self.fractions) < 0 or not isclose(sum(self.fractions), 1, rel_tol=1e-5):
            raise UserError(
                f"data.samples.fractions must be shares of train, val and test that sum to 1, not {self.fractions}"
            )
        if self.split == "time" and self.order == "shuffle":
            raise UserError("data.samples.split: time needs data.samples.order: time")
        if self.negatives and self.balance:
            raise UserError("data.samples.balance needs both labels, and data.samples.negatives has positives only")

    @property
    def split_rule(self) -> Literal["random", "user", "time"]:
        """`split`, or what it stands for if it is null."""
        return self.split or ("time" if self.order == "time" else "random")

    @property
    def rule(self) -> str:
        """The labelling rule in words."""
        sign = ">=" if self.threshold_op == "ge" else ">"
        rule = "liked when the label is 1" if self.threshold is None else f"liked when rating {sign} {self.threshold:g}"
        zeros = "" if self.zero_ratings == "keep" else ", zeros dropped"
        drawn = f"; per target {self.negatives} drawn as disliked, {self.negatives_by}" if self.negatives else ""
        return rule + zeros + drawn
