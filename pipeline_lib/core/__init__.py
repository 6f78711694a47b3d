"""Artifacts, stages and the store; nothing here knows what a language model is."""
