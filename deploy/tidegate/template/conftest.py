"""Lets pytest find the agents: it puts the folder of this file on the path."""
