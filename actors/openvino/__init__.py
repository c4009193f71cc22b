"""OpenVINO GenAI as our engine drives it: devices, requests, paged batches, one sequence at a time."""
