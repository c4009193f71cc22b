"""The client of an OpenAI-compatible server: bodies, events, streams. It must not know whose server it is."""
