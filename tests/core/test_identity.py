"""Identity: what an artifact is known by, and that it is there whole or not at all."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, StageError, StoreError
from pipeline_lib.core.fingerprint import canonical_json
from pipeline_lib.core.output import Output
from pipeline_lib.core.plan import Planner, Use, code_notice
from pipeline_lib.core.stage import Recipe, stage, syntax_hash
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset, Model

ROOT = Path(__file__).resolve().parents[2]


class CountConfig(StageConfig):
    upto: int = 3
    seconds: float = 0.0
    fail: bool = False


@stage(produces=Dataset, version=1)
def count(out: Output, config: CountConfig) -> None:
    """Numbers, one a line, slowly where the config says so."""
    with (out.path / "kept-00000.txt").open("w") as file:
        for number in range(config.upto):
            file.write(f"{number}\n")
            file.flush()
            time.sleep(config.seconds)
            if config.fail:
                raise ValueError("number 0 is not welcome")
    with (out.path.parents[1] / "builds.log").open("a") as log:
        log.write("built\n")
    out.stats = {"kept": config.upto}


class EvenConfig(StageConfig):
    offset: int = 0


@stage(produces=Dataset, version=1)
def even(out: Output, config: EvenConfig, numbers: Dataset) -> None:
    """The even numbers."""
    lines = (numbers.path / "kept-00000.txt").read_text().split()
    kept = [line for line in lines if int(line) % 2 == 0 and int(line) < 100]
    (out.path / "kept-00000.txt").write_text("\n".join(str(int(line) + config.offset) for line in kept))


def builds(store: Store) -> int:
    log = store.root / "builds.log"
    return len(log.read_text().split()) if log.exists() else 0


def recipe(**config: object) -> Recipe[Dataset]:
    return count.recipe(CountConfig(**config))


def test_the_same_recipe_has_the_same_fingerprint_in_another_process() -> None:
    code = textwrap.dedent("""
        from tests.core.test_identity import recipe
        print(recipe(upto=7).fingerprint)
    """)
    seen = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        seen.add(
            subprocess.run(
                [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
        )
    assert seen == {recipe(upto=7).fingerprint}


def test_settings_never_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_lib.settings import settings

    before = recipe().fingerprint
    monkeypatch.setenv("FINETUNE_WORKERS", "17")
    monkeypatch.setenv("FINETUNE_DEVICE", "cuda")
    settings.cache_clear()
    assert settings().workers == 17
    assert recipe().fingerprint == before
    assert (
        Store(tmp_path / "one").materialize(recipe()).artifact.digest
        == Store(tmp_path / "two").materialize(recipe()).artifact.digest
    )


def test_the_second_run_builds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = store.materialize(recipe()), store.materialize(recipe())
    assert (first.built, second.built) == (True, False)
    assert first.artifact == second.artifact
    assert builds(store) == 1


def test_another_config_is_another_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.materialize(recipe(upto=1)).artifact.path != store.materialize(recipe(upto=2)).artifact.path


def test_same_bytes_cut_off_what_comes_after(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for upto, built in ((101, True), (102, True), (101, False)):
        numbers = store.materialize(count.recipe(CountConfig(upto=upto))).artifact
        evens = store.materialize(even.recipe(EvenConfig(), numbers))
        assert evens.built is built
        after = store.materialize(even.recipe(EvenConfig(offset=1), evens.artifact))
        assert after.built is (upto == 101 and built), (
            "the evens under 100 are the same bytes for 101 and 102"
        )


def test_force_rebuilds_and_what_follows_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    numbers = store.materialize(recipe()).artifact
    store.materialize(even.recipe(EvenConfig(), numbers))
    again = store.materialize(recipe(), force=True)
    assert again.built
    assert not store.materialize(even.recipe(EvenConfig(), again.artifact)).built


@pytest.mark.parametrize("moment", [0.05, 0.3])
def test_a_killed_stage_leaves_no_artifact_and_the_next_run_completes(tmp_path: Path, moment: float) -> None:
    store = Store(tmp_path / "store")
    slow = {"upto": 30, "seconds": 0.05}
    child = multiprocessing.get_context("fork").Process(target=store.materialize, args=(recipe(**slow),))
    child.start()
    while not list(store.root.glob(".scratch/*/kept-*")):
        time.sleep(0.01)
    time.sleep(moment)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert not list(store.root.glob("count/*"))
    done = store.materialize(recipe(upto=3))
    assert done.artifact.manifest.stats == {"kept": 3}
    whole = store.materialize(recipe(upto=30))
    assert (whole.artifact.path / "kept-00000.txt").read_text().split() == [str(i) for i in range(30)]


def test_a_sweep_removes_what_a_killed_builder_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    left = store.root / ".scratch" / f"count-{recipe().fingerprint}.dead"
    left.mkdir(parents=True)
    (left / "kept-00000.txt").write_text("half")
    store.materialize(recipe())
    assert not left.exists()


def test_a_failed_stage_leaves_nothing_and_names_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(StageError, match="count failed: ValueError: number 0 is not welcome"):
        store.materialize(recipe(fail=True))
    assert not list(store.root.glob("count/*"))
    assert not list(store.root.glob(".scratch/*"))


def test_two_builders_of_one_artifact_build_it_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    context = multiprocessing.get_context("fork")
    slow = recipe(upto=5, seconds=0.1)
    children = [context.Process(target=store.materialize, args=(slow,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert builds(store) == 1


def test_no_manifest_means_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    place = store.place(recipe())
    place.mkdir(parents=True)
    (place / "kept-00000.txt").write_text("0\n")
    assert store.find(recipe()) is None
    assert store.materialize(recipe()).built


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set FINETUNE_STORE to a directory that you may write"):
        Store(tmp_path / "file" / "store").materialize(recipe())


def test_the_wrong_kind_of_input_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="even needs a Dataset for 'numbers', got Model"):
        even.recipe(EvenConfig(), Model(tmp_path / "merge" / "91ab", "digest"))  # type: ignore[arg-type]


def test_a_value_without_a_stable_form_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot fingerprint config\.loader: a function has no stable form"
    ):
        canonical_json({"loader": test_a_value_without_a_stable_form_is_refused})
    with pytest.raises(ConfigError, match="not a finite number"):
        canonical_json({"rate": float("nan")})


def test_a_plan_says_which_field_changed_and_what_waits(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    numbers = store.materialize(recipe(upto=3)).artifact
    store.materialize(even.recipe(EvenConfig(), numbers))
    planner = Planner(store)
    pending = planner.step(Use("count"), recipe(upto=4))
    planner.step(Use("even"), even.recipe(EvenConfig(), pending))
    assert [(step.status, step.reason) for step in planner.steps] == [
        ("build", "config.upto 3 -> 4"),
        ("waits", "depends on count"),
    ]


def test_comments_and_docstrings_do_not_change_the_code_hash() -> None:
    plain = "def f(x):\n    return x + 1\n"
    commented = '"""Module."""\n\n\ndef f(x):\n    """Return more."""\n    # because\n    return x + 1\n'
    assert syntax_hash(plain) == syntax_hash(commented)
    assert syntax_hash(plain) != syntax_hash(plain.replace("+ 1", "+ 2"))


def test_a_change_of_a_stages_code_is_noticed_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = textwrap.dedent(
        """
        from pipeline_lib.core.output import Output
        from pipeline_lib.core.stage import stage
        from pipeline_lib.kinds import Dataset
        from tests.core.test_identity import EvenConfig

        @stage(produces=Dataset, version=1)
        def written(out: Output, config: EvenConfig) -> None:
            (out.path / "kept-00000.txt").write_text("1")
        """
    )
    module = tmp_path / "written_here.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("written_here").written.recipe(EvenConfig())
    store = Store(tmp_path / "store")
    built = store.materialize(recipe).artifact
    notices = []
    for second, text in enumerate((source, source + "# why\n", source.replace("1", "2"), source)):
        module.write_text(text)
        os.utime(module, (second, second))
        notices.append([bool(code_notice(store, recipe, built)) for _ in range(2)])
    assert notices == [[False, False], [False, False], [True, True], [False, False]]
