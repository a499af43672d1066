"""dyslctl: dynamic-static layer skipping for Vision-Language-Action models."""

__version__ = "0.1.0"
