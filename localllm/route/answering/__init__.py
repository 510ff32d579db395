"""Answers through a router: members opened, guarded, asked, and replaced when they fail."""
