"""Recorded episodes to learn from: LeRobot data sets, LIBERO's HDF5 files, and the suites' own demonstrations."""
