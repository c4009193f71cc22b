"""Engines of ours in a process of their own: the replica's side, the process, the frames between them, and what it hosts."""
