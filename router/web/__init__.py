"""What is spoken to over HTTP: `/v1`, webhooks, the chat, the console."""
