"""What stands between server and pages: limits, errors, health; imported by `config`, `local`."""
