"""Architectures that predict several things for each pixel, one per file.

`build(config, image_channels=C, outputs=K)` gives a factory; the network maps (.., B, C, H, W) to (.., B, K, H, W). K
is the largest number of channels that any task predicts; a task with fewer uses the first ones.
"""

from mtrl.core.registry import Registry

DENSE_NETWORKS = Registry("network", __name__)
