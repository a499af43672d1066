"""Token pruning: fewer visual tokens through the same layers. One method, one file; ``tokens`` is what they share."""
