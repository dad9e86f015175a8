"""Records on disk: their schema, their store and the figures computed from them. Never imports torch."""
