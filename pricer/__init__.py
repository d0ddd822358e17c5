"""Teach a language model what things cost."""
