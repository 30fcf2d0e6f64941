"""gRPC in front of the application: convert, call, convert."""
