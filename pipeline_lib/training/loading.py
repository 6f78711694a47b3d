"""Loading: the base model as a method wants it, and the adapter that goes on it, checked before any weight.

``check_targets`` needs the model's config alone: the modules are built on the meta device, which holds no
numbers.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from pipeline_lib import flat_rows
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import brings_code
from pipeline_lib.training.attention import chosen

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel

BITSANDBYTES = "bitsandbytes"


def check_quantization(method: str, optimizer: str) -> None:
    """Raise ConfigError where base or optimizer are to be quantized and the library for it is missing."""
    if importlib.util.find_spec(BITSANDBYTES) is not None:
        return
    missing = "needs bitsandbytes, which is not installed; pip install 'finetune-flows[gpu]', or take"
    if method == "qlora":
        raise ConfigError(f"train.method qlora {missing} train.method=lora")
    if optimizer.endswith("8bit"):
        raise ConfigError(f"train.optimizer {optimizer} {missing} train.optimizer=adamw_torch")


def auto_class(*, scores: bool) -> Any:
    """Return the loader of language models, or of models that give a sequence one score."""
    import transformers

    return transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM


def load_base(spec: dict[str, Any], *, scores: bool = False) -> PreTrainedModel:
    """Return the base model in the number format of the method: 4 bits, half precision, or fp32 to train."""
    import torch

    config = spec["config"]
    half = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config["precision"]]
    # Frozen weights may stay in half precision; trained ones need the fp32 mantissa for small updates.
    full = torch.bfloat16 if config["trained_weights"] == "bf16" else torch.float32
    options: dict[str, Any] = {"num_labels": 1} if scores else {}
    if config["method"] == "qlora":
        options["quantization_config"] = nf4(half)
    own_code = brings_code(spec["base"])
    kernel = None if own_code else chosen(spec)
    if kernel == flat_rows.BY_SEQUENCE:
        flat_rows.register()
    model: PreTrainedModel = auto_class(scores=scores).from_pretrained(
        spec["base"],
        dtype=full if config["method"] == "full" else half,
        attn_implementation=kernel,
        trust_remote_code=own_code,
        **options,
    )
    if config["method"] == "qlora":
        _stay_as_trained(model)
    return model


def _stay_as_trained(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when a CPU looks at the validation split.

    Where the CPU multiplies bf16 it does so for good, and what computes with such weights passes no gradient.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def nf4(compute: torch.dtype) -> Any:
    """Return QLoRA's base: 4-bit NormalFloat with double quantization (arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def adapter_of(config: dict[str, Any], *, task: str = "CAUSAL_LM") -> PeftConfig | None:
    """Return PEFT's config for the method, or None for full training; ConfigError where PEFT refuses it."""
    import peft

    method = config["method"]
    if method == "full":
        return None
    if method in ("lora", "qlora"):
        return _lora(config["lora"], task)
    values = config[method]
    if method == "peft":
        return _any(values, task)
    if method == "prompt_tuning":
        text = values["init_text"]
        return peft.PromptTuningConfig(
            task_type=task,
            num_virtual_tokens=values["num_virtual_tokens"],
            prompt_tuning_init="TEXT" if text else "RANDOM",
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=config["tokenizer"] if text else None,
        )
    kind = {
        "ia3": peft.IA3Config,
        "prefix_tuning": peft.PrefixTuningConfig,
        "p_tuning": peft.PromptEncoderConfig,
    }
    made: PeftConfig = kind[method](task_type=task, **values)
    return made


def _lora(lora: dict[str, Any], task: str) -> PeftConfig:
    import peft

    return peft.LoraConfig(
        task_type=task,
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        modules_to_save=lora["modules_to_save"] or None,
        use_dora=lora["use_dora"],
        use_rslora=lora["use_rslora"],
        init_lora_weights=True if lora["init"] == "default" else lora["init"],
    )


def _any(values: dict[str, Any], task: str) -> PeftConfig:
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name = str(values["peft_type"]).upper()
    if name not in PeftType.__members__ or PeftType[name] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ConfigError(
            f"train.peft.peft_type: PEFT has no {name}; it has {', '.join(sorted(PeftType.__members__))}"
        )
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]]
    rest = {key: value for key, value in values.items() if key != "peft_type"}
    try:
        return kind(task_type=task, **rest)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.peft: PEFT refuses the {name} config ({error})") from error


def check_targets(base: str, adapter: PeftConfig | None, block: str, *, scores: bool = False) -> None:
    """Raise ConfigError for a module that an adapter names and the model has not, naming those it has."""
    wanted = getattr(adapter, "target_modules", None)
    if not wanted or isinstance(wanted, str):
        return
    linear, every = module_names(base, scores=scores)
    for field in ("target_modules", "modules_to_save"):
        # What else PEFT offers may change norms and embeddings too.
        known = linear if field == "target_modules" and block != "train.peft" else every
        for name in sorted(getattr(adapter, field, None) or ()):
            if not any(path == name or path.endswith(f".{name}") for path in known):
                there = {path.rpartition(".")[2] for path in known if not path.endswith("lm_head")}
                short = ", ".join(sorted(part for part in there if part and not part.isdigit()))
                raise ConfigError(f"{block}.{field}: the model has no {name}; it has {short}")


def module_names(base: str, *, scores: bool = False) -> tuple[list[str], list[str]]:
    """Return the paths of a model's linear modules and of all its modules, from its config alone."""
    import torch
    from transformers import AutoConfig
    from transformers.pytorch_utils import Conv1D

    trusted = brings_code(base)
    config = AutoConfig.from_pretrained(base, trust_remote_code=trusted)
    with torch.device("meta"):
        model = auto_class(scores=scores).from_config(config, trust_remote_code=trusted)
    every = dict(model.named_modules())
    linear = [name for name, module in every.items() if isinstance(module, torch.nn.Linear | Conv1D)]
    return linear, list(every)
