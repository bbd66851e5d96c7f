"""The FLOPs of a step, and the peaks of datasheets."""

import pytest

from gpt_common.config import PRESETS
from gpt_common.flops import datasheet_peak, flops_per_token

# Tensor-core TFLOP/s of bfloat16, TF32, float32 (outside the tensor cores) and float64, as NVIDIA's
# datasheets print them: those of S have bfloat16 and TF32 "with sparsity", twice the dense ones.
S = 2
PUBLISHED = {
    # https://resources.nvidia.com/en-us-dgx-systems/dgx-superpod-gb200 and GB200 NVL72's page:
    # a superchip has two of them and 10, 5 PFLOP/s, 160 and 80 TFLOP/s
    "NVIDIA GB200": (S, 5000, 2500, 80, 40),
    # https://www.nvidia.com/en-us/data-center/hgx: eight have 36, 18 PFLOP/s, 600 and 296 TFLOP/s
    "NVIDIA B200": (S, 4500, 2250, 75, 37),
    # https://www.nvidia.com/en-us/data-center/grace-hopper-superchip
    "NVIDIA GH200 480GB": (S, 1979, 989, 67, 67),
    # https://www.nvidia.com/en-us/data-center/h200
    "NVIDIA H200": (S, 1979, 989, 67, 67),
    "NVIDIA H200 NVL": (S, 1671, 835, 60, 60),
    # https://www.nvidia.com/en-us/data-center/h100, and its datasheet of 2022 for PCIe
    "NVIDIA H100 80GB HBM3": (S, 1979, 989, 67, 67),
    "NVIDIA H100 NVL": (S, 1671, 835, 60, 60),
    "NVIDIA H100 PCIe": (S, 1513, 756, 51, 51),
    # https://www.nvidia.com/en-us/data-center/a100
    "NVIDIA A100-SXM4-80GB": (S, 624, 312, 19.5, 19.5),
    "NVIDIA A100-PCIE-40GB": (S, 624, 312, 19.5, 19.5),
    # https://www.nvidia.com/en-us/data-center/l40s, l40, l4 and products/a10-gpu
    "NVIDIA L40S": (S, 733, 366, 91.6, 1.4),
    "NVIDIA L40": (S, 362.1, 181, 90.5, 1.4),
    "NVIDIA L4": (S, 242, 120, 30.3, 0.5),
    "NVIDIA A10": (S, 250, 125, 31.2, 1.0),
    # Ada's and GA102's whitepapers, "Peak BF16 Tensor TFLOPS with FP32 Accumulate", dense
    "NVIDIA GeForce RTX 4090": (1, 165.2, 82.6, 82.6, 1.3),
    "NVIDIA GeForce RTX 3090": (1, 71, 35.6, 35.6, 0.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_peaks_are_those_of_the_datasheets(name):
    sparsity, *published = PUBLISHED[name]
    dense = [
        value / factor for value, factor in zip(published, (sparsity,) * 2 + (1, 1), strict=True)
    ]
    dtypes = ("bfloat16", "tf32", "float32", "float64")
    found = [datasheet_peak(name, dtype) for dtype in dtypes]
    assert found == pytest.approx([1e12 * value for value in dense], rel=0.015)


def test_float16_is_as_fast_as_bfloat16_or_the_only_one():
    """A T4's datasheet has 65 TFLOP/s of float16, and 8.1 of float32."""
    assert datasheet_peak("NVIDIA L4", "float16") == datasheet_peak("NVIDIA L4", "bfloat16")
    found = [datasheet_peak("Tesla T4", dtype) for dtype in ("float16", "float32")]
    assert found == [65e12, 8.1e12]


@pytest.mark.parametrize(
    "name",
    ["Tesla V100-SXM2-16GB", "NVIDIA A1000", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA L400",
     "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", ""],
)  # fmt: skip
def test_other_gpus_have_no_known_peak(name):
    assert datasheet_peak(name, "bfloat16") is None


def test_flops_of_gpt2_at_1024():
    """855 million a token: 6 x 123.65 million weights and 12 x 12 x 768 x 1024 of attention."""
    assert flops_per_token(PRESETS["gpt2"], 1024) == 6 * 123_653_376 + 113_246_208
