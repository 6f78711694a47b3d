"""llama.cpp's own quantizer, for what its `gguf` package cannot write: Q4_K_M, a mix of 4 and 6 bits.

The program is no Python package: whoever wants this has ``llama-quantize`` on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.publishing.export.gguf import write_gguf

PROGRAM = "llama-quantize"


def require_quantizer() -> str:
    """Return where the program is; ConfigError with the way to it where it is not on the PATH."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigError(
            f"quantization q4_k_m takes llama.cpp's {PROGRAM}, which is not on the PATH; install llama.cpp, "
            f"or build it there (cmake -B build && cmake --build build --target {PROGRAM}), or take q8_0"
        )
    return found


def write_q4_k_m(model_dir: Path, path: Path) -> None:
    """Write the model in ``model_dir`` as the GGUF file ``path`` in Q4_K_M.

    Rows that are no multiple of 256 get a format with smaller blocks, at the quantizer's choice. Raises what
    `write_gguf` raises, and DataError where the program fails.
    """
    program, whole = require_quantizer(), path.with_suffix(".whole")
    write_gguf(model_dir, whole, "bf16")
    done = subprocess.run(
        [program, str(whole), str(path), "Q4_K_M"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    whole.unlink()
    if done.returncode:
        said = (done.stdout.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"gguf: {PROGRAM} failed with code {done.returncode}: {said[:200]}; take q8_0")
