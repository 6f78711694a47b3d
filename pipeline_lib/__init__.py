"""The library below the flows: stages, the store that keeps their artifacts, and no Prefect.

Rooms: ``core`` (store, stages, manifests; knows nothing of language models), ``curation``,
``training``, ``evaluation``, ``publishing``. Beside them ``kinds`` (what artifacts are),
``records`` (the conversation), ``chat`` (conversation to tokens), ``config`` and ``settings``.
"""
