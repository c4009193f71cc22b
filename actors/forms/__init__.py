"""Forms of a model on a node: where they lie, and the programs that make them."""
