"""Check of the saved model: on generated samples, and on MovieLens-100K."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc as auc

from expctr.data.batches import SampleText
from expctr.data.readers.movielens import read
from expctr.llm.prompts import PromptOptions, Prompts
from tools.nano.inference import Nano
from tools.nano.judgements import judged_text
from tools.nano.opinions import DOMAINS, VERDICTS, balance, opinion, parse
from tools.nano.titles import history


def movielens(folder: Path, per_user: int = 4) -> list[tuple[str, int, SampleText]]:
    """Return user, label and titles of samples of MovieLens-100K, with histories from the oldest to the newest."""
    rng, tables = random.Random(0), read(folder)
    titles = dict(tables.items.frame.select("item", "title").collect().iter_rows())
    ratings: dict[str, list[tuple[float, str, bool]]] = {}
    columns = tables.interactions.frame.select("user", "item", "rating", "timestamp").collect()
    for user, item, rating, when in columns.iter_rows():
        ratings.setdefault(user, []).append((when, titles[item] or "unknown", rating >= 4))
    samples = []
    for user, rows in ratings.items():
        rows.sort()
        places = range(5, len(rows))
        for k in rng.sample(places, min(per_user, len(places))):
            seen = rows[max(0, k - 10) : k]
            text = SampleText(rows[k][1], tuple(t for _, t, y in seen if y), tuple(t for _, t, y in seen if not y))
            samples.append((user, int(rows[k][2]), text))
    return samples


def probe(states: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """Return the AUC on held-out rows of a logistic regression that was fitted on the others."""
    x = (states - states.mean(0)) / (states.std(0) + 1e-6)
    weight = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x[~held_out] @ weight, labels[~held_out].float())
        (loss + 0.01 * weight.square().sum()).backward()
        return loss

    optimizer.step(closure)
    return float(auc((x @ weight.detach())[held_out], labels[held_out]))


def quality(nano: Nano, texts: Sequence[SampleText], sample: bool) -> tuple[dict[str, float], list[str]]:
    """Return how well opinions on these samples quote, count, attribute and stop, and the opinions."""
    answers = nano.opine(nano.prompts.explanation(texts), sample)
    opinions = [str(nano.tokenizer.decode(a, skip_special_tokens=True)) for a in answers]
    hits: dict[str, list[float]] = {"tokens": [len(a) for a in answers]}
    for text, answer, said in zip(texts, answers, opinions, strict=True):
        liked, disliked = ([nano.prompts.title(t) for t in side] for side in (text.liked, text.disliked))
        parsed = parse(said)
        found = {"target exact": f'"{nano.prompts.title(text.target)}"' in said, "parsed": parsed is not None}
        found["ended"] = answer[-1] == nano.tokenizer.eos_token_id
        if parsed:
            found["balance right"] = parsed.balance == balance(text)
            if parsed.past is not None:
                found["past exact"] = parsed.past in liked + disliked
            if parsed.past in liked + disliked:
                found["past attributed"] = parsed.past in (liked if parsed.liked else disliked)
        for name, hit in found.items():
            hits.setdefault(name, []).append(hit)
    return {name: sum(h) / len(h) for name, h in hits.items()}, opinions


def report(name: str, **values: float | Tensor) -> None:
    print(f"{name}: " + ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in values.items()), flush=True)


def check(folder: Path, ratings: Path | None) -> None:
    """Print what the saved model can do on held-out generated samples, and on real ratings if they are given."""
    torch.manual_seed(0)
    nano, rng = Nano(folder), random.Random("held out")
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    report("size", parameters=nano.model.num_parameters(), megabytes=megabytes, vocabulary=len(nano.tokenizer))
    for nouns in DOMAINS:
        nano.prompts = Prompts(nano.tokenizer, PromptOptions(), nouns)
        for sample in (False, True):
            found, _ = quality(nano, [history(rng) for _ in range(200)], sample)
            report(f"generated {nouns.items}, {'sampled' if sample else 'greedy'}", **found)
    for titled in (False, True):
        right, means = 0, {}
        for level in VERDICTS:
            texts = [history(rng) for _ in range(100)]
            said = [opinion(rng, text, nouns, level)[0] for text in texts]
            yes = nano.yes(nano.prompts.lc(texts, said, titled))
            right, means[f"{level:+d}"] = right + int(((yes > 0.5) == (level > 0)).sum()), float(yes.mean())
        report(f"judge{', titled' * titled}", right=right / 600, **means)
        judged = [(text, *judged_text(rng, text, nouns)) for text in (history(rng) for _ in range(600))]
        clear = [(text, said, yes) for text, said, yes in judged if abs(yes - 0.5) > 0.1]
        yes = nano.yes(nano.prompts.lc([t for t, _, _ in clear], [said for _, said, _ in clear], titled))
        wanted = torch.tensor([p for _, _, p in clear])
        report("  other shapes", right=float(((yes > 0.5) == (wanted > 0.5)).double().mean()))
    if ratings:
        check_ratings(nano, movielens(ratings))


def check_ratings(nano: Nano, rows: Sequence[tuple[str, int, SampleText]]) -> None:
    """Print how it handles real histories, and how well its state before the verdict predicts the label."""
    nano.prompts = Prompts(nano.tokenizer, PromptOptions(), DOMAINS[0])
    texts, labels = [t for _, _, t in rows], torch.tensor([y for _, y, _ in rows])
    for sample in (False, True):
        found, opinions = quality(nano, texts, sample)
        yes = nano.yes(nano.prompts.lc(texts, [nano.prompts.clean(o) for o in opinions], False))
        name = f"MovieLens-100K, {len(rows)} {'sampled' if sample else 'greedy'}"
        report(name, **found, LC_AUC=auc(yes, labels), mean_yes=float(yes.mean()))
        print(*opinions[:4], sep="\n")
    share = torch.tensor([(len(t.liked) + 1) / (len(t.liked) + len(t.disliked) + 2) for t in texts])
    held_out = torch.tensor([int(user) % 2 == 0 for user, _, _ in rows])
    prompts, parsed = nano.prompts.explanation(texts), [parse(o) for o in opinions]
    of = torch.tensor([i for i, said in enumerate(parsed) if said])
    cut = [opinions[i][: said.at].rstrip() for i, said in enumerate(parsed) if said]
    prefixes = [prompts[i] + nano.tokenizer(before).input_ids for i, before in zip(of, cut, strict=True)]
    levels = nano.levels(prefixes[:200])
    report(
        "MovieLens-100K",
        ICL_AUC=auc(nano.yes(nano.prompts.icl(texts)), labels),
        share_AUC=auc(share, labels),
        probe_AUC=probe(nano.last(prefixes), labels[of], held_out[of]),
        probe_rows_share_AUC=auc(share[of][held_out[of]], labels[of][held_out[of]]),
        least_level=float(levels.min(-1).values.mean()),
        all_levels_over_8_percent=float((levels.min(-1).values >= 0.08).double().mean()),
        kind=float(levels[:, :3].sum(-1).mean()),
        prompt_tokens=sum(map(len, prompts)) / len(prompts),
    )
