"""Stages as processes without the seconds that importing torch takes: forked off a server that has imported the libraries once."""
