"""DySL-VLA, in the paper's order: partition (3.1-3.2), skip modules (3.2), guidance (3.3), distillation (3.4)."""
