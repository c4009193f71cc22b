"""Hard rules, one per file, none knowing another. `placement.rules` lists them."""
