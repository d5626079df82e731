"""The engine process: one engine, its side of the queue, and the loop between them."""
