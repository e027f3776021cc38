"""Flowers drawn by code, of which every part, every factor and every alternative is known."""
