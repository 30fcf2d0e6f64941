"""`kb bench`: how fast the real services are, against the floor that their parts set and against what a user would pick instead."""
