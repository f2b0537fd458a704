"""The data modules of the datasets: each names a reader, defaults and nouns; `RatingsDataModule` does the rest."""

import os
from pathlib import Path
from typing import Any

from expctr.data.batches import Nouns
from expctr.data.options import SampleOptions
from expctr.data.ratings_module import PaperDataset
from expctr.data.ratings_module import RatingsDataModule as RatingsDataModule  # a user's own derives from it
from expctr.data.ratings_module import SplitFiles as SplitFiles
from expctr.data.readers import amazon, bookcrossing, movielens
from expctr.data.readers.base import RawTable, RawTables

BOOKS = Nouns("book", "books", "reader", "reading")

_CATEGORIES = {
    "Books": BOOKS,
    "Kindle_Store": BOOKS,
    "Movies_and_TV": Nouns("movie", "movies", "viewer", "viewing"),
    "CDs_and_Vinyl": Nouns("album", "albums", "listener", "listening"),
    "Digital_Music": Nouns("album", "albums", "listener", "listening"),
    "Video_Games": Nouns("game", "games", "player", "playing"),
}
_OTHER_CATEGORIES = Nouns("product", "products", "customer", "shopping")

MOVIELENS = SampleOptions(threshold=4, threshold_op="ge", max_samples=20_000)
"""Rating >= 4 is inferred: it gives 56% likes, and > 4 gives 28%, which the paper's Table 1 excludes."""

BOOKCROSSING = SampleOptions(threshold=5, threshold_op="ge", zero_ratings="keep", order="shuffle", max_samples=40_000)
"""Inferred. Zeros as dislikes give 52-53% likes; only then are there 40,000 users with two ratings. No timestamps."""

AMAZON = SampleOptions(threshold=4, threshold_op="gt", max_samples=20_000, same_time="drop")
"""Rating > 4 is inferred: it gives 56% likes in Books, and >= 4 gives 81%, which Table 1 excludes."""


class MovieLensDataModule(RatingsDataModule):
    """MovieLens: ML-100K (GroupLens' or RecBole's files), ML-1M, ML-20M, latest. Liked from 4 stars (inferred)."""

    def __init__(
        self,
        path: str,
        samples: SampleOptions = MOVIELENS,
        nouns: Nouns = Nouns("movie", "movies", "viewer", "viewing"),
        paper_dataset: PaperDataset | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, samples, nouns, paper_dataset, **kwargs)

    def read(self) -> RawTables:
        return movielens.read(Path(self.path))

    def read_ratings(self, path: Path) -> RawTable:
        return movielens.read_interactions(path)


class BookCrossingDataModule(RatingsDataModule):
    """BookCrossing: the original dump or Kaggle's files. Liked from 5 of 10, zeros are dislikes (inferred)."""

    def __init__(
        self,
        path: str,
        samples: SampleOptions = BOOKCROSSING,
        nouns: Nouns = BOOKS,
        paper_dataset: PaperDataset | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, samples, nouns, paper_dataset, **kwargs)

    def read(self) -> RawTables:
        return bookcrossing.read(Path(self.path))

    def read_ratings(self, path: Path) -> RawTable:
        return bookcrossing.read_interactions(path)


class AmazonBooksDataModule(RatingsDataModule):
    """Amazon reviews of 2014, 2018 or 2023, of any category. Liked above 4 stars (inferred).

    Args:
        category: as in the file names; default the only one in `path`, else Books.
        nouns: what items and people are called in prompts; default by category: book and reader, movie and viewer,
            album and listener, game and player, else product and customer.
    """

    def __init__(
        self,
        path: str,
        samples: SampleOptions = AMAZON,
        nouns: Nouns | None = None,
        category: str | None = None,
        paper_dataset: PaperDataset | None = None,
        **kwargs: Any,
    ) -> None:
        self.category = category or amazon.find_category(Path(os.path.expanduser(path)))
        nouns = nouns or _CATEGORIES.get(self.category, _OTHER_CATEGORIES)
        super().__init__(path, samples, nouns, paper_dataset, **kwargs)

    def read(self) -> RawTables:
        return amazon.read(Path(self.path), self.category)

    def read_ratings(self, path: Path) -> RawTable:
        return amazon.read_interactions(path)
