"""From a model to a verdict: generate, score, compare, gate."""
