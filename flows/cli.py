"""The ``finetune`` command: one function for each command, and each of them calls what does the work.

Results go to stdout, everything else to stderr. What a command needs is imported inside it: a pipeline that
is up to date starts neither Prefect nor torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.failures import one_line, tell_call
from flows.options import Config, Force, Json, Only, Overrides, Reason, Start, Until, print_json, print_lines
from pipeline_lib.core.errors import ConfigError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw text to a registered model. CONFIG is a YAML file such as conf/quickstart.yaml.",
)
QUICKSTART = Path("conf/quickstart.yaml")


def main() -> None:
    """Run the command that the arguments name; without any, say what there is."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="finetune", standalone_mode=False)
    except typer.TyperException as error:
        code = tell_call(error)
    sys.exit(code)


def _selection(only: str | None, start: str | None, until: str | None, force: list[str] | None) -> Any:
    from pipeline_lib.core.plan import Selection

    return Selection(only, start, until, frozenset(force or ()))


@app.command()
@one_line
def run(
    config: Config,
    overrides: Overrides = None,
    only: Only = None,
    start: Start = None,
    until: Until = None,
    force: Force = None,
    log: Annotated[
        bool, typer.Option("--log", help="Leave a run in MLflow even where nothing is built.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build what is not there yet, from raw text to a registered model."""
    _build(config, overrides or [], _selection(only, start, until, force), log=log, as_json=as_json)


@app.command()
@one_line
def publish(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Register what was built and judged while the registry did not answer."""
    _build(config, overrides or [], _selection(None, "report", None, None), log=False, as_json=as_json)


def _build(config: Path, overrides: list[str], selection: Any, *, log: bool, as_json: bool) -> None:
    from flows.call import call_of
    from flows.run import closing_lines, log_outcome, run
    from flows.screen import Screen

    call = call_of(config, overrides, selection)
    with Screen(lines=not as_json) as screen:
        outcome = run(call, screen)
        logged = log_outcome(call, outcome) if log else None
        for line in ["", *closing_lines(outcome, config, overrides, logged)]:
            screen.say(line)
        for reason in outcome.closed:
            screen.mention(f"gate closed: {reason}")
    if as_json:
        print_json(outcome.as_json() | {"mlflow_run": logged})
    raise typer.Exit(outcome.exit_code)


@app.command()
@one_line
def plan(
    config: Config,
    overrides: Overrides = None,
    only: Only = None,
    start: Start = None,
    until: Until = None,
    force: Force = None,
    as_json: Json = False,
) -> None:
    """Say what would run and why, without running it."""
    from flows.call import call_of, look, plan_json
    from flows.dispatch import lacking
    from flows.lines import plan_lines

    outlook = look(call_of(config, overrides or [], _selection(only, start, until, force)))
    if as_json:
        print_json(plan_json(outlook))
    else:
        print_lines(plan_lines(outlook.asked))
    outlook.require_inputs()
    for line in lacking(outlook):
        typer.echo(f"note: {line}", err=True)
    raise typer.Exit(1 if outlook.broken else 0)


@app.command()
@one_line
def artifacts(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """List every stage's artifact: fingerprint, digest, path, stats."""
    from flows.call import account, call_of, look
    from flows.lines import artifact_lines

    call = call_of(config, overrides or [])
    outlook = look(call)
    if as_json:
        print_json(account(outlook, call.store))
    else:
        print_lines(artifact_lines(outlook.steps, call.store.root))


@app.command(name="config")
@one_line
def show_config(
    config: Config,
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every field with its type, default and meaning.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the config in full, with defaults."""
    from flows import settled

    typer.echo(
        settled.explained(config, overrides or [], as_json=as_json)
        if explain
        else settled.in_full(config, overrides or [], as_json=as_json)
    )


@app.command()
@one_line
def show(
    what: Annotated[
        str,
        typer.Argument(metavar="STAGE|PATH", help="A stage, or an artifact's directory.", show_default=False),
    ] = "",
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG", help="Whose stage; without it the latest run's.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show what was dropped, with the reasons.")
    ] = False,
    part: Annotated[
        str | None, typer.Option("--part", help="kept, train, validation, test or dropped.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Conversations to show.")] = 3,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace",
            metavar="ID",
            help="Follow one conversation through every stage; then no STAGE is needed.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one artifact, or one conversation on its way."""
    from flows import show as view

    if trace:
        config = config or (Path(what) if what.endswith((".yaml", ".yml")) else None)
        if as_json:
            return print_json(view.trace_json(trace, config, overrides or []))
        return print_lines(view.trace_lines(trace, config, overrides or []))
    if not what:
        raise ConfigError("name a stage or an artifact's directory, or --trace ID")
    artifact = view.find(what, config, overrides or [])
    if as_json:
        return print_json(view.as_json(artifact, view.DROPPED if dropped else part, n))
    print_lines(view.lines_of(artifact, view.DROPPED if dropped else part, n))


@app.command(name="export-data")
@one_line
def export_data(
    what: Annotated[str, typer.Argument(metavar="STAGE|PATH", help="A stage, or a dataset's directory.")],
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG", help="Whose stage; without it the latest run's.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    form: Annotated[str, typer.Option("--format", help="openai, sharegpt or alpaca.")] = "openai",
    out: Annotated[
        Path, typer.Option("--out", help="A directory, which gets a file for each part, or one .jsonl file.")
    ] = Path("data"),
    part: Annotated[
        str | None, typer.Option("--part", help="kept, train, validation, test or dropped; else all kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a dataset as JSON Lines that other tools read."""
    from flows.export_data import export
    from flows.screen import Screen
    from pipeline_lib.core.progress import listening

    with Screen() as screen, listening(screen):
        written = export(what, config, overrides or [], form, out, part)
    if as_json:
        print_json([one.as_json() for one in written])
    else:
        print_lines(line for one in written for line in one.lines())


@app.command()
@one_line
def doctor(as_json: Json = False) -> None:
    """Say what is installed, which devices and servers there are, and what to do about what is not."""
    from flows import doctor as practice

    findings = practice.examine()
    if as_json:
        print_json(practice.as_json(findings))
    else:
        print_lines(practice.lines_of(findings))
    raise typer.Exit(1 if practice.is_ill(findings) else 0)


@app.command()
@one_line
def deploy(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CONFIG", help="YAML files; conf/quickstart.yaml without any.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="Runs at a time in the GPU pool: one for each GPU.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Register work pools, deployments and schedules with the Prefect server."""
    from flows.deployments import deploy
    from pipeline_lib.config import load

    if not configs and not QUICKSTART.exists():
        raise ConfigError(f"name a CONFIG; there is no {QUICKSTART} here")
    deployed = deploy([load(config, overrides or []) for config in configs or [QUICKSTART]], gpus)
    if as_json:
        print_json(deployed.as_json())
    else:
        print_lines(deployed.lines())


@app.command()
@one_line
def worker(
    pool: Annotated[str, typer.Option("--pool", help="cpu or gpu, or the name of a work pool.")] = "cpu",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Runs at a time; one in the GPU pool.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the worker.", show_default=False)
    ] = None,
) -> None:
    """Start a worker for a work pool, in the foreground."""
    from flows.servers import work

    work(pool, limit, name)


@app.command()
@one_line
def ui(
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port, where none runs yet.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port, where none runs yet.")] = 5000,
) -> None:
    """Find Prefect's and MLflow's UI, or start them here until Ctrl-C."""
    from flows.servers import print_addresses, serve, servers

    found = servers(prefect_port, mlflow_port)
    if all(one.answers for one in found):
        print_addresses(found)
    else:
        serve(found)


@app.command()
@one_line
def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One registered model; without it all.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List registered versions with their aliases and verdicts."""
    from flows import versions

    rows = versions.known(name)
    if as_json:
        print_json(versions.as_json(rows))
    else:
        print_lines(versions.lines_of(rows))


@app.command()
@one_line
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Its version.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Make a version the champion, over a closed gate too; that it was closed is said and kept."""
    from flows.versions import warning_of
    from tasks.registry import promote

    row = promote(name, version, reason)
    _print_version(row, as_json=as_json)
    if warning := warning_of(row):
        typer.echo(warning, err=True)


@app.command()
@one_line
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")],
    reason: Reason,
    version: Annotated[
        int | None, typer.Option("--version", help="An earlier champion; without it the one before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give the champion's place back to an earlier champion."""
    from tasks.registry import rollback

    _print_version(rollback(name, version, reason), as_json=as_json)


def _print_version(row: Any, *, as_json: bool) -> None:
    from flows import versions

    if as_json:
        print_json(versions.as_json([row])[0])
    else:
        print_lines(versions.lines_of([row]))


@app.command()
@one_line
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model's directory, NAME or NAME@alias, or a CONFIG; without it the latest run's.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=DIRECTORY|CONFIG",
            help="An adapter to talk to; several share one base, and /use NAME changes between them.",
        ),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option("--ask", metavar="QUESTION", help="One question; stdout gets the answer alone."),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=5.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
    ] = 512,
    system: Annotated[str | None, typer.Option("--system", help="System message to begin with.")] = None,
) -> None:
    """Talk to a model."""
    from flows import chat as talking

    adapters = talking.find_adapters(adapter or [])
    path = (
        talking.base_of(next(iter(adapters.values())))
        if adapters and model is None
        else talking.find_model(model, overrides or [])
    )
    conversation = talking.open_conversation(
        path, adapters, max_new_tokens=max_new_tokens, temperature=temperature, system=system
    )
    if ask is not None:
        talking.ask_once(conversation, ask)
    else:
        talking.talk(conversation, str(path))


@app.command()
@one_line
def ab(
    log: Annotated[
        Path, typer.Argument(help="JSON Lines with request, good, milliseconds, and the arm where noted.")
    ],
    share_of_b: Annotated[
        float, typer.Option("--share", min=0.0, max=1.0, help="Share of the requests that b answers.")
    ] = 0.5,
    test: Annotated[str, typer.Option("--test", help="Name under which requests were dealt.")] = "",
    effect: Annotated[
        float, typer.Option("--effect", min=0.001, max=0.5, help="Difference that must not go unseen.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Compare two models on logged traffic, dealt by request id."""
    from flows.traffic import lines_of
    from tasks.traffic import compare_arms

    found = compare_arms(log, share_of_b, test, effect)
    if as_json:
        print_json(found)
    else:
        print_lines(lines_of(found))


@app.command()
@one_line
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model's directory, NAME or NAME@alias, or a CONFIG; without it the latest run's.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    form: Annotated[
        str, typer.Option("--format", help="safetensors, adapter, gguf, ollama or vllm.")
    ] = "safetensors",
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory to write; without it export/FORMAT.")
    ] = None,
    quantization: Annotated[
        str, typer.Option("--quantization", help="Of gguf and ollama: bf16, f16, q8_0, q4_k_m.")
    ] = "bf16",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Upload it to a hub too; the token is HF_TOKEN."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A repository that --push makes is not private.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model in another form, proven the same; a figure beyond its bound fails."""
    from flows import export as taking
    from flows.chat import find_model

    if push:
        taking.check_push(push)
    found = find_model(model, overrides or [])
    written = taking.export(found, form, out, quantization, force=force)
    pushed = taking.push(written, push, found, public=public) if push else None
    if as_json:
        print_json(taking.as_json(written, pushed))
    else:
        print_lines(taking.lines_of(written, pushed))


@app.command()
@one_line
def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    keep_runs: Annotated[
        int | None,
        typer.Option(
            "--keep-runs", min=0, metavar="N", help="Forget all but the newest N runs of each pipeline first."
        ),
    ] = None,
    copies: Annotated[
        bool,
        typer.Option(
            "--copies",
            help="Remove this machine's copies of large files that a shared store has too, nothing else.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what no run and no registered model refers to."""
    from flows import upkeep
    from flows.call import open_store

    if copies and keep_runs is not None:
        raise ConfigError("--copies forgets no run; call once with each")
    if copies:
        from flows.copies import drop_copies

        pruned = drop_copies(open_store(), dry_run=dry_run)
    else:
        from tasks.registry import registered_paths

        pruned = upkeep.prune(open_store(), registered_paths(), keep_runs=keep_runs, dry_run=dry_run)
    if as_json:
        print_json(pruned.as_json())
    else:
        print_lines(pruned.lines(dry_run=dry_run))


@app.command()
@one_line
def estimate(
    config: Config,
    overrides: Overrides = None,
    conversations: Annotated[
        int | None,
        typer.Option("--conversations", min=1, help="How many conversations there are to learn from."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", min=1, help="Memory of the GPU at hand, in GB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a training needs in memory, time and disk, by method, and which method to choose."""
    from dataclasses import asdict

    from flows.forecast import CONVERSATIONS, MEMORY_GB, assumed, lines_of
    from pipeline_lib.config import load
    from tasks.forecast import forecast

    found = forecast(load(config, overrides or []), conversations or CONVERSATIONS, memory or MEMORY_GB)
    if as_json:
        taken = assumed(conversations, memory)
        rows = [one.record() for one in found.estimates]
        print_json({"estimates": rows, "advice": asdict(found.advice), "assumed": taken})
    else:
        print_lines(lines_of(found, conversations, memory))


@app.command()
@one_line
def verify(
    stage: Annotated[
        str | None,
        typer.Argument(metavar="STAGE", help="One stage's artifacts; without it all.", show_default=False),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Put damaged artifacts out of the way; the next run builds them again."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Hash artifacts again and report damage."""
    from flows import upkeep
    from flows.call import open_store
    from flows.screen import Screen
    from pipeline_lib.core.progress import listening

    with Screen() as screen, listening(screen):
        checked = upkeep.verify(open_store(), stage, repair=repair)
    if as_json:
        print_json(checked.as_json())
    else:
        print_lines(checked.lines())
    raise typer.Exit(1 if checked.damaged else 0)
