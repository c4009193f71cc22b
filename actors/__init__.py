"""What runs on a node: discovery of devices and models, engines, and the replica that serves one. Knows no cluster."""
