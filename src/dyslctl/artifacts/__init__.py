"""Everything written to disk: skip profile, bundle, run directory. Strict to read, atomic to write."""
