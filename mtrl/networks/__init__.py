"""Task-conditioned architectures, one a file: for vectors here, `images` and `keyframes` for what they are called."""

from mtrl.core.registry import Registry
from mtrl.networks.base import Factory, NetworkConfig, TaskNetwork
from mtrl.networks.images import IMAGE_NETWORKS
from mtrl.networks.keyframes import KEYFRAME_NETWORKS

NETWORKS = Registry("network", __name__)

__all__ = ["IMAGE_NETWORKS", "KEYFRAME_NETWORKS", "NETWORKS", "Factory", "NetworkConfig", "TaskNetwork"]
