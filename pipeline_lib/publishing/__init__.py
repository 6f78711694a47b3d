"""From a verdict to a registered version: report, model card, register."""
