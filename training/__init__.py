"""The Django app in which runs are rows and programs processes; imported by `config` and above."""
