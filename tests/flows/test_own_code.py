"""A model that brings its own code, by command: registered, and answering where this project is not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.services.servers import environment, finetune
from tests.services.words import SMALL, write_config
from tests.training.test_own_code import MASK, with_own_code

pytestmark = pytest.mark.slow


def test_it_is_registered_with_its_code_and_answers_in_a_fresh_process(tmp_path: Path) -> None:
    env = environment(tmp_path, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="600")
    (tmp_path / "base").mkdir()
    with_own_code(tmp_path / "base")
    config = write_config(
        tmp_path,
        base_model={"source": str(tmp_path / "base"), "trust_remote_code": True},
        initialize=None,
        tokenize={"max_length": 128},
        train=SMALL["train"] | {"method": "lora"},
    )
    done = finetune(env, "run", str(config), timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(finetune(env, "models", "words", "--json").stdout)
    assert row["stored"] == "weights"
    program = textwrap.dedent(
        f"""
        import json, mlflow, torch
        from transformers import AutoModelForCausalLM
        uri = "models:/words@champion"
        question = {{"messages": [{{"role": "user", "content": "What follows?"}}], "max_tokens": 8}}
        answer = mlflow.pyfunc.load_model(uri).predict(question)[0]
        model = mlflow.transformers.load_model(uri).model
        own = AutoModelForCausalLM.from_pretrained({row["path"]!r}, dtype="auto", trust_remote_code=True)
        same = all(torch.equal(value, model.state_dict()[name]) for name, value in own.state_dict().items())
        kind, mask = type(model).__name__, model.config.mask_token_id
        print(json.dumps([kind, mask, same, answer["usage"]["completion_tokens"]]))
        """
    )
    fresh = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    answered = subprocess.run(command, env=fresh, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answered.returncode == 0, answered.stderr[-2000:]
    kind, mask, same, tokens = json.loads(answered.stdout.splitlines()[-1])
    assert (kind, mask, same) == ("WeDLMForCausalLM", MASK, True)
    assert 1 <= tokens <= 8
