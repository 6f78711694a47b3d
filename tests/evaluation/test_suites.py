"""lm-eval's suites beside our scores, and our likelihoods beside lm-eval's on the same model and text."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

import pipeline_lib
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.evaluation.evaluate import EvaluateConfig, read_outside
from pipeline_lib.evaluation.suites import require_lm_eval

BUNDLED = Path(pipeline_lib.__file__).parent / "bundled" / "pydocs-5m"
ROOT = Path(pipeline_lib.__file__).parents[1]
needs_lm_eval = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'finetune-flows[suites]'"
)
TASK = """\
task: lists
dataset_path: json
dataset_kwargs: {data_files: {test: lists.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
QUESTIONS = [
    {"question": "Return a new", "choices": [" list", " zebra"], "answer": 0},
    {"question": "Return True if", "choices": [" qqqq", " the"], "answer": 1},
    {"question": "the value of", "choices": [" xylo", " the"], "answer": 0},
    {"question": "If the argument is", "choices": [" omitted", " Wwvv"], "answer": 0},
]
RUN = """
    import json, sys
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
"""


def suite(directory: Path) -> Path:
    directory.mkdir()
    (directory / "lists.yaml").write_text(TASK, encoding="utf-8")
    (directory / "lists.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS), encoding="utf-8")
    return directory


def in_a_process(code: str, *arguments: str) -> dict[str, object]:
    """What the code prints last, run where the child runs: lm-eval sets up logging and more on import."""
    program = textwrap.dedent(RUN) + textwrap.dedent(code)
    ran = subprocess.run(
        [sys.executable, "-c", program, str(BUNDLED), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, object] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


@needs_lm_eval
@pytest.mark.slow
def test_a_suite_of_local_files_needs_no_network_and_counts_as_a_hand_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = suite(tmp_path / "suite")
    found = in_a_process(
        """
        from pipeline_lib.evaluation.evaluate import EvaluateConfig
        from pipeline_lib.evaluation.suites import run_suites
        config = EvaluateConfig(suites=("lists",), suites_path=sys.argv[2]).model_dump(mode="json")
        def loss(question, choice):
            before = len(tokenizer(question)["input_ids"])
            ids = torch.tensor([tokenizer(question + choice)["input_ids"]])
            with torch.no_grad():
                chances = torch.log_softmax(model(ids).logits[0], -1)
            return -sum(float(chances[i - 1, ids[0, i]]) for i in range(before, ids.shape[1]))
        right = []
        for line in open(sys.argv[2] + "/lists.jsonl"):
            q = json.loads(line)
            losses = [loss(q["question"], choice) for choice in q["choices"]]
            right.append(losses.index(min(losses)) == q["answer"])
        print(json.dumps({**run_suites(config, model, tokenizer), "right": right}))
        """,
        str(folder),
    )
    right = found["right"]
    assert isinstance(right, list)
    assert 0 < sum(right) < len(right)
    score = found["scores"]["lists/acc"]  # type: ignore[index]
    share = sum(right) / len(right)
    assert score["value"] == share
    assert score["stderr"] == pytest.approx((share * (1 - share) / (len(right) - 1)) ** 0.5)
    assert score["low"] < share < score["high"]


@needs_lm_eval
@pytest.mark.slow
def test_our_likelihoods_are_those_of_lm_eval(tmp_path: Path) -> None:
    found = in_a_process(
        """
        from types import SimpleNamespace
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
        from pipeline_lib.likelihood import negative_log_likelihoods
        texts = ["Return a new list of the values.", "If the argument is omitted, None is returned.\\n" * 4]
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
        asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
        theirs = lm.loglikelihood_rolling(asked)
        questions = []
        for row, text in enumerate(texts):
            ids = [lm.prefix_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            questions.append(SimpleNamespace(row=row, ids=ids, mask=[False] + [True] * (len(ids) - 1)))
        ours = [x for batch in negative_log_likelihoods(model, questions, 0) for x in batch]
        losses = {item.row: item.nll for item in ours}
        print(json.dumps({"theirs": [-x for x in theirs], "ours": [losses[i] for i in range(len(texts))]}))
        """
    )
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-5)


def test_a_folder_without_task_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"suites_path: .* holds no task file"):
        read_outside(EvaluateConfig(suites=("lists",), suites_path=tmp_path))


def test_another_question_in_a_suite_is_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = EvaluateConfig(suites=("lists",), suites_path=suite(tmp_path / "suite"))
    before = read_outside(config)
    with (tmp_path / "suite" / "lists.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(QUESTIONS[0]) + "\n")
    assert read_outside(config) != before


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'finetune-flows\[suites\]'"):
        require_lm_eval()


@needs_lm_eval
@pytest.mark.slow
def test_a_suite_that_nobody_knows_is_named(tmp_path: Path) -> None:
    found = in_a_process(
        """
        from pipeline_lib.core.errors import ConfigError
        from pipeline_lib.evaluation.evaluate import EvaluateConfig
        from pipeline_lib.evaluation.suites import run_suites
        config = EvaluateConfig(suites=("nobody_knows",)).model_dump(mode="json")
        try:
            run_suites(config, model, tokenizer)
        except ConfigError as error:
            print(json.dumps({"said": str(error)}))
        """
    )
    assert "knows no 'nobody_knows'" in str(found["said"])
