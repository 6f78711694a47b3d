"""Suites: named tasks of lm-eval (EleutherAI's LM Evaluation Harness), as scores beside the others.

A suite is a task, group or tag that lm-eval knows, or a task file (YAML) in a folder of one's own, whose
relative paths start at that folder: with data in local files a suite needs no network. Prompts, few-shot
examples, metrics and standard errors are lm-eval's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NORMAL_95 = 1.959964
"""Half the width of a 95 % interval in standard errors, under the normal distribution."""
DRAWS = 1_000
"""Bootstrap draws for standard errors without a formula; lm-eval's default is a hundred times as many."""
BATCH_ROWS = 16
SEPARATOR = "/"


def require_lm_eval() -> None:
    """Raise ConfigError, with the command that installs it, where lm-eval is missing."""
    if find_spec("lm_eval") is None:
        raise ConfigError("evaluate.suites needs lm-eval: pip install 'finetune-flows[suites]'")


def run_suites(
    config: Mapping[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return the scores of the config's suites, by ``suite/metric``, and lm-eval's version.

    A score has its value, the ends of its 95 % interval and its standard error where lm-eval gives one, and
    whether more of it is better. ConfigError for a suite that lm-eval does not know, DataError for one that
    it cannot run.
    """
    require_lm_eval()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    folder = Path(config["suites_path"] or ".").expanduser()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.chdir(folder):
        tasks = _tasks(config)
        try:
            found: Any = simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_ROWS),
                tasks=list(config["suites"]),
                task_manager=tasks,
                limit=config["suites_limit"],
                bootstrap_iters=DRAWS,
                log_samples=False,
            )
        except Exception as error:  # of any library that a task file names
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"evaluate.suites: lm-eval cannot run {', '.join(config['suites'])} ({said}); "
                "where their data have to come from a hub, fetch them before"
            ) from error
    return {"scores": dict(_scores(found)), "lm_eval": found["lm_eval_version"]}


def _tasks(config: Mapping[str, Any]) -> Any:
    """Return lm-eval's index of tasks: the folder's alone where it has all that is asked for."""
    from lm_eval.tasks import TaskManager

    wanted = set(config["suites"])
    own = TaskManager(include_path=".", include_defaults=False) if config["suites_path"] else None
    if own is not None and wanted <= set(own.all_tasks):
        return own
    every = TaskManager(include_path="." if config["suites_path"] else None)
    if unknown := sorted(wanted - set(every.all_tasks)):
        raise ConfigError(
            f"evaluate.suites: lm-eval knows no {', '.join(map(repr, unknown))}; `lm-eval ls tasks` lists "
            "what it has, evaluate.suites_path names a folder of further ones"
        )
    return every


def _scores(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every figure of every suite, under the suite's name and the metric's."""
    for suite, figures in {**found["results"], **found.get("groups", {})}.items():
        for key, value in figures.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = SEPARATOR.join([suite, metric, *([] if filtered == "none" else [filtered])])
            better = found["higher_is_better"].get(suite, {}).get(metric)
            yield name, _score(float(value), figures.get(f"{metric}_stderr,{filtered}"), better)


def _score(value: float, error: Any, higher_is_better: bool | None) -> dict[str, Any]:
    score: dict[str, Any] = {"value": value, "higher_is_better": higher_is_better is not False}
    if isinstance(error, int | float):
        score |= {"low": value - NORMAL_95 * error, "high": value + NORMAL_95 * error, "stderr": float(error)}
    return score
