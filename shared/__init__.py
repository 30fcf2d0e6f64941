"""What both services are made of: the domain, the errors, and the adapters and plumbing that neither service owns alone."""
