"""Train Meta-World MT10: `mtrl train benchmark=mt10`, with further overrides from the command line."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "benchmark=mt10", *sys.argv[1:]]))
