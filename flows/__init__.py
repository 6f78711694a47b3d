"""The process: flows that read as what they do, and the ``finetune`` command."""
