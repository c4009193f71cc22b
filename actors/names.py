"""Names of our actors, applications and labels in Ray. Imports nothing."""

from __future__ import annotations

NAMESPACE = "shardyard"
CONTROLLER = "shardyard-controller"
AGENT_PREFIX = "shardyard-agent-"
GATEWAY_PREFIX = "shardyard-gateway-"
NODE_LABEL = "shardyard.io/node"
RACK_LABEL = "shardyard.io/rack"
DEPLOYMENT = "replica"
"""Every slot is a Serve application named after it, with one deployment of this name."""

NODE_ENV = "SHARDYARD_NODE"
RACK_ENV = "SHARDYARD_RACK"
EMULATE_ENV = "SHARDYARD_EMULATE"
RUN_ENV = "SHARDYARD_RUN"
ENGINES_ENV = "SHARDYARD_ENGINES"
PROBES_ENV = "SHARDYARD_PROBES"
RECORDING_ENV = "SHARDYARD_RECORDING"
STAND_IN_ENV = "SHARDYARD_STAND_IN"
