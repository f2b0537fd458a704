"""Whether the frozen LLM answers the LC prompt, and tells a sentence of liking from one of dislike, before training."""

import warnings

from expctr.errors import UserError
from expctr.llm.yes_no import LCOptions, ScorerCheck

_BLIND = 0.75
"""Share of sentence pairs in the right order below which the LC scorer is called blind."""
_LOW_MASS = 0.05
"""p(yes) + p(no) below which a warning says that the base hardly answers."""


def in_words(found: ScorerCheck) -> str:
    """One line for the log of a run."""
    return f"LC scorer: {_order(found)}, p(yes) + p(no) {found.mass:.2g}"


def check_scorer(found: ScorerCheck, options: LCOptions, is_reward: bool) -> None:
    """Warn of a scorer that hardly answers, or cannot tell sentences apart.

    Args:
        found: what `LCScorer.check` has found.
        options: the answers, and `min_mass`.
        is_reward: its scores are a reward of this run.

    Raises:
        UserError: it is a reward, and answers less than `min_mass` says.
    """
    if found.mass < _LOW_MASS:
        answers = "/".join([*options.positive, *options.negative])
        problem = (
            f"the LC scorer hardly answers: after the LC prompt {answers} have {found.mass:.2%} of the probability "
            f"together, and {found.likeliest!r} is likelier, so s_u says little. Fix: choose another template "
            "(prompts.lc), other answers (lc.positive, lc.negative), another base (llm.path), or, for a base that "
            "thinks first, prompts.template_kwargs"
        )
        if found.mass < options.min_mass and is_reward:
            raise UserError(f"{problem}; or train all the same, with a lower lc.min_mass")
        warnings.warn(problem, stacklevel=1)
    if found.order < _BLIND:
        warnings.warn(
            f"the LC scorer is blind: it hardly tells a sentence of liking from one of dislike ({_order(found)}), so "
            "the LC reward is noise. Choose another base (llm.path), other answers (lc.positive, lc.negative) or "
            "another template (prompts.lc)",
            stacklevel=1,
        )


def _order(found: ScorerCheck) -> str:
    return f"{found.order:.0%} of sentence pairs in the right order, mean difference of s_u {found.gap:.3f}"
