"""One file per engine; siblings do not know each other."""
