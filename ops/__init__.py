"""What operators type: up, demo, verify, and the commands a client would use."""
