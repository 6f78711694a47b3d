"""Estimate: what a training will need, from the model's config alone.

Memory (decimal GB, 1e9 bytes) is split as the field does it:

    weights      frozen: 2 bytes a parameter (bf16); trained: 4 (fp32 under autocast) or 2; adapters: 4.
                 NF4 with double quantization: 0.516 bytes a weight of a linear layer, while embeddings, head
                 and norms stay at 2: 5.7 GB of an 8B model, where 0.625 a parameter would give 5.0
    gradients    as wide as the trained weights
    optimizer    Adam: two fp32 moments, 8 bytes a trained parameter; 8-bit Adam 2
    activations  what the backward pass waits for (see ``activation_bytes``), with one layer at work
    workspace    the device's context, the allocator's fragmentation, and copies made on the way: a
                 dequantised layer, or the half-precision copies of the weights that autocast keeps

Against the field's table (7B 103 / 24 / 11 GB, 8B 108 / 25 / 12 for full, LoRA and QLoRA of rank 16;
sequence 2048, bf16 weights throughout): full at batch 4 and LoRA at batch 8 agree within 15 % if
activations are recomputed and the loss is fused; else one sequence of an 8B model takes about 12 GB, not
0.75. The table's Adam of LoRA is 16 bytes a parameter where Adam has 8, its "17–18 M" is attention without
grouped keys and values (Llama 3: 13.6 M). Its QLoRA rows (4 GB of activations at batch 16) contradict its
own 0.75 GB a sequence: they hold at batch 4; batch 16 takes about 26 GB. For 70B: 420 GB is 6 bytes a
parameter (8-bit Adam), 840 is 12; LoRA's 140 is the weights alone; QLoRA under 39 cannot hold the weights
without offloading.

Time is a rule and no measurement: FLOP a token (6 a parameter in full training, 4 where the base is frozen,
2 more for recomputed activations; attention's quadratic part left out) over the data-sheet rate times
``UTILISATION``. Answers that reinforcement learning draws, and what drawing them takes, are not in it.

Neighbours: ``setup.py`` (how it is trained), ``model_shape.py`` (sizes), ``devices.py`` (GPUs),
``recommendation.py`` (which method to take).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.training.devices import GPUS, Gpu, Placement, place, smallest
from pipeline_lib.training.model_shape import ModelShape, shape_of
from pipeline_lib.training.setup import Method, Precision, Setup, setup_of

if TYPE_CHECKING:
    from pipeline_lib.training.train import TrainConfig

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
GB = 1e9
BYTES: Mapping[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits, an 8-bit constant for 64 weights, an fp32 one for 256 of those (arXiv 2305.14314, section 3)."""

OPTIMIZER_BYTES: Mapping[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "paged_adamw_32bit": 8,
    "adamw_bnb_8bit": 2.03,
    "adamw_8bit": 2.03,
    "paged_adamw_8bit": 2.03,
    "adafactor": 0.25,
    "lion_32bit": 4,
    "lion_8bit": 1.02,
    "sgd": 0,
}
"""Bytes of state a trained parameter; 8-bit ones with an fp32 constant for 256 values. Adafactor's rows and
columns weigh less the larger the matrix; an adapter of rank 16 has the 0.25."""

CONTEXT_GB = 0.6
"""CUDA context, cuBLAS and its workspace, before the first tensor."""

FRAGMENTATION = 0.04
"""Memory the caching allocator holds and cannot use, as a share of the rest; with the context it gives
about the 4 GB (full, 8B) and 2 GB (LoRA) that the field reckons with."""

UTILISATION = 0.4
"""Share of the data-sheet rate that training reaches: 40.6 % published for LoRA of an 8B model on an H100
(NeMo Automodel, performance summary); other published runs lie between 20 and 60 %."""

QLORA_SPEED = 0.78
"""Tokens a second of QLoRA over LoRA's: 2413 / 3083 (torchtune, 8B on a 4090)."""

CHECKPOINTS_KEPT = 3
"""Two are kept, and a third is there while it is written."""

MERGED_BYTES = 2
"""Bytes a parameter of the merged model (bf16)."""


@dataclass(frozen=True)
class Estimate:
    """What one method needs; memory is for one device that holds everything."""

    method: Method
    rank: int | None
    parameters: int
    trainable_parameters: int
    weights_gb: float
    gradients_gb: float
    optimizer_gb: float
    activations_gb: float
    workspace_gb: float
    flop_per_token: float
    placement: Placement | None
    placements: tuple[Placement, ...]
    tokens_per_second: float | None
    hours: float | None
    checkpoints_gb: float
    merged_gb: float
    adapter_gb: float

    @property
    def memory_gb(self) -> float:
        """All of the device's memory that the training takes."""
        return self.sharded_gb + self.activations_gb + self.workspace_gb

    @property
    def sharded_gb(self) -> float:
        """The part that several devices can divide among themselves."""
        return self.weights_gb + self.gradients_gb + self.optimizer_gb

    @property
    def disk_gb(self) -> float:
        """Checkpoints, adapter and merged model together."""
        return self.checkpoints_gb + self.merged_gb + self.adapter_gb

    def record(self) -> dict[str, Any]:
        """Return all of it as JSON values, the sums with it."""
        return {**asdict(self), "memory_gb": self.memory_gb, "disk_gb": self.disk_gb}


