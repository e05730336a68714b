"""Task-conditioned architectures, one a file, for actors and critics alike."""

from mtrl.core.registry import Registry
from mtrl.networks.base import Factory, NetworkConfig, TaskNetwork

NETWORKS = Registry("network", __name__)

__all__ = ["NETWORKS", "Factory", "NetworkConfig", "TaskNetwork"]
