"""Computers a robot may carry: their numbers, how to recognise one, and how long an inference takes on it."""
