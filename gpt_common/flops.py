"""The FLOPs of a training step, and the peaks of GPUs: model FLOPs utilisation (MFU)."""

from __future__ import annotations

import re

from gpt_common.config import Dtype, GPTConfig
from gpt_common.weights import num_parameters

# Dense tensor-core TFLOP/s from NVIDIA's datasheets, without sparsity, in the order of DTYPES;
# float16 is as fast as bfloat16, or, before Ampere, alone in the first column. A
# name is part of what nvidia-smi prints, the more specific first. A GeForce's must end the line:
# Ti, D and Laptop GPU are other chips.
DTYPES: tuple[Dtype, ...] = ("bfloat16", "tf32", "float32", "float64")
DATASHEETS: dict[str, tuple[float, float, float, float]] = {
    "GB200": (2500, 1250, 80, 40),
    "B200": (2250, 1125, 75, 37),
    "GH200": (989, 495, 67, 67),
    "H200 NVL": (835, 417, 60, 60),
    "H200": (989, 495, 67, 67),
    "H100 NVL": (835, 417, 60, 60),
    "H100 PCIe": (756, 378, 51, 51),
    "H100": (989, 495, 67, 67),
    "A100": (312, 156, 19.5, 19.5),
    "L40S": (362, 183, 91.6, 1.4),
    "L40": (181, 90.5, 90.5, 1.4),
    "L4": (121, 60, 30.3, 0.5),
    "T4": (65, 8.1, 8.1, 0.25),
    "A10": (125, 62.5, 31.2, 1.0),
    "RTX 4090$": (165, 82.6, 82.6, 1.3),
    "RTX 3090$": (71, 35.6, 35.6, 0.6),
}


def datasheet_peak(gpu: str, dtype: Dtype) -> float | None:
    """Return a GPU's matmul peak from its datasheet, in FLOP/s, or None if it is unknown."""
    for name, peaks in DATASHEETS.items():
        if re.search(rf"\b{name}(?!\w)", gpu):
            return 1e12 * peaks[DTYPES.index("bfloat16" if dtype == "float16" else dtype)]
    return None


def flops_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return the floating-point operations of a training step per token.

    `6 N + 12 L C T`: forward and backward through all weights but the positions, and attention
    (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    weights = num_parameters(config) - config.block_size * config.n_embd
    return 6 * weights + 12 * config.n_layer * config.n_embd * seq_len
