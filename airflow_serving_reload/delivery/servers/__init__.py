"""Model servers: asked for a reload, and asked whether they serve it; one file per kind of server."""
