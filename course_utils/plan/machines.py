"""GPUs that people train on, from their makers' data sheets.

The sheets print sums with structured sparsity, which no training uses: dense products reach half. They print a link's
bandwidth for both directions together: one direction has half. Sizes are called GB and are GiB, within half a percent
of what the driver reports.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """One GPU.

    Args:
        memory: bytes.
        peak: FLOP/s, dense, 16-bit factors added up in FP32.
        peak_fp8: the same for 8-bit factors; 0 where there are none.
        bandwidth: bytes/s of its memory.
    """

    name: str
    memory: int
    peak: float
    peak_fp8: float = 0.0
    bandwidth: float = 0.0


T4 = GPU("T4", 16 * GIB, 65e12, 0, 320e9)  # NVIDIA T4 data sheet; FP16 only
L4 = GPU("L4", 24 * GIB, 121e12, 242.5e12, 300e9)  # NVIDIA L4 data sheet: 242 and 485 with sparsity
RTX_4090 = GPU("RTX 4090", 24 * GIB, 165.2e12, 330.3e12, 1008e9)  # NVIDIA Ada architecture paper, appendix A
A100_40 = GPU("A100 40 GB", 40 * GIB, 312e12, 0, 1555e9)  # NVIDIA A100 data sheet, SXM
A100 = GPU("A100 80 GB", 80 * GIB, 312e12, 0, 2039e9)  # the same sheet
H100 = GPU("H100 80 GB", 80 * GIB, 989.4e12, 1978.9e12, 3350e9)  # NVIDIA H100 architecture paper, SXM5
H200 = GPU("H200", 141 * GIB, 989.4e12, 1978.9e12, 4800e9)  # NVIDIA H200 data sheet: H100's processor
# DGX B200 data sheet, an eighth: 1,440 GB, 64 TB/s, 36 and 72 PFLOP/s with sparsity.
B200 = GPU("B200", 180 * GIB, 2250e12, 4500e12, 8000e9)
# GB200 NVL72 data sheet, a 72nd: 13.4 TB, 576 TB/s, 360 and 720 PFLOP/s with sparsity.
GB200 = GPU("GB200", 186 * GIB, 2500e12, 5000e12, 8000e9)
GPUS = (T4, L4, RTX_4090, A100_40, A100, H100, H200, B200, GB200)
