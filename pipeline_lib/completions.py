"""Completions: replies of a model behind any OpenAI-compatible endpoint, each asked for once.

A *request* is the JSON body of ``POST <endpoint>/chat/completions`` or ``/completions``. What came back is
kept in a file named by the hash of the request before anything else is done with it: whoever asks again,
after a kill or with more requests, pays only for what was not answered yet. Requests run side by side at a
set pace; an endpoint that is busy, slow or away is asked again after a while, up to ``TRIES`` times.
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
from typing import TYPE_CHECKING, Any, Literal

import orjson

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.settings import Settings, settings

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

TRIES = 6
FIRST_WAIT = 1.0
"""Seconds until the second try; each further wait is twice as long, or as long as the endpoint says."""
LONGEST_WAIT = 120.0
BUSY = (408, 409, 425, 429)
Request = Mapping[str, Any]
Sort = Literal["chat/completions", "completions"]


@dataclass(frozen=True)
class Reply:
    """What a model said, and why it stopped: ``stop``, ``length``, ``content_filter`` or another."""

    text: str
    finish: str
    tokens: int | None = None
    """How many tokens it is made of, where the endpoint says."""


@dataclass(frozen=True)
class Access:
    """Where an endpoint is, with which key, and what to look at where it refuses."""

    url: str
    key: SecretStr | None
    sort: Sort
    named: str
    """The setting that names the address, without FINETUNE_ and _URL."""
    model: str
    """The key of the config that names the model."""


def for_augment() -> Access:
    """Return the endpoint that writes conversations; ConfigError where the settings name none that can be."""
    return _common(settings(), "chat/completions", "augment", "augment.model")


def for_evaluate() -> Access:
    """Return the endpoint that serves the models under test: its own address, or else the common one.

    ConfigError where the settings name neither, or what is no address.
    """
    own = settings()
    if own.evaluate_endpoint_url is None:
        return _common(own, "completions", "evaluate.endpoint", "evaluate.endpoint")
    url = _checked(own.evaluate_endpoint_url, "EVALUATE_ENDPOINT")
    return Access(url, own.evaluate_endpoint_key, "completions", "EVALUATE_ENDPOINT", "evaluate.endpoint")


def _common(own: Settings, sort: Sort, who: str, model: str) -> Access:
    if own.endpoint_url is None:
        raise ConfigError(
            f"{who} needs an OpenAI-compatible endpoint: set FINETUNE_ENDPOINT_URL "
            "(such as http://localhost:8000/v1) and, where it wants one, FINETUNE_ENDPOINT_KEY"
        )
    return Access(_checked(own.endpoint_url, "ENDPOINT"), own.endpoint_key, sort, "ENDPOINT", model)


def _checked(url: str, named: str) -> str:
    """Return the address where requests can be sent to it; ConfigError where they cannot."""
    import httpx

    try:
        if httpx.URL(url).scheme in ("http", "https"):
            return url
    except httpx.InvalidURL as error:
        raise ConfigError(f"FINETUNE_{named}_URL {url!r} is no address ({error})") from error
    raise ConfigError(f"FINETUNE_{named}_URL {url!r} begins with neither http nor https")


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
    """An endpoint, with what it has answered so far in ``directory``."""

    def __init__(self, access: Access, directory: Path) -> None:
        """Take address and key from ``access``, the pace from the settings."""
        own = settings()
        self._access, self._url = access, access.url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {access.key.get_secret_value()}"} if access.key else {}
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
        fresh.write_bytes(orjson.dumps(vars(reply)))
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
                f"{self._url}/{self._access.sort}",
                content=body,
                headers={"Content-Type": "application/json"},
            )
        except httpx.TimeoutException:
            return _Later(f"nothing came within {self._timeout:g} s")
        except httpx.TransportError as error:
            return _Later(" ".join(str(error).split()) or type(error).__name__)
        if answer.status_code in BUSY or answer.status_code >= 500:
            return _Later(f"HTTP {answer.status_code}", _seconds(answer.headers.get("Retry-After")))
        if answer.status_code != 200:
            raise self._refused(answer)
        return _read(answer.content) or _Later(
            f"its answer is no {self._access.sort.removesuffix('s').replace('/', ' ')}"
        )

    def _refused(self, answer: httpx.Response) -> ConfigError:
        named = f"FINETUNE_{self._access.named}"
        advice = f"check {self._access.model} and {named}_URL"
        if answer.status_code in (401, 403):
            advice = f"check {named}_KEY"
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
    """Return the first choice of a completion of either sort; None where the bytes hold none."""
    try:
        whole = orjson.loads(content)
        choice = whole["choices"][0]
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        tokens = (whole.get("usage") or {}).get("completion_tokens")
        return Reply(str(text or ""), str(choice.get("finish_reason") or "stop"), tokens)
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None


def _known(place: Path) -> Reply | None:
    try:
        kept = orjson.loads(place.read_bytes())
        return Reply(kept["text"], kept["finish"], kept.get("tokens"))
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError):
        return None
