"""Which replica answers a request, and what a router knows of replicas. Pure but for the registry port."""
