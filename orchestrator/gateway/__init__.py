"""Inference over HTTP: one ASGI application in front of the replicas. It never tokenises and never waits for Ray."""
