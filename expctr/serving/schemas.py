"""What the server's clients send and get; the limits on both."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MAX_PAIRS, MAX_EXPLAINED, MAX_TITLES = 256, 32, 1000
"""Pairs per request, of those that get sentences, and titles of all histories: no client may keep the others waiting
for long."""
MAX_FIELDS = 50
"""Fields of an object, known or not."""


def _check_text(given: str) -> str:
    """Refuses half of a surrogate pair, which JSON can write."""
    given.encode()
    return given


Title = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_check_text)]
Id = Annotated[
    str,
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_check_text),
]
Titles = Annotated[list[Title], Field(max_length=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, given: Any) -> Any:
        """Refuse many unknown fields before each gets a message of its own, which takes seconds."""
        if isinstance(given, dict) and len(given) > MAX_FIELDS:
            raise ValueError(f"{len(given)} fields. Fix: send only {', '.join(cls.model_fields)}")
        return given


class Pair(_Strict):
    """A user and an item, each by id or by titles."""

    user: Id | None = Field(None, description="a user's id; or give liked_titles, disliked_titles")
    item: Id | None = Field(None, description="an item's id; or give target_title")
    liked_titles: Titles = Field([], description="oldest first")
    disliked_titles: Titles = Field([], description="oldest first")
    target_title: Title | None = None


class ScoreRequest(_Strict):
    """Pairs to score."""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MAX_PAIRS)]
    explain: bool = Field(True, description="write a sentence for each pair; without, only the CTR models score it")

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.explain and len(self.pairs) > MAX_EXPLAINED:
            fix = f"give at most {MAX_EXPLAINED}, or explain: false, with which {MAX_PAIRS} are allowed"
            raise ValueError(f"{len(self.pairs)} pairs to explain. Fix: {fix}")
        titles = sum(len(pair.liked_titles) + len(pair.disliked_titles) for pair in self.pairs)
        if titles > MAX_TITLES:
            raise ValueError(f"histories of {titles} titles. Fix: give at most {MAX_TITLES} in a request")
        return self


class ScoreResponse(BaseModel):
    """One entry per pair, in their order."""

    scores: list[dict[str, str | float | None]] = Field(
        description="explanation, s_u, s_r, s_0, s_plain and their spread, or score alone, of a model that writes no "
        "sentences; and problem: why a pair could not be scored"
    )


class ExplainRequest(_Strict):
    """One choice to explain."""

    target: Title = Field(description="a title, or the id of an item after id:")
    user: Id | None = Field(None, description="a user's id; or give liked, disliked")
    liked: Titles = Field([], description="titles, oldest first")
    disliked: Titles = Field([], description="titles, oldest first")

    @model_validator(mode="after")
    def _check_history(self) -> Self:
        if (titles := len(self.liked) + len(self.disliked)) >= MAX_EXPLAINED:  # each title is left out once
            raise ValueError(f"a history of {titles} titles. Fix: give at most {MAX_EXPLAINED - 1}")
        return self


class Names(BaseModel):
    """Suggestions for something typed."""

    names: list[str]


Endpoint = Literal["score", "explain", "users", "items"]


class Reply(BaseModel):
    """What the model's process replies: a body, or the status and the text of an error."""

    status: int = 200
    body: Any = None
