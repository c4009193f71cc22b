"""ONNX decoder graphs: read and checked, opened with an execution provider, stepped, and built."""
