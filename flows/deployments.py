"""Deploy: what a Prefect server must know so that pipelines run on workers, by hand and by the clock.

Work pools, deployments with their schedules and typed forms, and two automations: a run without heartbeats
has crashed, and a crashed run is scheduled again. Everything is made or brought up to date under its name, so
that deploying twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.call import Call, Outlook, look, open_store
from flows.dispatch import BUILD, CPU, GPU, pools
from flows.pipeline import pipeline as process
from pipeline_lib.config import PipelineConfig
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.settings import settings
from tasks.wrap import require_answer, set_environment

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore

TAG = "finetune"
RUN_TAG = "finetune-run"
"""On what a crash starts again by itself; what another run waits for is sent again by that one."""
HEARTBEAT_SECONDS = 30
DEAD_SECONDS = 90
"""Three heartbeats; a run that is silent for so long has crashed."""
SERVING, MAINTENANCE = "flows.serving", "flows.maintenance"
DIRECTORY = "FINETUNE_DIRECTORY"
"""Where a worker was started; its runs work there too, so that relative paths mean the same."""
ENDS = (
    "Completed",
    "Failed",
    "Crashed",
    "Cancelled",
    "GateClosed",
    "Built",
    "Cached",
    "Changed",
    "Unchanged",
    "TimedOut",
)
"""Names of the states in which a run ends: each of them makes an event of its own."""
BEGINNINGS = ("Scheduled", "AwaitingRetry", "Pending", "Running")
PAUSE_SECONDS = 30
"""Until a crashed run starts again. A worker with a limit dies if it gets back what it has yet to let go; on
a busy machine that takes over 10 s."""
SLUG = "from-config"
"""Names the schedule that the config gives; what a person adds in the UI stays."""
MAINTENANCE_FLOWS = ("reevaluate", "drift", "prune")
ASKED = {
    "stage": "The stage that is built again.",
    "force": "Build it though it is there; its bytes come out the same unless something else changed.",
    "onward": "Build what follows it too, where bytes changed.",
    "approve": "Whether the run waits for a person before it registers a champion.",
}
"""What a form asks beside the config."""


@dataclass(frozen=True)
class Planned:
    """One deployment: a flow with a name, its pool, parameters, form and schedule."""

    flow: str
    name: str
    entrypoint: str
    pool: str
    description: str
    parameters: Mapping[str, Any]
    schema: Mapping[str, Any]
    tags: tuple[str, ...]
    cron: str | None = None
    timezone: str = "UTC"


@dataclass
class Deployed:
    """What the server knows now."""

    pools: dict[str, int | None] = field(default_factory=dict)
    deployments: dict[str, str] = field(default_factory=dict)
    """By ``flow/name``, the schedule or an empty text."""
    automations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"pools": self.pools, "deployments": self.deployments, "automations": self.automations}

    def lines(self) -> Iterable[str]:
        """Yield it line by line."""
        for name, limit in self.pools.items():
            yield f"pool        {name}" + (f"  (at most {limit} at a time)" if limit else "")
        for name, cron in self.deployments.items():
            yield f"deployment  {name}" + (f"  ({cron})" if cron else "")
        yield from (f"automation  {name}" for name in self.automations)


def deploy(configs: Iterable[PipelineConfig], gpus: int) -> Deployed:
    """Bring the server up to date; ServiceError where there is none."""
    require_server()
    from prefect.client.orchestration import get_client

    planned = [one for config in configs for one in planned_for(config)] + list(_orders())
    done = Deployed()
    with get_client(sync_client=True) as client:
        for kind, name in pools().items():
            done.pools[name] = _pool(client, name, gpus if kind == GPU else None)
        for one in planned:
            _deployment(client, one)
            done.deployments[f"{one.flow}/{one.name}"] = one.cron or ""
        done.automations = [_automation(client, one) for one in automations()]
    return done


def require_server() -> None:
    """Raise ConfigError where the settings name no Prefect server, ServiceError where it does not answer."""
    if not settings().prefect_api_url:
        raise ConfigError(
            "no Prefect server is named; `finetune ui` starts one here, then set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    set_environment()
    require_answer()


def planned_for(config: PipelineConfig) -> list[Planned]:
    """Return the deployments of one pipeline: all of it, each flow, one stage again, and its maintenance."""
    outlook = look(Call(process, config, open_store()))
    given = {"config": config.model_dump(mode="json", by_alias=True)}
    asked = {"approve": config.operations.approve}
    found = [_of(config, process.name, SERVING, given | asked, config.operations.run)]
    found += [_of(config, name, SERVING, given | asked) for name in outlook.flows]
    found.append(_with_choices(_of(config, "stage", SERVING, given | asked), outlook))
    for name in MAINTENANCE_FLOWS:
        found.append(_of(config, name, MAINTENANCE, given, getattr(config.operations, name)))
    return found


def _of(
    config: PipelineConfig, flow: str, module: str, parameters: dict[str, Any], cron: str | None = None
) -> Planned:
    served = _served(module, flow)
    return Planned(
        flow=flow,
        name=config.name,
        entrypoint=f"{module}.{flow}",
        pool=pools()[CPU],
        description=served.description or "",
        parameters=parameters,
        schema=_schema(served),
        tags=(TAG, RUN_TAG, config.name),
        cron=cron,
        timezone=config.operations.timezone,
    )


def _with_choices(planned: Planned, outlook: Outlook) -> Planned:
    """Let the form offer this pipeline's stages."""
    from dataclasses import replace

    schema = dict(planned.schema)
    names = {**schema["properties"]["stage"], "enum": outlook.names}
    return replace(planned, schema={**schema, "properties": {**schema["properties"], "stage": names}})


