"""What every engine keeps, as tests that anybody can run over an engine: built in or third party.

    pytest --pyargs actors.conformance --shardyard-engine NAME --shardyard-model SOURCE

The plugin (actors.conformance.plugin) is found by pytest itself once shardyard is installed. It needs pytest and pytest-asyncio.
"""
