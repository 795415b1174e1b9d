"""Response grammar, action definitions, plans, executor: plain Python; imported by all packages."""
