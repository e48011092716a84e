"""The games and their score tables. Imports nothing of ours, and never torch."""
