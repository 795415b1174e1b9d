"""The consistency reward model: inputs, loss, gate; imported by the programs and `rl`."""
