"""What crosses the boundary between web and engine: each format once; both halves import it."""
