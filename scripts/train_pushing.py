"""Train goal-conditioned pushing: `mtrl train benchmark=pushing`, with further overrides from the command line."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "benchmark=pushing", *sys.argv[1:]]))
