"""A chat completions endpoint on this machine, which answers as it is told to and remembers who asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests import loopback

Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body of an HTTP response."""


def completion(text: str, finish: str = "stop") -> Answer:
    """Return a chat completion with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    whole = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 3}}
    return 200, {"Content-Type": "application/json"}, json.dumps(whole).encode()


def rewritten(body: Mapping[str, Any]) -> Answer:
    """Return the conversation that is shown, every message with a word before it that the seed gives."""
    prompt = body["messages"][-1]["content"]
    shown = json.loads(
        next(
            line
            for line in prompt.splitlines()
            if line.startswith('{"messages": [{') or line.startswith('{"messages":[{')
        )
    )
    said = [{**one, "content": f"Version {body['seed']}: {one['content']}"} for one in shown["messages"]]
    return completion(f"Here it is:\n```json\n{json.dumps({'messages': said})}\n```")


@dataclass
class Server:
    """The endpoint's address, what it was asked in which order, and when."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(answer: Callable[[Mapping[str, Any], int], Answer]) -> Iterator[Server]:
    """Serve ``answer(request, how often it was asked before)`` at a free port."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(raw)
            with state._lock:
                before = sum(one == body for one in state.asked)
                state.asked.append(body)
                state.times.append(time.monotonic())
                state.keys.add(self.headers["Authorization"])
                state._now += 1
                state.most_at_once = max(state.most_at_once, state._now)
            status, headers, content = (
                answer(body, before) if self.path == "/v1/chat/completions" else (404, {}, b"no such path")
            )
            with state._lock:
                state._now -= 1
                if status == 200:
                    state.answered.append(raw.decode())
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                return  # who asked is gone

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with loopback.serving(Handler) as address:
        state.url = f"{address}/v1"
        yield state
