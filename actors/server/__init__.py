"""Vendors' own OpenAI servers as engines: started, proved, supervised, asked and ended."""
