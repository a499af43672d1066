"""What a command does, without the command line: profile, train, rollout, latency, statistics."""
