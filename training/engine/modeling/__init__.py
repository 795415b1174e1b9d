"""Models, tokenizers, adapters, optimisers; imported by all of the engine but `run`."""
