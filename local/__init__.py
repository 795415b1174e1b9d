"""Embedded servers and the supervisor behind `make up`; imported by `loop` and the tests only."""
