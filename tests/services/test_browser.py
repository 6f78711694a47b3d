"""Both UIs as a person uses them, in a real browser: form, run, what it left, two runs compared.

Every page is also kept as a picture beside the servers' logs, to look at where a claim fails.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.services.api import Api
from tests.services.servers import (
    answers,
    finetune,
    free_port,
    prefect_server,
    process,
    wait_for,
    worker_command,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.services, pytest.mark.slow]
RUN_SECONDS = 600
PLACES = "cellar attic garden kitchen library harbour workshop tower".split()
CONFIG = """
name: words
initialize: {{hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, vocab_size: 512}}
ingest: {{sources: [{{path: {data}}}]}}
filter: {{web_rules: none}}
split: {{minimum: 10}}
tokenize: {{max_length: 128}}
train: {{method: full, learning_rate: 3e-3, epochs: 8, batch_size: 16, precision: fp32}}
evaluate: {{precision: fp32, max_new_tokens: 48}}
gate: {{min_stopped: null, champion_p_value: null}}
"""


@dataclass(frozen=True)
class Person:
    """A browser before both servers, and two runs: as deployed, and with one number changed."""

    page: Page
    api: Api
    mlflow: str
    home: Path
    runs: tuple[str, str]

    def open(self, url: str) -> Page:
        self.page.goto(url)
        return self.page

    def open_artifacts(self, run: str, kind: str = "flow-run") -> Locator:
        """Open what stands beside a run, and return the cards."""
        self.open(f"{self.api.url.removesuffix('/api')}/runs/{kind}/{run}")
        self.page.get_by_text("Artifacts", exact=True).first.click()
        cards = self.page.locator(".artifact-card")
        cards.first.wait_for()
        return cards

    def open_artifact(self, run: str, key: str) -> Page:
        title = self.page.locator(".artifact-card__title", has_text=key)
        self.open_artifacts(run).filter(has=title).first.click()
        self.page.wait_for_url("**/artifact/**")
        return self.page

    def keep(self, name: str) -> None:
        self.page.screenshot(path=self.home / f"{name}.png")

    def mlflow_link(self, run: str) -> str:
        link = self.open_artifact(run, "mlflow").get_by_role("link", name="in MLflow")
        return str(link.get_attribute("href"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 960})
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def write_data(path: Path) -> None:
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    rows = (
        {
            "instruction": f"Where is {name} kept, and who looks after {names[i * 7 % len(names)]} there?",
            "output": f"{name} is kept in the {PLACES[i % 8]} beside {names[i * 11 % len(names)]}; "
            f"{names[i * 13 % len(names)]} looks after both until {names[i * 17 % len(names)]} comes back.",
        }
        for i, name in enumerate(names * 3)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def person(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    home = tmp_path_factory.mktemp("person")
    write_data(home / "data.jsonl")
    (home / "words.yaml").write_text(CONFIG.format(data=home / "data.jsonl"))
    mlflow_port = free_port()
    mlflow = f"http://127.0.0.1:{mlflow_port}"
    with ExitStack() as stack:
        env = stack.enter_context(prefect_server(home))
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", str(mlflow_port), "--backend-store-uri", env["MLFLOW_TRACKING_URI"]]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command += ["--artifacts-destination", str(home / "artifacts")]
        stack.enter_context(process(command, env | quiet, home / "mlflow.log"))
        wait_for(lambda: answers(f"{mlflow}/health"), said=f"MLflow, {home}")
        env["MLFLOW_TRACKING_URI"] = mlflow
        deployed = finetune(env, "deploy", str(home / "words.yaml"))
        assert deployed.returncode == 0, deployed.stderr
        stack.enter_context(process(worker_command("cpu"), env, home / "worker.log"))
        api = Api(env["PREFECT_API_URL"])
        first = api.start("pipeline/words")
        assert api.ended(first, RUN_SECONDS)["state_name"] == "Completed", home / "worker.log"
        second = run_with_another_learning_rate(page, api, home)
        assert api.ended(second, RUN_SECONDS)["state_name"] == "Completed", home / "worker.log"
        yield Person(page, api, mlflow, home, (first, second))


def run_with_another_learning_rate(page: Page, api: Api, home: Path) -> str:
    """Open the deployment, change one number in its form, send it, and return the run that begins."""
    deployment = api.deployments()["pipeline/words"]["id"]
    page.goto(f"{api.url.removesuffix('/api')}/deployments/deployment/{deployment}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    rate = field(page, "Learning Rate")
    rate.locator("input").fill("0.002")
    rate.scroll_into_view_if_needed()
    page.screenshot(path=home / "form.png")
    before = {run["id"] for run in api.runs("pipeline")}
    page.get_by_role("button", name="Submit").click()
    # Messages with a link to the run lie over each other for a moment; its page is opened by its address.
    begun = wait_for(lambda: {run["id"] for run in api.runs("pipeline")} - before, 60, "the run to begin")
    page.goto(f"{api.url.removesuffix('/api')}/runs/flow-run/{next(iter(begun))}")
    return str(next(iter(begun)))


def field(page: Page, title: str) -> Locator:
    """Return the form's entry under a title: what stands between its heading and the next."""
    heading = page.locator(":scope > .p-label__header .schema-form-property__label", has_text=title)
    return page.locator(".schema-form-property", has=heading).first


