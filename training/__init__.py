"""The Django app in which runs are rows and programs are processes; `config` and above import it."""
