"""Requests to `expctr serve`, from almost right to hostile."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from hypothesis import strategies as st
from starlette.testclient import TestClient

from expctr.serving.schemas import Reply
from expctr.serving.server import add_routes
from expctr.serving.worker import ModelWorker
from tools.fuzz.check import FaultError, answered
from tools.fuzz.texts import TITLE

_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TITLE),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TITLE, inner, max_size=4)),
    max_leaves=12,
)
_ID = st.one_of(st.sampled_from(["1", "2", 3, "nobody", ""]), _ANY)
_LIST = st.one_of(st.lists(st.one_of(st.just("Film 1, The"), TITLE), max_size=4), _ANY)
_TARGET = st.one_of(st.sampled_from(["Film 2, The", "id:3", "id:", "New"]), _ANY)


def _record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_PAIR = st.one_of(
    _record(user=_ID, item=_ID, liked_titles=_LIST, disliked_titles=_LIST, target_title=_TARGET),
    st.just({"user": "1", "item": "2"}),
    _ANY,
)
BODIES = {
    "/score": st.one_of(_record(pairs=st.lists(_PAIR, max_size=4), explain=st.just(False)), _ANY),
    "/explain": st.one_of(
        _record(user=_ID, target=_TARGET), _record(liked=_LIST, disliked=_LIST, target=_TARGET), _ANY
    ),
    "/users": st.dictionaries(st.just("typed"), TITLE),
    "/items": st.dictionaries(st.just("typed"), TITLE),
    "/nowhere": _ANY,
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path and body."""
    path = draw(st.sampled_from([*BODIES]))
    body = json.dumps(draw(BODIES[path])).encode()
    if draw(st.integers(0, 9)) == 0:
        body = draw(st.one_of(st.binary(max_size=40), st.just(body[:-1]), st.just(b"[" * 5000)))
    method = "GET" if path in ("/users", "/items") else "POST"
    return draw(st.sampled_from([*[method] * 9, "PUT"])), path, body


def client(worker: ModelWorker) -> TestClient:
    """A client of the endpoints, whose requests one loaded worker answers."""

    class Queue:
        async def handle_request(self, request: Mapping[str, Any], _: type) -> Reply:
            return worker.predict([request])[0]

    app = FastAPI()
    add_routes(app, Queue())  # type: ignore[arg-type]
    return TestClient(app, raise_server_exceptions=False)


def try_request(asked: TestClient, request: tuple[str, str, bytes]) -> None:
    """Send it: the answer is 200 or 4xx, and tells nothing of the server's files and code."""
    method, path, body = request
    with answered():
        try:
            params = json.loads(body) if method == "GET" else None
        except (ValueError, RecursionError):
            params = None
        params = params if isinstance(params, dict) else None
        given = {"content": body, "headers": {"Content-Type": "application/json"}} if method != "GET" else {}
        if params:
            given["params"] = {key: str(value).encode("utf-8", "replace").decode() for key, value in params.items()}
        answer = asked.request(method, path, **given)
        if answer.status_code >= 500:
            raise FaultError(f"{method} {path}: status {answer.status_code}")
        if answer.status_code >= 400 and any(word in answer.text for word in ("Traceback", '.py"', "/site-packages")):
            raise FaultError(f"{method} {path}: {answer.text[:300]}")
