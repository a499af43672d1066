"""What the papers printed: every headline number, typed, with the cells that the papers themselves contradict."""
