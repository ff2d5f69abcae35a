"""Training of the node's models; imports the node's rooms and is never imported by them."""
