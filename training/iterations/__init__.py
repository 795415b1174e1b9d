"""The cycle draw, judge, reward, policy, evaluate, promote; imported by views and tasks."""
