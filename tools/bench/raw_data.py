"""Generated raw files with the layout and the sizes of the public datasets, for benchmarks.

    python -m tools.bench.raw_data --layout amazon-2014 --reviews 1000000    # about 1.4 GB in runs/raw_data

Amazon's files keep the proportions of Books: 8.9 million reviews of 604 thousand users and 2.37 million lines of
metadata in 2014 (5-core), 29.5 million reviews of 10.3 million users and 4.4 million lines in 2023. A review has about
1 KB, and a line of metadata about 1.2 KB. A folder that is complete is not written again.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from tools.runs import script

USERS, MOVIES, ROWS = 138_493, 27_278, 20_000_263
"""The sizes of MovieLens-20M."""
GENRES = ("Action", "Adventure", "Comedy", "Crime", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "War")
STARS = np.array([1.2, 3.4, 1.4, 7.2, 4.4, 21.5, 11.0, 27.8, 7.7, 14.4]) / 100
"""Shares of the ratings from 0.5 to 5."""
BOOKS_2014, BOOKS_2023 = (8_898_041, 603_668, 2_370_585), (29_475_453, 10_297_355, 4_448_181)
"""Reviews, users and lines of metadata of Books."""
WORDS = """the a of and to it is was this book I my that she he in with for on but not read story author's don't
    it's next characters plot really "great" loved ending series wouldn't recommend pages first novel can't wait"""


