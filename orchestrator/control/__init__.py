"""The controller's own HTTP API: what the command line speaks. Never on the inference port."""
