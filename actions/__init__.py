"""The response grammar, action definitions, plans and the executor. Plain Python."""
