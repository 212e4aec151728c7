"""What the machine says about its own end: metadata server, TPU API."""
