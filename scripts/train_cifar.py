"""Train CIFAR-100 as 20 tasks: `mtrl train recipe=cifar100`, with further overrides from the command line."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "recipe=cifar100", *sys.argv[1:]]))