def test_the_run_has_the_one_number_that_was_changed_and_builds_only_what_depends_on_it(
    person: Person,
) -> None:
    first, second = (person.api.run(run)["parameters"]["config"] for run in person.runs)
    assert second.pop("train") == first.pop("train") | {"learning_rate": 0.002}
    assert second == first
    states = person.api.tasks(person.runs[1])
    built = {name for name, state in states.items() if state == "Built"}
    assert built == {"train", "merge", "evaluate", "audit", "gate", "report", "register"}
    assert states["tokenize"] == states["evaluate_base"] == "Cached"


def test_progress_funnel_and_report_stand_beside_the_run(person: Person) -> None:
    bar = person.open_artifacts(person.api.task(person.runs[0], "train"), "task-run").first
    assert {"progress", "train"} <= set(bar.inner_text().lower().split())
    person.keep("progress")
    person.open_artifacts(person.runs[0])
    person.keep("run")
    rows = person.open_artifact(person.runs[0], "funnel").locator("table tbody tr")
    rows.first.wait_for()
    person.keep("funnel")
    assert [text.split()[0] for text in rows.all_inner_texts()][:3] == ["ingest", "normalize", "scrub"]
    person.open_artifact(person.runs[0], "report").get_by_text("Fine-tuning report").wait_for()
    person.keep("report")


def test_the_link_leads_to_mlflow_where_two_runs_are_compared(person: Person) -> None:
    links = [person.mlflow_link(run) for run in person.runs]
    person.open(links[0]).get_by_text("Perplexity").first.wait_for()
    person.keep("mlflow-run")
    runs = json.dumps([link.rpartition("/")[2] for link in links])
    experiment = json.dumps([links[0].split("/experiments/")[1].split("/")[0]])
    compared = person.open(f"{person.mlflow}/#/compare-runs?runs={runs}&experiments={experiment}")
    compared.get_by_text("Comparing 2 Runs").wait_for()
    row = compared.locator("tr", has_text="train.learning_rate").first
    row.wait_for()
    row.scroll_into_view_if_needed()
    person.keep("mlflow-compare")
    assert {"0.003", "0.002"} <= set(row.inner_text().split())


def test_the_registered_versions_are_there_with_their_aliases(person: Person) -> None:
    page = person.open(f"{person.mlflow}/#/models/words")
    page.get_by_text("Version 2").first.wait_for()
    person.keep("mlflow-model")
    assert "champion" in page.inner_text("body")
