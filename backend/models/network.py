"""The network of a configuration."""

from backend.models.adapters import AdaptedSamMed3D
from backend.models.compact import Compact
from backend.models.config import CompactConfig, NetworkConfig
from backend.models.sam_med3d import SamMed3D

Network = SamMed3D | Compact


def build_network(config: NetworkConfig, *, adapted: bool = False) -> Network:
    """The network of these sizes with random weights, on the CPU; `adapted`, with 3D adapters in its encoder.

    Raises:
        ValueError: adapters are asked for, and the network takes none.
    """
    if isinstance(config, CompactConfig):
        if adapted:
            raise ValueError("the compact network takes no adapters")
        return Compact(config)
    return AdaptedSamMed3D(config) if adapted else SamMed3D(config)
