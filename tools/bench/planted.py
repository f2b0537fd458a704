"""A planted world: ratings by a known rule, and a language model that does not know the rule.

The ratings have MovieLens' layout. A title such as "amber comedy oslo" has three words, all of them in the prompt. The
studio (in the column `genres`, which no prompt shows) is an id that only the CTR model reads. A target is liked with
the probability

    1/2 + RULE * rule + studio * (STUDIO + TOWN * town)        rule, studio, town = +-1, drawn independently

- `easy`: rule is +1 for six of the twelve kinds of film, which everyone likes;
- `harder`: rule is +1 if the target is of the same kind as most liked titles of the history;
- `verdict-first`: the rule of `easy`, and a language model whose opinions begin with the verdict and then go on for 72
  tokens that do not matter. So the credit for the one reward at the end has to travel far back;
- studio is +1 for half of the studios: their films are liked more in northern towns (town +1), less in southern ones.

Without the studio, the best guess from the prompt is 1/2 +- RULE in any town, so the town does not help the LC reward;
the CTR model does not see it in its ids. An explanation that names the town tells the CTR model what it misses, and the
IC reward has to find that. Every film is rated once, so nothing can be learnt of an id of a user or a film.

The language model's opinions name a random true trait before the verdict and another one after it (in `verdict-first`:
none before and 18 after it). The verdict is a prejudice: it favours warm colours, which mean nothing here.
"""

# ruff: noqa: SIM905  (word lists read as text)

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import polars as pl
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc
from transformers import PreTrainedTokenizerFast

from tools.nano.model import make_model as make_llama
from tools.nano.train import Optimizer

Rule = Literal["easy", "harder", "verdict-first"]

COLOURS = "amber azure coral crimson gold green grey indigo jade pearl scarlet violet".split()
KINDS = "ballad chronicle comedy drama fable farce mystery operetta romance satire thriller western".split()
TOWNS = "bergen oslo cadiz malta".split()
WARM, NORTHERN = set(COLOURS[::2]), set(TOWNS[:2])
STUDIOS = [f"studio {i}" for i in range(2)]
RULE, STUDIO, TOWN = 0.27, 0.06, 0.17
"""How much each adds to the probability of a like; together at most 1/2."""
HISTORY = 5
LR = 4e-3

_MODEL = yaml.safe_load(Path(__file__).with_name("learning.yaml").read_text())["model"]
PROMPTS: dict[str, str] = _MODEL["init_args"]["explainer"]["prompts"]
"""Templates, short because the model is small."""


class Film(NamedTuple):
    """An item."""

    colour: str
    kind: str
    town: str
    studio: str

    @property
    def title(self) -> str:
        """The words that the prompt shows."""
        return f"{self.colour} {self.kind} {self.town}"


def film(rng: random.Random, kind: str) -> Film:
    return Film(rng.choice(COLOURS), kind, rng.choice(TOWNS), rng.choice(STUDIOS))