def estimate(
    shape: ModelShape,
    methods: Sequence[Method] = METHODS,
    setup: Setup | None = None,
    tokens: int | None = None,
    gpus: Sequence[Gpu] = GPUS,
) -> list[Estimate]:
    """Return one estimate a method; ``tokens`` are those of all epochs (none: no hours).

    ConfigError where a target module or the optimizer is unknown, or the sequence is longer than the model's.
    """
    setup = setup or Setup()
    _check(shape, setup)
    return [_estimate(shape, method, setup, tokens, gpus) for method in methods]


def _check(shape: ModelShape, setup: Setup) -> None:
    if setup.optimizer not in OPTIMIZER_BYTES:
        known = ", ".join(OPTIMIZER_BYTES)
        raise ConfigError(f"estimate: optimizer {setup.optimizer} is unknown; known are {known}")
    if shape.max_positions and setup.sequence_length > shape.max_positions:
        raise ConfigError(
            f"estimate: sequences of {setup.sequence_length} tokens are longer than the model's "
            f"{shape.max_positions}; lower tokenize.max_length"
        )


def _estimate(
    shape: ModelShape, method: Method, setup: Setup, tokens: int | None, gpus: Sequence[Gpu]
) -> Estimate:
    trainable = trainable_parameters(shape, method, setup)
    width = _trained_bytes(method, setup)
    state = OPTIMIZER_BYTES[setup.optimizer]
    adapter = 0 if method == "full" else trainable
    held = Estimate(
        method=method,
        rank=None if method == "full" else setup.rank,
        parameters=shape.parameters,
        trainable_parameters=trainable,
        weights_gb=(base_bytes(shape, method, setup) + adapter * width) / GB,
        gradients_gb=trainable * width / GB,
        optimizer_gb=trainable * state / GB,
        activations_gb=activation_bytes(shape, method, setup) / GB,
        workspace_gb=0.0,
        flop_per_token=flop_per_token(shape, method, setup),
        placement=None,
        placements=(),
        tokens_per_second=None,
        hours=None,
        checkpoints_gb=CHECKPOINTS_KEPT * trainable * (width + state) / GB,
        merged_gb=shape.parameters * MERGED_BYTES / GB,
        adapter_gb=adapter * width / GB,
    )
    whole = replace(held, workspace_gb=_workspace_gb(shape, setup, held))
    return _placed(whole, _gathered_gb(shape, whole), tokens, gpus)


def _placed(whole: Estimate, gathered_gb: float, tokens: int | None, gpus: Sequence[Gpu]) -> Estimate:
    replicated = whole.activations_gb + whole.workspace_gb
    places = [place(gpu, whole.sharded_gb, replicated, gathered_gb) for gpu in gpus]
    found = tuple(placement for placement in places if placement is not None)
    best = smallest(found)
    rate = tokens_per_second(whole, best) if best else None
    hours = tokens / rate / 3600 if tokens is not None and rate else None
    return replace(whole, placement=best, placements=found, tokens_per_second=rate, hours=hours)


def trainable_parameters(shape: ModelShape, method: Method, setup: Setup) -> int:
    """Return how many weights the optimizer changes."""
    if method == "full":
        return shape.parameters
    return shape.adapter_parameters(setup.rank, setup.target_modules)


def base_bytes(shape: ModelShape, method: Method, setup: Setup) -> float:
    """Return the bytes of the base model's weights, and of a reference's beside them, without adapters."""
    if method == "full":
        copies = 2 if setup.reference_passes else 1
        return copies * shape.parameters * _trained_bytes(method, setup)
    width = BYTES[setup.precision]
    if method == "lora":
        return shape.parameters * width
    return shape.linear_parameters * NF4_BYTES + (shape.parameters - shape.linear_parameters) * width


def _trained_bytes(method: Method, setup: Setup) -> int:
    # PEFT keeps adapters in fp32, whatever the base is in.
    return BYTES[setup.trained_weights] if method == "full" else 4


def activation_bytes(shape: ModelShape, method: Method, setup: Setup) -> float:
    """Return the bytes of activations at the start of the backward pass of ``setup.tokens``.

    Counted as Korthikanti et al. 2022 (arXiv 2205.05198, 4.1) count them, for today's layer (RMS norms,
    gated feed-forward, attention without a score matrix). With checkpointing each layer keeps its input,
    and one layer at a time the rest.
    """
    layer = layer_bytes_per_token(shape, method, setup)
    at_work = 3 * BYTES[setup.precision] * shape.intermediate
    if setup.activation_checkpointing:
        kept = shape.layers * _residual_bytes(method, setup) * shape.hidden + layer
    else:
        kept = shape.layers * layer
    return setup.tokens * (kept + at_work + _loss_bytes_per_token(shape, setup))


