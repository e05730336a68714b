"""PCGrad's Figure 4: SAC with and without PCGrad on reach and button-press-topdown, and the picture of the triad.

Two runs of 100 iterations each, about five minutes alone on two cores. Further overrides go to both.
The picture is `runs/figure4.png`, or `figure4.png` in the folder that `runs=...` names.
"""

import sys
from pathlib import Path

from mtrl import experiment
from mtrl.cli import main

METHODS = {"adam": "none", "adam-pcgrad": "pcgrad"}


def figure4(overrides: list[str]) -> int:
    folders = []
    for name, surgery in METHODS.items():
        options = ["recipe=figure4", f"surgery={surgery}", f"experiment={name}", *overrides]
        if code := main(["train", *options]):
            return code
        folders.append(experiment.Experiment(experiment.compose(options)).path)
    picture = Path(folders[0]).parents[2] / "figure4.png"
    return main(["plot", *map(str, folders), "--kind", "triad", "--output", str(picture)])


if __name__ == "__main__":
    sys.exit(figure4(sys.argv[1:]))
