"""Tests of the demo: its model server, its store and the model that travels between them."""
