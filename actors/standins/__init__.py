"""Stand-ins for hardware, below the vendors' own software: what they read is made up, what reads it is real."""
