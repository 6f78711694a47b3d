"""``python -m flows``: the ``finetune`` command."""

from flows.cli import main

main()
