"""Stages as Prefect tasks: retries, tags, timeouts and concurrency live here and only here."""
