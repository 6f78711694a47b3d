"""Completions: replies of a chat model behind any OpenAI-compatible endpoint, each asked for once.

A *request* is the JSON body of ``POST <endpoint>/chat/completions``. What came back is kept in a file named
by the hash of the request before anything else is done with it: whoever asks again, after a kill or with
more seeds, pays only for what was not answered yet. Requests run side by side at a set pace; an endpoint
that is busy, slow or away is asked again after a while, up to ``TRIES`` times.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    import httpx

TRIES = 6
FIRST_WAIT = 1.0
"""Seconds until the second try; each further wait is twice as long, or as long as the endpoint says."""
LONGEST_WAIT = 120.0
BUSY = (408, 409, 425, 429)
Request = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a model said, and why it stopped: ``stop``, ``length``, ``content_filter`` or another."""

    text: str
    finish: str


@dataclass
class _Pace:
    """Lets requests begin no faster than so many a minute."""

    per_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def seconds(self) -> float:
        """Return how long the next request has to wait, whose turn this is then."""
        if self.per_minute is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 60 / self.per_minute
        return begin - now


class Endpoint:
    """The endpoint of the settings, with what it has answered so far in ``directory``."""

    def __init__(self, directory: Path) -> None:
        """Look at the settings; ConfigError where they name no endpoint."""
        own = settings()
        if own.endpoint_url is None:
            raise ConfigError(
                "augment needs an OpenAI-compatible endpoint: set FINETUNE_ENDPOINT_URL "
                "(such as http://localhost:8000/v1) and, where it wants one, FINETUNE_ENDPOINT_KEY"
            )
        self._url = own.endpoint_url.rstrip("/")
        self._headers = (
            {"Authorization": f"Bearer {own.endpoint_key.get_secret_value()}"} if own.endpoint_key else {}
        )
        self._timeout, self._parallel = own.endpoint_timeout, own.endpoint_parallel
        self._pace = _Pace(own.endpoint_requests_per_minute)
        self._directory = directory
        self._stopped = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)

    def replies(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield the reply to each request, in their order, with a few for each connection under way.

        ServiceError where the endpoint does not answer, ConfigError where it refuses the request or the key.
        """
        import httpx

        waiting: deque[Future[Reply]] = deque()
        with (
            httpx.Client(headers=self._headers, timeout=self._timeout) as client,
            ThreadPoolExecutor(self._parallel) as pool,
        ):
            try:
                for request in requests:
                    waiting.append(pool.submit(self._reply, client, request))
                    if len(waiting) > 4 * self._parallel:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # One has failed, or nobody wants more: those under way end, the others never begin.
                self._stopped.set()
                pool.shutdown(cancel_futures=True)

    def _reply(self, client: httpx.Client, request: Request) -> Reply:
        body = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
        place = self._directory / f"{hashlib.sha256(body).hexdigest()}.json"
        if (known := _known(place)) is not None:
            return known
        reply = self._asked(client, body)
        fresh = place.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        fresh.write_bytes(orjson.dumps({"text": reply.text, "finish": reply.finish}))
        fresh.replace(place)
        return reply

    def _asked(self, client: httpx.Client, body: bytes) -> Reply:
        wait, why = FIRST_WAIT, ""
        for left in range(TRIES - 1, -1, -1):
            self._stopped.wait(self._pace.seconds())
            if self._stopped.is_set():
                break
            outcome = self._try(client, body)
            if isinstance(outcome, Reply):
                return outcome
            why = outcome.why
            if left:
                self._stopped.wait(min(LONGEST_WAIT, max(wait, outcome.seconds)))
                wait *= 2
        raise ServiceError(
            f"{self._url}: no reply after {TRIES} tries ({why}); "
            "run again when it answers, the replies so far are kept"
        )

    def _try(self, client: httpx.Client, body: bytes) -> Reply | _Later:
        import httpx

        try:
            answer = client.post(
                f"{self._url}/chat/completions", content=body, headers={"Content-Type": "application/json"}
            )
        except httpx.InvalidURL as error:
            raise ConfigError(f"FINETUNE_ENDPOINT_URL {self._url!r} is no address ({error})") from error
        except httpx.UnsupportedProtocol as error:
            raise ConfigError(
                f"FINETUNE_ENDPOINT_URL {self._url!r} begins with neither http nor https"
            ) from error
        except httpx.TimeoutException:
            return _Later(f"nothing came within {self._timeout:g} s")
        except httpx.TransportError as error:
            return _Later(" ".join(str(error).split()) or type(error).__name__)
        if answer.status_code in BUSY or answer.status_code >= 500:
            return _Later(f"HTTP {answer.status_code}", _seconds(answer.headers.get("Retry-After")))
        if answer.status_code != 200:
            raise self._refused(answer)
        return _read(answer.content) or _Later("its answer is no chat completion")

    def _refused(self, answer: httpx.Response) -> ConfigError:
        advice = {401: "check FINETUNE_ENDPOINT_KEY", 403: "check FINETUNE_ENDPOINT_KEY"}.get(
            answer.status_code, "check augment.model and FINETUNE_ENDPOINT_URL"
        )
        said = " ".join(answer.text.split())[:200]
        return ConfigError(f"{self._url} refuses the request: HTTP {answer.status_code} {said}; {advice}")


@dataclass(frozen=True)
class _Later:
    """Why there is no reply yet, and how many seconds the endpoint wants to be left alone."""

    why: str
    seconds: float = 0.0


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0  # a date: the usual wait will do


def _read(content: bytes) -> Reply | None:
    """Return the first choice of a chat completion; None where the bytes hold none."""
    try:
        choice = orjson.loads(content)["choices"][0]
        return Reply(str(choice["message"].get("content") or ""), str(choice.get("finish_reason") or "stop"))
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None


def _known(place: Path) -> Reply | None:
    try:
        kept = orjson.loads(place.read_bytes())
        return Reply(kept["text"], kept["finish"])
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError):
        return None
