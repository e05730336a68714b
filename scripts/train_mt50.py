"""Train Meta-World MT50: `mtrl train benchmark=mt50`, with further overrides from the command line."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "benchmark=mt50", *sys.argv[1:]]))
