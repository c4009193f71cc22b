"""One probe per file; found by folder listing. Siblings do not know each other."""