class World(NamedTuple):
    """A rule with its liked kinds and good studios. The seed is that of the kinds, the studios and all draws."""

    rule: Rule
    seed: int

    @property
    def pleasing(self) -> set[str]:
        return set(random.Random(f"{self.seed} kinds").sample(KINDS, len(KINDS) // 2))

    @property
    def good(self) -> set[str]:
        return set(random.Random(f"{self.seed} studios").sample(STUDIOS, len(STUDIOS) // 2))

    def holds(self, kind: str, liked: Sequence[str]) -> bool:
        """Return whether the rule favours a target of this kind after a history with liked titles of those kinds."""
        if self.rule != "harder":
            return kind in self.pleasing
        return bool(liked) and kind == max(sorted(set(liked)), key=liked.count)

    def chance(self, holds: bool, studio: str, town: str) -> float:
        rule, made, place = (1 if yes else -1 for yes in (holds, studio in self.good, town in NORTHERN))
        return 0.5 + RULE * rule + made * (STUDIO + TOWN * place)

    def write(self, folder: Path, users: int, shuffled: bool = False) -> None:
        """Write `ratings.csv` and `movies.csv`: a history and then one target per user, which makes one sample.

        `shuffled` permutes the ratings of all targets, so that there is nothing to learn.
        """
        rng = random.Random(f"{self.seed} {self.rule}")
        people = [self._person(rng) for _ in range(users)]
        labels = [liked for _, _, liked in people]
        if shuffled:
            rng.shuffle(labels)
        aside = folder.with_name(f".{folder.name}")  # renamed when complete
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        ratings, movies = [], []
        for user, ((history, target, _), liked) in enumerate(zip(people, labels, strict=True)):
            for time, (seen, good) in enumerate([*history, (target, liked)]):
                movies.append((len(movies) + 1, seen.title, seen.studio))
                ratings.append((user, len(movies), 5 if good else 2, 1000 + time))
        titles = ["movieId", "title", "genres"]
        pl.DataFrame(movies, titles, orient="row").write_csv(aside / "movies.csv", line_terminator="\r\n")
        columns = ["userId", "movieId", "rating", "timestamp"]
        pl.DataFrame(ratings, columns, orient="row").write_csv(aside / "ratings.csv", line_terminator="\r\n")
        aside.replace(folder)

    def _person(self, rng: random.Random) -> tuple[list[tuple[Film, bool]], Film, bool]:
        favourite, *others = rng.sample(KINDS, 3)
        kinds = [favourite] * 3 + others
        rng.shuffle(kinds)
        # one exception at most, so that most liked titles are always of the favourite kind
        slip = rng.randrange(2 * HISTORY)
        history = [(film(rng, kind), (kind == favourite) != (i == slip)) for i, kind in enumerate(kinds)]
        if self.rule != "harder":
            kind = rng.choice(KINDS)
        else:
            others = [*others, rng.choice([k for k in KINDS if k not in kinds])]  # often a disliked kind
            kind = favourite if rng.random() < 0.5 else rng.choice(others)
        target = film(rng, kind)
        holds = self.holds(kind, [seen.kind for seen, good in history if good])
        return history, target, rng.random() < self.chance(holds, target.studio, target.town)


class Bounds(NamedTuple):
    """AUCs on the given rows of a predictor that knows the rule and sees the prompt, the ids, or both."""

    llm: float
    ctr: float
    aug: float


def bounds(world: World, rows: pl.DataFrame) -> Bounds:
    """Return the best possible AUCs on samples of the world, by the posterior probability of a like."""
    known: dict[str, list[float]] = {"llm": [], "ctr": [], "aug": []}
    for row in rows.iter_rows(named=True):
        _, kind, town = row["target_title"].split()
        holds = world.holds(kind, [title.split()[1] for title in row["liked_titles"]])
        (studio,) = row["target_genres"]
        known["aug"].append(world.chance(holds, studio, town))
        known["llm"].append(fmean(world.chance(holds, s, town) for s in STUDIOS))
        known["ctr"].append(fmean(world.chance(h, studio, t) for h in (True, False) for t in TOWNS))
    label = torch.tensor(rows["label"].to_list())
    return Bounds(**{name: float(binary_auroc(torch.tensor(scores), label)) for name, scores in known.items()})


# --- the language model -----------------------------------------------------------------------------------------

WORDS = """liked disliked target opinion thought likes none Yes No by colour kind town match like unlike they will
surely likely enjoy love dislike hate it for the , : . \""""
"""The words of prompts and opinions, besides titles."""
BEFORE = {"colour": 0.4, "match": 0.3, "kind": 0.3}
"""What an opinion names before the verdict, with its probability."""
AFTER = {"colour": 0.6, "town": 0.4}
"""What an opinion names after the verdict. Before and after it, the most frequent trait does not predict the label."""
PREJUDICE = 0.7
"""Probability of a positive verdict for warm colours, and of a negative one for cold colours."""
REASONS = 18
"""How many traits an opinion names that begins with its verdict; each takes four tokens. They are numbered, so that the
model knows where it is."""


def opinion(rng: random.Random, target: Film, match: bool, verdict_first: bool = False) -> tuple[str, bool]:
    """Return a sentence, and whether its verdict is positive."""
    said = target._asdict() | {"match": _match(target.kind, match)}
    before, after = (rng.choices(list(odds), list(odds.values()))[0] for odds in (BEFORE, AFTER))
    enjoys = (rng.random() < PREJUDICE) == (target.colour in WARM)
    verdict = f"{rng.choice(('surely', 'likely'))} {rng.choice(('enjoy', 'love') if enjoys else ('dislike', 'hate'))}"
    if verdict_first:
        named = [rng.choice(("colour", "kind", "town")) for _ in range(REASONS)]
        reasons = " , ".join(f"{i} {trait} {said[trait]}" for i, trait in enumerate(named, 1))
        return f"they will {verdict} it : {reasons} .", enjoys
    return f"by {before} {said[before]} , they will {verdict} it , for the {after} {said[after]} .", enjoys


def _match(kind: str, match: bool) -> str:
    return f"{kind} {'like' if match else 'unlike'}"


def make_model(folder: Path, steps: int = 700, verdict_first: bool = False) -> None:
    """Pretrain a small Llama on opinions and judgements, 64 prompts per step (16 of the long opinions that begin with
    their verdict), and save it with its tokenizer.
    """
    rng = random.Random(0)
    torch.manual_seed(0)
    tokenizer = _tokenizer(REASONS if verdict_first else 0)
    model = make_llama(tokenizer, hidden=96, layers=3)  # its heads that look back let copying form early
    _look_for_the_same(model.model.layers[1].self_attn)
    optimizer = Optimizer(model, LR, warmup=50)
    for step, batches in enumerate(_lessons(rng, tokenizer, steps, verdict_first)):
        losses = [
            model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=wanted).loss
            for ids, wanted in batches
        ]
        loss = torch.stack(losses).sum()
        optimizer.step(loss, step, step / steps)
        if step % 100 == 0 or step == steps - 1:
            print(f"pretraining: step {step} of {steps}, loss {float(loss.detach()):.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_encoder(folder: Path) -> None:
    """Save a sentence encoder: one random layer, whose mean-pooled states are a random projection of the words.

    The language model cannot serve as one: its last states predict the next word, and lose which towns were named.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    make_llama(tokenizer, hidden=64, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _look_for_the_same(attention: nn.Module, width: int = 32, sharpness: float = 1.7) -> None:
    """Make the first head attend to earlier tokens of the same word: the part of matching that is slow to form.

    Queries equal keys in the dimensions that rotary positions hardly rotate over the length of a prompt.
    """
    slow = [*range(width // 4, width // 2), *range(3 * width // 4, width)]
    with torch.no_grad():
        size = attention.q_proj.weight.shape[1]
        same = sharpness * torch.randn(len(slow), size) / size**0.5
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[:width] = 0
            projection.weight[slow] = same


def _tokenizer(numbers: int = 0) -> PreTrainedTokenizerFast:
    words = {*COLOURS, *KINDS, *TOWNS, *WORDS.split(), *map(str, range(1, numbers + 1))}
    vocabulary = {word: i for i, word in enumerate(["<|pad|>", "<|end|>", "<|unknown|>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unknown|>"
    )


def _lessons(
    rng: random.Random, tokenizer: PreTrainedTokenizerFast, steps: int, verdict_first: bool
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the batches of each step, token ids and labels: opinions, judgements, matches, guesses."""

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def quoted(titles: Sequence[str]) -> str:
        return ", ".join(f'"{title}"' for title in titles) or "none"

    end, pad, like = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id), torch.tensor(tokens("like unlike"))
    for _ in range(steps):
        opinions, judgements, guesses, matches = [], [], [], []
        for _ in range(16 if verdict_first else 64):
            favourite, *others = rng.sample(KINDS, 3)
            match = rng.random() < 0.5
            target = film(rng, favourite if match else rng.choice([k for k in KINDS if k != favourite]))
            liked = [film(rng, favourite).title for _ in range(rng.choice((2, 3)))]
            disliked = [film(rng, kind).title for kind in others]
            rng.shuffle(liked)
            prompt = {"liked": quoted(liked), "disliked": quoted(disliked), "target": target.title}
            text, enjoys = opinion(rng, target, match, verdict_first)
            guess = (rng.random() < PREJUDICE) == (target.colour in WARM)
            opinions.append((tokens(PROMPTS["explanation"].format(**prompt)), [*tokens(text), end]))
            judgements.append((tokens(PROMPTS["lc"].format(reason=text)), tokens("Yes" if enjoys else "No")))
            kinds = [target.kind, *rng.sample(KINDS, 4), favourite, *others]
            answers = tokens(" ".join(_match(kind, kind == favourite) for kind in kinds))
            matches.append((tokens(PROMPTS["explanation"].format(**prompt) + " by match"), answers))
            guesses.append((tokens(PROMPTS["icl"].format(**prompt)), tokens("Yes" if guess else "No")))
        matching = _padded(matches, pad)
        matching[1][~torch.isin(matching[1], like)] = -100  # else opinions would continue like these
        others = [] if verdict_first else [matching]  # long opinions never say whether a kind matches
        yield [_padded(opinions, pad), _padded(judgements, pad), *others, _padded(guesses[:8], pad)]


def _padded(pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Return right-padded `[pairs, tokens]`: prompts with answers, and the answers alone with -100 elsewhere."""
    ids = torch.full((len(pairs), max(len(prompt) + len(answer) for prompt, answer in pairs)), pad)
    wanted = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, wanted
