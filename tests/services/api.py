"""Prefect's API as the tests ask it: plain HTTP, no client of Prefect's."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.services.servers import wait_for

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Api:
    """One server."""

    url: str

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def deployments(self) -> dict[str, dict[str, Any]]:
        flows = {flow["id"]: flow["name"] for flow in self.ask("/flows/filter", {})}
        found = self.ask("/deployments/filter", {})
        return {f"{flows[one['flow_id']]}/{one['name']}": one for one in found}

    def start(self, deployment: str, **parameters: Any) -> str:
        one = self.deployments()[deployment]
        run = self.ask(f"/deployments/{one['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def run(self, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/flow_runs/{identity}")
        return found

    def runs(self, flow: str | None = None) -> list[dict[str, Any]]:
        names = {"flows": {"name": {"any_": [flow]}}} if flow else {}
        found: list[dict[str, Any]] = self.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", **names})
        return found

    def tasks(self, identity: str) -> dict[str, str]:
        """Return the names of a run's task runs with their states' names."""
        return {name: one["state_name"] for name, one in self._tasks(identity).items()}

    def task(self, identity: str, name: str) -> str:
        """Return the id of a run's task run."""
        return str(self._tasks(identity)[name]["id"])

    def _tasks(self, identity: str) -> dict[str, dict[str, Any]]:
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [identity]}}})
        return {one["name"].rsplit("-", 1)[0]: one for one in found}

    def ended(self, identity: str, seconds: float = 120) -> dict[str, Any]:
        """Return a run when it has ended."""
        return self.becomes(identity, *FINAL, seconds=seconds)

    def becomes(self, identity: str, *types: str, seconds: float = 120) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            try:
                run = self.run(identity)
            except (urllib.error.URLError, OSError):
                time.sleep(1)
                return None
            return run if run["state_type"] in types else None

        found: dict[str, Any] = wait_for(look, seconds, f"run {identity} {' or '.join(types)}")
        return found
