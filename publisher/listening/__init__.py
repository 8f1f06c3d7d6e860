"""Images that registries tell of: what a webhook says, the queue that keeps it, and the worker that publishes it."""
