"""Task-conditioned architectures, one a file: for vectors here, for images in `images`."""

from mtrl.core.registry import Registry
from mtrl.networks.base import Factory, NetworkConfig, TaskNetwork
from mtrl.networks.images import IMAGE_NETWORKS

NETWORKS = Registry("network", __name__)

__all__ = ["IMAGE_NETWORKS", "NETWORKS", "Factory", "NetworkConfig", "TaskNetwork"]
