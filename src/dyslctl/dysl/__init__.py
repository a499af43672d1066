"""DySL-VLA, in the paper's order: partition (3.1-3.2), skip modules (3.2), guidance (3.3), distillation (3.4).

And the default method, planned exits: exits, plan memory, exit schedule, exit policy, exit training.
"""
