"""Architectures for images, one per file: `build(config, image_shape=(C, H, W), output_size=)` gives a factory.

With `output_size=None` the factory builds only the trunk, whose output has `trunk_size(config, image_shape)` features.
"""

from mtrl.core.registry import Registry

IMAGE_NETWORKS = Registry("network", __name__)
