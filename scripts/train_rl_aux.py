"""Train RL-AUX on CIFAR-100's superclasses: `mtrl train recipe=rl_aux`, with further overrides from the command line.

`agent.method=maxl`, `human` or `none`, and `agent.weight_aware=true`, are the paper's other rows.
"""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "recipe=rl_aux", *sys.argv[1:]]))
