"""What stands between gRPC and a servicer: the interceptor chain, the status table, servers, channels and conversions."""
