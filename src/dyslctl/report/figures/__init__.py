"""The figures of ``dyslctl analyze``, one a file, each drawn from its document; the tables are in ``studies``."""
