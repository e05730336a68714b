"""Architectures that map pictures and point clouds to the next keyframe, one per file.

`build(config, cameras=C, image_size=H)` gives a factory; the network's output is a `Prediction`.
"""

from mtrl.core.registry import Registry

KEYFRAME_NETWORKS = Registry("network", __name__)
