"""After training: export, retention and proposals of policies; imported by views and tasks."""