def movielens(folder: Path, rows: int) -> None:
    """Writes `movies.csv` and `ratings.csv`; fewer rows mean fewer users."""
    draw = np.random.default_rng(0)
    users = round(USERS * rows / ROWS)
    drawn = round(1.5 * rows)  # duplicate pairs are dropped, and then surplus rows
    activity = draw.lognormal(0, 1.2, users)
    counts = 25 + np.floor(activity / activity.sum() * (drawn - 25 * users)).astype(np.int64)
    popularity = 1 / np.arange(100, 100 + MOVIES) ** 1.4  # in 0.4% of the ratings, and in 0.0002%
    movies = draw.permutation(5 * MOVIES)[:MOVIES] + 1  # ids with gaps, and not in the order of popularity
    rank = draw.choice(MOVIES, counts.sum(), p=popularity / popularity.sum())
    frame = pl.DataFrame({"userId": np.repeat(np.arange(1, users + 1), counts), "movieId": movies[rank]})
    frame = frame.unique(maintain_order=True).sample(rows, seed=0).sort("userId", "movieId")
    began = draw.integers(789_652_009, 1_400_000_000, users)
    frame = frame.with_columns(
        rating=pl.Series(draw.choice(np.arange(0.5, 5.5, 0.5), rows, p=STARS)),
        timestamp=pl.Series(began[frame["userId"].to_numpy() - 1] + draw.integers(0, 15_000_000, rows)),
    )

    names = [f"Film {movie}, The ({1930 + movie % 85})" if movie % 5 else f"Film {movie} (1990)" for movie in movies]
    genres = ["|".join(sorted({GENRES[movie % 10], GENRES[movie // 10 % 10]})) for movie in movies]
    titles = pl.DataFrame({"movieId": movies, "title": names, "genres": genres})
    titles.sort("movieId").write_csv(folder / "movies.csv")
    frame.write_csv(folder / "ratings.csv")


def amazon_2014(folder: Path, reviews: int) -> None:
    """Writes `reviews_Books_5.json`, JSON, and `meta_Books.json`, Python literals."""
    text = _Text(bytes_per_line=810)
    users, items = (max(1, round(size * reviews / BOOKS_2014[0])) for size in BOOKS_2014[1:])

    def review(user: int, item: int, stars: int, day: int) -> str:
        line = {"reviewerID": f"A{user:013X}", "asin": _asin(item), "reviewerName": f"Reader {user}", "helpful": [0, 1]}
        line |= {"reviewText": text(), "overall": float(stars), "summary": text.short(), "unixReviewTime": 86400 * day}
        return json.dumps(line | {"reviewTime": "12 16, 2012"})

    def meta(item: int) -> str:
        also = [_asin((item * 7 + i) % items) for i in range(item % 41)]
        line: dict[str, object] = {"asin": _asin(item)}
        if item % 20:  # the others have no title
            line["title"] = _title(item)
        line |= {"price": item % 3000 / 100, "imUrl": f"http://ecx.images-amazon.com/images/I/{item}.jpg"}
        line |= {"related": {"also_viewed": also, "also_bought": also[:20]}, "salesRank": {"Books": item}}
        line["categories"] = [["Books", GENRES[item % 10], GENRES[item // 10 % 10]]]
        return repr(line | {"description": text()} if item % 3 else line)

    days = np.random.default_rng(1).integers(10_000, 16_000, reviews)
    _write(folder / "meta_Books.json", map(meta, range(items)))
    _write(folder / "reviews_Books_5.json", _reviews(reviews, users, items // 6, days, review))


def amazon_2023(folder: Path, reviews: int) -> None:
    """Writes `Books.jsonl` and `meta_Books.jsonl`."""
    text = _Text(bytes_per_line=700)
    users, items = (max(1, round(size * reviews / BOOKS_2023[0])) for size in BOOKS_2023[1:])

    def review(user: int, item: int, stars: int, time: int) -> str:
        line = {"rating": float(stars), "title": text.short(), "text": text(), "images": [], "asin": _asin(item)}
        line |= {"parent_asin": _asin(item), "user_id": f"AE{user:026X}", "timestamp": time, "helpful_vote": 0}
        return json.dumps(line | {"verified_purchase": True})

    def meta(item: int) -> str:
        line: dict[str, object] = {"main_category": "Books", "title": _title(item), "subtitle": "Paperback – 2014"}
        line |= {
            "average_rating": 4.5,
            "rating_number": item % 999,
            "features": [text.short()],
            "description": [text()],
        }
        line |= {"price": item % 3000 / 100 or None, "images": [{"large": f"https://m.media-amazon.com/{item}.jpg"}]}
        line |= {"videos": [], "store": f"Author {item % 9973} (Author)", "bought_together": None}
        line |= {"categories": ["Books", GENRES[item % 10]], "details": {"Publisher": "A press", "Language": "English"}}
        return json.dumps(line | {"parent_asin": _asin(item), "author": None})

    times = np.random.default_rng(1).integers(900_000_000_000, 1_690_000_000_000, reviews)
    _write(folder / "meta_Books.jsonl", map(meta, range(items)))
    _write(folder / "Books.jsonl", _reviews(reviews, users, items, times, review))


LAYOUTS = {"movielens-20m": movielens, "amazon-2014": amazon_2014, "amazon-2023": amazon_2023}


def generate(layout: str, rows: int, out: Path = Path("runs/raw_data")) -> Path:
    """Writes the files of a layout, unless they are there, and returns their folder."""
    folder = out / f"{layout}-{rows}"
    if not folder.exists():
        aside = folder.with_suffix(".part")  # renamed when complete, so that an interrupted run leaves no partial file
        aside.mkdir(parents=True, exist_ok=True)
        LAYOUTS[layout](aside, rows)
        aside.replace(folder)
    return folder


class _Text:
    """Draws texts of many lengths from one long text. With the other keys a line has about 1 KB."""

    def __init__(self, bytes_per_line: int) -> None:
        self._draw = random.Random(0)  # ten times faster than numpy for one number
        self._all = " ".join(self._draw.choices(WORDS.split(), k=400_000))
        self._mean = bytes_per_line

    def __call__(self) -> str:
        begin = self._draw.randrange(1_000_000)
        return self._all[begin : begin + int(self._draw.expovariate(1 / self._mean))]

    def short(self) -> str:
        begin = self._draw.randrange(1_000_000)
        return self._all[begin : begin + 30]


def _reviews(
    rows: int, users: int, items: int, times: np.ndarray, line: Callable[[int, int, int, int], str]
) -> Iterator[str]:
    """The lines of all reviews: some users have many, and some items."""
    draw = np.random.default_rng(0)
    user = np.r_[np.arange(users), (users * draw.random(max(0, rows - users)) ** 2).astype(np.int64)][:rows]
    item = (max(1, items) * draw.random(rows) ** 3).astype(np.int64)
    stars = draw.choice(5, rows, p=(0.05, 0.05, 0.1, 0.2, 0.6)) + 1
    for row in zip(draw.permutation(user).tolist(), item.tolist(), stars.tolist(), times.tolist(), strict=True):
        yield line(*row)


def _asin(item: int) -> str:
    return f"B{item:09d}"


def _title(item: int) -> str:
    kind = item % 4
    return f"The Reader's Tale, Vol. {item}" if kind == 1 else f"Cats &amp; Dogs {item}" if kind else f'A "{item}" Tale'


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--layout", choices=[*LAYOUTS], required=True)
    parser.add_argument("--reviews", type=int, default=1_000_000, help="rows of reviews or ratings")
    parser.add_argument("--out", type=Path, default=Path("runs/raw_data"))
    options = parser.parse_args()
    folder = generate(options.layout, options.reviews, options.out)
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
