"""The settings of the tests: those of the product, cheaper where it does not matter."""

from config.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
