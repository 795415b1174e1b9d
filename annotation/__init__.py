"""The Django app in which people write samples and judge pairs; `training` and above import it."""