def layer_bytes_per_token(shape: ModelShape, method: Method, setup: Setup) -> float:
    """Return the bytes a token leaves in one layer for its backward pass, without checkpointing.

    Each norm keeps its input in fp32 and one fp32 scale; attention keeps queries, keys, values, output, and
    an fp32 sum a head; the feed-forward keeps gate, activated gate and up. A trained linear layer keeps its
    input (a trained norm the normalised values); a frozen one keeps nothing, but its adapter keeps input,
    dropout mask and low-rank values.
    """
    half = BYTES[setup.precision]
    norms = 2 * (4 * shape.hidden + 4)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = half * 2 * (queries + keys) + 4 * shape.heads
    gated = 3 * half * shape.intermediate
    inputs = _full_inputs(shape, setup) if method == "full" else _adapter_inputs(shape, setup)
    return norms + attention + gated + inputs


def _full_inputs(shape: ModelShape, setup: Setup) -> float:
    half, residual = BYTES[setup.precision], _residual_bytes("full", setup)
    normalised = 2 * residual * shape.hidden
    # Where autocast narrows, q, k, v, gate and up each keep a copy; else those behind a norm share one.
    copies = 2 if residual == half else 5
    return normalised + copies * half * shape.hidden + half * shape.intermediate


def _adapter_inputs(shape: ModelShape, setup: Setup) -> float:
    half = BYTES[setup.precision]
    targets = shape.targets(setup.target_modules)
    kept = sum(((half + 1) * t.inputs + half * setup.rank) * t.count for t in targets)
    return kept / max(shape.layers, 1)


def _residual_bytes(method: Method, setup: Setup) -> int:
    """The stream between layers is as wide as the weights that feed it."""
    return _trained_bytes(method, setup) if method == "full" else BYTES[setup.precision]


def _loss_bytes_per_token(shape: ModelShape, setup: Setup) -> float:
    """The last hidden state and its fp32 gradient; without a fused loss also logits, softmax and gradient."""
    half = BYTES[setup.precision]
    hidden = (half + 4) * shape.hidden
    if setup.fused_loss:
        return hidden
    widened = 4 if half < 4 else 0
    return hidden + shape.vocabulary * (half + widened + 4 + 4)


def _workspace_gb(shape: ModelShape, setup: Setup, held: Estimate) -> float:
    copies = 0.0
    if held.method == "qlora":
        copies = shape.largest_linear * BYTES[setup.precision]
    elif held.method == "full" and setup.precision != "fp32" and setup.trained_weights == "fp32":
        copies = shape.linear_parameters * BYTES[setup.precision]
    return CONTEXT_GB + copies / GB + FRAGMENTATION * (held.sharded_gb + held.activations_gb)


def _gathered_gb(shape: ModelShape, held: Estimate) -> float:
    """Two layers are whole on every device: one that computes and one on its way."""
    return 2 * held.weights_gb * shape.layer_parameters / shape.parameters


def flop_per_token(shape: ModelShape, method: Method, setup: Setup) -> float:
    """Return 6 N for full training and 4 N for a frozen base, with 2 N more for each further forward pass."""
    passes = 6 if method == "full" else 4
    further = setup.reference_passes + setup.activation_checkpointing
    return float((passes + 2 * further) * shape.parameters)


def tokens_per_second(needs: Estimate, placement: Placement) -> float:
    """Return the rate on these GPUs at ``UTILISATION``, taking them to share the work without loss."""
    share = UTILISATION * (QLORA_SPEED if needs.method == "qlora" else 1)
    return placement.count * placement.gpu.bf16_tflops * 1e12 * share / needs.flop_per_token


def estimate_for(
    config: TrainConfig,
    tokenize_max_length: int,
    base: Mapping[str, Any] | Path | str | ModelShape,
    conversations: int | None = None,
    tokens_per_conversation: float | None = None,
    gpus: Sequence[Gpu] = GPUS,
    methods: Sequence[Method] = METHODS,
) -> list[Estimate]:
    """Return what training ``base`` as the config says would need, by each method.

    Without ``tokens_per_conversation`` every conversation is taken to fill the sequence: hours are then the
    most they can be.
    """
    shape = base if isinstance(base, ModelShape) else shape_of(base)
    length = tokens_per_conversation or tokenize_max_length
    setup = setup_of(config, tokenize_max_length)
    sequences = None if conversations is None else conversations * setup.sequences
    tokens = None if sequences is None else round(sequences * length * config.epochs)
    return estimate(shape, methods, setup, tokens, gpus)
