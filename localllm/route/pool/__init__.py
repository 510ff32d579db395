"""Routers as data: members, the steps that choose among them, and their files."""
