"""`expctr serve RUN`: scores and explanations over HTTP, and a page to ask for them."""

import argparse
import errno
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.resources import files
from math import inf
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import litserve as ls  # type: ignore[import-untyped]
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from litserve.server import RegularRequestHandler  # type: ignore[import-untyped]
from starlette.middleware.trustedhost import TrustedHostMiddleware

from expctr import __version__
from expctr.errors import UserError, check_range, exit_with_error, print_error
from expctr.run_folder import find_run
from expctr.serving.connections import ImpatientProtocol, allow_more_files
from expctr.serving.schemas import Endpoint, ExplainRequest, Names, Reply, ScoreRequest, ScoreResponse
from expctr.serving.worker import QUEUE, ModelWorker, end_with
from expctr.untrusted import printable

LOOPBACK = "127.0.0.1"
MAX_BYTES = 1 << 20
"""The most bytes in a request's body."""
_WAITING = 2048  # connections that wait to be taken, as uvicorn has them
_GRACE = 9.0  # seconds; Docker kills after ten
_LISTENER = "LitServer"  # how the name of the process begins that answers
_ending, _lost = threading.Event(), threading.Event()  # this server; one of its processes
_HIDDEN = {"/", QUEUE, "/info", "/docs", "/docs/oauth2-redirect", "/redoc"}  # /docs would load scripts from elsewhere
_MAX_FAULTS, _LONGEST = 20, 100  # faults of a request that are told, and characters of a field's name
_MESSAGES = {"model_attributes_type": "no JSON object. Fix: send one, with the header Content-Type: application/json"}
_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def main(args: Sequence[str]) -> None:
    """Run `expctr serve`."""
    parser = argparse.ArgumentParser(
        prog="expctr serve", description="Serve a trained run over HTTP: POST /score, POST /explain, and a page at /."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--port", type=int, default=8000, help="1024 to 65535; default 8000")
    parser.add_argument(
        "--host",
        choices=(LOOPBACK, "0.0.0.0", "::"),
        default=LOOPBACK,
        help="0.0.0.0 or :: also answers other machines",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; cuda:1 for one of several")
    parser.add_argument("--ckpt_path", help="the checkpoint; default the run's newest")
    parser.add_argument("--timeout", type=float, default=120, help="seconds that a request may wait; default 120")
    options = parser.parse_args(args)
    try:
        run = find_run(options.run).resolve()
        check_range("serve", options, port=(1024, 65535), timeout=(1, inf))
        check_temporary_folder()
        listener = listen(options.host, options.port)
    except UserError as error:
        exit_with_error(error)
    server = make_server(run, options.ckpt_path, options.device, options.host, options.timeout)
    print(
        f"loading {printable(str(run))}; http://{options.host}:{options.port}/ answers after that; Ctrl-C stops it",
        flush=True,
    )
    serve(server, options.host, options.port, listener)


def listen(host: str, port: int) -> socket.socket:
    """Listen before the model is loaded, which takes minutes: another server could take a port that is only bound.

    Requests wait until then.

    Raises:
        UserError: the port is in use, or the machine has no such host.
    """
    try:
        return _listener(host, port)
    except OSError as error:
        option, value = ("port", port) if error.errno in (errno.EADDRINUSE, errno.EACCES) else ("host", host)
        raise UserError(f"{option}: {value} cannot be used: {error.strerror}. Fix: choose another {option}") from error


def _listener(host: str, port: int) -> socket.socket:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_WAITING)
        stack.pop_all()  # it stays open
    return listener


def check_temporary_folder() -> None:
    """Refuse a folder for temporary files in which processes cannot meet, with a `UserError`: its path may be long."""
    try:
        with tempfile.TemporaryDirectory(prefix="pymp-") as folder, socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{folder}/listener-12345678")  # as the standard library's processes do
    except OSError as error:
        raise UserError(
            f"TMPDIR: processes cannot meet in {tempfile.gettempdir()}: {error.strerror or error}. "
            "Fix: set TMPDIR to a folder with a short path and space"
        ) from error


def serve(server: ls.LitServer, host: str, port: int, listener: socket.socket) -> None:
    """Answer who asks the listener, until SIGINT, SIGTERM or SIGHUP (unless it is ignored).

    All processes end within seconds then.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    allow_more_files()
    multiprocessing.set_start_method("fork", force=True)  # for LitServe's manager, too, before any thread starts
    os.register_at_fork(after_in_child=partial(end_with, os.getpid()))
    watch = threading.Thread(target=_end_with_any, daemon=True)
    watch.start()
    try:
        server.run(
            host=host,
            port=port,
            fd=listener.fileno(),
            num_api_servers=1,
            generate_client_file=False,
            log_level="warning",
            http=ImpatientProtocol,
            ws="none",
        )
    except RuntimeError as error:
        if "failed to start" not in str(error):
            raise
        raise SystemExit(2) from None  # the model's process has said why
    except (EOFError, OSError):
        if not _lost.wait(2):
            raise
    if _lost.is_set():
        watch.join()  # LitServe has seen it, too; this thread ends the process


def _end_with_any() -> None:
    """End this process if another one of the server is killed: LitServe would let requests wait, some for ever."""
    family, lost = set[BaseProcess](), list[BaseProcess]()
    while not lost:
        family |= {*multiprocessing.active_children()}
        # the last that starts is the one that listens; what ends before it is seen here is never seen
        is_whole = any(child.name.startswith(_LISTENER) for child in family)
        wait([child.sentinel for child in family], timeout=1 if is_whole else 0.02)
        ended = {child for child in family if child.exitcode is not None}
        lost, family = [*filter(_is_lost, ended)], family - ended
    if not _ending.is_set():
        _lost.set()
        logging.getLogger("litserve").setLevel(logging.CRITICAL)  # it ends what is ended here
        first = min(lost, key=lambda child: child.exitcode or 0)  # by a signal: the others end because of it
        code = first.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else "an error"
        which = "the model's process" if first.name.startswith("inference") else "a process of the server"
        why = "; where memory runs out, the system does" if code == -signal.SIGKILL else ""
        print_error(UserError(f"{how} ended {which}{why}. Fix: start it again"))
        _end_others(grace=1.0)
        os._exit(1)


def _is_lost(child: BaseProcess) -> bool:
    """Whether a process was ended by a signal or an error, or the one that listens has ended."""
    return child.exitcode != 0 or child.name.startswith(_LISTENER)


def _end(number: int, frame: FrameType | None) -> None:
    _ending.set()
    _end_others(_GRACE)
    os._exit(0)  # LitServe's own way out waits for processes that are gone


def _end_others(grace: float) -> None:
    """End the other processes: the one that listens may finish its answers, for a few seconds; then the model's.

    Last comes the manager of the queue between them, without which the others end with a traceback.
    """
    children = multiprocessing.active_children()
    end = time.monotonic() + grace
    for child in sorted(children, key=lambda child: (not child.name.startswith(_LISTENER), "Manager" in child.name)):
        child.terminate()
        child.join(max(0.0, end - time.monotonic()))
        child.kill()


def make_server(
    run: Path, checkpoint: str | None = None, device: str = "auto", host: str = LOOPBACK, timeout: float = 120
) -> ls.LitServer:
    """A server that is not yet running.

    Args:
        run: the run's folder.
        checkpoint: a path; null for the newest.
        device: as of `Predictor.load`.
        host: on the loopback address only requests for this machine's own names are answered, so that no page of
            another site can ask by a name of its own.
        timeout: seconds that a request may wait.
    """
    middlewares: list[Any] = []
    if host == LOOPBACK:
        middlewares.append((TrustedHostMiddleware, {"allowed_hosts": [LOOPBACK, "localhost"]}))
    worker = ModelWorker(run, checkpoint, device)
    server = ls.LitServer(
        worker, accelerator="cpu", devices=1, timeout=timeout, max_payload_size=MAX_BYTES, middlewares=middlewares
    )
    app = server.app
    app.title, app.version = "expctr", __version__
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", "") not in _HIDDEN]
    add_routes(app, RegularRequestHandler(worker, server))
    return server


def add_routes(app: FastAPI, queue: RegularRequestHandler) -> None:
    """The endpoints: each checks its request here, and hands it to the model's process."""

    async def forward(kind: Endpoint, **request: Any) -> Any:
        answer = cast(Reply, await queue.handle_request({"kind": kind, **request}, dict))
        if answer.status != 200:
            raise HTTPException(answer.status, str(answer.body))
        return answer.body

    @app.middleware("http")
    async def own_pages_only(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Browsers say where a request comes from: no other site's page may ask, but any may link to the page here."""
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and request.url.path != "/":
            return JSONResponse({"detail": "a page of another site asks"}, 403)
        return await call_next(request)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        """What is wrong, and where, without the input, which may be huge or no text at all."""
        detail = [
            {
                "loc": [part[:_LONGEST] if isinstance(part, str) else part for part in fault["loc"]],
                "msg": _MESSAGES.get(fault["type"], fault["msg"]).removeprefix("Value error, "),
                "type": fault["type"],
            }
            for fault in error.errors()[:_MAX_FAULTS]
        ]
        return JSONResponse({"detail": detail}, 422)

    @app.post("/score", response_model=ScoreResponse)
    async def score(request: ScoreRequest) -> Any:
        """Score pairs of a user and an item, by ids or by titles."""
        return await forward("score", **request.model_dump())

    @app.post("/explain")
    async def explain(request: ExplainRequest) -> dict[str, Any]:
        """Explain one choice: the sentence, the scores, and what each title of the history does to them."""
        return cast(dict[str, Any], await forward("explain", **request.model_dump()))

    @app.get("/users", response_model=Names)
    async def users(typed: Annotated[str, Query(max_length=200)] = "") -> Any:
        """Users whose ids are like what is typed."""
        return await forward("users", typed=typed)

    @app.get("/items", response_model=Names)
    async def items(typed: Annotated[str, Query(max_length=500)] = "") -> Any:
        """Items whose titles are like what is typed."""
        return await forward("items", typed=typed)

    page = (files("expctr.serving") / "page.html").read_text("utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})
