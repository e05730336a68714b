"""Task-conditioned architectures, one per file; those for pictures are in `images`, `dense` and `keyframes`."""

from typing import TYPE_CHECKING

from mtrl.core.lazy import lazily
from mtrl.core.registry import Registry
from mtrl.networks.dense import DENSE_NETWORKS
from mtrl.networks.images import IMAGE_NETWORKS
from mtrl.networks.keyframes import KEYFRAME_NETWORKS

if TYPE_CHECKING:
    from mtrl.networks.base import Factory, NetworkConfig, TaskNetwork

NETWORKS = Registry("network", __name__)

__all__ = [
    "DENSE_NETWORKS",
    "IMAGE_NETWORKS",
    "KEYFRAME_NETWORKS",
    "NETWORKS",
    "Factory",
    "NetworkConfig",
    "TaskNetwork",
]

__getattr__ = lazily(__name__, __all__, "base")
