"""The process that holds the model, and answers the requests that are waiting as one batch.

What imports torch is imported in that process alone: the one that listens needs none of it, and is ready sooner.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import litserve as ls  # type: ignore[import-untyped]
import polars as pl
from litserve.loops import BatchedLoop  # type: ignore[import-untyped]

from expctr.data.catalogue import nearest
from expctr.errors import DataError, UserError, print_error
from expctr.serving.schemas import Pair, Reply

QUEUE = "/queue"
"""LitServe's own endpoint, which takes any request."""
_BATCH = 16  # requests that are answered together, at most
_SUGGESTIONS = 8
_SCHEMA = {name: pl.List(pl.String) if "titles" in name else pl.String() for name in Pair.model_fields}
log = logging.getLogger(__name__)


class QuietLoop(BatchedLoop):  # type: ignore[misc]
    """LitServe's loop. The process that holds its queue may be killed: the server's first process says so."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Answer requests for as long as there is a queue."""
        try:
            super().__call__(*args, **kwargs)
        except (EOFError, ConnectionError, FileNotFoundError):  # of the queue's socket
            raise SystemExit(1) from None


class ModelWorker(ls.LitAPI):  # type: ignore[misc]
    """Answers requests of any kind by one loaded run.

    Args:
        run: the run's folder.
        checkpoint: a path; null for the newest.
        device: as of `Predictor.load`. LitServe is told `cpu`, because it would import torch to choose.
    """

    def __init__(self, run: Path, checkpoint: str | None, device: str) -> None:
        super().__init__(max_batch_size=_BATCH, batch_timeout=0.005, api_path=QUEUE, loop=QuietLoop())
        self.run, self.checkpoint, self.chosen_device = run, checkpoint, device

    def setup(self, device: str) -> None:
        """Load the run."""
        from expctr.predictor import Predictor

        if parent := parent_process():
            end_with(parent.pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first of them ends this one
        try:
            self.predictor = Predictor.load(self.run, self.checkpoint, self.chosen_device)
        except (UserError, OSError) as error:
            print_error(error)
            logging.getLogger("litserve").setLevel(logging.CRITICAL)  # it would add a traceback
            raise
        users, titles = self.predictor.data.users, self.predictor.data.catalogue.items["title"]
        self.names = {kind: (names, names.str.to_lowercase()) for kind, names in (("users", users), ("items", titles))}

    def batch(self, inputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The requests as they are."""
        return [*inputs]

    def predict(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """An answer per request. Requests of one kind are answered at once; one that fails leaves the others alone."""
        kinds: dict[tuple[Any, Any], list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault((request["kind"], request.get("explain")), []).append(place)
        answers: dict[int, Reply] = {}
        for (kind, _), places in kinds.items():
            answer = {"score": self._score, "explain": self._explain}.get(kind, self._suggest)
            group = [requests[place] for place in places]
            try:
                found = answer(group)
            except Exception:
                found = [_alone(answer, request) for request in group]
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(requests))]

    def unbatch(self, output: list[Reply]) -> list[Reply]:
        """The answers as they are."""
        return output

    def _score(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        pairs = [pl.DataFrame(request["pairs"], schema=_SCHEMA) for request in requests]
        table = pl.concat(frame.with_columns(request=pl.lit(place)) for place, frame in enumerate(pairs))
        scored = self.predictor.score(table, explain=requests[0]["explain"]).drop(_SCHEMA)
        parts = scored.partition_by("request", maintain_order=True, include_key=False)
        return [Reply(body={"scores": part.to_dicts()}) for part in parts]

    def _explain(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        from expctr.data.query import make_query

        answers: list[Reply] = []
        queries = []
        for request in requests:
            titles = {name: request[name] or None for name in ("liked", "disliked")}
            try:
                queries.append(make_query(self.predictor.data, request["user"], target=request["target"], **titles))
                answers.append(Reply())
            except UserError as error:
                answers.append(_fault(error))
        found = iter(self.predictor.answer_all(queries))
        return [Reply(body=next(found)) if answer.status == 200 else answer for answer in answers]

    def _suggest(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        return [
            Reply(body={"names": suggestions(request["typed"], *self.names[request["kind"]])}) for request in requests
        ]


def end_with(parent: int | None) -> None:
    """End this process soon after its parent, which cannot end it if it is killed itself."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _alone(answer: Callable[[Sequence[Mapping[str, Any]]], list[Reply]], request: Mapping[str, Any]) -> Reply:
    try:
        return answer([request])[0]
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> Reply:
    """What a client is told: what to change in the request, but nothing of the server's code and files."""
    if isinstance(error, UserError) and not isinstance(error, DataError):
        return Reply(status=422, body=str(error))
    log.error("a request could not be answered", exc_info=error)
    return Reply(status=500, body="internal error")


def suggestions(typed: str, names: pl.Series, lower: pl.Series) -> list[str]:
    """Names that begin with or hold what is typed, or else the most similar ones.

    Args:
        typed: in any case.
        names: all of them.
        lower: the same in lower case.
    """
    typed = typed.lower()
    starting = names.filter(lower.str.starts_with(typed)).head(_SUGGESTIONS)
    holding = names.filter(lower.str.contains(typed, literal=True)).head(_SUGGESTIONS)
    return [*dict.fromkeys([*starting, *holding])][:_SUGGESTIONS] or nearest(typed, names)
