"""Endpoints of somebody else: entries, addresses that may be reached, dialects, records."""
