"""What is up? Evidence in, statuses out; knows endpoint ids and nothing of channels."""
