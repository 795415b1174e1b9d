"""Reinforcement learning: rollouts, rewards, advantages, loss; imported by the programs."""
