"""Train RLBench-10: `mtrl train benchmark=rlbench`, with further overrides from the command line."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "benchmark=rlbench", *sys.argv[1:]]))