def _orders() -> Iterable[Planned]:
    """Yield the deployments by which stages are sent to the workers of a pool."""
    served = _served(SERVING, BUILD)
    for pool in pools().values():
        yield Planned(
            flow=BUILD,
            name=pool,
            entrypoint=f"{SERVING}.{BUILD}",
            pool=pool,
            description=served.description or "",
            parameters={},
            schema=_schema(served),
            tags=(TAG,),
        )


def _served(module: str, flow: str) -> Any:
    from importlib import import_module

    return getattr(import_module(module), flow)


def _schema(served: Any) -> dict[str, Any]:
    from prefect.utilities.callables import parameter_schema

    schema: dict[str, Any] = parameter_schema(served).model_dump_for_openapi()
    given = schema["properties"]
    for name in ASKED.keys() & given.keys():
        given[name] |= {"title": name.title(), "description": ASKED[name]}
    for block in (schema, *schema.get("definitions", {}).values()):
        # The form goes by positions. Single fields come before blocks, under which nobody finds them.
        fields = sorted(block.get("properties", {}).values(), key=lambda entry: "$ref" in str(entry))
        for position, entry in enumerate(fields):
            entry["position"] = position
    return schema


def _pool(client: SyncPrefectClient, name: str, limit: int | None) -> int | None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.read_work_pool(name)
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(
                name=name, type=ProcessWorker.type, base_job_template=template, concurrency_limit=limit
            )
        )
    return limit


def _deployment(client: SyncPrefectClient, planned: Planned) -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=cron, timezone=planned.timezone), active=True, slug=SLUG
        )
        for cron in ([planned.cron] if planned.cron else [])
    ]
    identity = client.create_deployment(
        flow_id=client.create_flow_from_name(planned.flow),
        name=planned.name,
        entrypoint=planned.entrypoint,
        work_pool_name=planned.pool,
        description=planned.description,
        parameters=dict(planned.parameters),
        parameter_openapi_schema=dict(planned.schema),
        enforce_parameter_schema=True,
        tags=list(planned.tags),
        pull_steps=[
            {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $" + DIRECTORY + " }}"}}
        ],
        schedules=schedules,
    )
    _drop_other_schedules(client, identity, planned)


def _drop_other_schedules(client: SyncPrefectClient, identity: Any, planned: Planned) -> None:
    """Remove the schedule that an earlier config had; what a person added in the UI stays."""
    for there in client.read_deployment_schedules(identity):
        if there.slug == SLUG and not planned.cron:
            client.delete_deployment_schedule(identity, there.id)


def automations() -> list[AutomationCore]:
    """Return the automations that keep Prefect's states true when processes die."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    beat = "heartbeat"
    return [
        _unless(
            "a silent run has crashed",
            f"A run whose process died is silent: after {DEAD_SECONDS} s it has crashed.",
            after=beat,
            expect=(beat, *ENDS),
            within=DEAD_SECONDS,
            tag=TAG,
            action=ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {DEAD_SECONDS} s: its process or machine died",
            ),
        ),
        _unless(
            "a crashed run starts again",
            "What is built is kept, training goes on from its checkpoint; a third crash is the last.",
            after="Crashed",
            expect=BEGINNINGS,
            within=PAUSE_SECONDS,
            tag=RUN_TAG,
            action=ChangeFlowRunState(
                state=StateType.SCHEDULED, name="AwaitingRetry", message="its process died; started again"
            ),
        ),
    ]


def _unless(
    name: str,
    description: str,
    *,
    after: str,
    expect: Iterable[str],
    within: float,
    tag: str,
    action: ChangeFlowRunState,
) -> AutomationCore:
    """Return what acts on a tagged run where nothing expected comes ``within`` seconds ``after`` an event."""
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    event = "prefect.flow-run."
    tagged = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
    trigger = EventTrigger(
        after={event + after},
        expect={event + one for one in expect},
        match=ResourceSpecification({"prefect.resource.id": f"{event}*"}),
        match_related=ResourceSpecification(tagged),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within),
    )
    return AutomationCore(name=f"{TAG}: {name}", description=description, trigger=trigger, actions=[action])


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    there = client.read_automations_by_name(wanted.name)
    if there:
        client.update_automation(there[0].id, wanted)
    else:
        client.create_automation(wanted)
    return wanted.name
