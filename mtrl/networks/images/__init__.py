"""Architectures for images, one per file: `build(config, image_shape=(C, H, W), output_size=)` gives a factory.

In a file that defines `trunk_size(config, image_shape)`, `output_size=None` gives a factory of the trunk alone, whose
output has that many features.
"""

from mtrl.core.registry import Registry

IMAGE_NETWORKS = Registry("network", __name__)
