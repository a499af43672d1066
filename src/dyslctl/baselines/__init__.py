"""What DySL-VLA is compared with. One method, one file."""
