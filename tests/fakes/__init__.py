"""Hand-written fakes of the ports, one file a port."""
