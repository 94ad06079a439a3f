"""Machines that people rent, as clusters: GPUs, the links inside a machine, and one GPU's share of the network.

Bandwidths are of one direction, from data sheets: NVLink 3, 4 and 5 have 600, 900 and 1,800 GB/s in both directions
together. Latencies are of the usual order of magnitude. ``busy`` is an assumption: 60 % is what BLOOM's log comes out
with, 55 % what Llama 3's first row comes out with (:mod:`course_utils.published`); for later machines nothing of the
kind is published, and the same is assumed.
"""

from __future__ import annotations

from course_utils.hybrid.cost import Cluster
from course_utils.measure.communication import Link
from course_utils.plan import machines

_NEAR, _FAR = 5e-6, 20e-6  # seconds
_GBIT = 1e9 / 8

_NVLINK_3, _NVLINK_4, _NVLINK_5 = Link(_NEAR, 300e9), Link(_NEAR, 450e9), Link(_NEAR, 900e9)
_PCIE_3, _PCIE_4 = Link(_NEAR, 16e9), Link(_NEAR, 32e9)  # 16 lanes
_HDR, _NDR = Link(_FAR, 200 * _GBIT), Link(_FAR, 400 * _GBIT)  # InfiniBand: one port for each GPU
_ETHERNET = Link(_FAR, 25 * _GBIT / 8)  # a port of 25 Gbit/s for eight GPUs: an assumption

CLUSTERS: dict[str, Cluster] = {
    "t4": Cluster(4, _PCIE_3, Link(_FAR, 50 * _GBIT / 4), machines.T4, 0.5, 0.5, "4 x T4, PCIe 3"),
    "l4": Cluster(8, _PCIE_4, Link(_FAR, 100 * _GBIT / 8), machines.L4, 0.5, 0.5, "8 x L4, PCIe 4"),
    "rtx4090": Cluster(8, _PCIE_4, _ETHERNET, machines.RTX_4090, 0.6, 0.5, "8 x RTX 4090, PCIe 4"),
    "a100-40": Cluster(8, _NVLINK_3, _HDR, machines.A100_40, 0.6, 0.5, "DGX A100, 40 GB"),  # eight ports of HDR
    "a100": Cluster(8, _NVLINK_3, _HDR, machines.A100, 0.6, 0.5, "DGX A100, 80 GB"),
    "h100": Cluster(8, _NVLINK_4, _NDR, machines.H100, 0.55, 0.5, "DGX H100"),  # eight ports of NDR
    "h200": Cluster(8, _NVLINK_4, _NDR, machines.H200, 0.55, 0.5, "DGX H200"),
    "b200": Cluster(8, _NVLINK_5, _NDR, machines.B200, 0.55, 0.5, "DGX B200"),
    "gb200": Cluster(72, _NVLINK_5, _NDR, machines.GB200, 0.55, 0.5, "GB200 NVL72"),  # one port of NDR a GPU
}
