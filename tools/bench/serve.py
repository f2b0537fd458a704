"""`expctr serve RUN` under load: seconds until it answers, and requests per second and waiting times of its clients.

    python -m tools.bench.serve runs/quickstart                # 50 clients for a minute, against one client
    python -m tools.bench.serve runs/quickstart --clients 10 --seconds 20

Each client sends its next request when it has the answer to the last: a user of the run and an item, both at random.
`score` asks for scores of ten items without sentences, `sentence` for one item with one, `explain` also for what each
title of the history does to the scores. Every answer but 200 counts as an error. Times are in milliseconds. The last
line is JSON.
"""

import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from expctr.predictor import Predictor
from tools.runs import COMMAND, script

Names = tuple[list[str], list[str]]
"""The ids of users, and of items."""


def main() -> None:
    """Measure, and print."""
    parser = script(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    own = parser.parse_args()
    data = Predictor.load(own.run).data
    names = data.users.to_list(), data.catalogue.items["item"].to_list()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    server = subprocess.Popen([*COMMAND, "serve", str(own.run), "--port", str(port)], stdout=sys.stderr)
    try:
        while not is_ready(port):
            if server.poll() is not None:
                raise SystemExit(f"expctr serve ended with exit code {server.returncode}")
            time.sleep(0.1)
        found: dict[str, object] = {"ready_s": round(time.monotonic() - began, 1)}
        print(f"ready after {found['ready_s']} s")
        for kind, (path, body) in KINDS.items():
            alone = measure(port, path, body, names, 1, own.seconds / 4)
            together = measure(port, path, body, names, own.clients, own.seconds)
            found |= {f"{kind}, 1 client": alone, f"{kind}, {own.clients} clients": together}
        assert is_ready(port), "the server no longer answers"
    finally:
        server.terminate()
        server.wait(30)
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{name:20}", *(f"{key} {number}" for key, number in value.items()), sep="   ")
    print(json.dumps(found))


def is_ready(port: int) -> bool:
    """Return whether the server is ready."""
    try:
        return send(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/health", None) == 200
    except OSError:
        return False


def send(connection: http.client.HTTPConnection, method: str, path: str, body: object) -> int:
    """Return the status of the answer, after reading it whole."""
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def score_request(chance: random.Random, names: Names) -> object:
    """A request for scores without sentences."""
    user = chance.choice(names[0])
    pairs = [{"user": user, "item": item} for item in chance.sample(names[1], min(10, len(names[1])))]
    return {"pairs": pairs, "explain": False}


def sentence_request(chance: random.Random, names: Names) -> object:
    """A request for a score with its sentence."""
    return {"pairs": [{"user": chance.choice(names[0]), "item": chance.choice(names[1])}]}


def explain_request(chance: random.Random, names: Names) -> object:
    """A request for one explanation."""
    return {"user": chance.choice(names[0]), "target": f"id:{chance.choice(names[1])}"}


KINDS = {
    "score": ("/score", score_request),
    "sentence": ("/score", sentence_request),
    "explain": ("/explain", explain_request),
}
"""Kinds of request: the path, and the function that makes a body."""


def measure(
    port: int,
    path: str,
    make: Callable[[random.Random, Names], object],
    names: Names,
    clients: int,
    seconds: float,
) -> dict[str, float]:
    """Return requests per second, the median and the 95th percentile of the waiting times, and the errors."""
    end = time.monotonic() + seconds

    def work(seed: int) -> list[tuple[float, bool]]:
        chance = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        waits = []
        while (start := time.monotonic()) < end:
            try:
                good = send(connection, "POST", path, make(chance, names)) == 200
            except (OSError, http.client.HTTPException):
                good = False
                connection.close()
            waits.append((time.monotonic() - start, good))
        return waits

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        waits = [one for client in pool.map(work, range(clients)) for one in client]
    spent = time.monotonic() - began
    times = pl.Series([1000 * wait for wait, _ in waits])
    return {
        "requests_per_s": round(len(waits) / spent, 2),
        "p50_ms": round(times.quantile(0.5) or 0),
        "p95_ms": round(times.quantile(0.95) or 0),
        "errors": sum(not good for _, good in waits),
    }


if __name__ == "__main__":
    main()
