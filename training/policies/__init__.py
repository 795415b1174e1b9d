"""What becomes of a policy: export, retention, proposals; imported by views and tasks."""
