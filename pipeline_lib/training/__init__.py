"""From conversations to a trained model: initialize, tokenize, train, merge."""
