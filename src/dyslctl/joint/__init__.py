"""Fewer layers and fewer tokens: a method that skips layers, on the tokens that SpecPrune-VLA retains."""
