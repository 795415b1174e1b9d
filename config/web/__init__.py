"""What stands between the server and the pages: limits, errors, health; imported by `config`."""
