"""Quality rules: what a text or an answer measures, and the named rules that drop it.

``characters`` holds the classes of characters, ``splitter`` and ``tokens`` split a batch of texts
once, ``ngrams`` measures repetition on those tokens, ``web`` holds the rules for web text (Gopher,
C4, FineWeb), ``instruct`` those for prompts and answers, ``limits`` every threshold with its
default and source, and the presets; ``verdicts`` puts them together for a batch. A rule is a
function: its name is the reason of the drop, its answer the evidence. The stage is
``pipeline_lib.curation.filter``.
"""
