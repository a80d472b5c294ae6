"""The first run: an embedded store, an embedded model server and the housing model that travels between them."""
