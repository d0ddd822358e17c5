"""The distribution over prices: the trie of their tokens, reading it, what it says.

Imports the ground, products and model; nothing of training or judging.
"""
